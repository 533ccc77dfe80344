# SPDX-License-Identifier: GPL-2.0-only
"""The ledger: which features a boot has, and why or why not.

Nothing is assumed. What the processor has comes from its raw ID registers, read
at EL2 by guest/idregs.S before any kernel filtered them; what the kernel was told
to hide, from its command line; what it does, from its console and from the guest's
probe (guest/probe.c). Whether KVM then offers what it should is the tests' business:
a feature is what the machine can do, so that a kernel that fails to offer it makes
tests skip that must not.
"""

import re

# Fields of ID registers: register, low bit, width.
FIELDS = {
    'MTE': ('ID_AA64PFR1_EL1', 8, 4),
    'MTEPERM': ('ID_AA64PFR2_EL1', 0, 4),
    'MTESTOREONLY': ('ID_AA64PFR2_EL1', 4, 4),
    'GCIE': ('ID_AA64PFR2_EL1', 12, 4),
    'FWB': ('ID_AA64MMFR2_EL1', 40, 4),
    'DIC': ('CTR_EL0', 29, 1),
    'TGRAN4_2': ('ID_AA64MMFR0_EL1', 40, 4),
    'EL0': ('ID_AA64PFR0_EL1', 0, 4),
    'EL1': ('ID_AA64PFR0_EL1', 4, 4),
    'SVE': ('ID_AA64PFR0_EL1', 32, 4),
    'IDS': ('ID_AA64MMFR2_EL1', 36, 4),
    'TLB': ('ID_AA64ISAR0_EL1', 56, 4),
}


class Boot:
    """What is known of a boot: raw ID registers, command line, facts, console."""

    def __init__(self, idregs, cmdline, facts, console, memory):
        self.idregs = idregs
        self.cmdline = cmdline
        self.facts = facts
        self.console = console
        self.memory = memory

    def field(self, name):
        """Value of an ID register field as the kernel takes it, and where it is from."""
        register, shift, width = FIELDS[name]
        short = register.lower().replace('_el1', '').replace('_el0', '')
        for option, value in re.findall(r'(\w+\.\w+)=(\w+)', self.cmdline):
            if option.lower() == f'{short}.{name.lower()}':
                return int(value, 0), f'{option}={value} on the command line'
        value = self.idregs.get(register, 0) >> shift & (1 << width) - 1
        return value, f'{register}.{name}={value}'

    def mode(self):
        """vhe, nvhe, hvhe or protected, as KVM said on the console."""
        match = re.search(r'kvm \[\d+\]: (.*) mode initialized', self.console)
        said = match[1].lower() if match else ''
        for mode in ('protected', 'nvhe', 'hvhe', 'vhe'):
            if mode in said:
                return mode
        return 'none'

    def fact(self, name, default='0'):
        return self.facts.get(name, default)


def _field(name, least=1):
    def look(boot):
        value, why = boot.field(name)
        return value >= least, why
    return look


def _mode(name):
    return lambda boot: (boot.mode() == name, f'KVM mode {boot.mode()}')


def _page(kb):
    def look(boot):
        size = int(boot.fact('page_size')) // 1024
        return size == kb, f'{size}K pages'
    return look


def _fact(name):
    return lambda boot: (boot.fact(name) not in ('0', ''), f'{name} {boot.fact(name)}')


def _mte_host(boot):
    """For processes of the host."""
    if 'arm64.nomte' in boot.cmdline.split():
        return False, 'arm64.nomte on the command line'
    return _field('MTE', 2)(boot)


def _mte(boot):
    """For guests."""
    host, why = _mte_host(boot)
    if not host:
        return False, why
    if boot.mode() == 'protected':
        return False, 'KVM mode protected refuses MTE'
    return True, why


def _nested(boot):
    return boot.fact('cap.KVM_CAP_ARM_EL2') == '1', f'KVM_CAP_ARM_EL2 {boot.fact("cap.KVM_CAP_ARM_EL2")}'


def _idc(boot):
    """As the kernel shows it: on some processors it sets what the register lacks."""
    ctr = int(boot.fact('ctr_el0'), 0)
    return bool(ctr >> 28 & 1), f'CTR_EL0.IDC={ctr >> 28 & 1} for user space'


def _memory(gib):
    return lambda boot: (boot.memory >= gib << 30, f'memory of {boot.memory >> 20}M')


def _test_mem(boot):
    """What test_modules/kvm_test_mem of the selftests is made for."""
    hole = boot.fact('hidden_mb')
    modules = boot.fact('modules') == '1'
    return modules and hole not in ('0', ''), \
        f'{hole}M hidden from the kernel, {"modules" if modules else "no modules"}'


def _aarch32(level):
    def look(boot):
        value, why = boot.field(level)
        return value == 2, why
    return look


def _aarch64_vcpu(boot):
    """The selftests' vCPUs have an EL2 where they can, and then KVM gives them no AArch32."""
    nested, why = _nested(boot)
    if nested:
        return True, why
    value, why = boot.field('EL0')
    return value == 1, why


def _vm_types(boot):
    types = boot.fact('cap.KVM_CAP_VM_TYPES')
    return types != '0', f'KVM_CAP_VM_TYPES {types}'


# name: what it stands for. The order is that of the ledger.
FEATURES = {
    'kvm': _fact('kvm'),
    'vhe': _mode('vhe'),
    'nvhe': _mode('nvhe'),
    'protected': _mode('protected'),
    'nested': _nested,
    'mte': _mte,
    'mte-host': _mte_host,
    'mte3': _field('MTE', 3),
    'mtestoreonly': _field('MTESTOREONLY'),
    'mteperm': _field('MTEPERM'),
    'fwb': _field('FWB'),
    'dic': _field('DIC'),
    'idc': _idc,
    'sve': _field('SVE'),
    'ids': _field('IDS'),
    'tlbios': _field('TLB'),
    'aarch32-el0': _aarch32('EL0'),
    'aarch32-el1': _aarch32('EL1'),
    'aarch64-vcpu': _aarch64_vcpu,
    'gicv5': _field('GCIE'),
    'vm-types': _vm_types,
    '4k': _page(4),
    '16k': _page(16),
    '64k': _page(64),
    'memory-4g': _memory(4),
    'numa': lambda boot: (int(boot.fact('numa_nodes')) > 1, f'numa_nodes {boot.fact("numa_nodes")}'),
    'swap': _fact('swap'),
    'ksm': _fact('ksm'),
    'userfaultfd': _fact('userfaultfd'),
    'memory-failure': _fact('memory_failure'),
    'kmemleak': _fact('kmemleak'),
    'fault-injection': _fact('fault_injection'),
    'vfio': _fact('vfio'),
    'test-mem': _test_mem,
}


def ledger(boot):
    """name -> (present, why), in the order of FEATURES."""
    return {name: look(boot) for name, look in FEATURES.items()}


def parse_idregs(text):
    """The output of guest/idregs.S."""
    return {m[1]: int(m[2], 16) for m in re.finditer(r'^(\w+) 0x([0-9a-f]+)\s*$', text, re.M)}
