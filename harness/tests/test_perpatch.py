# SPDX-License-Identifier: GPL-2.0-only
"""perpatch.py on a base of a few files, with scripts that play compiler, sparse and guest.

Holds: each patch is compared with the one before it, object by object, whatever was built
in between; what moved is not new; a test is run starting with the patch that brings it, again
where kernel or program changed, and nowhere else; what was seen once is not done again,
an interrupted run goes on, a failure is not kept; what goes on record (KEEP=1) was seen
good, and stays there until it is something else; bad input gets one line.
"""

import glob
import json
import os
import re
import signal
import sys
import time
import unittest
from unittest import mock

from tests import common
from tests.test_series import CHECKPATCH, PATCH
from tests.test_tree import LINES, TreeTest

sys.path.insert(0, common.HARNESS)
import perpatch     # noqa: E402  pylint: disable=wrong-import-position

# Each is told by the source what to report, and compiles what differs from its "object".
KERNEL = '''#!/bin/sh
tree=build/bisect/tree obj=build/bisect/obj-bisect
mkdir -p $obj build/log
echo "kernel $(git -C $tree log -1 --format=%s)" >>calls
[ ! -e hang ] || { : >hanging; sleep 60; }
for c in $tree/arch/arm64/kvm/*.c; do
	o=$(basename $c .c).o
	! cmp -s $c $obj/$o || continue
	! grep -q SYNTAX $c || exit 1
	cp $c $obj/$o
	echo "  CC      $o"
	grep -n WARN $c | sed "s|^\\([0-9]*\\):.*WARN|$PWD/$c:\\1:7: warning:|"
	echo "  CHECK   $o"
	grep -n SPARSE $c | sed "s|^\\([0-9]*\\):.*SPARSE|$c:\\1:7: error:|"
	grep -n KERNELDOC $c | sed "s|^\\([0-9]*\\):.*KERNELDOC|Warning: $c:\\1 |"
done >build/log/kernel-bisect.log
'''
SELFTESTS = '''#!/bin/sh
tree=build/bisect/tree out=build/bisect/selftests/kselftest
mkdir -p $out build/log
echo "selftests $(git -C $tree log -1 --format=%s)" >>calls
for c in $tree/tools/testing/selftests/*.c; do
	[ -e $c ] || continue
	p=$(basename $c .c)
	! cmp -s $c $out/$p || continue
	cp $c $out/$p
	echo "  CC      $p.o"
	grep -n WARN $c | sed "s|^\\([0-9]*\\):.*WARN|$c:\\1:7: warning:|"
done >build/log/selftests-bisect.log
'''
IMAGE = '''#!/bin/sh
mkdir -p build/bisect/image/tests
cp build/bisect/selftests/kselftest/* build/bisect/image/tests/ 2>/dev/null
exit 0
'''

# The guest: a test fails where the kernel has a line "fails NAME", the kernel complains where
# it has a line "splat".
DRIVE = '''
import os, sys, types
sys.path.insert(0, 'harness')
import perpatch, run

class Boots(perpatch.Boots):
    def __init__(self, kind):
        self.machines, self.variants, self.tests = perpatch.data.check()

    def job(self, machine, variant, memory, tests, label=''):
        with open('calls', 'a') as f:
            f.write('boot ' + ' '.join(t.name for t in tests) + '\\n')
        with open('build/bisect/obj-bisect/mmu.o') as f:
            kernel = f.read()
        results = {}
        for t in tests:
            assert os.path.exists('build/bisect/image/tests/' + t.program), t.program
            bad = f'fails {t.name}' in kernel
            results[t.name] = {'verdict': 'fail' if bad else 'pass', 'reason': 'it does' if bad else '', 'seconds': 1}
        splats = [{'test': None, 'line': 'WARNING: CPU', 'kind': 'warning'}] if 'splat' in kernel else []
        return types.SimpleNamespace(results=results, complaints=[], splats=splats)

perpatch.Boots = Boots
run.guarded(perpatch.main)
'''

TESTS_INI = '''[one]
program = one
base = pass
[two]
program = two
base = pass
run = no
[main]
set = mainline
program = main
'''


RECORD = 'harness/bisected'


class PerPatchTest(TreeTest):
    more_files = (('scripts/checkpatch.pl', CHECKPATCH), ('Documentation/index.rst', LINES),
                  ('tools/testing/selftests/main.c', LINES))

    def setUp(self):
        super().setUp()
        self.write('harness/tests.ini', TESTS_INI)
        self.write('harness/matrix', 'default every max\n')
        self.write('harness/matrix.regression', 'default every max\nbase every max\n')
        self.write('harness/checkpatch-allowed.ini', '')
        for name, text in (('kernel', KERNEL), ('selftests', SELFTESTS), ('image', IMAGE)):
            self.write(f'harness/{name}.sh', text, 0o755)
        self.write('drive.py', DRIVE)
        os.unlink(os.path.join(self.top, RECORD))
        self.write('tools/testing/selftests/one.c', 'int one;\n')
        self.write('tools/testing/selftests/two.c', 'int two;\n')
        self.patch('1-fixes/0001', 'KVM: Fix', 'line 10\n', 'line ten\n')
        self.patch('1-fixes/0002', 'KVM: Document', 'line 20\n', 'line twenty\n', path='Documentation/index.rst')
        self.patch('1-fixes/0003', 'selftests: One', 'b\n', 'b\none\n', path='tools/testing/list',
                   new='tools/testing/selftests/one.c')
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line twenty\n')
        self.patch('2-more/0002', 'selftests: Two', 'a\n', 'a\ntwo\n', path='tools/testing/list',
                   new='tools/testing/selftests/two.c')

    def patch(self, name, subject, old, to, path='arch/arm64/kvm/mmu.c', new=''):
        self.write(f'patches/{name}-x.patch', PATCH.format(
            subject=subject, body='Body.', new=''.join(f'New-file: {n}\n' for n in new.split()),
            diff=self.diff(path, old, to)))

    def calls(self):
        """What was done since it was asked last."""
        path = os.path.join(self.top, 'calls')
        if not os.path.exists(path):
            return []
        with open(path, encoding='utf-8') as f:
            lines = f.read().splitlines()
        os.unlink(path)
        return lines

    def bisect(self, status=0, compose=True, **env):
        if compose:
            done = self.compose()
            self.assertEqual(done.status, 0, done)
        done = self.run_in(sys.executable, 'drive.py', **env)
        self.assertEqual(done.status, status, done)
        self.assertNotIn('Traceback', done.err)
        return done

    def results(self):
        with open(sorted(glob.glob(os.path.join(self.top, 'results/*/results.json')), key=os.path.getmtime)[-1],
                  encoding='utf-8') as f:
            return json.load(f)

    def wrong(self):
        return [(p['patch'], column, what) for p in self.results()['patches']
                for column, found in p['wrong'].items() for what in found]


class Good(PerPatchTest):
    def test_each_patch_does_what_it_touches(self):
        done = self.bisect()
        self.assertIn('5 patches good, 0 failed, 0 not trusted', done.out)
        calls = self.calls()
        self.assertEqual([c for c in calls if c.startswith('boot')],
                         ['boot main', 'boot one', 'boot one main', 'boot two'])
        # Of the base what to compare with; nothing of a patch that changes documentation.
        self.assertEqual(calls[:2], ['kernel Linux 7.3.4', 'selftests Linux 7.3.4'])
        self.assertNotIn('KVM: Document', ' '.join(calls))
        self.assertEqual([p['patch'] for p in self.results()['patches']],
                         ['1-fixes/0001', '1-fixes/0002', '1-fixes/0003', '2-more/0001', '2-more/0002'])
        self.bisect()
        self.assertEqual(self.calls(), [])

    def test_only_what_is_after_a_change(self):
        self.bisect()
        self.calls()
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line 20.0\n')
        self.bisect()
        calls = self.calls()
        self.assertNotIn('KVM: Fix', ' '.join(calls))
        self.assertEqual([c for c in calls if c.startswith('boot')], ['boot one main', 'boot two'])
        self.patch('1-fixes/0001', 'KVM: Fix the first', 'line 10\n', 'line ten\n')
        done = self.bisect()
        self.assertEqual(self.calls(), [])
        self.assertRegex(done.out, r'\n? *style +checkpatch.pl on 1 patches')

    def test_an_expectation_that_changes(self):
        self.bisect()
        self.calls()
        self.write('harness/tests.ini', TESTS_INI.replace('program = two', 'program = two\ntimeout = 5'))
        self.bisect()
        self.assertEqual([c for c in self.calls() if c.startswith('boot')], ['boot two'])

    def test_chosen(self):
        self.bisect(TOPIC='more', PATCHES='1', QUICK='1')
        self.assertEqual([p['patch'] for p in self.results()['patches']], ['2-more/0001'])
        self.assertEqual([c for c in self.calls() if c.startswith('boot')], ['boot one main'])
        # Not among those of make run, but brought by the patch.
        self.bisect(PATCHES='4-5', QUICK='1')
        self.assertEqual([c for c in self.calls() if c.startswith('boot')], ['boot two'])

    def test_input(self):
        for env, word in (({'TOPIC': 'nope'}, 'TOPIC=nope: there are: fixes more'),
                          ({'PATCHES': '6'}, 'PATCHES=6: .* from 1 to 5'),
                          ({'PATCHES': '3', 'TOPIC': 'more'}, 'from 1 to 2'),
                          ({'PATCHES': 'x'}, 'PATCHES=x'), ({'PATCHES': '3-2'}, 'PATCHES=3-2'),
                          ({'QUICK': 'yes'}, 'QUICK=yes'), ({'KEEP': 'yes'}, 'KEEP=yes: wanted is 1'),
                          ({'ONLY': 'style,boots'}, 'ONLY=boots: there are: style kernel sparse selftests tests')):
            with self.subTest(env):
                done = self.run_in(sys.executable, 'harness/perpatch.py', 'names', **env)
                self.assertEqual((done.status, done.out, done.err.count('\n')), (2, '', 1), done)
                self.assertRegex(done.err, word)
        self.assertEqual(self.calls(), [])


class Bad(PerPatchTest):
    def test_warning(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line 20 WARN unused\n')
        done = self.bisect(status=1)
        self.assertEqual(self.wrong(), [('2-more/0001', 'kernel', 'arch/arm64/kvm/mmu.c:20:7: warning: unused')])
        self.assertIn('4 patches good, 1 failed', done.out)

    def test_by_kind(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'SPARSE context\nKERNELDOC not described\n')
        self.write('tools/testing/selftests/two.c', 'int two; /* WARN unused */\n')
        self.bisect(status=1)
        self.assertEqual([(p, c) for p, c, _ in self.wrong()],
                         [('2-more/0001', 'kernel'), ('2-more/0001', 'sparse'), ('2-more/0002', 'selftests')])

    def test_what_moves_is_not_new(self):
        self.patch('1-fixes/0001', 'KVM: Fix', 'line 10\n', 'line 10 WARN unused\n')
        self.patch('2-more/0001', 'KVM: More', 'line 2\n', 'line 2\nanother\n')
        self.bisect(status=1)
        self.assertEqual([p for p, _, _ in self.wrong()], ['1-fixes/0001'])
        # One more of the same is.
        self.patch('2-more/0001', 'KVM: More', 'line 2\n', 'line 2 WARN unused\n')
        self.bisect(status=1)
        self.assertEqual([p for p, _, _ in self.wrong()], ['1-fixes/0001', '2-more/0001'])

    def test_on_the_way_back(self):
        """A report that only the directory of objects remembers is not known before its patch."""
        self.write('arch/arm64/kvm/new.c', 'WARN unused\n')
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line twenty\n', new='arch/arm64/kvm/new.c')
        self.bisect(status=1, PATCHES='4')
        self.assertEqual([p for p, _, _ in self.wrong()], ['2-more/0001'])
        for path in glob.glob(os.path.join(self.top, 'build/bisect/kept/kernel/*')):
            os.unlink(path)
        self.bisect(status=1, PATCHES='4')
        self.assertEqual([p for p, _, _ in self.wrong()], ['2-more/0001'])

    def test_build(self):
        self.patch('1-fixes/0001', 'KVM: Fix', 'line 10\n', 'SYNTAX\n')
        self.patch('1-fixes/0002', 'KVM: Mend', 'line 20\n', 'line 20 WARN unused\n')
        self.write('patches/1-fixes/0002-x.patch', self.read('patches/1-fixes/0002-x.patch').replace(
            ' line 10\n', ' SYNTAX\n'))
        os.unlink(os.path.join(self.top, 'patches/1-fixes/0003-x.patch'))
        for name in ('2-more/0001', '2-more/0002'):
            os.unlink(os.path.join(self.top, f'patches/{name}-x.patch'))
        for name in ('one', 'two'):
            os.unlink(os.path.join(self.top, f'tools/testing/selftests/{name}.c'))
        done = self.bisect(status=1)
        self.assertIn('does not build', done.out)
        self.assertEqual([(p, c) for p, c, _ in self.wrong()], [('1-fixes/0001', 'kernel'), ('1-fixes/0002', 'kernel')])

    def test_test(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'fails one\n')
        self.bisect(status=1)
        self.assertEqual(self.wrong(), [('2-more/0001', 'tests', 'one: fail: it does'),
                                        ('2-more/0002', 'tests', 'one: fail: it does')])
        self.calls()
        # Nothing of a failure is kept, all of what passed beside it is.
        self.bisect(status=1, PATCHES='4')
        self.assertEqual([c for c in self.calls() if c.startswith('boot')], ['boot one'])

    def test_splat(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'splat\n')
        done = self.bisect(status=2)
        self.assertEqual(self.wrong()[0], ('2-more/0001', 'tests', 'splat in no test: WARNING: CPU'))
        self.assertIn('3 patches good, 0 failed, 2 not trusted', done.out)
        self.calls()
        self.bisect(status=2, PATCHES='4')
        self.assertEqual([c for c in self.calls() if c.startswith('boot')], ['boot one main'])

    def test_style(self):
        self.patch('1-fixes/0001', 'KVM: Fix', 'line 10\n', 'line ten report LONG_LINE is long\n')
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line twenty \n')
        self.bisect(status=1)
        self.assertEqual([(p, c) for p, c, _ in self.wrong()], [('1-fixes/0001', 'style'), ('2-more/0001', 'style')])
        self.assertIn('LONG_LINE', self.wrong()[0][2])
        self.assertIn('trailing whitespace', self.wrong()[1][2])
        self.write('harness/checkpatch-allowed.ini',
                   '[LONG_LINE]\npatch = KVM: Fix\nmatch = is long\nreason = It is.\n')
        self.bisect(status=1)
        self.assertEqual([p for p, _, _ in self.wrong()], ['2-more/0001'])

    def test_tree_with_work(self):
        self.assertEqual(self.compose().status, 0)
        with open(os.path.join(self.tree, 'arch/arm64/kvm/mmu.c'), 'a', encoding='utf-8') as f:
            f.write('mine\n')
        done = self.bisect(status=2, compose=False)
        self.assertIn('make refresh', done.err)
        self.assertEqual(self.calls(), [])


class OnRecord(PerPatchTest):
    ALL = 'columns style kernel sparse selftests tests'

    def held(self, status=0):
        """What make check would say."""
        done = self.run_in(sys.executable, 'harness/bisected.py')
        self.assertEqual((done.status, 'Traceback' in done.err), (status, False), done)
        return done.said

    def columns(self):
        return re.search(r'^columns.*', self.read(RECORD), re.M)[0]

    def lines(self, column):
        return [l.split(None, 2)[1:] for l in self.read(RECORD).splitlines() if l.startswith(column + ' ')]

    def test_all(self):
        self.assertIn('is missing: make bisect KEEP=1', self.held(2) if not self.compose().status else '')
        self.bisect(KEEP='1')
        self.assertEqual(self.held(), '5 patches on record: style kernel sparse selftests tests\n')
        self.assertEqual(self.columns(), self.ALL)
        # In the order of the series, each once: nothing more of patches with the kernel of the one before.
        self.assertEqual([s for _, s in self.lines('kernel')],
                         ['KVM: Fix', 'KVM: Document', 'KVM: More', 'selftests: Two'])
        self.assertEqual([s for _, s in self.lines('selftests')],
                         ['KVM: Fix', 'selftests: One', 'KVM: More', 'selftests: Two'])
        before = self.read(RECORD)
        self.bisect(KEEP='1')
        self.assertEqual(self.read(RECORD), before)

    def test_nothing_without_keep(self):
        self.bisect()
        self.assertFalse(os.path.exists(os.path.join(self.top, RECORD)))

    def test_some(self):
        done = self.bisect(PATCHES='1-3', KEEP='1')
        self.assertEqual(self.columns(), 'columns')
        self.assertIn('kernel    3 of 5 patches, make check does not ask for it yet', done.out)
        self.assertIn('there is no column', self.held(2))
        self.bisect(PATCHES='4-5', KEEP='1')
        self.assertEqual(self.columns(), self.ALL)
        self.held()

    def test_only(self):
        self.bisect(ONLY='kernel,sparse selftests', KEEP='1')
        calls = self.calls()
        self.assertIn('kernel KVM: More', calls)
        self.assertEqual([c for c in calls if c.startswith('boot')], [])
        self.assertEqual(self.columns(), 'columns kernel sparse selftests')
        self.held()
        self.bisect(ONLY='style', KEEP='1')
        self.assertEqual((self.calls(), self.columns()), ([], 'columns style kernel sparse selftests'))
        # Only some of the tests are not all of them.
        self.bisect(ONLY='tests', QUICK='1', KEEP='1')
        self.assertEqual(len([c for c in self.calls() if c.startswith('boot')]), 4)
        self.assertEqual(self.columns(), 'columns style kernel sparse selftests quick')
        self.bisect(ONLY='tests', KEEP='1')
        self.assertEqual(self.columns(), self.ALL)
        self.assertEqual(self.lines('kernel')[0][1], 'KVM: Fix')
        self.held()

    def test_only_what_is_named_counts(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'SPARSE context \nfails one\n')
        self.bisect(ONLY='kernel,selftests', KEEP='1')
        self.assertEqual(self.columns(), 'columns kernel selftests')
        for column in ('style', 'sparse', 'tests'):
            with self.subTest(column):
                self.bisect(status=1, ONLY=column, KEEP='1')
                self.assertEqual({c for _, c, _ in self.wrong()}, {column})
        self.assertEqual(self.columns(), 'columns kernel selftests')

    def test_a_kernel_that_changes(self):
        self.bisect(KEEP='1')
        before = self.read(RECORD)
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'line 20.0\n')
        self.assertEqual(self.compose().status, 0)
        said = self.held(1).splitlines()
        self.assertEqual(said, [
            '4 2-more/0001 KVM: More: style, kernel, sparse, tests not on record: '
            'make bisect TOPIC=more PATCHES=1 ONLY=style,kernel,sparse,tests KEEP=1',
            '5 2-more/0002 selftests: Two: kernel, sparse, tests not on record: '
            'make bisect TOPIC=more PATCHES=2 ONLY=kernel,sparse,tests KEEP=1',
            '2 of 5 patches not on record, the commands are beside them'])
        self.bisect(TOPIC='more', PATCHES='1', ONLY='style,kernel,sparse,tests', KEEP='1')
        # What a column asks for it asks for until somebody edits that.
        self.assertEqual((len(self.held(1).splitlines()), self.columns()), (2, self.ALL))
        self.bisect(TOPIC='more', PATCHES='2', ONLY='kernel,sparse,tests', KEEP='1')
        self.held()
        # What was of the old one is gone, the rest is as it was.
        old, new = set(before.splitlines()), set(self.read(RECORD).splitlines())
        self.assertEqual((len(old), len(old - new), len(new - old)), (len(new), 7, 7))

    def test_a_selftest_that_changes(self):
        self.bisect(KEEP='1')
        self.write('tools/testing/selftests/two.c', 'int two = 2;\n')
        self.assertEqual(self.compose().status, 0)
        said = self.held(1).splitlines()
        self.assertEqual(len(said), 2, said)
        self.assertIn('5 2-more/0002 selftests: Two: style, selftests, tests not on record', said[0])

    def test_another_base(self):
        """What is on record is of the series: a point release that it applies to changes nothing."""
        self.bisect(KEEP='1')
        base = os.path.join(self.top, 'build/base/tree')
        for path in ('arch/arm64/kvm/mmu.c', 'arch/arm64/kvm/guest.c', 'tools/testing/selftests/main.c'):
            with open(os.path.join(base, path), encoding='utf-8') as f:
                text = f.read()
            with open(os.path.join(base, path), 'w', encoding='utf-8') as f:
                f.write(text.replace('line 1\n', 'line 1\nfixed\n'))
        self.git('commit', '-q', '-a', '-m', 'Linux 7.3.5', cwd=base)
        done = self.compose()
        self.assertEqual(done.status, 0, done)
        self.held()
        # Where it changes what a patch shows of it, somebody has to look.
        path = os.path.join(base, 'arch/arm64/kvm/mmu.c')
        with open(path, encoding='utf-8') as f:
            text = f.read()
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text.replace('line 9\n', 'line nine\n'))
        self.git('commit', '-q', '-a', '-m', 'Linux 7.3.6', cwd=base)
        self.write('patches/1-fixes/0001-x.patch',
                   self.read('patches/1-fixes/0001-x.patch').replace('line 9\n', 'line nine\n'))
        self.assertEqual(self.compose().status, 0)
        self.assertIn('1 1-fixes/0001 KVM: Fix: style, kernel', self.held(1))

    def test_configuration(self):
        self.bisect(KEEP='1')
        path = 'harness/config/common.config'
        text = self.read(path)
        self.write(path, '# a comment\n' + text)
        self.held()
        self.write(path, text + '# CONFIG_MTE_SOMETHING is not set\n')
        self.assertIn('5 of 5 patches', self.held(1))

    def test_an_exception_of_checkpatch(self):
        self.patch('1-fixes/0001', 'KVM: Fix', 'line 10\n', 'line ten report LONG_LINE is long\n')
        allowed = '[LONG_LINE]\npatch = KVM: Fix\nmatch = is long\nreason = It is.\n'
        self.write('harness/checkpatch-allowed.ini', allowed)
        self.bisect(ONLY='style', KEEP='1')
        self.write('harness/checkpatch-allowed.ini', allowed.replace('It is', 'It really is'))
        self.held()
        self.write('harness/checkpatch-allowed.ini', '')
        self.assertIn('1 1-fixes/0001 KVM: Fix: style not on record', self.held(1))

    def test_who_asks_does_not_matter(self):
        self.bisect(KEEP='1')
        self.write('../.gitconfig', '[diff]\nalgorithm = patience\ncontext = 9\nnoprefix = true\nrenames = true\n'
                   '[core]\nattributesFile = ~/attributes\n[log]\nshowSignature = true\n')
        self.write('../attributes', '*.c binary\n')
        self.held()

    def test_nothing_goes_on_record_beside_a_failure(self):
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'fails one\n')
        done = self.bisect(status=1, KEEP='1')
        self.assertIn('nothing goes on record, not all is good', done.out)
        self.assertFalse(os.path.exists(os.path.join(self.top, RECORD)))
        self.patch('2-more/0001', 'KVM: More', 'line 20\n', 'splat\n')
        self.bisect(status=2, KEEP='1')
        self.assertFalse(os.path.exists(os.path.join(self.top, RECORD)))

    def test_malformed(self):
        """It is not taken for an empty one."""
        self.write(RECORD, 'columns\nkernel 123\n')
        for said in (self.held(2), self.bisect(status=2, ONLY='style', KEEP='1').err):
            self.assertIn('bisected:2: wanted is COLUMN KEY SUBJECT', said)
        self.assertEqual(self.read(RECORD), 'columns\nkernel 123\n')

    def test_what_a_column_depends_on(self):
        """bisected.py and perpatch.py have the same idea of it."""
        for number, path in enumerate(('arch/arm64/include/a.h', 'arch/arm64/tools/a', 'arch/arm64/kvm/a.c',
                                       'include/linux/a.h', 'include/uapi/a.h', 'tools/lib/a.c',
                                       'tools/testing/other/a.c', 'tools/testing/selftests/kvm/test_modules/a.c',
                                       'Documentation/a.rst'), 1):
            self.write(path, 'a\n')
            self.write(f'patches/3-paths/{number:04}-x.patch', PATCH.format(
                subject=path, body='Body.', new=f'New-file: {path}\n', diff=''))
        self.assertEqual(self.compose().status, 0)
        done = self.run_in(sys.executable, '-c', SAME_IDEA)
        self.assertEqual((done.status, done.err), (0, ''), done)
        rows = [line.split(' | ') for line in done.out.splitlines()]
        self.assertEqual([r for r in rows if r[1] != r[2]], [])
        self.assertEqual({r[1] for r in rows}, {'True True', 'True False', 'False True', 'False False'})


SAME_IDEA = '''
import sys
sys.path.insert(0, 'harness')
import bisected, perpatch, worktree
keys, theirs = bisected.Keys(), perpatch.Bisect.__new__(perpatch.Bisect)
theirs.tools = theirs.config = None
theirs._ids = {}
for p in worktree.series():
    print(p.subject, *(f'{k(p.parent) != k(p.commit)} {s(p.parent) != s(p.commit)}' for k, s in (
        (keys.kernel, keys.selftests), (theirs.kernel_key, theirs.selftests_key))), sep=' | ')
'''


class Interrupted(PerPatchTest):
    def hang(self, how, **env):
        """Stop it while it builds the kernel of the fourth patch."""
        self.bisect(PATCHES='1-3')
        self.calls()
        self.write('hang', '')
        process = self.start(sys.executable, 'drive.py', **env)
        until = time.monotonic() + common.PATIENCE
        while not os.path.exists(os.path.join(self.top, 'hanging')) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(how)
        if how == signal.SIGKILL:
            for pid, _ in common.left_over(self.dir, 0):
                os.kill(pid, signal.SIGKILL)
        done = self.finish(process)
        os.unlink(os.path.join(self.top, 'hang'))
        self.calls()
        return done

    def test_goes_on(self):
        for how in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(how.name):
                done = self.hang(how, KEEP='1')
                self.assertEqual(done.status, 130, done)
                self.assertNotIn('Traceback', done.err)
                self.assertIn('interrupted: 3 patches good, 0 failed, 0 not trusted, 2 of 5 not looked at', done.out)
                self.assertEqual(common.left_over(self.dir), [])
                self.assertFalse(os.path.exists(os.path.join(self.top, RECORD)))
                os.unlink(os.path.join(self.top, 'hanging'))
        obj = os.path.join(self.top, 'build/bisect/obj-bisect/guest.o')
        before = os.stat(obj).st_mtime_ns
        self.bisect()
        self.assertEqual(self.calls()[0], 'kernel KVM: More')
        self.assertEqual(os.stat(obj).st_mtime_ns, before, 'compiled again without need')

    def test_killed(self):
        """Nobody knows what make had said: all is compiled again."""
        self.hang(signal.SIGKILL)
        obj = os.path.join(self.top, 'build/bisect/obj-bisect/guest.o')
        before = os.stat(obj).st_mtime_ns
        self.bisect()
        self.assertNotEqual(os.stat(obj).st_mtime_ns, before)


LOG = '''  UPD     include/generated/utsrelease.h
  CC      arch/arm64/kvm/mmu.o
In file included from /b/tree/include/linux/kvm_host.h:12,
                 from /b/tree/arch/arm64/kvm/mmu.c:7:
/b/tree/include/linux/kvm_host.h:99:12: warning: 'f' defined but not used [-Wunused-function]
   99 | static int f(void) /* error: is a word here */
      |            ^
  CHECK   arch/arm64/kvm/mmu.c
arch/arm64/kvm/mmu.c:5:9: warning: context imbalance in 'g' - wrong count at exit
arch/arm64/kvm/mmu.c:7:2: error: incompatible types in comparison expression (different address spaces):
arch/arm64/kvm/mmu.c:7:2:    struct a [noderef] __rcu *
Warning: arch/arm64/kvm/mmu.c:8 function parameter 'x' not described in 'h'
  CC [M]  arch/arm64/kvm/other.o
make[3]: warning: jobserver unavailable: using -j1.
  CC      /o/kvm/a.o
a.c: In function 'main':
a.c:3:1: warning: unused variable 'y' [-Wunused-variable]
'''


class Log(unittest.TestCase):
    def test_parse(self):
        found = perpatch.parse_log(LOG, ('/b/tree', '/o'))
        self.assertEqual([by for by, _ in found['arch/arm64/kvm/mmu.o']], ['W=1', 'sparse', 'sparse', 'W=1'])
        self.assertEqual(found['arch/arm64/kvm/mmu.o'][0][1],
                         "include/linux/kvm_host.h:99:12: warning: 'f' defined but not used [-Wunused-function]")
        self.assertEqual((found['arch/arm64/kvm/other.o'], found['make']), ([], []))
        self.assertEqual(len(found['kvm/a.o']), 1)
        self.assertEqual(perpatch.compiled(found), 3)

    def test_new(self):
        def report(line, text='unused'):
            return ['W=1', f'mmu.c:{line}:1: warning: {text}']
        for before, now, count in (([], [report(1)], 1), ([report(1)], [report(9)], 0),
                                   ([report(1)], [report(1), report(2)], 1), ([report(1)], [], 0),
                                   ([report(1)], [report(1, 'other')], 1),
                                   ([['sparse', report(1)[1]]], [report(1)], 1)):
            with self.subTest(before=before, now=now):
                self.assertEqual(len(list(perpatch.new_reports({'mmu.o': before}, {'mmu.o': now}))), count)
        # Of another object it is new.
        self.assertEqual(len(list(perpatch.new_reports({'a.o': [report(1)]}, {'b.o': [report(1)]}))), 1)

    def test_what_sparse_says_of_all_modules(self):
        text = 'int x;\nMODULE_LICENSE("GPL");\nmodule_param(x, int, 0);\nint y[x];\nMODULE_PARM_DESC(x, "x");\n'
        with mock.patch.object(perpatch.worktree, 'ask', return_value=text) as ask:
            for line, says, known in ((2, 'bad constant expression', True), (3, 'bad constant expression', True),
                                      (4, 'bad constant expression', False), (9, 'bad constant expression', False),
                                      (5, 'bad constant expression', True), (2, 'undefined identifier', False)):
                with self.subTest(line=line, says=says):
                    self.assertEqual(perpatch.is_of_module_info('C', f'a/../b.c:{line}:1: error: {says}'), known)
        ask.assert_called_with('show', 'C:b.c')


if __name__ == '__main__':
    unittest.main()
