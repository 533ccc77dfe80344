# SPDX-License-Identifier: GPL-2.0-only
"""boot.py against a guest that is made to misbehave, and against real QEMU.

Holds: every way in which a boot can end is told from the others, within its time-out;
what was received before is kept; no process is left, whatever happened. The real
boots are skipped when build/ has no kernel, initramfs or QEMU.
"""

import fcntl
import os
import sys
import tempfile
import time
import unittest
from unittest import mock

import boot
import data
from tests import common

FAKE = os.path.join(common.TESTS, 'fake_guest.py')


class BootTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='harness-test-')
        self.addCleanup(self.clean)
        self.stderr = os.path.join(self.dir, 'stderr')
        self.seen = []
        self.result = boot.Result()

    def clean(self):
        left = common.left_over(self.dir)
        common.shutil.rmtree(self.dir)
        self.assertEqual(left, [])

    def follow(self, words, tests=None, factor=1.0, boot_timeout=2, grace=2, on_start=None, on_end=None):
        self.words = words
        with mock.patch.object(boot, 'BOOT_TIMEOUT', boot_timeout), mock.patch.object(boot, 'GRACE', grace):
            boot.run(words, tests or {}, factor, self.stderr, self.result,
                     on_start or (lambda name: self.seen.append(('start', name))),
                     lambda name, got: (self.seen.append((name, *got)), on_end and on_end(name)))
        return self.result

    def fake(self, mode, *args, **kwargs):
        # The directory's name among the words: how a process that is left is found.
        return self.follow([sys.executable, FAKE, mode, self.dir], *args, **kwargs)


class Command(unittest.TestCase):
    def test_memory(self):
        """What the kernel is told of is most of what the machine has; QEMU has more."""
        words = boot.command('qemu', data.machines()['max'], 'k', 'i', 'p', 'c', 'a=b', '2G')
        self.assertEqual(words[words.index('-append') + 1], 'a=b mem=1984M')
        self.assertEqual(words[words.index('-m') + 1], '2560M')

    def test_devices(self):
        machine = {**data.machines()['max'], 'devices': '-device a,b=c  -object d'}
        words = boot.command('qemu', machine, 'k', 'i', 'p', 'c', '', '1G', ['disk'])
        self.assertEqual(words[-4:], ['-device', 'a,b=c', '-object', 'd'])


class Fake(BootTest):
    def test_normal(self):
        result = self.fake('hello,probe,record=note_a_note,test=a=exit=0,test=b=exit=4,'
                           'record=kmemleak_0,done')
        self.assertEqual(result.ended, '')
        output = b'TAP version 13\n1..1\nok 1 a case\n'
        self.assertEqual(result.tests, {'a': ('exit', 0, 12, output), 'b': ('exit', 4, 12, output)})
        self.assertEqual([s[:2] for s in self.seen], [('start', 'a'), ('a', 'exit'), ('start', 'b'), ('b', 'exit')])
        self.assertEqual(result.facts['cap.KVM_CAP_ARM_EL2'], '0')
        self.assertEqual(result.notes, ['a note'])
        self.assertTrue(result.hello)
        self.assertIsNone(result.started)

    def test_blocks_split_over_reads(self):
        result = self.fake('split,hello,test=a=exit=0,raw=kmemleak_7|a|b|c|d,done')
        self.assertEqual(result.ended, '')
        self.assertEqual(result.tests['a'], ('exit', 0, 12, b'TAP version 13\n1..1\nok 1 a case\n'))
        self.assertEqual(result.kmemleak, b'a\nb\nc\nd')

    def test_output_that_looks_like_records(self):
        result = self.fake('hello,big=a,done')
        self.assertEqual(result.ended, '')
        self.assertEqual(list(result.tests), ['a'])
        self.assertEqual(len(result.tests['a'][3]), 64 * 32768)

    def test_no_done_is_not_well(self):
        result = self.fake('hello,test=a=exit=0')
        self.assertIn('stopped before it was done', result.ended)
        self.assertEqual(list(result.tests), ['a'])

    def test_exit_at_once(self):
        started = time.monotonic()
        result = self.fake('stderr=no_such_machine,exit=1', boot_timeout=60)
        self.assertIn('stopped before', result.ended)
        self.assertLess(time.monotonic() - started, 10)
        self.assertFalse(result.hello)
        with open(self.stderr, encoding='utf-8') as f:
            self.assertEqual(f.read(), 'no such machine\n')

    def test_exit_in_a_block(self):
        """What came of the test's output is kept, the test is lost."""
        result = self.fake('hello,record=start_a,raw=out_a_100|partial')
        self.assertIn('stopped before', result.ended)
        self.assertEqual(result.started, 'a')
        self.assertEqual(result.tests['a'], ('lost', 0, 0, b'partial'))

    def test_exit_in_a_test(self):
        result = self.fake('hello,test=a=exit=0,record=start_b,exit=0')
        self.assertEqual(result.tests['b'], ('lost', 0, 0, b''))

    def test_hang_while_booting(self):
        result = self.fake('sleep', boot_timeout=0.5)
        self.assertIn('while booting', result.ended)
        self.assertEqual(result.tests, {})

    def test_hang_between_tests(self):
        result = self.fake('hello,test=a=exit=0,sleep', boot_timeout=0.5)
        self.assertIn('between tests', result.ended)
        self.assertEqual(list(result.tests), ['a'])

    def test_hang_in_a_test(self):
        """The guest's own time-out did not fire: ours is the test's plus grace."""
        started = time.monotonic()
        result = self.fake('hello,hang=a', tests={'a': 1}, factor=0.2, boot_timeout=100, grace=0.5)
        self.assertIn('in a', result.ended)
        self.assertLess(time.monotonic() - started, 8)
        self.assertEqual(result.tests['a'], ('lost', 0, 0, b'before'))

    def test_hang_in_a_block(self):
        result = self.fake('hello,record=start_a,raw=out_a_100|partial,sleep', tests={'a': 0.1}, grace=0.3)
        self.assertIn('in a', result.ended)
        self.assertEqual(result.tests['a'], ('lost', 0, 0, b'partial'))

    def test_chatter_does_not_stretch_a_test(self):
        """A test that prints for ever is still bounded, by the time since it started."""
        script = os.path.join(self.dir, 'chatter.py')
        with open(script, 'w', encoding='utf-8') as f:
            f.write('import os, time\nos.write(1, b"hello 1\\nstart a\\n")\n'
                    'for _ in range(200):\n\tos.write(1, b"out a 1\\nx")\n\ttime.sleep(0.05)\n')
        started = time.monotonic()
        result = self.follow([sys.executable, script], tests={'a': 1}, grace=1)
        self.assertIn('in a', result.ended)
        self.assertLess(time.monotonic() - started, 6)

    def test_no_power_off(self):
        result = self.fake('hello,done,sleep', factor=0.05, boot_timeout=100)
        self.assertIn('did not power off', result.ended)

    def test_stuck(self):
        result = self.fake('hello,test=a=stuck=60,sleep')
        self.assertEqual(result.ended, 'a could not be killed')
        self.assertEqual(result.tests['a'][:2], ('stuck', 60))

    def test_bad_plan(self):
        result = self.fake('hello,record=error_3_unknown_first_word')
        self.assertEqual(result.ended, 'plan refused: 3 unknown first word')

    def garbage(self, mode):
        result = self.fake(mode)
        self.assertIn('record', result.ended)
        return result

    def test_unknown_record(self):
        self.garbage('hello,record=what_is_this,sleep')

    def test_end_without_numbers(self):
        self.garbage('hello,record=start_a,record=end_a_exit_zero_1,sleep')

    def test_end_too_short(self):
        self.garbage('hello,record=start_a,record=end_a,sleep')

    def test_end_of_another_test(self):
        self.garbage('hello,record=start_a,record=end_b_exit_0_1,sleep')

    def test_start_in_a_test(self):
        self.garbage('hello,record=start_a,record=start_b,sleep')

    def test_done_in_a_test(self):
        self.garbage('hello,record=start_a,record=done,sleep')

    def test_end_unknown_way(self):
        self.garbage('hello,record=start_a,record=end_a_well_0_1,sleep')

    def test_output_without_length(self):
        self.garbage('hello,record=start_a,record=out_a_many,sleep')

    def test_output_with_negative_length(self):
        self.garbage('hello,record=start_a,record=out_a_-5,sleep')

    def test_not_hello_first(self):
        self.garbage('record=fact_kvm_1,sleep')

    def test_another_version(self):
        self.garbage('record=hello_2,sleep')

    def test_fact_named_as_nothing(self):
        result = self.fake('hello,record=fact_a,record=,done')
        self.assertIn('record', result.ended)

    def test_no_such_qemu(self):
        with self.assertRaises(OSError):
            self.follow([os.path.join(self.dir, 'nothing')])

    def test_deaf_and_its_child(self):
        """SIGTERM is not enough for either."""
        result = self.fake('deaf,child,hello,done,sleep', factor=0.1, boot_timeout=100)
        self.assertIn('did not power off', result.ended)

    def test_child_outlives_a_normal_end(self):
        result = self.fake('child,hello,test=a=exit=0,done')
        self.assertEqual(result.ended, '')
        # self.clean looks for the child

    def test_interrupted(self):
        def interrupt(_name):
            raise KeyboardInterrupt
        with self.assertRaises(KeyboardInterrupt):
            self.fake('child,hello,hang=a', on_start=interrupt)
        self.assertEqual(common.left_over(self.dir), [])

    def test_callback_that_fails(self):
        """Its error is its own and no bad record."""
        def fail(_name):
            raise ValueError('mine')
        with self.assertRaisesRegex(ValueError, 'mine'):
            self.fake('hello,hang=a', on_start=fail)

    def test_factor_stretches(self):
        result = self.fake('hello,sleep', factor=0.2, boot_timeout=2)
        self.assertIn('0.4 s', result.ended)


class Command(unittest.TestCase):
    def test_quoted(self):
        words = ['/q emu', '-append', "a b='c'", '-smp', '2']
        text = boot.shell_quoted(words)
        done = common.subprocess.run(['sh', '-c', f'set -- {text}; printf "%s\\n" "$@"'],
                                     stdout=common.subprocess.PIPE, text=True, check=True)
        self.assertEqual(done.stdout.split('\n')[:-1], words)

    def test_console_is_not_the_channel(self):
        words = boot.command('q', data.machines()['max'], 'k', 'i', 'p', 'c.log', 'cmd', '2G', ['d'])
        self.assertIn('file:c.log', words)
        self.assertIn('stdio,id=results,signal=off', words)
        self.assertIn('exit-with-parent=on', words)
        self.assertIn('if=none,id=d0,format=raw,cache=unsafe,file=d', words)


def first(*paths):
    return next((p for p in paths if os.path.exists(p)), None)


KERNEL = first(*(os.path.join(common.BUILD, p, 'arch/arm64/boot/Image')
                 for p in ('series/obj-default', 'base/obj-base')))
INITRD = first(os.path.join(common.BUILD, 'image/initramfs.cpio'))
REAL = KERNEL and INITRD and os.path.exists(common.QEMU)


@unittest.skipUnless(REAL, 'build/ has no kernel, initramfs or QEMU: make kernel image')
class Real(BootTest):
    def boot(self, plan, cmdline='', tests=None, initrd=INITRD, **kwargs):
        path = os.path.join(self.dir, 'plan')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(plan)
        machine = data.machines()['max']
        self.console = os.path.join(self.dir, 'console')
        words = boot.command(common.QEMU, machine, KERNEL, initrd, path, self.console,
                             f'{boot.COMMAND_LINE} {cmdline}', '512M')
        return self.follow(words, tests, **{'boot_timeout': 60, 'grace': 30, **kwargs})

    def read_console(self):
        with open(self.console, encoding='utf-8', errors='replace') as f:
            return f.read()

    def test_panics_at_once(self):
        started = time.monotonic()
        result = self.boot('', cmdline='rdinit=/nonexistent root=/dev/null')
        self.assertIn('stopped before it was done', result.ended)
        self.assertFalse(result.hello)
        self.assertIn('Kernel panic', self.read_console())
        self.assertLess(time.monotonic() - started, 40)

    def test_no_initramfs(self):
        """QEMU itself refuses, and says why."""
        result = self.boot('', initrd=os.path.join(self.dir, 'nothing'))
        self.assertIn('stopped before', result.ended)
        with open(self.stderr, encoding='utf-8') as f:
            self.assertIn('nothing', f.read())

    def test_hangs_while_booting(self):
        """Stopped processors: the kernel never gets to init."""
        result = self.boot('', cmdline='rdinit=/nonexistent root=/dev/vdz rootwait', boot_timeout=3)
        self.assertIn('while booting', result.ended)

    def test_programs(self):
        """init's verdicts: exit status, no such program, a test that never ends, and
        that the next one runs all the same."""
        result = self.boot('write /proc/sys/vm/swappiness 10\n'
                           'test good 20 /bin/probe\n'
                           'test absent 20 /bin/no-such-program\n'
                           'test endless 1 /tests/kvm/set_memory_region_test\n'     # takes 18 s
                           'test after 20 /bin/probe\n',
                           tests={'good': 20, 'absent': 20, 'endless': 1, 'after': 20})
        self.assertEqual(result.ended, '', self.seen)
        self.assertEqual(result.tests['good'][:2], ('exit', 0))
        self.assertEqual(result.tests['absent'][:2], ('error', 2))
        self.assertEqual(result.tests['endless'][:2], ('timeout', 1))
        self.assertEqual(result.tests['after'][:2], ('exit', 0))
        self.assertEqual(result.facts['page_size'], '4096')
        console = self.read_console()
        self.assertIn('harness: start good', console)
        self.assertIn('harness: end after', console)

    def test_host_that_is_slow(self):
        """QEMU drops what it could not pass on when the guest powers off: that must wait."""
        names = [f't{n}' for n in range(6)]
        small = mock.patch.object(boot.subprocess, 'Popen', side_effect=self.small_pipe(boot.subprocess.Popen))
        with small:
            result = self.boot(''.join(f'test {n} 20 /tests/kvm/get-reg-list\n' for n in names),
                               tests=dict.fromkeys(names, 20), on_end=self.doze)
        self.assertEqual(result.ended, '')
        self.assertEqual(sorted(result.tests), names)

    @staticmethod
    def small_pipe(popen):
        def start(*args, **kwargs):
            process = popen(*args, **kwargs)
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            return process
        return start

    def doze(self, name):
        """Take nothing for a while, or until the guest is gone."""
        until = time.monotonic() + 5
        while name == 't2' and 'Power down' not in self.read_console() and time.monotonic() < until:
            time.sleep(0.1)
        if name == 't2':
            time.sleep(0.5)

    def test_refused_plan(self):
        result = self.boot('test a\n')
        self.assertIn('plan refused: 1', result.ended)

    def test_refused_shell(self):
        """With modules before it, and with nothing else."""
        result = self.boot('modules a\ntest a 1 b\nshell\n')
        self.assertEqual(result.ended, 'plan refused: 3 shell must be alone: shell')

    def modules(self, variant):
        """The device test, on a machine with memory for it, with the modules of a variant."""
        result = self.boot(f'modules {variant}\ntest a 100 /tests/kvm/arm64/pfnmap_device\n',
                           tests={'a': 100})
        self.assertEqual(result.ended, '', self.seen)
        return result

    def test_modules(self):
        """Those of the kernel that runs are where tests look for them."""
        result = self.modules(os.path.basename(KERNEL[:-len('/arch/arm64/boot/Image')]).partition('-')[2])
        self.assertEqual(result.notes, [])
        self.assertEqual(result.facts['hidden_mb'], str(boot.HIDDEN >> 20))
        self.assertEqual(result.facts['modules'], '1')
        self.assertEqual(result.tests['a'][:2], ('exit', 0), result.tests['a'][3][-2000:].decode())

    def test_modules_of_no_kernel(self):
        """None at all, and never another kernel's."""
        result = self.modules('nonsense')
        self.assertEqual(result.notes, ['no modules of nonsense'])
        self.assertEqual(result.tests['a'][:2], ('exit', 4))
        self.assertIn(b'was not built', result.tests['a'][3])

    def test_idregs(self):
        program = os.path.join(common.BUILD, 'image/idregs.elf')
        import ledger
        registers = ledger.parse_idregs(boot.idregs(common.QEMU, data.machines()['max'], program))
        self.assertGreaterEqual(registers['ID_AA64PFR1_EL1'] >> 8 & 0xf, 2)
        self.assertIn('CTR_EL0', registers)
        with self.assertRaises(OSError) as caught:
            boot.idregs(common.QEMU, {'machine': 'virt', 'cpu': 'no-such-cpu'}, program)
        self.assertIn('no-such-cpu', str(caught.exception))


if __name__ == '__main__':
    unittest.main()
