# SPDX-License-Identifier: GPL-2.0-only
"""compare.py: what counts as worse, what is told of it, and which runs are compared.

Holds: what passed on the base and does something else on the series is worse, be it a test,
one of its cases, or one of several cases of the same name; what fails on both is not; each
row of matrix.regression has its counterpart; the exit status says that something is worse
where all tests did what tests.ini expects of them. The guest is fake_guest.py.
"""

import glob
import json
import os
import re
import shutil
import sys
import unittest

import compare
import data
from tests import common

FAKE = os.path.join(common.TESTS, 'fake_guest.py')
TREE = next((t for t in (common.BASE, os.path.join(common.BUILD, 'series/tree')) if os.path.isdir(t)), None)


def ran(result, *cases, verdict='pass', reason=''):
    return {'result': result, 'verdict': verdict, 'reason': reason,
            'cases': [{'name': n, 'result': r, 'reason': ''} for n, r in cases]}


def of(base, series):
    return compare.Comparison('max', 'default', 'test', base, series)


class Compare(unittest.TestCase):
    def test_whole_tests(self):
        """Each result against each other one."""
        order = ('pass', 'skip', 'fail', 'untrusted', 'not run')
        results = [ran(r) for r in order[:-1]] + [None]
        for i, base in enumerate(results):
            for k, series in enumerate(results):
                got = of(base, series)
                self.assertEqual(bool(got.changes), i != k, (order[i], order[k]))
                self.assertEqual(got.worse(), k > i, (order[i], order[k]))

    def test_same(self):
        got = of(ran('pass', ('a', 'pass'), ('b', 'skip')), ran('pass', ('a', 'pass'), ('b', 'skip')))
        self.assertEqual((got.changes, got.worse(), got.cell()), ([], False, 'pass 1/0/1'))

    def test_case_in_a_test_that_passes(self):
        """The verdict is the same, but less was shown."""
        got = of(ran('pass', ('a', 'pass'), ('b', 'pass')), ran('pass', ('a', 'pass'), ('b', 'skip')))
        self.assertTrue(got.worse())
        self.assertEqual(got.cell(), '**worse**: pass 2/0/0 -> pass 1/0/1')
        self.assertIn('b: pass -> skip', got.line())

    def test_case_that_is_gone(self):
        got = of(ran('pass', ('a', 'pass'), ('b', 'pass')), ran('pass', ('a', 'pass')))
        self.assertTrue(got.worse())
        self.assertIn('b: pass -> not run', got.line())

    def test_case_that_came(self):
        got = of(ran('pass', ('a', 'pass')), ran('pass', ('a', 'pass'), ('b', 'fail')))
        self.assertTrue(got.changes)
        self.assertFalse(got.worse())

    def test_cases_of_the_same_name(self):
        """Neither the first nor the last stands for all of them."""
        good = ran('fail', ('a', 'pass'), ('a', 'pass'), ('a', 'pass'))
        for bad in range(3):
            cases = [('a', 'fail' if n == bad else 'pass') for n in range(3)]
            self.assertTrue(of(good, ran('fail', *cases)).worse(), bad)

    def test_another_case_fails(self):
        """As many as before, yet one that passed does not."""
        got = of(ran('fail', ('a', 'pass'), ('b', 'fail')), ran('fail', ('a', 'fail'), ('b', 'pass')))
        self.assertTrue(got.worse())
        # What is worse is named first.
        self.assertRegex(got.line(), 'a: pass -> fail; b: fail -> pass')

    def test_fails_on_both(self):
        got = of(ran('fail', ('a', 'fail'), reason='x'), ran('fail', ('a', 'fail'), reason='y'))
        self.assertEqual((got.changes, got.worse()), ([], False))

    def test_better(self):
        got = of(ran('fail', ('a', 'fail')), ran('pass', ('a', 'pass')))
        self.assertFalse(got.worse())
        self.assertEqual(got.cell(), 'fail 0/1/0 -> pass 1/0/0')
        self.assertRegex(got.line(), r'^  differs +max default: test: ')

    def test_unexpected(self):
        """A mark where tests.ini says something else, also where both are the same."""
        bad = ran('fail', verdict='fail', reason='x.c:1: it is not')
        self.assertEqual(of(bad, bad).cell(), 'fail !')
        self.assertEqual(of(ran('fail', verdict='pass'), ran('fail', verdict='pass')).cell(), 'fail')
        self.assertTrue(of(ran('pass'), bad).line().endswith(': x.c:1: it is not'))

    def test_many_cases(self):
        names = [f'case {n}' for n in range(9)]
        got = of(ran('pass', *((n, 'pass') for n in names)), ran('fail', *((n, 'fail') for n in names)))
        self.assertIn('; and 6 cases more', got.line())
        self.assertNotIn('case 3', got.line())

    def test_not_run(self):
        self.assertEqual(of(ran('pass'), None).cell(), '**worse**: pass -> not run')
        self.assertEqual(of(None, None).cell(), 'not run')


class Matrix(unittest.TestCase):
    """matrix.regression as it is in the repository."""

    def setUp(self):
        machines, variants, self.tests = data.check()
        self.pairs = data.regression_pairs(self.tests, variants, machines)

    def test_counterparts(self):
        self.assertEqual(data.counterparts(), {'default': 'base', '16k': 'base-16k', '64k': 'base-64k'})

    def test_machines(self):
        """Those that a regression has to be looked for on, with all of mainline's tests."""
        mainline = [t.name for t in self.tests.values() if t.set != 'series']
        for machine, variant in (('max', 'default'), ('max-nvhe', 'default'), ('max-protected', 'default'),
                                 ('max-nested', 'default'), ('max', '16k'), ('max', '64k')):
            tests, = [tests for m, _, v, tests in self.pairs if (m, v) == (machine, variant)]
            self.assertEqual([t.name for t in tests], mainline, (machine, variant))

    @unittest.skipUnless(os.path.isdir(common.BASE), common.NO_BASE)
    def test_all_that_mainline_has(self):
        """None of mainline's KVM and MTE tests for arm64 is left out."""
        selftests = os.path.join(common.BASE, 'tools/testing/selftests')
        with open(os.path.join(selftests, 'kvm/Makefile.kvm'), encoding='utf-8') as f:
            wanted = re.findall(r'^TEST_GEN_PROGS_(?:COMMON|arm64) \+?= ([\w/-]+)$', f.read(), re.M)
        wanted = {f'kvm/{name}' for name in wanted}
        wanted |= {f'arm64/mte/{os.path.basename(path)[:-2]}'
                   for path in glob.glob(os.path.join(selftests, 'arm64/mte/check_*.c'))}
        self.assertGreater(len(wanted), 50)
        self.assertIn('kvm/demand_paging_test', wanted)
        self.assertIn('arm64/mte/check_prctl', wanted)
        have = {t.program for t in self.tests.values() if t.set != 'series'}
        self.assertEqual(wanted - have, set())


class Slips(common.Sandbox):
    """In matrix.regression and what it stands on."""

    def setUp(self):
        super().setUp()
        self.write('harness/tests.ini', '[one]\nset = mainline\n\n[two]\nset = regression\n')
        self.write('harness/matrix', 'default all max\n')

    def says(self, matrix, *words):
        self.write('harness/matrix.regression', matrix)
        code = 'import sys; sys.path.insert(0, "harness")\nimport data, judge\n' \
               'try:\n\tdata.check()\nexcept judge.DataError as e:\n\tprint(e, file=sys.stderr); sys.exit(2)\n'
        done = self.run_in(sys.executable, '-c', code)
        self.assertEqual(done.status, 2 if words else 0, done)
        for word in words:
            self.assertIn(word, done.err, done)
        self.assertLessEqual(done.err.count('\n'), 1)

    def test_good(self):
        self.says('default mainline,regression max\nbase mainline,regression max\n')
        self.says('default one,two max\nbase one max\nbase regression max\n')

    def test_one_without_the_other(self):
        self.says('default mainline max\n', 'matrix.regression', 'one on max', 'base', 'default')
        self.says('base mainline max\n', 'one on max')
        self.says('default mainline max max-nvhe\nbase mainline max\n', 'one on max-nvhe')
        self.says('default mainline,regression max\nbase mainline max\n', 'two on max')
        self.says('default mainline max\nbase-16k mainline max\n', 'one on max')

    def test_without_counterpart(self):
        self.says('debug mainline max\nbase mainline max\n', 'matrix.regression', 'debug', 'counterpart')
        self.says('mutant mainline max\nbase mainline max\n', 'mutant', 'counterpart')

    def test_names(self):
        self.says('default mainline max\nbas mainline max\n', 'matrix.regression', 'bas:', 'base-16k')
        self.says('default mainline mux\nbase mainline mux\n', 'matrix.regression', 'mux', 'max-nvhe')
        self.says('default mine max\nbase mine max\n', 'matrix.regression', 'mine', 'one two')

    def test_check_key(self):
        good = 'default mainline max\nbase mainline max\n'
        self.write('harness/tests.ini', '[one]\nset = mainline\n\n[two]\nset = regression\ncheck = maybe\n')
        self.says(good, '[two]', 'check = maybe')
        self.write('harness/tests.ini', '[one]\nset = mainline\ncheck = no\n')
        self.says(good, '[one]', 'set = regression')

    def test_what_make_check_leaves_out(self):
        self.write('harness/tests.ini', '[one]\nset = mainline\n\n[two]\nset = regression\n\n'
                   '[three]\nset = regression\ncheck = no\n')
        code = 'import sys; sys.path.insert(0, "harness")\nimport data\ntests = data.tests()\n' \
               'print(*(t.name for t in data.of_kind("every", tests)))\n' \
               'print(*(t.name for t in data.of_kind("regression", tests)))\n'
        self.assertEqual(self.run_in(sys.executable, '-c', code).out, 'one two\ntwo three\n')


@unittest.skipUnless(TREE, common.NO_BASE)
class WholeRun(common.Sandbox):
    """run.py regression with a fake guest for each kernel."""

    GOOD = 'hello,probe,plan,done'

    def setUp(self):
        super().setUp()
        for path in ('build/image/initramfs.cpio', 'build/image/idregs.elf',
                     'build/series/obj-default/arch/arm64/boot/Image', 'build/base/obj-base/arch/arm64/boot/Image'):
            self.write(path, 'x')
        self.write('harness/tests.ini', '[first]\nset = mainline\nnot-on = max\n\n[second]\nset = regression\n')
        self.write('harness/matrix', 'default all max\n')
        self.write('harness/matrix.regression', 'default mainline,regression max\nbase mainline,regression max\n')
        os.makedirs(f'{self.top}/build/series/tree/tools/testing')
        os.symlink(f'{TREE}/tools/testing/kunit', f'{self.top}/build/series/tree/tools/testing/kunit')

    def run_py(self, base=GOOD, series=GOOD, kind='regression', **env):
        qemu = self.fake('qemu', f'#!/bin/sh\ncase "$*" in\n*obj-base*) set -- "{base}" "$@";;\n'
                         f'*) set -- "{series}" "$@";;\nesac\nexec {sys.executable} {FAKE} "$@"\n')
        return self.run_in(sys.executable, 'harness/run.py', kind, QEMU=qemu, TIMEOUT_FACTOR='0.05', **env)

    def results(self):
        return glob.glob(f'{self.top}/results/*')

    def document(self):
        directory, = self.results()
        with open(os.path.join(directory, 'results.json'), encoding='utf-8') as f:
            return json.load(f)

    def table(self):
        directory, = self.results()
        with open(os.path.join(directory, 'summary.md'), encoding='utf-8') as f:
            text = f.read()
        return re.findall(r'^\| (?:first|second|test) .*', text.partition('## Base and series')[2].partition('\n## ')[0], re.M)

    def test_good(self):
        done = self.run_py()
        self.assertEqual((done.status, done.err), (0, ''), done)
        lines = done.out.strip().split('\n')
        self.assertEqual(lines[-2], 'base and series: 2 results compared, 2 are the same, 0 differ, 0 are worse')
        self.assertRegex(lines[-1], r'^4 passed, 0 failed, .*: results/\d{8}-\d{6}-regression$')
        self.assertNotIn('->', done.out)
        # not-on is for the other runs.
        self.assertEqual(self.table(), ['| test | max default |', '| first | pass 1/0/0 |', '| second | pass 1/0/0 |'])
        self.assertEqual([r['worse'] for r in self.document()['comparisons']], [False, False])

    def test_worse(self):
        done = self.run_py(series='hello,probe,test=first=exit=0,test=second=exit=1,done')
        self.assertEqual(done.status, 1, done)
        self.assertRegex(done.out, r'\n  worse +max default: second: pass 1/0/0 -> fail 1/0/0 !.*exit status 1')
        self.assertEqual(done.out.count('->'), 1, done)
        self.assertIn('1 are the same, 0 differ, 1 are worse', done.out)
        self.assertEqual(self.table()[2], '| second | **worse**: pass 1/0/0 -> fail 1/0/0 ! |')
        self.assertEqual([r['test'] for r in self.document()['comparisons'] if r['worse']], ['second'])

    @staticmethod
    def says(name, text):
        """A test of the fake guest that prints this and passes."""
        quoted = text.replace(' ', '_').replace('\n', '|')
        return f'raw=start_{name}|out_{name}_{len(text)}|{quoted}end_{name}_exit_0_1|'

    def guests(self):
        """One where both cases of a test pass, and one where the second skips."""
        return ('hello,probe,test=first=exit=0,' + self.says('second', 'TAP version 13\n1..2\nok 1 a case\n' + case)
                + ',done' for case in ('ok 2 another\n', 'ok 2 another # SKIP so\n'))

    def test_worse_where_all_is_expected(self):
        """A case that skips: the test passes for tests.ini, only the comparison sees it."""
        both, skip = self.guests()
        done = self.run_py(both, skip)
        self.assertEqual(done.status, 1, done)
        self.assertIn('4 passed, 0 failed', done.out)
        self.assertRegex(done.out, r'\n  worse +max default: second: pass 2/0/0 -> pass 1/0/1; another: pass -> skip\n')
        self.assertEqual(self.document()['status'], 1)

    def test_better(self):
        """A difference that is no reason to complain."""
        both, skip = self.guests()
        done = self.run_py(skip, both)
        self.assertEqual(done.status, 0, done)
        self.assertIn('1 are the same, 1 differ, 0 are worse', done.out)

    def test_fails_on_both(self):
        """Not worse, but not what tests.ini says."""
        failing = 'hello,probe,test=first=exit=0,test=second=exit=1,done'
        done = self.run_py(failing, failing)
        self.assertEqual(done.status, 1, done)
        self.assertIn('2 are the same, 0 differ, 0 are worse', done.out)

    def test_guest_that_dies(self):
        done = self.run_py(series='hello,probe,plan=second,done')
        self.assertEqual(done.status, 2, done)
        self.assertRegex(done.out, r'\n  worse +max default: second: pass 1/0/0 -> untrusted !')

    def test_base_that_is_not_run(self):
        """Nothing to compare with is no evidence."""
        done = self.run_py(base='stderr=qemu:_no_such_device,exit=1')
        self.assertEqual(done.status, 2, done)
        self.assertRegex(done.out, r'\n  differs +max default: first: not run -> pass 1/0/0')

    def test_check(self):
        """make check compares as well, where it has both: mainline's tests, no others."""
        self.write('harness/tests.ini', '[first]\nset = mainline\n\n[second]\nset = regression\n\n[third]\nbase = pass\n')
        self.write('harness/matrix', 'default every max\nbase every max\n')
        worse = 'hello,probe,test=first=exit=0,test=second=exit=1,test=third=exit=0,done'
        # Without patches, all of them are on record.
        self.write('harness/bisected', 'columns style\n')
        base = f'{self.top}/build/base/tree'
        for words in (('init', '-q', '-b', 'base', base),
                      ('-C', base, '-c', 'user.name=a', '-c', 'user.email=b', 'commit', '-q', '--allow-empty',
                       '-m', 'x'),
                      ('-C', base, 'update-ref', 'refs/series/composed', 'base')):
            self.assertEqual(self.run_in('git', *words).status, 0)
        done = self.run_py(series=worse, kind='check')
        self.assertEqual(done.status, 1, done)
        self.assertRegex(done.out, r'pass +bisected .* 0 patches on record: ')
        self.assertRegex(done.out, r'\n  worse +max default: second: ')
        self.assertIn('2 results compared, 1 are the same, 0 differ, 1 are worse', done.out)

    def test_one_kernel(self):
        """Nothing is said of a comparison where there is none."""
        done = self.run_py(kind='run', TESTS='first second')
        self.assertEqual(done.status, 0, done)
        self.assertNotIn('base and series', done.out)
        self.assertEqual(self.document()['comparisons'], [])

    def test_chosen(self):
        done = self.run_py(TESTS='sec*', MACHINES='max')
        self.assertEqual(done.status, 0, done)
        self.assertIn('1 results compared', done.out)
        self.assertEqual(len(self.table()), 2)

    def test_bad_input(self):
        for env, word in (({'TESTS': 'nonsense'}, 'first second'), ({'MACHINES': 'nonsense'}, 'max-nvhe'),
                          ({'MACHINES': 'max-nvhe'}, 'matrix.regression')):
            for kind in ('regression', 'regression-names'):
                done = self.run_py(kind=kind, **env)
                self.assertEqual((done.status, done.err.count('\n')), (2, 1), done)
                self.assertIn(word, done.err)
        self.assertEqual(self.results(), [])

    def test_names(self):
        """It comes before anything is built."""
        shutil.rmtree(f'{self.top}/build')
        done = self.run_py(kind='regression-names')
        self.assertEqual((done.status, done.said), (0, ''), done)
        self.assertEqual(self.results(), [])


if __name__ == '__main__':
    unittest.main()
