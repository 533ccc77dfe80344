# SPDX-License-Identifier: GPL-2.0-only
"""mutants.py: what a mutant's file has to say, and when one counts as killed.

Holds: a slip in the file is found before anything is built; a test that fails in
a case other than the one that is named does not count, nor does one that skips, was not
run, or that the guest took with it. The mutants of the repository are read as well.
"""

import os
import subprocess
import tempfile
import types
import unittest

import data
import judge
import mutants
import worktree

GOOD = '''# why: nothing is cleared
# kills: one: write *
diff --git a/arch/arm64/kernel/mte.c b/arch/arm64/kernel/mte.c
'''


def read(text):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'some-name.patch')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        return mutants.Mutant(path, {'one': None, 'two': None}, {'max': None, 'max-nvhe': None})


class File(unittest.TestCase):
    def test_good(self):
        mutant = read(GOOD)
        self.assertEqual((mutant.name, mutant.why, mutant.machine, mutant.kills),
                         ('some-name', 'nothing is cleared', 'max', [('one', 'write *')]))
        mutant = read('# on: max-nvhe\n# kills: two\n' + GOOD)
        self.assertEqual((mutant.machine, mutant.kills), ('max-nvhe', [('two', '*'), ('one', 'write *')]))

    def test_slips(self):
        for old, new, word in (('# why: nothing is cleared\n', '', 'why'), ('# kills: one: write *\n', '', 'kills'),
                               ('kills: one', 'kills: three', 'three'), ('# why', 'why', 'why: nothing'),
                               ('# why', '# on: mx\n# why', 'max-nvhe'), ('diff --git', 'dif', 'wanted'),
                               ('a/arch/arm64/kernel/mte.c ', 'a/tools/testing/x.c ', 'tools/testing/x.c')):
            with self.subTest(new or old), self.assertRaisesRegex(judge.DataError, word):
                read(GOOD.replace(old, new))

    def test_those_of_the_repository(self):
        machines, _, tests = data.check()
        for mutant in mutants.load(tests, machines).values():
            self.assertTrue(mutant.kills, mutant.name)


    @unittest.skipUnless(os.path.isdir(worktree.GIT_DIR), 'no series: make tree')
    def test_those_of_the_repository_apply(self):
        machines, _, tests = data.check()
        with tempfile.TemporaryDirectory() as directory:
            env = dict(os.environ, GIT_DIR=worktree.GIT_DIR, GIT_INDEX_FILE=os.path.join(directory, 'index'))
            subprocess.run(['git', 'read-tree', 'refs/series/composed'], env=env, check=True)
            for mutant in mutants.load(tests, machines).values():
                with self.subTest(mutant.name):
                    done = subprocess.run(['git', 'apply', '--cached', '--check', mutant.path], env=env,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
                    self.assertEqual(done.returncode, 0, done.stdout)


class Killed(unittest.TestCase):
    def why(self, result, cases=(), kills='# kills: one: write *'):
        job = types.SimpleNamespace(results={})
        if result:
            job.results['one'] = {'result': result, 'reason': 'as it is',
                                  'cases': [{'name': n, 'result': r} for n, r in cases]}
        return mutants.survived(read(GOOD.replace('# kills: one: write *', kills)), job)

    def test_the_case_that_is_named(self):
        self.assertEqual(self.why('fail', [('write 4K', 'fail'), ('read 4K', 'pass')]), '')
        self.assertIn('not "write *" fails, but: read 4K', self.why('fail', [('write 4K', 'pass'), ('read 4K', 'fail')]))
        self.assertIn('as it is', self.why('fail'))

    def test_any_failure(self):
        self.assertEqual(self.why('fail', kills='# kills: one'), '')

    def test_no_failure(self):
        for result in ('pass', 'skip', 'untrusted'):
            self.assertIn(result, self.why(result, [('write 4K', 'pass')]))
        self.assertIn('was not run', self.why(''))

    def test_every_kill_has_to_hold(self):
        self.assertIn('"read *"', self.why('fail', [('write 4K', 'fail')],
                                           '# kills: one: write *\n# kills: one: read *'))


if __name__ == '__main__':
    unittest.main()
