# SPDX-License-Identifier: GPL-2.0-only
"""figures.py and bench.py: what benchmarks print, the ratios, what is committed, the plots.

Holds: a figure that is missing is never taken for a good one; a ratio that is worse by
more than its tolerance, or than it may be at all, fails make check, one that is better
doesn't; the table in Documentation says what the committed figures are.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import unittest

import bench
import data
import figures
import judge

from tests import common

TESTS = {'quick': types.SimpleNamespace(bench='check'), 'long': types.SimpleNamespace(bench='full'),
         'other': types.SimpleNamespace(bench='')}
FIGURES = {'series:quick/a.pages': (300, 100), 'series:quick/b.pages': (100, 100), 'base:quick/a.pages': (200, 100),
           'series:long/a.pages': (800, 200)}
OUTPUT = '''TAP version 13
1..1
ok 1 pages
# figure a.pages 300 100
# figure b.pages 100 100
# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0
'''


def ratio(name='group: what', **row):
    return figures.Ratio(name, {'cost': 'series:quick/a.pages', 'of': 'base:quick/a.pages', 'tolerance': '2', **row},
                         TESTS)


class Figures(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(figures.parse(OUTPUT), {'a.pages': (300, 100), 'b.pages': (100, 100)})
        self.assertEqual(figures.parse('ok 1 # figure a 1 1\n#figure a 1 1\n# figure a 1\n'), {})

    def test_what_cannot_be(self):
        for text in ('# figure a 1 1\n# figure a 2 1\n', '# figure a 1 0\n'):
            with self.subTest(text), self.assertRaisesRegex(judge.DataError, 'figure a'):
                figures.parse(text)

    def test_a_failure_is_not_explained_by_them(self):
        output = OUTPUT.replace('1..1', '1..2').replace('# Totals', 'not ok 2 blocks\n# Totals')
        got = judge._fail_reason(output)        # pylint: disable=protected-access
        self.assertEqual(got, 'not ok 2 blocks')

    def test_text(self):
        self.assertEqual(figures.from_text(figures.as_text(FIGURES, 0.25)), (FIGURES, 0.25))

    def test_text_slips(self):
        good = figures.as_text(FIGURES, 0.25)
        for old, new in (('spread 0.25\n', ''), ('300 100', '300 0'), ('300 100', '300'), ('series:quick', 'my:quick'),
                         (good, ''), (good, 'spread 1.00\n')):
            with self.subTest(new or old), self.assertRaisesRegex(judge.DataError, 'benchmarks'):
                figures.from_text(good.replace(old, new))

    def test_spread(self):
        other = dict(FIGURES, **{'series:quick/b.pages': (101, 100), 'series:quick/new': (5, 1)})
        self.assertEqual(figures.spread(FIGURES, other), (1.0, 'series:quick/b.pages'))
        self.assertEqual(figures.spread(FIGURES, FIGURES), (0.0, ''))


class Ratio(unittest.TestCase):
    def test_value(self):
        self.assertEqual(ratio().value(FIGURES), (3, 2, 1.5))
        sums = ratio(cost='series:quick/a.pages - series:quick/b.pages', of='base:quick/a.pages + series:quick/b.pages')
        self.assertEqual(sums.value(FIGURES), (2, 3, 2 / 3))

    def test_missing_figure(self):
        with self.assertRaisesRegex(judge.DataError, 'series:quick/c'):
            ratio(cost='series:quick/c').value(FIGURES)
        with self.assertRaisesRegex(judge.DataError, 'divide'):
            ratio(of='series:quick/b.pages - series:quick/b.pages').value(FIGURES)

    def test_what_is_checked(self):
        self.assertTrue(ratio().checked)
        self.assertFalse(ratio(of='series:long/a.pages').checked)

    def test_verdict(self):
        self.assertEqual(ratio().verdict(1.5, 1.5), '')
        self.assertEqual(ratio().verdict(0.5, 1.5), '')
        self.assertEqual(ratio().verdict(1.529, 1.5), '')
        self.assertIn('1.5310, was 1.5000, tolerance 2 %', ratio().verdict(1.531, 1.5))
        self.assertIn('may be 1.6', ratio(most='1.6').verdict(1.61, 1.61))
        self.assertEqual(ratio(most='1.6').verdict(1.6, 1.6), '')

    def test_slips(self):
        for row, word in (({'cost': ''}, 'cost'), ({'cost': 'quick/a'}, 'quick/a'), ({'of': 'base:quick/a +'}, 'of'),
                          ({'of': 'base:quick/a * base:quick/b'}, 'not \\*'), ({'tolerance': '0'}, 'tolerance'),
                          ({'tolerance': 'x'}, 'tolerance'), ({'most': '-1'}, 'most'), ({'least': '1'}, 'least'),
                          ({'cost': 'series:other/a'}, 'other'), ({'cost': 'series:nobody/a'}, 'nobody')):
            with self.subTest(row), self.assertRaisesRegex(judge.DataError, word):
                ratio(**row)
        with self.assertRaisesRegex(judge.DataError, 'GROUP'):
            ratio('what')

    def test_table(self):
        text = figures.table([ratio('one: a'), ratio('one: b', most='2'), ratio('two: c', of='series:long/a.pages')],
                             FIGURES)
        self.assertEqual([l for l in text.split('\n') if l.startswith('#')], ['## One', '## Two'])
        self.assertIn('| a * | 3.0 | 2.0 | 1.5000 | 2 % |', text)
        self.assertIn('| b * | 3.0 | 2.0 | 1.5000, may be 2 | 2 % |', text)
        self.assertIn('| c | 3.0 | 4.0 | 0.7500 | 2 % |', text)


class Committed(unittest.TestCase):
    def setUp(self):
        self.wanted = figures.ratios(data.check()[2])
        self.figures, self.spread = figures.committed()

    def test_the_table_says_what_they_are(self):
        with open(figures.DOCUMENT, encoding='utf-8') as f:
            self.assertEqual(f.read(), figures.document(self.wanted, self.figures, self.spread),
                             'make bench KEEP=1 writes both')

    def test_none_is_missing_or_more_than_it_may_be(self):
        for _, _, _, why in figures.compare(self.wanted, self.figures, self.figures):
            self.assertEqual(why, '')

    def test_a_tolerance_is_more_than_what_two_boots_differ_by(self):
        for r in self.wanted:
            self.assertGreater(r.tolerance, self.spread, r.name)

    def test_make_check_has_some_of_each_group(self):
        self.assertEqual({r.group for r in self.wanted}, {r.group for r in self.wanted if r.checked})


class FakeJob:
    """As run.Job, with outputs made of figures."""

    def __init__(self, directory, name, source, found):
        self.name, self.source, self.machine_name = name, source, figures.MACHINE
        self.dir = os.path.join(directory, name)
        os.makedirs(os.path.join(self.dir, 'output'))
        self.tests = data.check()[2]
        self.results = {}
        for full, (total, nr) in found.items():
            kernel, rest = full.split(':')
            test, figure = rest.split('/')
            if kernel == source:
                self.results[test] = {'name': test, 'verdict': 'pass'}
                with open(self.path(f'output/{test}.log'), 'a', encoding='utf-8') as f:
                    f.write(f'# figure {figure} {total} {nr}\n')

    def path(self, name):
        return os.path.join(self.dir, name)

    def add(self, name, verdict, reason, cases):
        self.results[name] = {'verdict': verdict, 'reason': reason, 'cases': cases}


class WithJobs(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='harness-test-')
        self.addCleanup(shutil.rmtree, self.dir)
        self.tests = data.check()[2]
        self.found = figures.committed()[0]

    def run_with(self, series=None, again=False):
        jobs = [FakeJob(self.dir, 'max-icount-base', 'base', self.found),
                FakeJob(self.dir, 'max-icount-default', 'series', series or self.found)]
        if again:
            jobs.append(FakeJob(self.dir, f'max-icount-default-{bench.AGAIN}', 'series', {
                n: v for n, v in self.found.items() if '-2g/' not in n}))
        return types.SimpleNamespace(jobs=jobs, tests=self.tests, dir=self.dir)


class Hold(WithJobs):
    def verdict(self, series=None):
        run = self.run_with(series)
        figures.hold(run)
        self.assertNotIn('ratios', run.jobs[0].results)
        self.assertTrue(os.path.exists(run.jobs[1].path('output/ratios.log')))
        return run.jobs[1].results['ratios']

    def test_as_committed(self):
        got = self.verdict()
        self.assertEqual(got['verdict'], 'pass', got)
        self.assertEqual({c['result'] for c in got['cases']}, {'pass'})
        self.assertIn(f'{len(got["cases"])} ratios', got['reason'])

    def test_a_longer_path(self):
        name = 'series:mte_fault_perf_test/write.nomte.pages'
        total, nr = self.found[name]
        self.assertEqual(self.verdict(dict(self.found, **{name: (total * 1005 // 1000, nr)}))['verdict'], 'pass')
        shutil.rmtree(self.dir)
        got = self.verdict(dict(self.found, **{name: (total * 102 // 100, nr)}))
        self.assertEqual(got['verdict'], 'fail')
        self.assertIn('write to a page, VM without MTE', got['reason'])
        self.assertEqual(len([c for c in got['cases'] if c['result'] == 'fail']), 1)

    def test_a_shorter_path(self):
        name = 'series:mte_fault_perf_test/write.nomte.pages'
        total, nr = self.found[name]
        self.assertEqual(self.verdict(dict(self.found, **{name: (total // 2, nr)}))['verdict'], 'pass')

    def test_a_figure_is_missing(self):
        name = 'series:mte_fault_perf_test/write.nomte.pages'
        got = self.verdict({n: v for n, v in self.found.items() if n != name})
        self.assertEqual(got['verdict'], 'untrusted')
        self.assertIn(name, got['reason'])

    def test_figures_of_a_test_that_failed_do_not_count(self):
        run = self.run_with()
        run.jobs[1].results['notag_perf_test']['verdict'] = 'fail'
        figures.hold(run)
        self.assertEqual(run.jobs[1].results['ratios']['verdict'], 'untrusted')

    def test_not_without_the_machine(self):
        run = types.SimpleNamespace(jobs=[], tests=self.tests)
        figures.hold(run)


class Bench(WithJobs):
    @unittest.skipUnless(shutil.which('gnuplot'), 'no gnuplot: make packages')
    def test_results(self):
        run = self.run_with(again=True)
        found, percent = bench.results(run, figures.ratios(self.tests))
        self.assertEqual((found, percent), (self.found, 0.0))
        with open(os.path.join(self.dir, 'bench.json'), encoding='utf-8') as f:
            told = json.load(f)
        self.assertEqual(len(told['figures']), len(found))
        self.assertEqual(len(told['ratios']), len(figures.ratios(self.tests)))
        with open(os.path.join(self.dir, 'summary.md'), encoding='utf-8') as f:
            self.assertIn('## Lock', f.read())
        for name in (*bench.CURVES, *bench.BARS):
            with open(os.path.join(self.dir, f'{name}.svg'), encoding='utf-8') as f:
                self.assertIn('</svg>', f.read())
        self.assertFalse([n for n in os.listdir(self.dir) if n.endswith('.new')])

    @unittest.skipUnless(shutil.which('gnuplot'), 'no gnuplot: make packages')
    def test_gnuplot_fails(self):
        with self.assertRaisesRegex(judge.DataError, 'gnuplot: bad.svg'):
            bench.plot(self.dir, 'bad', ['plot nothing'])
        self.assertEqual(os.listdir(self.dir), [])

    def test_no_plot_without_figures(self):
        for name, curve in bench.CURVES.items():
            with self.subTest(name), self.assertRaisesRegex(judge.DataError, 'no figure'):
                bench.curves({}, *curve)
        for name, bar in bench.BARS.items():
            with self.subTest(name), self.assertRaisesRegex(judge.DataError, 'no figure'):
                bench.bars({}, *bar)

    def test_points_are_in_order(self):
        found = {'series:t-2g/w.pages.64M': (64, 1), 'series:t-2g/w.pages.512M': (512, 2),
                 'series:t-2g/w.blocks.64M': (1, 1), 'base:t-2g/w.pages.64M': (9, 1)}
        self.assertEqual(bench.points(found, r'series:t-2g/w\.pages\.(\d+)M'), [(64, 64.0), (512, 256.0)])

    def test_keep(self):
        for value, status in (('2', 2), ('yes', 2), ('1', 0), ('', 0)):
            with self.subTest(value):
                env = dict(os.environ, KEEP=value, BOOTS='')
                done = subprocess.run([sys.executable, os.path.join(common.HARNESS, 'bench.py'), 'names'], env=env,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), bool(status), done.stderr)
                if status:
                    self.assertIn(f'KEEP={value}', done.stderr)


if __name__ == '__main__':
    unittest.main()
