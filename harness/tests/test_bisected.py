# SPDX-License-Identifier: GPL-2.0-only
"""bisected.py: the record of make bisect, and what make check says of it.

Holds: a record that can't be read is never taken for one that has all; a patch that lacks a
column fails make check with what proves it; what is of no patch any more goes, a column
that is asked for stays. With keys of real commits: test_perpatch.py.
"""

import os
import tempfile
import types
import unittest
from unittest import mock

import bisected
import judge

SUBJECTS = ('KVM: One', 'KVM: Two', 'KVM: Three')


def patches():
    return [types.SimpleNamespace(number=n, topic='1-fixes', in_topic=n, name=f'1-fixes/{n:04}', subject=subject)
            for n, subject in enumerate(SUBJECTS, 1)]


def keys(*numbers):
    """The second patch has the kernel of the first, and all the same tests."""
    return [{c: f'{n if c == "style" else max(n - 1, 1):020x}' for c in bisected.RECORDED}
            for n in numbers or (1, 2, 3)]


def proven(columns, *numbers):
    return {(c, k[c]) for k in keys(*numbers) for c in columns.split()}


def renewed(columns, *numbers, record=None):
    return bisected.renewed(record or bisected.Record(), patches(), keys(), proven(columns, *numbers))


class Text(unittest.TestCase):
    def test_there_and_back(self):
        record = renewed('style kernel', 1, 2, 3)
        text = record.text('some compiler')
        self.assertIn('# Written last with some compiler.\n', text)
        again = bisected.parse(text)
        self.assertEqual((again.columns, list(again.lines.items())), (record.columns, list(record.lines.items())))
        self.assertEqual(text.partition('\ncolumns')[2].splitlines(), [
            ' style kernel',
            'style     00000000000000000001 KVM: One', 'kernel    00000000000000000001 KVM: One',
            'style     00000000000000000002 KVM: Two',
            'style     00000000000000000003 KVM: Three', 'kernel    00000000000000000002 KVM: Three'])

    def test_slips(self):
        good = renewed('style', 1, 2, 3).text('x')
        key = f'{1:020x}'
        for old, new, word in (('columns style\n', '', 'no line "columns"'), (good, '', 'no line "columns"'),
                               ('columns style', 'columns stile', 'columns: stile: there are: style kernel'),
                               ('columns style', 'columns style\ncolumns', 'a second line'),
                               (key, key[1:], 'wanted is COLUMN KEY SUBJECT'), (key, key.replace('1', 'x'), 'wanted'),
                               (key + ' KVM: One', key, 'wanted'), ('style     ' + key, 'stile ' + key, 'wanted'),
                               (f'{2:020x}', key, 'is there twice')):
            with self.subTest(new or old), self.assertRaisesRegex(judge.DataError, f'bisected.*{word}'):
                bisected.parse(good.replace(old, new, 1))

    def test_missing(self):
        with mock.patch.object(bisected, 'RECORD', '/nonexistent'), \
                self.assertRaisesRegex(judge.DataError, 'make bisect KEEP=1'):
            bisected.committed()

    def test_that_of_the_repository(self):
        self.assertTrue(bisected.committed().columns)


class Renewed(unittest.TestCase):
    def test_columns(self):
        for columns, numbers, wanted in (('style kernel', (1, 2, 3), ('style', 'kernel')), ('style', (1, 2), ()),
                                         ('kernel', (1, 3), ('kernel',)), ('quick', (1, 2, 3), ('quick',)),
                                         ('quick tests', (1, 2, 3), ('tests',))):
            with self.subTest(columns, numbers=numbers):
                self.assertEqual(renewed(columns, *numbers).columns, wanted)

    def test_a_column_stays(self):
        record = renewed('style kernel', 1, 2, 3)
        del record.lines['style', keys()[0]['style']]
        self.assertEqual(renewed('kernel', 1, record=record).columns, ('style', 'kernel'))

    def test_stale(self):
        record = renewed('style kernel', 1, 2, 3)
        record.lines['kernel', f'{9:020x}'] = 'KVM: Gone'
        again = renewed('sparse', 1, record=record)
        self.assertNotIn('KVM: Gone', again.lines.values())
        self.assertEqual(len(again.lines), len(record.lines))

    def test_a_new_subject(self):
        record = renewed('style', 1)
        record.lines = dict.fromkeys(record.lines, 'KVM: Old name')
        self.assertEqual(list(renewed('kernel', record=record).lines.values())[0], 'KVM: One')

    def test_nothing_is_taken_for_proven(self):
        self.assertEqual(bisected.renewed(bisected.Record(), patches(), keys(), set()).lines, {})
        self.assertEqual(bisected.renewed(bisected.Record(), [], [], set()).columns, ())


class Missing(unittest.TestCase):
    @staticmethod
    def lacks(record):
        return [columns for _, columns in bisected.missing(record, patches(), keys())]

    def test_missing(self):
        record = renewed('style kernel', 1, 2)
        record.columns = ('style', 'kernel')
        self.assertEqual(self.lacks(record), [[], [], ['style', 'kernel']])
        record.columns = ('selftests',)
        self.assertEqual(self.lacks(record), [['selftests']] * 3)

    def test_all_tests_are_some(self):
        record = renewed('tests', 1, 2, 3)
        record.columns = ('quick',)
        self.assertEqual(self.lacks(record), [[]] * 3)
        record = renewed('quick', 1, 2, 3)
        record.columns = ('tests',)
        self.assertEqual(self.lacks(record), [['tests']] * 3)

    def test_command(self):
        for columns, wanted in ((['kernel', 'sparse'], 'ONLY=kernel,sparse KEEP=1'),
                                (['kernel', 'quick'], 'ONLY=kernel,tests QUICK=1 KEEP=1'),
                                (['tests'], 'ONLY=tests KEEP=1')):
            with self.subTest(columns):
                self.assertEqual(bisected.command(patches()[1], columns),
                                 f'make bisect TOPIC=fixes PATCHES=2 {wanted}')


class Hold(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix='harness-test-')
        self.addCleanup(directory.cleanup)
        self.dir = directory.name
        os.mkdir(os.path.join(self.dir, 'output'))

    def job(self, source='series', machine='max', variant='default'):
        job = types.SimpleNamespace(source=source, machine_name=machine, variant=variant, said=[], results={},
                                    path=lambda name: os.path.join(self.dir, name))
        job.say = job.said.append
        job.add = lambda name, verdict, reason, cases: job.results.update({name: (verdict, reason, cases)})
        return job

    def verdict(self, record):
        jobs = [self.job('base'), self.job(machine='other'), self.job(variant='16k'), self.job()]
        made = types.SimpleNamespace(of=lambda patch: keys(patch.number)[0])
        said = {'return_value': record} if record else {'side_effect': judge.DataError('bisected:1: is bad')}
        with mock.patch.object(bisected, 'committed', **said), mock.patch.object(bisected, 'Keys', return_value=made), \
                mock.patch.object(bisected.worktree, 'series', return_value=patches()):
            bisected.hold(types.SimpleNamespace(jobs=jobs))
        self.assertEqual([j.results for j in jobs[:-1]], [{}, {}, {}])
        self.assertTrue(os.path.exists(os.path.join(self.dir, 'output/bisected.log')))
        return (*jobs[-1].results['bisected'], jobs[-1].said)

    def test_all(self):
        verdict, reason, cases, said = self.verdict(renewed('style kernel', 1, 2, 3))
        self.assertEqual((verdict, reason, said), ('pass', '3 patches on record: style kernel', []))
        self.assertEqual([c['result'] for c in cases], ['pass'] * 3)

    def test_some(self):
        record = renewed('style kernel', 1, 3)
        record.columns = ('style', 'kernel')
        verdict, reason, cases, said = self.verdict(record)
        self.assertEqual((verdict, reason), ('fail', '1 of 3 patches not on record, the commands are beside them'))
        self.assertEqual([c['result'] for c in cases], ['pass', 'fail', 'pass'])
        self.assertEqual(said, ['  bisected   2 1-fixes/0002 KVM: Two: style not on record: '
                                'make bisect TOPIC=fixes PATCHES=2 ONLY=style KEEP=1'])

    def test_no_evidence(self):
        for record, word in ((None, 'is bad'), (bisected.Record(), 'no column')):
            with self.subTest(word):
                verdict, reason, cases, _ = self.verdict(record)
                self.assertEqual((verdict, cases), ('untrusted', []))
                self.assertIn(word, reason)

    def test_a_run_without_the_series(self):
        bisected.hold(types.SimpleNamespace(jobs=[self.job('base')]))
        self.assertEqual(os.listdir(os.path.join(self.dir, 'output')), [])


if __name__ == '__main__':
    unittest.main()
