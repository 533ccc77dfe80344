# SPDX-License-Identifier: GPL-2.0-only
"""Mainline's own tests on the base and on the series, side by side: nothing may be worse.

A result is worse where a test, or a case of one, passed on the base and does not on the
series, or skipped there and fails here. What tests.ini expects of a test is also held against
it on both, as in every run (judge.py).
"""

# From good to bad; the last stands for what was not run.
RANK = ('pass', 'skip', 'fail', 'untrusted', 'not run')

# How many of the cases that differ are named for each test.
NAMED = 3


def worse(base, series):
    return RANK.index(series) > RANK.index(base)


def cases(result):
    """(name, how often it was there before) -> pass, fail, skip or untrusted."""
    found, seen = {}, {}
    for case in result['cases'] if result else []:
        number = seen[case['name']] = seen.get(case['name'], 0) + 1
        found[case['name'], number] = case['result']
    return found


def counts(result):
    """Of cases: passed/failed/skipped."""
    results = [case['result'] for case in result['cases']]
    return '/'.join(str(results.count(r)) for r in ('pass', 'fail', 'skip'))


def said(result):
    """What a test did, with ! where tests.ini expects something else."""
    if not result:
        return 'not run'
    words = [result['result']]
    if result['cases']:
        words.append(counts(result))
    if result['verdict'] not in ('pass', 'skip'):
        words.append('!')
    return ' '.join(words)


class Comparison:
    """One test on one machine, on the base and on the series (None: it was not run)."""

    def __init__(self, machine, variant, test, base, series):
        self.machine = machine
        self.variant = variant
        self.test = test
        self.base = base
        self.series = series
        self.changes = []       # (what, on the base, on the series)
        self._compare()

    def _compare(self):
        before = self.base['result'] if self.base else 'not run'
        after = self.series['result'] if self.series else 'not run'
        if before != after:
            self.changes.append(('', before, after))
        # Without a test there are no cases to compare.
        if not self.base or not self.series:
            return
        old, new = cases(self.base), cases(self.series)
        for key in [*old, *(k for k in new if k not in old)]:
            change = (key[0], old.get(key, 'not run'), new.get(key, 'not run'))
            if change[1] != change[2]:
                self.changes.append(change)

    def worse(self):
        return any(worse(before, after) for _, before, after in self.changes)

    def cell(self):
        if not self.changes:
            return said(self.base)
        return f'{"**worse**: " if self.worse() else ""}{said(self.base)} -> {said(self.series)}'

    def line(self):
        """For the terminal."""
        # What is worse first, then as they came.
        named = sorted((c for c in self.changes if c[0]), key=lambda c: not worse(c[1], c[2]))
        text = ''.join(f'; {name}: {before} -> {after}' for name, before, after in named[:NAMED])
        if len(named) > NAMED:
            text += f'; and {len(named) - NAMED} cases more'
        why = self.series['reason'] if self.series and self.series['verdict'] not in ('pass', 'skip') else ''
        return (f'  {"worse" if self.worse() else "differs":10} {self.machine} {self.variant}: {self.test}: '
                f'{said(self.base)} -> {said(self.series)}{text}' + (f': {why}' if why else ''))

    def document(self):
        return {'machine': self.machine, 'kernel': self.variant, 'test': self.test, 'base': said(self.base),
                'series': said(self.series), 'worse': self.worse(),
                'changes': [{'case': c, 'base': b, 'series': s} for c, b, s in self.changes]}


def of_jobs(jobs, known, counterparts):
    """The Comparisons of a run: what is mainline's and was to run on both, machine by machine."""
    planned = {}
    for job in jobs:
        mine = planned.setdefault((job.machine_name, job.variant), {})
        mine.update({name: job.results.get(name) for name in job.tests if known[name].set != 'series'})
    return [Comparison(machine, variant, name, planned[machine, base][name], mine[name])
            for (machine, variant), mine in planned.items()
            for base in [counterparts.get(variant)] if (machine, base) in planned
            for name in known if name in mine and name in planned[machine, base]]


def table(comparisons):
    """Markdown: a line per test, a column per machine and kernel."""
    columns = list(dict.fromkeys((c.machine, c.variant) for c in comparisons))
    cells = {(c.test, c.machine, c.variant): c.cell() for c in comparisons}
    lines = ['', '## Base and series', '',
             'What a test of mainline did, and its cases as passed/failed/skipped: once where base and',
             'series are the same in each case, else on the base -> on the series. tests.ini says why a',
             'test fails or skips somewhere; where it says something else there is a !.', '',
             '| test | ' + ' | '.join(f'{machine} {variant}' for machine, variant in columns) + ' |',
             '|---|' + '---|' * len(columns)]
    for test in dict.fromkeys(c.test for c in comparisons):
        lines.append(f'| {test} | ' + ' | '.join(cells.get((test, *column), '') for column in columns) + ' |')
    return lines


def closing(comparisons):
    """For the terminal: what differs, and how much that is."""
    different = [c for c in comparisons if c.changes]
    worse_ones = sum(c.worse() for c in different)
    return [c.line() for c in different] + [
        f'base and series: {len(comparisons)} results compared, {len(comparisons) - len(different)} are the same, '
        f'{len(different) - worse_ones} differ, {worse_ones} are worse']
