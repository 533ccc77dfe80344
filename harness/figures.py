# SPDX-License-Identifier: GPL-2.0-only
"""Figures of benchmarks, the ratios made of them, and what is committed of both.

A benchmark prints lines "# figure NAME TOTAL NR": TOTAL instructions for NR pages, blocks
or faults. Which kernel (base or series) and which test it is from make its full name:
series:TEST/NAME.

ratios.ini says which of them are compared with which. The last figures are committed in
harness/benchmarks; Documentation/benchmarks.md is made of both (make bench KEEP=1).
"""

import os
import re

import data
import judge

COMMITTED = os.path.join(data.HERE, 'benchmarks')
DOCUMENT = os.path.join(os.path.dirname(data.HERE), 'Documentation', 'benchmarks.md')
RATIO_KEYS = {'cost', 'of', 'tolerance', 'most'}
MACHINE = 'max-icount'

_FIGURE = re.compile(r'^# figure (\S+) (\d+) (\d+)$', re.M)
_TERM = re.compile(r'(base|series):([\w-]+)/([\w.-]+)')
# What two boots of the same kernel differ by, in percent, is among the figures.
_SPREAD = re.compile(r'spread (\d+\.\d+)')

HEAD = '''# Benchmarks

What `make bench KEEP=1` has counted last; the figures behind it are in `harness/benchmarks`.
Change neither by hand.

Instructions, and nothing else: the machine is emulated with a clock that counts them
(`max-icount` in `harness/machines.ini`), those of the guest, of KVM and of the VMM. No
time can be derived from them: caches, TLBs and the cost of an exception do not count. That
makes them good for one thing, to see whether a path has become longer: two boots of the
same kernel differed by {spread} % at most.

A ratio is the first column of instructions by the second, so that less is better. `make
check` counts again what fits into a minute (marked *), and fails where a ratio is worse
than here by more than its tolerance. Which figures they are is in `harness/ratios.ini`.
'''


def parse(output):
    """name -> (total, nr) of what a benchmark has printed."""
    found = {}
    for name, total, nr in _FIGURE.findall(output):
        if name in found or not int(nr):
            raise judge.DataError(f'figure {name}: twice, or of nothing')
        found[name] = (int(total), int(nr))
    return found


class Ratio:
    def __init__(self, name, row, tests):
        self.name = name
        self.group, _, self.what = name.partition(': ')
        where = f'ratios.ini: [{name}]'
        if not self.what:
            raise judge.DataError(f'{where}: wanted is a name "GROUP: WHAT"')
        unknown = set(row) - RATIO_KEYS
        if unknown:
            raise judge.DataError(f'{where}: unknown key {min(unknown)}')
        self.cost = self._terms(where, 'cost', row.get('cost', ''))
        self.of = self._terms(where, 'of', row.get('of', ''))
        self.tolerance = self._number(where, 'tolerance', row.get('tolerance', ''))
        self.most = self._number(where, 'most', row['most']) if 'most' in row else None
        named = {test for _, _, test, _ in self.cost + self.of}
        for test in sorted(named):
            if test not in tests or not tests[test].bench:
                raise judge.DataError(f'{where}: {test}: no test of tests.ini with bench =')
        self.checked = all(tests[test].bench == 'check' for test in named)

    @staticmethod
    def _number(where, key, text):
        try:
            value = float(text)
        except ValueError:
            value = 0
        if not 0 < value < float('inf'):
            raise judge.DataError(f'{where}: {key} = {text}: wanted is a number above 0')
        return value

    @staticmethod
    def _terms(where, key, text):
        """[(sign, kernel, test, name)] of "A + B - C"."""
        terms, sign = [], 1
        for i, word in enumerate(text.split()):
            if i % 2:
                if word not in '+-':
                    raise judge.DataError(f'{where}: {key}: wanted is + or -, not {word}')
                sign = 1 if word == '+' else -1
                continue
            match = _TERM.fullmatch(word)
            if not match:
                raise judge.DataError(f'{where}: {key}: wanted is base: or series:TEST/FIGURE, not {word}')
            terms.append((sign, *match.groups()))
        if not terms or len(text.split()) % 2 == 0:
            raise judge.DataError(f'{where}: {key}: wanted are figures with + or - between them')
        return terms

    def value(self, figures):
        """(cost, of, ratio); an error if a figure is missing."""
        cost, of = (sum(self._per(figures, *term) for term in terms) for terms in (self.cost, self.of))
        if of <= 0:
            raise judge.DataError(f'{self.name}: nothing to divide by')
        return cost, of, cost / of

    @staticmethod
    def _per(figures, sign, kernel, test, name):
        full = f'{kernel}:{test}/{name}'
        if full not in figures:
            raise judge.DataError(f'there is no figure {full}')
        total, nr = figures[full]
        return sign * total / nr

    def verdict(self, now, before):
        """Why the ratio is worse than before; '' if it isn't."""
        if self.most is not None and now > self.most:
            return f'{self.name}: {now:.4f}, may be {self.most:g}'
        if now > before + abs(before) * self.tolerance / 100:
            return f'{self.name}: {now:.4f}, was {before:.4f}, tolerance {self.tolerance:g} %'
        return ''


def ratios(tests):
    ini = data.read_ini('ratios.ini')
    found = [Ratio(name, dict(ini[name]), tests) for name in ini.sections()]
    if not found:
        raise judge.DataError('ratios.ini: no ratios')
    return found


def of_job(job):
    """Full name -> (total, nr) of all benchmarks that a job has run."""
    found = {}
    for name, result in job.results.items():
        if not job.tests[name].bench or result['verdict'] != 'pass':
            continue
        with open(job.path(f'output/{name}.log'), encoding='utf-8', errors='replace') as f:
            for figure, value in parse(f.read()).items():
                found[f'{job.source}:{name}/{figure}'] = value
    return found


def spread(one, other):
    """What the figures that both have differ by at most, in percent, and which it is."""
    worst, name = 0.0, ''
    for full in one.keys() & other.keys():
        a, b = one[full][0], other[full][0]
        percent = 100 * abs(a - b) / max(min(a, b), 1)
        if percent > worst:
            worst, name = percent, full
    return worst, name


def as_text(figures, percent):
    lines = ['# SPDX-License-Identifier: GPL-2.0-only',
             '# Written by make bench KEEP=1: figure, instructions, of how many.',
             f'spread {percent:.2f}']
    return '\n'.join(lines + [f'{name} {total} {nr}' for name, (total, nr) in sorted(figures.items())]) + '\n'


def from_text(text):
    """(figures, spread) of harness/benchmarks."""
    found, percent = {}, None
    for number, line in enumerate(text.split('\n'), 1):
        line = line.partition('#')[0].strip()
        if not line:
            continue
        match = _SPREAD.fullmatch(line)
        if match:
            percent = float(match[1])
            continue
        words = line.split()
        if len(words) != 3 or not _TERM.fullmatch(words[0]) or not words[1].isdigit() \
                or not words[2].isdigit() or not int(words[2]):
            raise judge.DataError(f'benchmarks:{number}: wanted is FIGURE TOTAL NR')
        found[words[0]] = (int(words[1]), int(words[2]))
    if not found or percent is None:
        raise judge.DataError('benchmarks: no figures: make bench KEEP=1')
    return found, percent


def committed():
    try:
        with open(COMMITTED, encoding='utf-8') as f:
            return from_text(f.read())
    except FileNotFoundError as error:
        raise judge.DataError('harness/benchmarks is missing: make bench KEEP=1') from error


def table(wanted, figures):
    """The ratios as Markdown, a table a group."""
    lines, group = [], ''
    for ratio in wanted:
        if ratio.group != group:
            group = ratio.group
            lines += ['', f'## {group[0].upper()}{group[1:]}', '',
                      '| | instructions | by | ratio | tolerance |', '|---|---:|---:|---:|---:|']
        cost, of, value = ratio.value(figures)
        most = f', may be {ratio.most:g}' if ratio.most is not None else ''
        digits = 4 if value >= 0.01 else 6
        lines.append(f'| {ratio.what}{" *" if ratio.checked else ""} | {cost:.1f} | {of:.1f} | '
                     f'{value:.{digits}f}{most} | {ratio.tolerance:g} % |')
    return '\n'.join(lines) + '\n'


def document(wanted, figures, percent):
    return HEAD.format(spread=f'{percent:.2f}') + table(wanted, figures)


def compare(wanted, figures, before):
    """[(ratio, now, was, why it is worse or '')]; an error if a figure is missing."""
    found = []
    for ratio in wanted:
        now, was = ratio.value(figures)[2], ratio.value(before)[2]
        found.append((ratio, now, was, ratio.verdict(now, was)))
    return found


def hold(run):
    """For make check: the ratios of what has run are those that are committed.

    One more result of the job with the series, a case a ratio.
    """
    jobs = [job for job in run.jobs if job.machine_name == MACHINE]
    job = next((job for job in jobs if job.source == 'series'), None)
    if not job:
        return
    figures = {}
    for one in jobs:
        figures.update(of_job(one))
    verdict, cases, lines = 'pass', [], []
    try:
        rows = compare([r for r in ratios(run.tests) if r.checked], figures, committed()[0])
        worse = [why for *_, why in rows if why]
        cases = [{'name': r.name, 'result': 'fail' if why else 'pass', 'reason': why} for r, _, _, why in rows]
        lines = [f'{r.name}: {now:.4f}, committed {was:.4f}' for r, now, was, _ in rows] + worse
        reason = f'{len(rows)} ratios'
        if worse:
            verdict = 'fail'
            reason = worse[0] + (f' (and {len(worse) - 1} more)' if worse[1:] else '')
    except judge.DataError as error:
        verdict, reason = 'untrusted', str(error)
        lines = [reason]
    with open(job.path('output/ratios.log'), 'w', encoding='utf-8') as f:
        f.write('\n'.join(lines) + '\n')
    job.add('ratios', verdict, reason, cases)
