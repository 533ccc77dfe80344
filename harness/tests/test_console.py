# SPDX-License-Identifier: GPL-2.0-only
"""The console oracle: judge.scan_console() with harness/splats on logs of arm64.

Holds: each kind of report is seen, once, with its kind, its line and the test it
belongs to; what only looks like one is not; and each pattern's words are still words
of the base kernel, so that one that no kernel prints any more is noticed.
samples/console/ were provoked, see samples/README.
"""

import os
import re
import subprocess
import unittest

import judge

try:
    from re import _parser as regex_parser
except ImportError:     # before Python 3.11
    import sre_parse as regex_parser

from tests import common

PATTERNS = judge.load_splats(os.path.join(common.HARNESS, 'splats'))

# sample -> rows: kind, test, how the line begins.
REPORTS = {
    'clean': [],
    'hung-boot': [],
    'says-warning': [],
    'warn': [('warning', 'h3_warn', 'WARNING: ../src/init/h3.c:46 at h3_write')],
    'warn-device': [('warning', 'h3_devwarn', 'WARNING: ../src/init/h3.c:51 at h3_write')],
    'list-corruption': [('warning', 'h3_list', 'WARNING: ../src/lib/list_debug.c:62')],
    'bug': [('bug', 'h3_bug', 'kernel BUG at ../src/init/h3.c:55!')],
    # KASAN sees the access before the processor does: two reports.
    'oops': [('kasan', 'h3_null', 'BUG: KASAN: null-ptr-deref in h3_write'),
             ('oops', 'h3_null', 'Unable to handle kernel NULL pointer dereference at virtual address 0')],
    'panic': [('panic', 'h3_panic', 'Kernel panic - not syncing: h3 panics')],
    'kasan': [('kasan', 'h3_kasan', 'BUG: KASAN: slab-out-of-bounds in h3_write')],
    'lockdep-circular': [('lockdep', 'h3_circular', 'WARNING: possible circular locking dependency detected')],
    'rcu-usage': [('rcu', 'h3_rcu', 'WARNING: suspicious RCU usage')],
    'rcu-stall': [('rcu-stall', 'h3_rcustall', 'rcu: INFO: rcu_sched self-detected stall on CPU')],
    'soft-lockup': [('lockup', 'h3_softlockup', 'watchdog: BUG: soft lockup - CPU#1 stuck for 5s!'),
                    ('lockup', 'h3_softlockup', 'watchdog: BUG: soft lockup - CPU#1 stuck for 10s!')],
    'hung-task': [('hung-task', 'h3_hung', 'INFO: task trig:44 blocked for more than 3 seconds.'),
                  ('hung-task', 'h3_hung', 'INFO: task h3_sleeper:45 blocked for more than 3 seconds.'),
                  ('hung-task', 'h3_hung', 'INFO: task trig:44 blocked for more than 6 seconds.')],
    'sleep-in-atomic': [('bug', 'h3_atomic', 'BUG: scheduling while atomic: trig/45/0x00000002'),
                        ('rcu', 'h3_atomic', 'WARNING: suspicious RCU usage')],
    'hyp-bug': [('hyp-panic', 'h3_hyp', 'kvm [44]: nVHE hyp BUG at: ../src/arch/arm64/kvm/hyp/nvhe/hyp-main.c:572!')],
    'hyp-panic': [('hyp-panic', 'h3_hypabort', 'kvm [43]: nVHE hyp panic at: [<ffff8000807e5a6c>]')],
    'serror': [('serror', 'h3_serror', 'SError Interrupt on CPU0, code 0x00000000be000000 -- SError')],
    'stack-overflow': [('stack', 'h3_stack', 'Insufficient stack space to handle exception!'),
                       # KASAN on the overflow stack, long before the panic.
                       ('kasan', 'h3_stack', 'BUG: KASAN: wild-memory-access in __ipi_send_mask')],
    'ubsan': [('ubsan', 'h3_ubsan', 'UBSAN: array-index-out-of-bounds in ../src/init/h3.c')],
    # Found by init's scan, when the test has ended.
    'kmemleak': [('kmemleak', None, 'kmemleak: 2148 new suspected memory leaks')],
    'page-allocation': [('allocation', 'h3_alloc', 'trig: page allocation failure: order:10, mode:0x820(GFP_ATOMIC)')],
    # With CONFIG_PRINTK_CALLER.
    'mte-tag-check': [('kasan', 'h3_uaf', 'BUG: KASAN: slab-use-after-free in h3_write')],
    'warn-caller-id': [('warning', 'h3_warn', 'WARNING: ../src/init/h3.c:46 at h3_write')],
    'stack-overflow-caller-id': [('stack', 'h3_uaf', 'Insufficient stack space to handle exception!')],
}


def scan(text, allowed=()):
    return judge.scan_console(text, PATTERNS, [re.compile(a) for a in allowed])


class Samples(unittest.TestCase):
    maxDiff = None

    def test_reports(self):
        for file in common.samples('console'):
            name = file[:-4]
            with self.subTest(name):
                self.compare(scan(common.sample('console', file)), REPORTS[name])
        self.assertEqual(set(REPORTS), {f[:-4] for f in common.samples('console')})

    def compare(self, got, want):
        self.assertEqual([g[:2] for g in got], [w[:2] for w in want], got)
        for (_, _, line), (_, _, start) in zip(got, want):
            self.assertTrue(line.startswith(start), line)

    def test_short(self):
        for file in common.samples('console'):
            self.assertLessEqual(common.sample('console', file).count('\n'), 60, file)

    def test_every_kind_has_a_sample(self):
        """But for what needs other hardware or another configuration."""
        seen = {kind for rows in REPORTS.values() for kind, _, _ in rows}
        self.assertEqual({kind for kind, _, _ in PATTERNS} - seen, {'kfence', 'kcsan', 'exception', 'oom'})

    def dressed(self, change):
        """The same rows when every line is dressed otherwise."""
        for file in common.samples('console'):
            name = file[:-4]
            with self.subTest(name):
                text = '\n'.join(change(l) for l in common.sample('console', file).replace('\r', '').split('\n'))
                self.compare(scan(text), REPORTS[name])

    def test_carriage_return(self):
        self.dressed(lambda l: l + '\r')
        self.dressed(lambda l: l + '\r\r')
        self.dressed(lambda l: '\r' + l)

    def test_no_carriage_return(self):
        self.dressed(lambda l: l)

    def test_caller_id(self):
        self.dressed(lambda l: re.sub(r'^(\[ *[\d.]+\]) ', r'\1[   T12] ', l))
        self.dressed(lambda l: re.sub(r'^(\[ *[\d.]+\]) ', r'\1[    C1] ', l))

    def test_level(self):
        self.dressed(lambda l: '<4>' + l)

    def test_no_time(self):
        self.dressed(lambda l: re.sub(r'^\[ *[\d.]+\] ', '', l))

    def test_colours(self):
        self.dressed(lambda l: f'\x1b[0;31m{l}\x1b[0m')
        self.dressed(lambda l: re.sub(r'^(\[ *[\d.]+\] )', '\x1b[32m\\1\x1b[0m\x1b[1m', l) + '\x1b[0m')


class Lines(unittest.TestCase):
    """A line at a time."""

    def test_is_one(self):
        for kind, line in (
                ('warning', 'WARNING: at start_kernel+0x1/0x2, CPU#0: swapper/0'),
                ('warning', 'workqueue: WARNING: Flushing system-wide workqueues will be prohibited in near future.'),
                ('warning', 'DEBUG_LOCKS_WARN_ON(1)'),
                ('bug', 'BUG: Bad page state in process t  pfn:12345'),
                ('bug', 'BUG: sleeping function called from invalid context at mm/x.c:1'),
                ('bug', 'BUG kmalloc-32 (Not tainted): Right Redzone overwritten'),
                ('bug', 'BUG: Bad rss-counter state mm:0 type:MM_ANONPAGES val:1'),
                ('kfence', 'BUG: KFENCE: use-after-free read in f+0x1/0x2'),
                ('lockdep', 'WARNING: possible recursive locking detected'),
                ('lockdep', 'WARNING: inconsistent lock state'),
                ('lockdep', 'WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected'),
                ('lockdep', 'WARNING: possible irq lock inversion dependency detected'),
                ('lockdep', 'WARNING: bad unlock balance detected!'),
                ('lockdep', 'INFO: trying to register non-static key.'),
                ('oops', 'Internal error: Oops - Undefined instruction: 0000000002000000 [#1]  SMP'),
                ('rcu-stall', 'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:'),
                ('rcu-stall', 'rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... } 9 jiffies'),
                ('rcu-stall', 'rcu: rcu_preempt kthread starved for 2000 jiffies! g9 f0x0 RCU_GP_WAIT_FQS(5)'),
                ('hung-task', 'INFO: task t:1 blocked in I/O wait for more than 120 seconds.'),
                ('lockup', 'watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1'),
                ('exception', 'Unhandled 64-bit el1h sync exception on CPU0, ESR 0x0000000002000000 -- Unknown/Uncategorized'),
                ('hyp-panic', 'kvm [1]: Invalid host exception to nVHE hyp!'),
                ('panic', 'Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009'),
                ('allocation', 'kworker/u8:1: page allocation failure: order:4, mode:0x40dc0'),
                ('oom', 'Out of memory: Killed process 77 (t) total-vm:1kB'),
                ('oom', 'Out of memory (oom_kill_allocating_task): Killed process 77 (t) total-vm:1kB')):
            with self.subTest(line):
                self.assertEqual([r[0] for r in scan(f'[    1.500000] {line}\r\n')], [kind])

    def test_is_none(self):
        for line in ('a test says: WARNING, mind the gap', '# WARNING: not enough memory', 'test: no BUG here',
                     'not a WARNING: this', '"WARNING: quoted"', 'Warning: unable to open an initial console.',
                     'debug: DEBUG: BUGS fixed', 'rcu: Hierarchical RCU implementation.',
                     'rcu: INFO: nothing', 'watchdog: Hard watchdog permanently disabled',
                     'kmemleak: Kernel memory leak detector initialized (mem pool available: 15649)',
                     'Lock dependency validator: Copyright (c) 2006', 'KASAN: init done (generic)',
                     'kvm [1]: Hyp nVHE mode initialized successfully', 'Kernel command line: panic=-1 BUG: WARNING: ',
                     'Memory cgroup out of memory: Killed process 5 (t) total-vm:1kB',
                     'INFO: task t:1 is blocked on a mutex likely owned by task u:2.',
                     'INFO: lockdep is turned off.', '---[ end Kernel panic - not syncing: x ]---'):
            with self.subTest(line):
                self.assertEqual(scan(f'[    1.500000] {line}\r\n'), [])


class Reports(unittest.TestCase):
    """What belongs together, and to whom."""

    OOPS = ['Unable to handle kernel paging request at virtual address 0', 'Internal error: Oops: 0 [#1] SMP',
            'Call trace:', '---[ end trace 0000000000000000 ]---', 'Kernel panic - not syncing: Oops: Fatal exception']
    WARN = ['------------[ cut here ]------------', 'WARNING: a.c:1 at f+0x0/0x1, CPU#0: t/1', 'Call trace:',
            '---[ end trace 0000000000000000 ]---']

    def kinds(self, *lines, allowed=()):
        return [r[0] for r in scan('\n'.join(lines), allowed)]

    def test_one_oops(self):
        self.assertEqual(self.kinds(*self.OOPS), ['oops'])

    def test_without_its_head(self):
        self.assertEqual(self.kinds(*self.OOPS[1:]), ['oops'])
        self.assertEqual(self.kinds(*self.OOPS[4:]), ['panic'])

    def test_two_of_a_kind(self):
        self.assertEqual(self.kinds(*self.WARN, *self.WARN), ['warning', 'warning'])

    def test_warning_then_oops(self):
        self.assertEqual(self.kinds(*self.WARN, *self.OOPS), ['warning', 'oops'])

    def test_warning_then_later_panic(self):
        """A panic that has nothing to do with the report before it."""
        self.assertEqual(self.kinds(*self.WARN, *['x'] * judge.AFTER_TRACE, 'Kernel panic - not syncing: y'),
                         ['warning', 'panic'])
        self.assertEqual(self.kinds('WARNING: inconsistent lock state', *['x'] * judge.REPORT_LINES,
                                    'Kernel panic - not syncing: y'), ['lockdep', 'panic'])

    def test_panic_on_warn(self):
        self.assertEqual(self.kinds(*self.WARN, 'Kernel panic - not syncing: kernel: panic_on_warn set ...'), ['warning'])

    def test_allowed_hides_itself_alone(self):
        self.assertEqual(self.kinds(*self.WARN, allowed=['a.c:1']), [])
        self.assertEqual(self.kinds(*self.WARN, *self.OOPS, allowed=['a.c:1']), ['oops'])
        self.assertEqual(self.kinds(*self.OOPS, allowed=['Unable to handle']), ['oops'])
        self.assertEqual(self.kinds(*self.WARN, allowed=['b.c:1']), ['warning'])

    def test_whose(self):
        warn = 'WARNING: a.c:1 at f'
        rows = scan('\n'.join(['[ 1.0] ' + warn, '[ 2.0] harness: start a', '[ 3.0] ' + warn, '[ 4.0] harness: end a',
                               '[ 5.0] ' + warn, '[ 6.0] harness: start b', '[ 7.0] ' + warn]))
        self.assertEqual([r[1] for r in rows], [None, 'a', None, 'b'])

    def test_cut_anywhere(self):
        """A log that ends in the middle of a report still has it."""
        for name in ('warn', 'oops', 'bug', 'kasan', 'hyp-bug', 'serror'):
            text = common.sample('console', name + '.log')
            line = REPORTS[name][0][2]
            start = text.index(line) + len(line)
            for end in range(start, len(text), 211):
                self.assertGreaterEqual(len(scan(text[:end])), 1, (name, end))

    def test_nothing(self):
        self.assertEqual(scan(''), [])
        self.assertEqual(scan('\0\0\x1b[\n'), [])


def literal(pattern):
    """The longest piece of a regular expression that stands for itself."""
    runs = ['']

    def walk(parsed):
        for kind, value in parsed:
            if str(kind) == 'LITERAL':
                runs[-1] += chr(value)
                continue
            runs.append('')
            inner = value[-1] if str(kind) == 'SUBPATTERN' else None
            for branch in inner and [inner] or (value[1] if str(kind) == 'BRANCH' else []):
                walk(branch)
                runs.append('')

    walk(regex_parser.parse(pattern))
    # What pr_fmt() and kvm_err() put before the text is not with it in the source.
    return max((re.sub(r'^(watchdog|rcu|kmemleak|\]|): ', '', run).strip() for run in runs), key=len)


@unittest.skipUnless(os.path.isdir(os.path.join(common.BASE, 'mm')), common.NO_BASE)
class Source(unittest.TestCase):
    WHERE = ('arch/arm64', 'kernel', 'lib', 'mm', 'include/asm-generic', 'include/linux', 'drivers/base')

    def test_each_pattern_is_printed(self):
        wanted = {literal(pattern.pattern): pattern.pattern for _, pattern, _ in PATTERNS}
        self.assertTrue(all(len(text) > 2 for text in wanted), wanted)
        command = ['grep', '-rhoF', '--include=*.c', '--include=*.h', '--include=*.S']
        for text in wanted:
            command += ['-e', text]
        done = subprocess.run(command + [os.path.join(common.BASE, w) for w in self.WHERE],
                              stdout=subprocess.PIPE, text=True, errors='replace', check=False)
        found = set(done.stdout.split('\n'))
        # grep reports the longest match at a place: a text in another one is there too.
        missing = [f'{text!r} of {pattern!r}' for text, pattern in wanted.items()
                   if not any(text in f for f in found)]
        self.assertEqual(missing, [], 'no kernel prints that any more')

    def test_literals(self):
        for pattern, text in ((r'rcu: INFO: .*detected (expedited )?stall', 'detected'),
                              (r'kvm \[\d+\]: nVHE hyp ', 'nVHE hyp'), ('UBSAN: ', 'UBSAN:'),
                              (r'.{1,16}: page allocation failure: order:', 'page allocation failure: order:')):
            self.assertEqual(literal(pattern), text)


if __name__ == '__main__':
    unittest.main()
