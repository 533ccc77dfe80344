# SPDX-License-Identifier: GPL-2.0-only
"""judge.py: what a test's end and output are worth, held against tests.ini.

Holds: every way of passing without evidence is told from passing; what people read
as the reason is the one line that says why; the rules of tests.ini work in both
directions; the exit status is the one the README promises. samples/output/ are outputs of
KVM's selftests under QEMU, their first line is the end that init reported.
"""

import itertools
import os
import tempfile
import types
import unittest
from unittest import mock

import judge
from tests import common

TREE = next((t for t in (common.BASE, os.path.join(common.BUILD, 'series/tree')) if os.path.isdir(t)), None)

HEADER = 'Random seed: 0x6b8b4567\nTAP version 13\n'
ASSERTION = '''
==== Test Assertion Failure ====
  arm64/psci_test.c:77: status == expected
  pid=46 tid=46 errno={errno}
     1\t0x0000000000402a83: ?? ??:0
     2\t0x0000000000402b0f: ?? ??:0
     3\t (inlined by) main at psci_test.c:200
  CPU_ON returned {value}
'''


@unittest.skipUnless(TREE, common.NO_BASE)
class OutcomeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.parser = judge.KunitParser(TREE)

    def of(self, output, value=0, end='exit'):
        return judge.outcome(end, value, output, self.parser)

    def sample(self, name):
        first, _, output = common.sample('output', name + '.log').partition('\n')
        end, value = first.split()
        return self.of(output, int(value), end)

    def check(self, got, result, reason, cases=None):
        self.assertEqual((got.result, got.reason), (result, reason))
        if cases is not None:
            self.assertEqual(len(got.cases), cases)


class Samples(OutcomeTest):
    def test_pass(self):
        got = self.sample('pass')
        self.check(got, 'pass', '', 8)
        self.assertEqual(got.cases[1], ('TLBI OS hidden', 'pass', ''))

    def test_pass_with_cases_that_skip(self):
        got = self.sample('pass-case-skips')
        self.check(got, 'pass', '', 107)
        skipped = [c for c in got.cases if c[1] == 'skip']
        self.assertEqual(len(skipped), 3)
        # kselftest gives such a case no name of its own.
        self.assertTrue(all(name and name == reason for name, _, reason in skipped), skipped)

    def test_cases_that_skip(self):
        got = self.sample('case-skip')
        self.check(got, 'pass', '', 38)
        self.assertEqual(got.cases[28][0], '1048576kB folio, mapped, aligned: '
                                           'not enough memory for the hugetlb folios')

    def test_cases_that_fail(self):
        got = self.sample('case-fail')
        self.check(got, 'fail', 'not ok 1 64kB folio, mapped, aligned: 15 of 16 pages stale '
                                '(and 23 more) [exit status 1]', 38)
        self.assertEqual(sum(c[1] == 'fail' for c in got.cases), 24)

    def test_skips(self):
        for name, reason in (
                ('skip-needs-el2', 'Requirement not met: kvm_check_cap(KVM_CAP_ARM_EL2)'),
                ('skip-needs-mte', 'the host has no MTE'),
                ('skip-needs-hugetlb', 'Need 33554432 bytes of reserved 2M hugepages'),
                ('skip-in-own-words', 'No GICv5 support; Not running GIC_v5 tests.')):
            with self.subTest(name):
                self.check(self.sample(name), 'skip', reason, 0)

    def test_assertion(self):
        self.check(self.sample('assertion'), 'fail',
                   'include/kvm_syscalls.h:70: mem != MAP_FAILED: '
                   'mmap() failed, rc: -1 errno: 12 (Cannot allocate memory) [exit status 254]')

    def test_exit_status_is_all_there_is(self):
        self.check(self.sample('plain'), 'pass', '', 0)
        self.check(self.sample('plain-skips-a-part'), 'pass', '', 0)
        # Parts that skip say so like a whole test would: the exit status decides.
        self.check(self.sample('plain-with-skip-lines'), 'pass', '', 0)

    def test_timeout(self):
        self.check(self.sample('timeout'), 'fail', 'timed out after 60 s')

    def test_usage(self):
        self.assertEqual(self.sample('usage').result, 'untrusted')

    def test_all_are_looked_at(self):
        self.assertEqual(len(common.samples('output')), 14)


class Ends(OutcomeTest):
    def test_ends(self):
        good = HEADER + '1..1\nok 1 a\n'
        for end, value, result, word in (('signal', 11, 'fail', 'signal 11'),
                                         ('timeout', 60, 'fail', 'timed out after 60'),
                                         ('stuck', 60, 'fail', 'not killable'),
                                         ('lost', 0, 'untrusted', 'went away'),
                                         ('error', 2, 'untrusted', 'could not be started')):
            with self.subTest(end):
                got = self.of(good, value, end)
                self.assertEqual(got.result, result)
                self.assertIn(word, got.reason)

    def test_what_failed_before_is_known(self):
        for end in ('signal', 'timeout', 'stuck'):
            with self.subTest(end):
                got = self.of(HEADER + '1..3\nok 1 a\nnot ok 2 b\n', 9, end)
                self.assertEqual([(name, status) for name, status, _ in got.cases if status == 'fail'],
                                 [('b', 'fail')])

    def test_every_exit_status(self):
        """Good output or not: only 0 and 2 can pass, only 4 can skip."""
        for value in range(256):
            want = {0: 'pass', 2: 'pass', 4: 'skip'}.get(value, 'fail')
            self.assertEqual(self.of(HEADER + '1..1\nok 1 a\n', value).result, want, value)

    def test_error_without_a_word(self):
        self.check(self.of('Random seed: 0x1\n', 1), 'fail', 'without a word [exit status 1]')
        self.check(self.of('', 139), 'fail', 'without a word [exit status 139]')

    def test_nothing_said_and_good(self):
        self.assertEqual(self.of('', 0).result, 'untrusted')
        self.assertEqual(self.of(' \n\n', 0).result, 'untrusted')

    def test_skip_without_a_word(self):
        self.check(self.of('Random seed: 0x1\n', 4), 'skip', 'without a word')


class Assertions(OutcomeTest):
    def test_reason(self):
        output = 'Random seed: 0x1\n' + ASSERTION.format(errno='0 - Success', value=-2)
        self.check(self.of(output, 254), 'fail',
                   'arm64/psci_test.c:77: status == expected: CPU_ON returned -2 [exit status 254]')

    def test_no_message(self):
        output = ASSERTION.format(errno='0 - Success', value=1).rpartition('  CPU_ON')[0]
        self.check(self.of(output, 254), 'fail', 'arm64/psci_test.c:77: status == expected [exit status 254]')

    def test_cut_short(self):
        for end in range(0, len(ASSERTION), 7):
            got = self.of(ASSERTION[:end], 254)
            self.assertEqual(got.result, 'fail')
            self.assertTrue(got.reason)

    def test_eacces_is_no_skip(self):
        """TEST_ASSERT() exits like a skip when errno happens to be EACCES."""
        output = ASSERTION.format(errno='13 - Permission denied', value=-13) + \
            '1..0 # SKIP - Access denied - Exiting\n'
        got = self.of(output, 4)
        self.assertEqual(got.result, 'fail')
        self.assertIn('psci_test.c:77: status == expected', got.reason)

    def test_in_a_child(self):
        """Exit status 0 of a parent that did not look at its child's."""
        for output in (ASSERTION, HEADER + '1..1\nok 1 a\n' + ASSERTION):
            self.assertEqual(self.of(output.format(errno='0', value=0), 0).result, 'untrusted')


class Ktap(OutcomeTest):
    def untrusted(self, output, word, value=0):
        got = self.of(HEADER + output, value)
        self.assertEqual(got.result, 'untrusted', got.reason)
        self.assertIn(word, got.reason)

    def test_truncated(self):
        self.untrusted('1..3\nok 1 a\nok 2 b\n', '3 planned, 2 results')

    def test_truncated_in_a_line(self):
        self.untrusted('1..2\nok 1 a\nok', '2 planned, 1 results')

    def test_cut_anywhere(self):
        """No piece of a good document but the whole of its results passes."""
        lines = common.sample('output', 'pass.log').split('\n')[1:]
        last = max(i for i, l in enumerate(lines) if l.startswith('ok '))
        start = next(i for i, l in enumerate(lines) if l.startswith('TAP'))
        for n in range(start + 1, last + 1):
            self.assertEqual(self.of('\n'.join(lines[:n]) + '\n').result, 'untrusted', n)
        self.assertEqual(self.of('\n'.join(lines[:last + 1]) + '\n').result, 'pass')

    def test_header_only(self):
        self.untrusted('', 'without a plan')

    def test_no_plan(self):
        self.untrusted('ok 1 a\nok 2 b\n', 'without a plan')

    def test_plan_at_the_end(self):
        self.untrusted('ok 1 a\nok 2 b\n1..2\n', 'without a plan')

    def test_plan_of_nothing(self):
        self.assertEqual(self.of(HEADER + '1..0\n').result, 'untrusted')

    def test_more_than_planned(self):
        self.untrusted('1..1\nok 1 a\nok 2 b\n', '1 planned, 2 results')

    def test_failure_behind_the_plan(self):
        self.untrusted('1..1\nok 1 a\nnot ok 2 b\n', '1 planned, 2 results')

    def test_duplicate_number(self):
        self.untrusted('1..2\nok 1 a\nok 1 b\n', '')

    def test_number_left_out(self):
        self.untrusted('1..2\nok 1 a\nok 3 b\n', '')

    def test_two_documents(self):
        """A fork that had the header in its buffer."""
        self.untrusted('1..1\nok 1 a\n' + HEADER + '1..1\nnot ok 1 b\n', '')

    def test_bails_out(self):
        self.untrusted('1..1\nok 1 a\nBail out! no more\n', 'bails out')
        self.check(self.of(HEADER + '1..2\nok 1 a\nBail out! cannot open /dev/kvm\n# Totals: pass:1\n', 1),
                   'fail', 'Bail out! cannot open /dev/kvm [exit status 1]')

    def test_case_failed_but_exit_status_good(self):
        self.untrusted('1..2\nok 1 a\nnot ok 2 b\n', 'b failed')

    def test_error_case(self):
        self.untrusted('1..1\nnot ok 1 # error b: cannot\n', 'failed')

    def test_xfail_case(self):
        self.check(self.of(HEADER + '1..1\nok 1 # XFAIL known\n'), 'pass', '', 1)

    def test_all_cases_skip(self):
        got = self.of(HEADER + '1..2\nok 1 # SKIP a: no MTE\nok 2 # SKIP b: no MTE\n')
        self.check(got, 'skip', 'all 2 cases: a: no MTE', 2)

    def test_skip_in_other_form(self):
        got = self.of(HEADER + '1..1\nok 1 a # SKIP no MTE\n')
        self.check(got, 'skip', 'all 1 cases: no MTE')
        self.assertEqual(got.cases, [('a', 'skip', 'no MTE')])

    def test_case_failed_but_skips_as_a_whole(self):
        self.assertEqual(self.of(HEADER + '1..2\nnot ok 1 a\nok 2 # SKIP rest\n', 4).result, 'fail')

    def test_diagnostics(self):
        got = self.of(HEADER + '# of all\n1..2\n# of a\nok 1 a\n# of b: 5 stale\n# more\nnot ok 2 b\n# Totals: x\n', 1)
        self.check(got, 'fail', 'not ok 2 b: of b: 5 stale [exit status 1]')

    def test_fixture(self):
        """As kselftest_harness.h prints it."""
        got = self.of('TAP version 13\n1..1\n# Starting 1 tests from 1 test cases.\n#  RUN           a.b ...\n'
                      '# t.c:12:b:Expected 1 (1) == 2 (2)\n# b: Test terminated by assertion\n'
                      '#          FAIL  a.b\nnot ok 1 a.b\n# FAILED: 0 / 1 tests passed.\n', 1)
        self.assertEqual(got.result, 'fail')
        self.assertIn('not ok 1 a.b', got.reason)

    def test_nested(self):
        nested = ('KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: suite\n    1..2\n'
                  '    {} 1 one\n    ok 2 two\n{} 1 suite\n')
        self.check(self.of(nested.format('ok', 'ok')), 'pass', '', 1)
        self.assertEqual(self.of(nested.format('not ok', 'not ok'), 1).result, 'fail')
        self.assertEqual(self.of(nested.format('not ok', 'not ok'), 0).result, 'untrusted')
        # The suite says it passed, a case in it did not.
        self.assertEqual(self.of(nested.format('not ok', 'ok'), 0).result, 'untrusted')

    def test_nested_truncated(self):
        self.assertEqual(self.of('KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: suite\n    1..2\n'
                                 '    ok 1 one\nok 1 suite\n').result, 'untrusted')

    def test_garbage(self):
        for output in ('TAP version 13', 'TAP version 99\n1..1\nok 1 a\n', 'TAP version 13\n1..x\nok 1 a\n',
                       'TAP version 13\n1..1\n\x00\xff\n'):
            self.assertEqual(self.of(output).result, 'untrusted', output)

    def test_the_parser_prints_nothing(self):
        with mock.patch('sys.stdout.write') as write:
            self.of(HEADER + '1..2\nok 1 a\nnot ok 2 b\n')
        write.assert_not_called()


FEATURES = {'mte': (True, 'MTE=3'), 'fwb': (False, 'FWB=0'), '4k': (True, '4K pages'), '64k': (False, '4K pages')}
CASES = [('2M a', 'pass', ''), ('1G a', 'skip', '1G a: no memory'), ('1G b', 'skip', '1G b: no memory')]


def row(**keys):
    """A row of tests.ini, as data.Test makes it."""
    test = types.SimpleNamespace(name='t', needs='', base='', base_shows=[], fails=[], skip_cases=[],
                                 set='series', strict_cases=True)
    vars(test).update(keys)
    if keys.get('set') == 'mainline':
        test.strict_cases = False
    return test


class Judge(unittest.TestCase):
    def of(self, test, result, reason='why', cases=(('a', 'pass', ''),), on_base=False, output=''):
        return judge.judge(test, judge.Outcome(result, reason, cases), FEATURES, on_base, output)

    def table(self, test, on_base=False, **want):
        got = {result: self.of(test, result, on_base=on_base).verdict
               for result in ('pass', 'fail', 'skip', 'untrusted')}
        self.assertEqual(got, {'untrusted': 'untrusted', **want})

    def test_needs_hold(self):
        for needs in ('', 'mte', 'mte !fwb', '!64k 4k'):
            self.table(row(needs=needs), **{'pass': 'pass', 'fail': 'fail', 'skip': 'unexpected'})

    def test_needs_do_not_hold(self):
        for needs in ('fwb', 'mte fwb', '!mte', '64k'):
            self.table(row(needs=needs), **{'pass': 'fail', 'fail': 'fail', 'skip': 'skip'})

    def test_on_base(self):
        self.table(row(base='fail'), True, **{'pass': 'fail', 'fail': 'pass', 'skip': 'unexpected'})
        self.table(row(base='skip'), True, **{'pass': 'fail', 'fail': 'fail', 'skip': 'pass'})
        self.table(row(base='pass'), True, **{'pass': 'pass', 'fail': 'fail', 'skip': 'unexpected'})

    def test_base_does_not_count_on_the_series(self):
        for base in ('fail', 'skip', 'pass'):
            self.table(row(base=base), **{'pass': 'pass', 'fail': 'fail', 'skip': 'unexpected'})

    def test_base_without_the_feature(self):
        for base in ('fail', 'skip', 'pass'):
            self.table(row(base=base, needs='fwb'), True, **{'pass': 'fail', 'fail': 'fail', 'skip': 'skip'})

    def test_base_shows(self):
        test = row(base='fail', base_shows=['15 of 16 pages', r'511 of \d+'])
        seen = 'x: 15 of 16 pages stale\ny: 511 of 512\n'
        self.assertEqual(self.of(test, 'fail', on_base=True, output=seen).verdict, 'pass')
        self.assertEqual(self.of(test, 'fail', on_base=True, output='15 of 16 pages').verdict, 'fail')
        self.assertEqual(self.of(test, 'fail', on_base=True, output='').verdict, 'fail')
        self.assertEqual(self.of(test, 'pass', output='').verdict, 'pass')

    def test_known_to_fail(self):
        test = row(fails=[('mte !fwb', 'a defect of mainline')])
        self.table(test, **{'pass': 'fail', 'fail': 'pass', 'skip': 'unexpected'})
        self.assertIn('a defect of mainline', self.of(test, 'fail').reason)
        self.table(row(fails=[('fwb', 'x')]), **{'pass': 'pass', 'fail': 'fail', 'skip': 'unexpected'})

    def test_reasons(self):
        self.assertEqual(self.of(row(), 'fail', 'x.c:1: y').reason, 'x.c:1: y')
        self.assertEqual(self.of(row(), 'skip', 'no memory').reason, 'no memory')
        self.assertEqual(self.of(row(needs='fwb'), 'skip', 'no cap').reason, 'no cap [no fwb: FWB=0]')
        self.assertIn('must skip without fwb (FWB=0)', self.of(row(needs='fwb'), 'pass', '').reason)
        self.assertIn('must skip without !mte (MTE=3)', self.of(row(needs='!mte'), 'pass', '').reason)

    def test_unknown_feature(self):
        with self.assertRaisesRegex(judge.DataError, 'sve.*mte'):
            self.of(row(needs='sve'), 'pass')

    def test_no_ktap_in_a_test_of_the_series(self):
        self.assertEqual(self.of(row(), 'pass', cases=()).verdict, 'untrusted')
        self.assertEqual(self.of(row(set='mainline'), 'pass', cases=()).verdict, 'pass')

    def test_cases_that_skip(self):
        self.assertEqual(self.of(row(), 'pass', cases=CASES).verdict, 'unexpected')
        self.assertEqual(self.of(row(set='mainline'), 'pass', cases=CASES).verdict, 'pass')
        good = row(skip_cases=[('1G *', '!fwb')])
        self.assertEqual(self.of(good, 'pass', cases=CASES).verdict, 'pass')
        self.assertEqual(self.of(good, 'pass', cases=CASES).reason, '3 cases, 2 skipped')
        self.assertEqual(self.of(row(skip_cases=[('1G a', '!fwb')]), 'pass', cases=CASES).verdict, 'unexpected')
        self.assertEqual(self.of(row(skip_cases=[('1G *', 'fwb')]), 'pass', cases=CASES).verdict, 'unexpected')
        self.assertEqual(self.of(row(skip_cases=[('1G *', 'fwb'), ('1G *', 'mte')]), 'pass',
                                 cases=CASES).verdict, 'pass')

    def test_cases_that_must_skip_and_do_not(self):
        for kind in ('series', 'mainline'):
            test = row(skip_cases=[('2M *', 'mte'), ('1G *', 'mte')], set=kind)
            got = self.of(test, 'pass', cases=CASES)
            self.assertEqual(got.verdict, 'fail')
            self.assertIn('2M a', got.reason)

    def test_a_rule_for_cases_that_there_are_not(self):
        rules = [('1G *', 'mte'), ('16G *', 'mte')]
        got = self.of(row(skip_cases=rules), 'pass', cases=CASES)
        self.assertEqual(got.verdict, 'fail')
        self.assertIn('16G *', got.reason)
        # Where the rule does not hold there may be none.
        rules[1] = ('16G *', '!mte')
        self.assertEqual(self.of(row(skip_cases=rules), 'pass', cases=CASES).verdict, 'pass')


class ExitStatus(unittest.TestCase):
    def test_every_combination(self):
        kinds = ('pass', 'fail', 'skip', 'unexpected', 'untrusted')
        for size in range(1, 6):
            for verdicts in itertools.combinations(kinds, size):
                bad = 'unexpected' in verdicts or 'untrusted' in verdicts
                for splats in ([], ['x']):
                    for complaints in ([], ['x']):
                        want = 2 if bad or splats or complaints else 1 if 'fail' in verdicts else 0
                        self.assertEqual(judge.exit_status(list(verdicts), splats, complaints), want,
                                         (verdicts, splats, complaints))

    def test_nothing_was_run(self):
        self.assertEqual(judge.exit_status([], [], []), 2)


class Allowed(unittest.TestCase):
    """splats-allowed.ini: what is not complete or has expired does not count."""

    ENTRY = '[x]\nmatch = WARNING: .*foo\nreason = r\nlink = l\nexpires = 2030-01-31\n'

    def load(self, text, today='2030-01-31'):
        with tempfile.NamedTemporaryFile('w', suffix='.ini', encoding='utf-8') as f:
            f.write(text)
            f.flush()
            return judge.load_allowed(f.name, judge.datetime.date.fromisoformat(today))

    def test_until_its_date(self):
        self.assertEqual(len(self.load(self.ENTRY)), 1)
        self.assertEqual(len(self.load(self.ENTRY, '2030-02-01')), 0)

    def test_incomplete(self):
        for line in self.ENTRY.split('\n')[1:-1]:
            with self.subTest(line), self.assertRaises(judge.DataError):
                self.load(self.ENTRY.replace(line + '\n', ''))
            with self.subTest(line), self.assertRaises(judge.DataError):
                self.load(self.ENTRY.replace(line, line.partition('=')[0] + '='))

    def test_nonsense(self):
        for old, new in (('2030-01-31', 'soon'), ('WARNING: .*foo', '(')):
            with self.subTest(new), self.assertRaises(judge.DataError):
                self.load(self.ENTRY.replace(old, new))
        with self.assertRaises(judge.DataError):
            self.load('match = x\n')

    def test_ours(self):
        path = os.path.join(common.HARNESS, 'splats-allowed.ini')
        self.assertIsInstance(judge.load_allowed(path), list)


if __name__ == '__main__':
    unittest.main()
