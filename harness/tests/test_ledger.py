# SPDX-License-Identifier: GPL-2.0-only
"""ledger.py: from what a boot showed to what it has.

Holds: fields are cut from the right bits of raw registers; an override on the kernel's
command line wins and is named; the mode is the one KVM said, in each of the ways in
which this kernel says it; a fact that is missing never makes a feature present. The
registers are those of QEMU's max.
"""

import os
import re
import unittest

import ledger
from tests import common

# As guest/idregs.S printed them.
MAX = '''CurrentEL 0x0000000000000008
CTR_EL0 0x00000000b444c004
ID_AA64PFR0_EL1 0x1301001121110222
ID_AA64PFR1_EL1 0x0010101012000321
ID_AA64PFR2_EL1 0x0000000100000111
ID_AA64ISAR0_EL1 0x1221111110312120
ID_AA64MMFR0_EL1 0x2100032310201126
ID_AA64MMFR2_EL1 0x1221011112011011
'''
FACTS = {'kvm': '1', 'page_size': '4096', 'swap': '1', 'ksm': '1', 'userfaultfd': '1', 'memory_failure': '1',
         'kmemleak': '0', 'fault_injection': '0', 'vfio': '0', 'ctr_el0': '0xb444c004', 'cap.KVM_CAP_ARM_EL2': '0'}
SAID = '[    0.072100] kvm [1]: {} mode initialized successfully\r\n'


def boot(registers=MAX, cmdline='', facts=None, mode='VHE', memory=2 << 30):
    return ledger.Boot(ledger.parse_idregs(registers), cmdline, FACTS if facts is None else facts,
                       SAID.format(mode), memory)


class Registers(unittest.TestCase):
    def test_parse(self):
        registers = ledger.parse_idregs(MAX.replace('\n', '\r\n') + 'ID_X 0x12 trailing\njunk\n')
        self.assertEqual(registers['CTR_EL0'], 0xb444c004)
        self.assertEqual(registers['ID_AA64PFR2_EL1'], 0x100000111)
        self.assertNotIn('ID_X', registers)
        self.assertEqual(len(registers), 8)
        self.assertEqual(ledger.parse_idregs(''), {})

    def test_fields_of_max(self):
        for name, value in (('MTE', 3), ('MTEPERM', 1), ('FWB', 1), ('DIC', 1), ('SVE', 1)):
            self.assertEqual(boot().field(name)[0], value, name)
        self.assertEqual(boot().field('FWB')[1], 'ID_AA64MMFR2_EL1.FWB=1')

    def test_each_field_alone(self):
        """A field is not touched by any bit but its own."""
        for name, (register, shift, width) in ledger.FIELDS.items():
            mask = (1 << width) - 1 << shift
            only = boot(f'{register} {mask:#x}\n')
            rest = boot(f'{register} {~mask & (1 << 64) - 1:#x}\n')
            self.assertEqual(only.field(name)[0], (1 << width) - 1, name)
            self.assertEqual(rest.field(name)[0], 0, name)

    @unittest.skipUnless(os.path.isdir(common.BASE), common.NO_BASE)
    def test_fields_are_where_the_kernel_has_them(self):
        with open(os.path.join(common.BASE, 'arch/arm64/tools/sysreg'), encoding='utf-8') as f:
            text = f.read()
        for name, (register, shift, width) in ledger.FIELDS.items():
            block = re.search(rf'^Sysreg\s+{register}\s.*?^EndSysreg', text, re.M | re.S)
            self.assertTrue(block, register)
            high = shift + width - 1
            bits = f'{high}:{shift}' if width > 1 else f'{shift}'
            field = re.search(rf'^\w+\s+{bits}\s+(\w+)', block[0], re.M)
            self.assertTrue(field, f'{register} {bits}')
            self.assertEqual(field[1], name)

    def test_register_that_was_not_printed(self):
        self.assertEqual(boot('CTR_EL0 0x0\n').field('MTE')[0], 0)
        self.assertFalse(ledger.ledger(boot(''))['mte'][0])


class Overrides(unittest.TestCase):
    def test_override(self):
        seen = boot(cmdline='console=ttyAMA0 id_aa64mmfr2.fwb=0 kvm-arm.mode=nvhe')
        self.assertEqual(seen.field('FWB'), (0, 'id_aa64mmfr2.fwb=0 on the command line'))
        present, why = ledger.ledger(seen)['fwb']
        self.assertFalse(present)
        self.assertIn('command line', why)
        self.assertEqual(seen.field('MTE')[0], 3)

    def test_hexadecimal(self):
        self.assertEqual(boot(cmdline='id_aa64pfr1.mte=0x2').field('MTE')[0], 2)

    def test_of_another_register(self):
        self.assertEqual(boot(cmdline='id_aa64mmfr1.fwb=0').field('FWB')[0], 1)
        self.assertEqual(boot(cmdline='xid_aa64mmfr2.fwb=0').field('FWB')[0], 1)


class Mode(unittest.TestCase):
    def modes(self, said):
        features = ledger.ledger(boot(mode=said))
        return [m for m in ('vhe', 'nvhe', 'protected') if features[m][0]]

    def test_as_kvm_says_it(self):
        for said, modes in (('VHE', ['vhe']), ('VHE+NV2', ['vhe']), ('Hyp nVHE', ['nvhe']),
                            ('Protected nVHE', ['protected']), ('Protected hVHE', ['protected']),
                            # The host is not at EL2 there.
                            ('Hyp hVHE', [])):
            self.assertEqual(self.modes(said), modes, said)

    def test_did_not_come_up(self):
        seen = ledger.Boot(ledger.parse_idregs(MAX), '', {}, 'kvm [1]: HYP mode not available\n', 0)
        self.assertEqual(seen.mode(), 'none')
        self.assertFalse(any(ledger.ledger(seen)[m][0] for m in ('vhe', 'nvhe', 'protected')))

    @unittest.skipUnless(os.path.isdir(common.BASE), common.NO_BASE)
    def test_the_kernel_still_says_so(self):
        with open(os.path.join(common.BASE, 'arch/arm64/kvm/arm.c'), encoding='utf-8') as f:
            self.assertIn('"%s%sVHE%s mode initialized successfully\\n"', f.read())

    def test_caller_id(self):
        seen = boot()
        seen.console = '[    0.072100][    T1] kvm [1]: VHE mode initialized successfully\r\n'
        self.assertEqual(seen.mode(), 'vhe')


class Features(unittest.TestCase):
    def test_max(self):
        features = ledger.ledger(boot())
        self.assertEqual(list(features), list(ledger.FEATURES))
        for name in ('kvm', 'vhe', 'mte', 'mte3', 'mteperm', 'fwb', 'dic', '4k', 'swap'):
            self.assertTrue(features[name][0], name)
        for name in ('nvhe', 'protected', 'nested', '16k', '64k', 'kmemleak', 'fault-injection', 'vfio', 'test-mem', 'memory-4g'):
            self.assertFalse(features[name][0], name)
        self.assertTrue(all(why for _, why in features.values()))

    def test_mte2_is_mte_and_not_mte3(self):
        features = ledger.ledger(boot(cmdline='id_aa64pfr1.mte=2'))
        self.assertEqual((features['mte'][0], features['mte3'][0]), (True, False))
        # MTE1 has the instructions and no tags.
        self.assertFalse(ledger.ledger(boot(cmdline='id_aa64pfr1.mte=1'))['mte'][0])

    def test_no_mte_on_the_command_line(self):
        self.assertEqual(ledger.ledger(boot(cmdline='a arm64.nomte b'))['mte'],
                         (False, 'arm64.nomte on the command line'))
        self.assertTrue(ledger.ledger(boot(cmdline='arm64.nomtex'))['mte'][0])

    def test_idc_is_what_the_kernel_shows(self):
        for ctr, idc in (('0x9444c004', True), ('0x8444c004', False)):
            self.assertEqual(ledger.ledger(boot(facts=dict(FACTS, ctr_el0=ctr)))['idc'][0], idc)

    def test_protected_has_no_mte(self):
        present, why = ledger.ledger(boot(mode='Protected nVHE'))['mte']
        self.assertFalse(present)
        self.assertIn('protected', why)

    def test_page_sizes(self):
        for size, name in ((4096, '4k'), (16384, '16k'), (65536, '64k')):
            features = ledger.ledger(boot(facts={**FACTS, 'page_size': str(size)}))
            self.assertEqual([n for n in ('4k', '16k', '64k') if features[n][0]], [name])

    def test_no_facts_no_features(self):
        """A probe that printed nothing shows nothing: no fact is taken for granted."""
        features = ledger.ledger(boot(registers='', facts={}, mode='', memory=0))
        self.assertEqual([n for n, (present, _) in features.items() if present], [])

    def test_test_mem(self):
        """Hidden memory is of no use without modules, nor modules without it."""
        for modules, hidden, present in (('1', '512', True), ('0', '512', False), ('1', '0', False),
                                         ('1', '', False)):
            seen, why = ledger.ledger(boot(facts={**FACTS, 'modules': modules, 'hidden_mb': hidden}))['test-mem']
            self.assertEqual(seen, present, (modules, hidden))
            self.assertIn(f'{hidden}M', why)

    def test_memory(self):
        self.assertTrue(ledger.ledger(boot(memory=4 << 30))['memory-4g'][0])


if __name__ == '__main__':
    unittest.main()
