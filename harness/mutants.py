#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Break the series on purpose, a mutant at a time, and see its test fail.

A mutant is a file harness/mutants/NAME.patch: a diff against the top of the series
that git apply takes without fuzz, below lines

  # why: what it breaks
  # kills: TEST: CASES   the test (of tests.ini) that has to fail, and a glob of
                         cases, one of which has to be among those that do
  # on: MACHINE          where, max if not said

There can be several kills: each of them has to hold. The kernel is built in
build/mutant; the tests are those of the series, so a mutant breaks the kernel only.

First a control: the same tests on the series as it is, where all have to pass.

Environment: MUTANTS, names or globs; "mutants.py names" checks nothing but that. Exit status: 0 all were killed; 1 one survived;
2 the run cannot be trusted.
"""

import fnmatch
import glob
import os
import re
import subprocess
import sys
import time

import data
import judge
import run
import worktree

MUTANTS = os.path.join(data.HERE, 'mutants')
TREE = os.path.join(run.BUILD, 'mutant', 'tree')


class Mutant:
    def __init__(self, path, tests, machines):
        self.path = path
        self.name = os.path.basename(path)[:-len('.patch')]
        where = f'mutants/{self.name}.patch'
        self.why = ''
        self.machine = 'max'
        self.kills = []
        with open(path, encoding='utf-8') as f:
            head, _, diff = f.read().partition('diff --git ')
        for line in head.split('\n'):
            match = re.match(r'# (why|kills|on): (.*\S)', line)
            if not match:
                if line.strip():
                    raise judge.DataError(f'{where}: wanted are "# why:", "# kills:", "# on:", not {line}')
            elif match[1] == 'kills':
                test, _, cases = match[2].partition(':')
                if test not in tests:
                    raise judge.DataError(f'{where}: test {test}: there is none in tests.ini')
                self.kills.append((test, cases.strip() or '*'))
            elif match[1] == 'on':
                self.machine = match[2]
            else:
                self.why = match[2]
        if self.machine not in machines:
            raise judge.DataError(f'{where}: machine {self.machine}: there are: {" ".join(machines)}')
        if not self.kills or not self.why or not diff:
            raise judge.DataError(f'{where}: wanted are "# why:", "# kills:" and a diff')
        touched = re.findall(r'^diff --git a/(\S+)', 'diff --git ' + diff, re.M)
        if any(t.startswith(('tools/', 'Documentation/')) for t in touched):
            raise judge.DataError(f'{where}: a mutant changes the kernel, not {touched[0]}')

    def tests(self):
        return {test for test, _ in self.kills}


def load(tests, machines):
    found = {}
    for path in sorted(glob.glob(os.path.join(MUTANTS, '*.patch'))):
        mutant = Mutant(path, tests, machines)
        found[mutant.name] = mutant
    if not found:
        raise judge.DataError(f'{MUTANTS}: no mutants')
    return found


def pristine():
    """The composed series in a work tree of its own; only what differs is touched."""
    worktree.at(TREE, worktree.composed())


def boot(the_run, machine, variant, names, label):
    tests = [t for t in the_run.tests.values() if t.name in names]
    memory = max((t.memory_on(the_run.machines[machine]) for t in tests), key=data.memory_bytes)
    return the_run.job(machine, variant, memory, tests, label)


def survived(mutant, job):
    """Why it was not killed; '' if it was."""
    for test, cases in mutant.kills:
        got = job.results.get(test)
        if not got:
            return f'{test} was not run'
        if got['result'] != 'fail':
            return f'{test}: {got["result"]} {got["reason"]}'.rstrip()
        failed = [c['name'] for c in got['cases'] if c['result'] == 'fail']
        if cases != '*' and not any(fnmatch.fnmatchcase(name, cases) for name in failed):
            return f'{test}: not "{cases}" fails, but: {"; ".join(failed) or got["reason"]}'
    return ''


def main():
    machines, _, tests = data.check()
    mutants = load(tests, machines)
    chosen = data.select((os.environ.get('MUTANTS') or 'all').split(), mutants, 'mutant')
    if sys.argv[1:] == ['names']:
        return judge.EXIT_GOOD
    the_run = run.Run('mutants')
    the_run.dir = the_run.directory('mutants')
    killed, alive, doubtful = [], [], []
    try:
        for machine in sorted({mutants[n].machine for n in chosen}):
            names = set().union(*(mutants[n].tests() for n in chosen if mutants[n].machine == machine))
            job = boot(the_run, machine, 'default', names, f'control-{machine}')
            wrong = [r['name'] for r in job.results.values() if r['verdict'] != 'pass']
            if wrong or job.complaints or job.splats:
                raise judge.DataError(f'control: {" ".join(wrong) or "the boot"} is not well without any mutant')
        for name in chosen:
            mutant = mutants[name]
            start = time.monotonic()
            pristine()
            worktree.git('-C', TREE, 'apply', '--whitespace=nowarn', mutant.path)
            if subprocess.call([os.path.join(data.HERE, 'kernel.sh'), 'mutant'], cwd=run.TOP):
                raise judge.DataError(f'mutant {name} does not build')
            # Modules are built for each kernel, and are in the image.
            if subprocess.call([os.path.join(data.HERE, 'image.sh')], cwd=run.TOP):
                raise judge.DataError(f'mutant {name}: no image with its modules')
            job = boot(the_run, mutant.machine, 'mutant', mutant.tests(), name)
            why = survived(mutant, job)
            if not job.results:
                verdict, where = 'doubtful', doubtful
            else:
                verdict, where = ('survived', alive) if why else ('killed', killed)
            where.append(name)
            the_run.say(f'  {verdict:10} {name:32} {time.monotonic() - start:6.1f} s  {why or mutant.why}')
    except KeyboardInterrupt:
        return 130
    finally:
        if os.path.isdir(TREE):
            pristine()
    for name in alive + doubtful:
        the_run.say(f'mutant {name}: {"survived" if name in alive else "no test ran"}: {mutants[name].why}')
    the_run.say(f'{len(killed)} killed, {len(alive)} survived, {len(doubtful)} without evidence: '
                f'{os.path.relpath(the_run.dir, run.TOP)}')
    if doubtful:
        return judge.EXIT_UNTRUSTED
    return judge.EXIT_FAIL if alive else judge.EXIT_GOOD


if __name__ == '__main__':
    run.guarded(main)
