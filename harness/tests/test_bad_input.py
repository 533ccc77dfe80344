# SPDX-License-Identifier: GPL-2.0-only
"""What bad input gets, as a user meets it: through make, the steps and run.py.

Holds: each gets one line that says what is wrong and what would be right, the exit
status for it (2: the run cannot be trusted, 130: interrupted), and leaves neither a
process nor a half-written target, so that the next call works. No network is used:
apt-get is a fake, the kernel a tarball of two files, the guest fake_guest.py.
"""

import glob
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tarfile
import time
import unittest

from tests import common

FAKE = os.path.join(common.TESTS, 'fake_guest.py')
TREE = next((t for t in (common.BASE, os.path.join(common.BUILD, 'series/tree')) if os.path.isdir(t)), None)


class Line:
    """For assertSays: the last line of what went to stderr."""

    def __init__(self, done):
        lines = [l for l in done.err.split('\n') if l and not l.startswith('make: ***')]
        self.text = lines[-1] if lines else ''
        self.count = len(lines)


class BadInput(common.Sandbox):
    def says(self, done, *words, status=2, lines=1):
        """One line on stderr (make adds its own) with all the words, and the exit status."""
        self.assertEqual(done.status, status, done)
        line = Line(done)
        if lines:
            self.assertLessEqual(line.count, lines, f'more than {lines} lines:\n{done}')
        for word in words:
            self.assertIn(word, line.text, done)
        self.assertNotIn('Traceback', done.err)
        return line.text

    def left(self):
        """What is in build/ and results/ but for logs."""
        found = []
        for top in ('build', 'results'):
            for directory, _, names in os.walk(os.path.join(self.top, top)):
                found += [os.path.relpath(os.path.join(directory, n), self.top) for n in names]
        return sorted(f for f in found if not f.startswith(('build/log/', 'build/packages.stamp')))

    def setUp(self):
        super().setUp()
        # No test may reach a mirror.
        self.fake('apt-get', '#!/bin/sh\necho "fake apt-get: $*" >&2\nexit 1\n')

    def make(self, *words, **env):
        if 'QEMU' not in env:
            env['QEMU'] = self.fake_qemu()
        return self.run_in('make', *words, **env)


class Fetch(BadInput):
    """fetch.sh with a fake apt, and LINUX=."""

    def tarball(self, extra=0, name='linux.tar'):
        path = os.path.join(self.dir, name)
        with tarfile.open(path, 'w') as tar:
            for file, text in (('linux/Makefile', 'kernelversion:\n\t@echo 7.3.4\n'),
                               ('linux/.gitignore', '*.o\n'), ('linux/arch/arm64/kvm/mmu.c', '\n'),
                               ('linux/big', 'x' * extra)):
                info = tarfile.TarInfo(file)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
        return path

    def linux(self, **env):
        return self.run_in('harness/fetch.sh', 'linux', **env)

    def no_base(self):
        self.assertEqual([n for n in ('base', 'base.stamp') if os.path.exists(f'{self.top}/build/{n}')], [])

    def test_good_tarball(self):
        done = self.linux(LINUX=self.tarball())
        self.assertEqual(done.status, 0, done)
        self.assertTrue(os.path.isdir(f'{self.top}/build/base/tree/.git'))
        done = self.linux(LINUX=self.tarball())
        self.assertEqual((done.status, done.err), (0, ''))

    def test_nonexistent(self):
        self.says(self.linux(LINUX='/nonexistent'), 'LINUX=/nonexistent', 'no such file')
        self.assertEqual(self.left(), [])

    def test_nonexistent_through_make(self):
        self.says(self.make('tree', 'LINUX=/nonexistent'), 'LINUX=/nonexistent', 'no such file')
        self.assertEqual(self.left(), [])

    def test_directory_that_is_no_kernel(self):
        self.says(self.linux(LINUX=self.bin), f'LINUX={self.bin}', 'not a kernel source tree')
        self.assertEqual(self.left(), [])

    def test_file_that_is_no_tarball(self):
        path = os.path.join(self.dir, 'text')
        with open(path, 'w', encoding='utf-8') as f:
            f.write('no tarball\n')
        self.says(self.linux(LINUX=path), f'LINUX={path} failed', 'build/log/', lines=0)
        self.no_base()

    def test_tarball_that_is_no_kernel(self):
        path = os.path.join(self.dir, 'x.tar')
        with tarfile.open(path, 'w') as tar:
            tar.add(self.bin, 'x')
        self.says(self.linux(LINUX=path), 'not a kernel source tree')
        self.no_base()

    def test_another_base_over_local_work(self):
        """Another LINUX= would drop the tree: not with work in it."""
        self.assertEqual(self.linux(LINUX=self.tarball()).status, 0)
        self.write('harness/base', '7.3.4\n')
        self.assertEqual(self.run_in('harness/tree.sh').status, 0)
        work = self.write('build/series/tree/arch/arm64/kvm/mmu.c', 'work\n')
        self.says(self.linux(LINUX=self.tarball(3, 'other.tar')), 'work that patches/ lacks', 'make refresh')
        with open(work, encoding='utf-8') as f:
            self.assertEqual(f.read(), 'work\n')

    def test_interrupted(self):
        """Ctrl-C while unpacking: the next call starts anew and works."""
        self.fake('tar', f'#!/bin/sh\n{shutil.which("tar")} "$@"\nsleep 60\n')
        process = self.start('harness/fetch.sh', 'linux', LINUX=self.tarball())
        until = time.monotonic() + 20
        while not glob.glob(f'{self.top}/build/base.new/Makefile') and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        done = self.finish(process)
        self.assertNotEqual(done.status, 0)
        self.no_base()
        self.assertEqual(common.left_over(self.dir), [])
        os.unlink(os.path.join(self.bin, 'tar'))
        self.assertEqual(self.linux(LINUX=self.tarball()).status, 0)

    def test_full_disk(self):
        """A limit on the size of files stands for it: tar cannot write all."""
        self.tarball(1 << 20)
        done = self.run_in('sh', '-c', 'trap "" XFSZ; ulimit -f 100; exec harness/fetch.sh linux',
                           LINUX=self.tarball(1 << 20))
        self.says(done, 'failed', 'build/log/', lines=0)
        self.assertRegex(done.err, 'Wrote only|File too large')
        self.no_base()
        self.assertEqual(self.linux(LINUX=self.tarball(1 << 20)).status, 0)

    def fake_apt(self, update='exit 0', targets='http://mirror.invalid/debian', madison=''):
        self.fake('apt-get', '#!/bin/sh\ncase " $* " in\n'
                             f'*" indextargets "*) [ -z "{targets}" ] || echo "{targets}" ;;\n'
                             f'*" update "*) echo "$*" >>{self.dir}/updates; {update} ;;\n'
                             '*) exit 1 ;;\nesac\n')
        self.fake('apt-cache', f'#!/bin/sh\nprintf "%s" "{madison}"\n')

    def suites(self):
        with open(os.path.join(common.HARNESS, 'suites'), encoding='utf-8') as f:
            return [l.split()[0] for l in f if l.strip() and not l.startswith('#')]

    def test_no_mirror_set_up(self):
        self.fake_apt(targets='')
        self.says(self.linux(), 'linux-source-7.3', 'LINUX=')
        self.no_base()

    def test_no_network(self):
        self.fake_apt(update='echo "Could not resolve mirror.invalid"; exit 100')
        text = self.says(self.linux(), 'linux-source-7.3', 'network', 'LINUX=', 'http://mirror.invalid/debian', lines=0)
        for suite in self.suites():
            self.assertIn(suite, text)
        self.no_base()

    def test_on_no_suite(self):
        self.fake_apt()
        self.says(self.linux(), 'linux-source-7.3', 'LINUX=', 'http://mirror.invalid/debian', lines=0)
        self.no_base()

    def test_qemu_on_no_suite(self):
        self.fake_apt()
        self.says(self.run_in('harness/fetch.sh', 'qemu'), 'qemu-system-arm', '11.1', 'QEMU=', lines=0)
        self.assertFalse(os.path.exists(f'{self.top}/build/qemu'))

    def test_only_too_old_qemu(self):
        self.fake_apt(madison=''.join(f'qemu-system-arm | 1:7.2+dfsg-7 | http://mirror.invalid/debian {s}/main amd64\n'
                                      for s in self.suites()))
        self.says(self.run_in('harness/fetch.sh', 'qemu'), 'qemu-system-arm', '11.1', 'QEMU=', lines=0)

    def test_machine_is_not_touched(self):
        """Every update is of the private apt below build/."""
        self.fake_apt()
        self.linux()
        with open(os.path.join(self.dir, 'updates'), encoding='utf-8') as f:
            updates = f.read().splitlines()
        self.assertEqual(len(updates), len(self.suites()))
        for line in updates:
            for option in ('Dir::State', 'Dir::Cache', 'Dir::Etc::sourcelist'):
                self.assertIn(f'{option}={self.top}/build/apt', line)


class Qemu(BadInput):
    def qemu(self, path):
        return self.run_in('harness/fetch.sh', 'qemu', QEMU=path)

    def test_good(self):
        done = self.qemu(self.fake_qemu())
        self.assertEqual((done.status, done.said), (0, ''))

    def test_not_qemu(self):
        self.says(self.qemu('/bin/true'), '/bin/true', 'qemu-system-aarch64')

    def test_nonexistent(self):
        self.says(self.qemu('/nonexistent/qemu'), '/nonexistent/qemu')

    def test_old(self):
        self.says(self.qemu(self.fake_qemu('7.2.22')), '7.2.22', 'too old', '11.1')
        self.says(self.qemu(self.fake_qemu('11.0.9')), '11.0.9', 'too old')
        self.assertEqual(self.qemu(self.fake_qemu('11.1.0')).status, 0)
        self.assertEqual(self.qemu(self.fake_qemu('12.0.0')).status, 0)

    def test_through_make(self):
        self.says(self.make('run', QEMU='/bin/true'), '/bin/true', 'qemu-system-aarch64')
        self.says(self.make('shell', QEMU=self.fake_qemu('7.2.22')), '7.2.22', 'too old')
        self.assertEqual(self.left(), [])

    def test_of_another_architecture(self):
        """qemu-system-x86_64 says the same words about its version."""
        self.says(self.qemu(self.fake('qemu-x86', '#!/bin/sh\ncase $1 in --version) '
                                      'echo "QEMU emulator version 11.1.3";; *) echo "no machine virt" >&2; exit 1;; esac\n')),
                  'qemu-x86', 'aarch64')


class Packages(BadInput):
    def dpkg(self, missing):
        self.fake('dpkg-query', '#!/bin/sh\nfor p in "$@"; do :; done\n'
                                f'case " {missing} " in *" $p "*) exit 1 ;; esac\nprintf installed\n')

    def test_not_root(self):
        self.dpkg('bison flex')
        self.fake('id', '#!/bin/sh\necho 1000\n')
        self.fake('apt-get', f'#!/bin/sh\n: >{self.dir}/called\n')
        self.says(self.make('run'), 'apt-get install', 'bison flex', 'root')
        self.assertFalse(os.path.exists(f'{self.dir}/called'))
        self.assertEqual(self.left(), [])

    def test_root(self):
        self.dpkg('bison flex')
        self.fake('id', '#!/bin/sh\necho 0\n')
        self.fake('apt-get', f'#!/bin/sh\necho "$*" >>{self.dir}/called\n')
        done = self.make('packages')
        self.assertEqual(done.status, 0, done)
        with open(f'{self.dir}/called', encoding='utf-8') as f:
            self.assertRegex(f.read(), r'update.*\n.*install.* bison flex\n')

    def test_root_without_network(self):
        self.dpkg('bison flex')
        self.fake('id', '#!/bin/sh\necho 0\n')
        self.fake('apt-get', '#!/bin/sh\necho "Unable to locate package" >&2\nexit 100\n')
        self.says(self.make('packages'), 'packages', 'failed', 'build/log/packages.log', lines=0)

    def test_no_debian(self):
        self.dpkg('bison flex')
        os.unlink(os.path.join(self.bin, 'apt-get'))
        path = self.path_without('apt-get')
        self.says(self.make('packages', PATH=path), 'no Debian', 'bison flex')

    def test_missing_compiler(self):
        """Installed says dpkg, but not found: say so before minutes are spent."""
        path = self.path_without('aarch64-linux-gnu-gcc')
        self.dpkg('')
        self.says(self.make('kernel', PATH=path, LINUX='/nonexistent'), 'aarch64-linux-gnu-gcc')


class Names(BadInput):
    """Through make, before anything is fetched or built."""

    def setUp(self):
        super().setUp()
        self.fake('apt-get', f'#!/bin/sh\n: >{self.dir}/called\nexit 1\n')

    def first(self, given, *words, goals=('run',)):
        for goal in goals:
            done = self.make(goal, given)
            self.says(done, given.split('=')[1].split()[-1], *words)
            self.assertFalse(os.path.exists(f'{self.dir}/called'), f'was looked for only after fetching:\n{done}')
            self.assertEqual(self.left(), [])

    def test_test(self):
        self.first('TESTS=nonsense', 'psci_test', 'hidden_features')
        self.first('TESTS=psci_test nonsense*', 'nonsense*')

    def test_machine(self):
        self.first('MACHINES=nonsense', 'neoverse-n1', 'max-lpa2', goals=('run', 'doctor', 'shell'))
        self.first('MACHINES=Max', 'neoverse-n1')

    def test_kernel(self):
        self.first('KERNEL=nonsense', 'default', '64k', goals=('run', 'kernel', 'doctor', 'shell'))

    def test_factor(self):
        for value in ('abc', '0', '-1', 'nan', 'inf'):
            self.first(f'TIMEOUT_FACTOR={value}', 'number')


@unittest.skipUnless(TREE, common.NO_BASE)
class Run(BadInput):
    """run.py with a fake guest."""

    def setUp(self):
        super().setUp()
        for path in ('build/image/initramfs.cpio', 'build/image/idregs.elf',
                     'build/series/obj-default/arch/arm64/boot/Image'):
            self.write(path, 'x')
        self.write('harness/tests.ini', '[first]\nset = mainline\n\n[second]\nset = mainline\n')
        self.write('harness/matrix', 'default all max\n')
        self.write('harness/matrix.regression', 'default all max\nbase all max\n')
        os.makedirs(f'{self.top}/build/series/tree/tools/testing')
        os.symlink(f'{TREE}/tools/testing/kunit', f'{self.top}/build/series/tree/tools/testing/kunit')

    def guest(self, mode):
        return self.fake('qemu', f'#!/bin/sh\nexec {sys.executable} {FAKE} "{mode}" "$@"\n')

    def run_py(self, mode='hello,probe,plan,done', kind='run', **env):
        env.setdefault('QEMU', self.guest(mode))
        env.setdefault('TESTS', 'first second')
        env.setdefault('TIMEOUT_FACTOR', '0.05')
        return self.run_in(sys.executable, 'harness/run.py', kind, **env)

    def results(self):
        return sorted(glob.glob(f'{self.top}/results/*'))

    def document(self):
        with open(os.path.join(self.results()[-1], 'results.json'), encoding='utf-8') as f:
            return json.load(f)

    def test_good(self):
        done = self.run_py()
        self.assertEqual(done.status, 0, done)
        lines = done.out.strip().split('\n')
        self.assertRegex(lines[-1], r'^2 passed, 0 failed, .*: results/\d{8}-\d{6}-run$')
        self.assertEqual(sum('pass ' in l for l in lines), 2, done)
        directory, = self.results()
        for name in ('results.json', 'junit.xml', 'summary.md', 'max-default/console-1.log', 'max-default/qemu-1.sh',
                     'max-default/output/first.log', 'max-default/ledger.txt'):
            self.assertTrue(os.path.exists(os.path.join(directory, name)), name)
        self.assertEqual(self.document()['status'], 0)
        with open(os.path.join(directory, 'max-default/plan-1'), encoding='utf-8') as f:
            self.assertEqual([l.split()[:2] for l in f], [['modules', 'default'], ['test', 'first'], ['test', 'second']])

    def test_never_overwritten(self):
        for count in (1, 2, 3):
            self.assertEqual(self.run_py().status, 0)
            self.assertEqual(len(self.results()), count)

    def test_unknown_names(self):
        for env, words in (({'TESTS': 'first nonsense'}, ('nonsense', 'first', 'second')),
                           ({'TESTS': 'nonsense*'}, ('nonsense*', 'first')),
                           ({'MACHINES': 'max nonsense'}, ('nonsense', 'neoverse-n1', 'max-lpa2')),
                           ({'MACHINES': 'Max'}, ('Max', 'neoverse-n1')),
                           ({'KERNEL': 'nonsense'}, ('nonsense', 'default', '64k'))):
            with self.subTest(env):
                self.says(self.run_py(**env), *words)
                self.assertEqual(self.results(), [], 'a result directory was left')

    def test_no_kernel(self):
        os.unlink(f'{self.top}/build/series/obj-default/arch/arm64/boot/Image')
        shutil.rmtree(f'{self.top}/build/series/tree')
        self.says(self.run_py(), 'make')
        self.assertEqual(self.results(), [])

    def test_qemu_that_cannot_start(self):
        self.says(self.run_py(QEMU='/nonexistent/qemu'), '/nonexistent/qemu')

    def test_qemu_that_stops_at_once(self):
        done = self.run_py('stderr=qemu:_no_such_device,exit=1')
        self.assertEqual(done.status, 2, done)
        self.assertIn('qemu: no such device', done.out)
        self.assertIn('not run: first second', done.out)
        # The same error again would not be news.
        self.assertEqual(len(glob.glob(f'{self.results()[0]}/max-default/console-*') or
                             glob.glob(f'{self.results()[0]}/max-default/plan-*')), 1)

    def test_guest_that_panics_at_once(self):
        log = self.write('panic.log', '[    0.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n')
        done = self.run_py(f'console={log},exit=0')
        self.assertEqual(done.status, 2, done)
        self.assertIn('Kernel panic', done.out)
        self.assertIn('1 kernel splats', done.out)

    def test_guest_that_hangs(self):
        started = time.monotonic()
        done = self.run_py('sleep', TIMEOUT_FACTOR='0.02')
        self.assertEqual(done.status, 2, done)
        self.assertIn('while booting', done.out)
        self.assertLess(time.monotonic() - started, 30)

    def test_guest_that_dies_in_a_test(self):
        """The others are run in a boot of their own."""
        done = self.run_py('hello,probe,plan=first,done')
        self.assertEqual(done.status, 2, done)
        self.assertRegex(done.out, r'untrusted +first .*went away')
        self.assertRegex(done.out, r'pass +second')

    def test_test_that_fails(self):
        done = self.run_py('hello,probe,test=first=exit=1,test=second=exit=0,done')
        self.assertEqual(done.status, 1, done)
        # Said once more at the end, with what the test printed last.
        self.assertRegex(done.out, r'\nmax-default: fail first: .*\n    TAP version 13\n    1..1\n    ok 1 a case\n1 passed, 1 failed')
        self.assertRegex(done.out, r'fail +first .*exit status 1')

    def test_splat_in_a_test(self):
        log = self.write('splat.log', '[    1.5] WARNING: mm/x.c:1 at f+0x1/0x2, CPU#0: t/1\r\n')
        done = self.run_py(f'hello,probe,console={log},plan,done')
        self.assertEqual(done.status, 2, done)
        self.assertIn('WARNING: mm/x.c:1', done.out)

    def test_records_that_are_garbage(self):
        done = self.run_py('hello,probe,record=nonsense,sleep')
        self.assertEqual(done.status, 2, done)
        self.assertIn('nonsense', done.out)

    def test_results_that_cannot_be_written(self):
        """A full disk, again by the size of files."""
        done = self.run_in('sh', '-c', f'trap "" XFSZ; ulimit -f 2; exec {sys.executable} harness/run.py run',
                           QEMU=self.guest('hello,probe,plan,done'), TESTS='first second')
        self.says(done, 'File too large')

    def test_results_is_a_file(self):
        self.write('results', 'x')
        self.says(self.run_py(), 'results')

    def test_several_at_a_time(self):
        done = self.run_py(MACHINES='max max-nvhe neoverse-n1', BOOTS='2')
        self.assertEqual(done.status, 0, done)
        for machine in ('max', 'max-nvhe', 'neoverse-n1'):
            self.assertRegex(done.out, rf'(?m)^{machine}-default +pass +first ')
            self.assertRegex(done.out, rf'(?m)^{machine}-default +pass +second ')
        self.assertRegex(done.out, r'\n6 passed, 0 failed')
        self.assertEqual([j['name'] for j in self.document()['jobs']],
                         ['max-default', 'max-nvhe-default', 'neoverse-n1-default'])

    def test_how_many_at_a_time(self):
        for bad in ('0', '-1', 'two', '1.5'):
            self.says(self.run_py(BOOTS=bad), 'BOOTS', bad)
        self.assertEqual(self.results(), [])

    def test_error_in_one_of_several(self):
        """The others do not go on, and nothing stays behind."""
        os.unlink(f'{self.top}/build/image/idregs.elf')
        done = self.run_py('exit=3', MACHINES='max max-nvhe', BOOTS='2')
        self.assertEqual(done.status, 2, done)

    def test_interrupted_with_several(self):
        done = self.interrupted(signal.SIGINT, MACHINES='max max-nvhe neoverse-n1', BOOTS='2')
        self.assertEqual(done.status, 130, done)
        self.assertRegex(done.out.strip().split('\n')[-1], r'^interrupted: ')
        self.assertNotIn('Traceback', done.err)

    def interrupted(self, sig, mode='hello,probe,test=first=exit=0,hang=second', **env):
        process = self.start(sys.executable, 'harness/run.py', 'run', QEMU=self.guest(f'child,{mode}'),
                             TESTS='first second', **env)
        until = time.monotonic() + 20
        while not glob.glob(f'{self.top}/results/*/max-default/console-1.log') and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(process.pid, sig)
        done = self.finish(process)
        self.assertEqual(common.left_over(self.dir), [])
        return done

    def test_interrupted(self):
        for sig in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(sig):
                done = self.interrupted(sig)
                self.assertEqual(done.status, 130, done)
                self.assertRegex(done.out.strip().split('\n')[-1], r'^interrupted: 1 passed')
                self.assertNotIn('Traceback', done.err)
                self.assertEqual(self.document()['status'], 130)
                shutil.rmtree(f'{self.top}/results')

    def test_killed(self):
        """Not even SIGKILL leaves a QEMU: it goes with its parent (QEMU's own option)."""
        done = self.run_py()
        self.assertEqual(done.status, 0)
        with open(os.path.join(self.results()[0], 'max-default/qemu-1.sh'), encoding='utf-8') as f:
            self.assertRegex(f.read(), r'exit-with-parent=on')

    def test_usage(self):
        self.says(self.run_py(kind='nonsense'), 'usage')


class DataFiles(BadInput):
    """A slip in the data is found by name, before a boot."""

    def setUp(self):
        super().setUp()
        self.write('harness/tests.ini', '[psci_test]\nset = mainline\n')
        self.write('harness/matrix', 'default all max neoverse-n1\n16k psci_* max\n')
        self.write('harness/matrix.regression', 'default all max\nbase all max\n')

    def slip(self, name, old, new, *words):
        text = self.read(f'harness/{name}')
        self.assertIn(old, text)
        self.write(f'harness/{name}', text.replace(old, new, 1))
        code = 'import sys; sys.path.insert(0, "harness")\nimport data, judge\n' \
               'try:\n\tdata.check(); judge.load_splats("harness/splats"); judge.load_allowed("harness/splats-allowed.ini")\n' \
               'except judge.DataError as e:\n\tprint(e, file=sys.stderr); sys.exit(2)\n'
        self.says(self.run_in(sys.executable, '-c', code), name, *words)

    def test_as_it_is(self):
        done = self.run_in(sys.executable, '-c', 'import sys; sys.path.insert(0, "harness")\nimport data\ndata.check()')
        self.assertEqual(done.status, 0, done)

    def test_machine_key(self):
        self.slip('machines.ini', '[max]\n', '[max]\nram = 2G\n', 'max', 'ram')

    def test_machine_slowdown(self):
        self.slip('machines.ini', 'slowdown = 6', 'slowdown = six', 'max-lpa2')

    def test_machine_memory(self):
        self.slip('machines.ini', 'memory = 2G', 'memory = 2 GB')

    def test_machine_twice(self):
        self.slip('machines.ini', '[max]\n', '[max]\nwhy = x\n\n[max]\n', 'max')

    def test_test_key(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nneed = mte\n', 'psci_test', 'need')

    def test_test_feature(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nneeds = nonsense\n', 'psci_test', 'nonsense', 'mteperm')

    def test_test_set(self):
        self.slip('tests.ini', '[psci_test]\nset = mainline', '[psci_test]\nset = main', 'psci_test', 'series')

    def test_test_timeout(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\ntimeout = long\n', 'psci_test')

    def test_test_hugepages(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nhugepages = 2048\n', 'psci_test')

    def test_test_run(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nrun = never\n', 'psci_test')

    def test_test_without_base(self):
        self.slip('tests.ini', '[psci_test]\nset = mainline', '[psci_test]', 'psci_test', 'base')

    def test_test_memory(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nmemory = much\n', 'psci_test')

    def test_not_on(self):
        self.slip('tests.ini', '[psci_test]\n', '[psci_test]\nnot-on = nonsense\n', 'psci_test', 'nonsense')

    def test_matrix(self):
        self.slip('matrix', 'neoverse-n1', 'neoverse-n9', 'neoverse-n9', 'cortex-a710')

    def test_matrix_tests(self):
        self.slip('matrix', 'psci_*', 'psci_*,nonsense_*', 'test nonsense_*', 'psci_test')

    def test_matrix_variant(self):
        self.slip('matrix', '16k', '17k', '17k', 'default')

    def test_variants_columns(self):
        self.slip('variants', 'common 16k', '')

    def test_splats(self):
        self.slip('splats', 'oops\t\t', 'oops(\n', 'splats:')

    def test_splats_regex(self):
        self.slip('splats', 'BUG: KASAN: ', 'BUG: (', 'splats:')

    def test_base_must_show_its_defect(self):
        self.slip('tests.ini', '[psci_test]\nset = mainline', '[psci_test]\nset = series\nbase = fail', 'psci_test', 'base-shows')


if __name__ == '__main__':
    unittest.main()
