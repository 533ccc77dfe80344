/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Prints the ID registers of the CPU model, one "NAME 0xVALUE" a line, and
 * powers off: what the hardware says, before a kernel hides a part of it (7.3
 * shows no ID_AA64PFR2_EL1.MTEPERM, not even to root).
 *
 *	aarch64-linux-gnu-gcc -nostdlib -static -Wl,--build-id=none \
 *		-Wl,-Ttext=0x40080000 -o idregs.elf idregs.S
 *	qemu-system-aarch64 -machine virt,virtualization=on,mte=on -cpu max \
 *		-nic none -display none -monitor none -serial stdio \
 *		-kernel idregs.elf
 *
 * Entered with the MMU off at EL2, or at EL1 without virtualization=on. PSCI is
 * called by SMC from EL2 and by HVC from EL1; with secure=on there is none. A
 * register that is UNDEFINED on some model is the last one looked at: what was
 * not printed is not known.
 */
#define PL011		0x09000000
#define UARTDR		0x00
#define UARTFR		0x18
#define UARTFR_TXFF	5
#define UARTCR		0x30
#define UARTCR_EN_TX	((1 << 0) | (1 << 8))
#define PSCI_SYSTEM_OFF	0x84000008
#define CURRENT_EL2	(2 << 2)

	/* By encoding: the assembler need not know the name. */
	.macro	id_reg name, encoding
	.section .rodata
.Lname\@:	.asciz	"\name "
	.text
	adr	x0, .Lname\@
	mrs	x1, \encoding
	bl	print
	.endm

	.text
	.globl	_start
_start:
	adr	x0, vectors
	mrs	x1, CurrentEL
	cmp	x1, #CURRENT_EL2
	b.ne	1f
	msr	vbar_el2, x0
1:	msr	vbar_el1, x0
	ldr	x9, =PL011
	mov	w0, #UARTCR_EN_TX
	str	w0, [x9, #UARTCR]

	id_reg	CurrentEL,		S3_0_C4_C2_2
	id_reg	MIDR_EL1,		S3_0_C0_C0_0
	id_reg	CTR_EL0,		S3_3_C0_C0_1
	id_reg	CLIDR_EL1,		S3_1_C0_C0_1
	id_reg	ID_AA64PFR0_EL1,	S3_0_C0_C4_0
	id_reg	ID_AA64PFR1_EL1,	S3_0_C0_C4_1
	id_reg	ID_AA64PFR2_EL1,	S3_0_C0_C4_2
	id_reg	ID_AA64ZFR0_EL1,	S3_0_C0_C4_4
	id_reg	ID_AA64SMFR0_EL1,	S3_0_C0_C4_5
	id_reg	ID_AA64DFR0_EL1,	S3_0_C0_C5_0
	id_reg	ID_AA64ISAR0_EL1,	S3_0_C0_C6_0
	id_reg	ID_AA64ISAR1_EL1,	S3_0_C0_C6_1
	id_reg	ID_AA64ISAR2_EL1,	S3_0_C0_C6_2
	id_reg	ID_AA64ISAR3_EL1,	S3_0_C0_C6_3
	id_reg	ID_AA64MMFR0_EL1,	S3_0_C0_C7_0
	id_reg	ID_AA64MMFR1_EL1,	S3_0_C0_C7_1
	id_reg	ID_AA64MMFR2_EL1,	S3_0_C0_C7_2
	id_reg	ID_AA64MMFR3_EL1,	S3_0_C0_C7_3
	id_reg	ID_AA64MMFR4_EL1,	S3_0_C0_C7_4

power_off:
	ldr	w0, =PSCI_SYSTEM_OFF
	mrs	x1, CurrentEL
	cmp	x1, #CURRENT_EL2
	b.eq	1f
	hvc	#0
1:	smc	#0
	b	.

/* x0: name with a blank, x1: value, x9: the UART. Clobbers x0 to x5. */
print:
	mov	x5, x30
1:	ldrb	w2, [x0], #1
	cbz	w2, 2f
	bl	put
	b	1b
2:	mov	w2, #'0'
	bl	put
	mov	w2, #'x'
	bl	put
	mov	w4, #64
3:	sub	w4, w4, #4
	lsr	x2, x1, x4
	and	w2, w2, #15
	add	w3, w2, #'a' - 10
	add	w2, w2, #'0'
	cmp	w2, #'9'
	csel	w2, w3, w2, hi
	bl	put
	cbnz	w4, 3b
	mov	w2, #'\n'
	mov	x30, x5
	/* falls through */

/* w2: the character. Clobbers x3. */
put:
	ldr	w3, [x9, #UARTFR]
	tbnz	w3, #UARTFR_TXFF, put
	str	w2, [x9, #UARTDR]
	ret

	.balign	2048
vectors:
	.org	vectors + 0x200		/* synchronous, current EL, SP_ELx */
	b	power_off
