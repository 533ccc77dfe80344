#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Run the benchmarks on the machine that counts instructions, base and series.

  bench.py names    check KEEP and the data files
  bench.py          run; KEEP=1 makes what was counted the committed figures

The tests of tests.ini with bench = run on the series, those of make check on the base, too,
and on the series once more, to see what two boots differ by. In the result directory: bench.json
(figures and ratios), the tables in summary.md, plots (*.svg).

Exit status: 0 good; 1 a test failed, or a ratio is worse than the committed one by more
than its tolerance; 2 the run cannot be trusted; 130 when interrupted.
"""

import json
import os
import re
import subprocess
import sys

import data
import figures
import judge
import run

AGAIN = 'again'

# Lines by size of memory, and by number of memslots: name, and the figures of a point.
_SIZES = 'series:{}-2g/{}\\.(\\d+)M'
_SLOTS = 'series:{}/{}\\.(\\d+)'
FAULT, LOCK = 'mte_fault_perf_test', 'memslot_lock_perf_test'
CURVES = {
    'size': ('instructions per 4K, by size of the memory', 'MB', [
        ('first write, with MTE', _SIZES.format(FAULT, 'write-first\\.pages')),
        ('get tags', _SIZES.format(FAULT, 'get-tags\\.pages')),
        ('set tags', _SIZES.format(FAULT, 'set-tags\\.pages')),
        ('copy data', _SIZES.format(FAULT, 'copy-data\\.pages')),
        ('clear data', _SIZES.format(FAULT, 'clear-data\\.pages')),
        ('mlock()', _SIZES.format(LOCK, 'mlock\\.pages\\.populated')),
        ('lock', _SIZES.format(LOCK, 'lock\\.pages\\.populated')),
        ('unlock', _SIZES.format(LOCK, 'unlock\\.pages\\.populated')),
        ('lock, THP', _SIZES.format(LOCK, 'lock\\.THP\\.populated')),
    ]),
    'memslots': ('instructions per 4K, by number of other memslots', 'other memslots', [
        ('write, with MTE', _SLOTS.format(FAULT, 'write-slots\\.pages')),
        ('lock', _SLOTS.format(LOCK, 'lock-slots\\.pages')),
    ]),
}

# Bars side by side: title, whether the axis is logarithmic, what the bars are, and
# (label, figure of each bar).
_FAULTS = [(what, vm, kind) for kind in ('pages', 'blocks') for vm in ('nomte', 'mte')
           for what in ('read', 'write', 'protected')]
_LOCKS = ('pages', 'shmem', 'THP', 'hugetlb-2M')
BARS = {
    'faults': ('instructions per fault: read, write, write to what is protected', False, ('base', 'series'), [
        (f'{what}, {vm}, {kind}', [f'{kernel}:{FAULT}/{what}.{vm}.{kind}' for kernel in ('base', 'series')])
        for what, vm, kind in _FAULTS]),
    'locks': ('instructions per 4K of populated memory', True, ('fault', 'mlock()', 'lock', 'unlock'), [
        (kind, [f'series:{LOCK}/{what}.{kind}.populated.16M' for what in ('write', 'mlock', 'lock', 'unlock')])
        for kind in _LOCKS]),
}


def points(found, pattern):
    """[(x, per unit)] of the figures whose name has the pattern, by its group."""
    matches = [(re.fullmatch(pattern, name), value) for name, value in found.items()]
    return sorted((int(m[1]), total / nr) for m, (total, nr) in matches if m)


def curves(found, title, unit, lines):
    script, plots = [], []
    for i, (name, pattern) in enumerate(lines):
        got = points(found, pattern)
        if not got:
            raise judge.DataError(f'plot: no figure is {pattern}')
        script += [f'$d{i} << EOD', *(f'{x} {y:.3f}' for x, y in got), 'EOD']
        plots.append(f'$d{i} with linespoints title "{name}"')
    xs = sorted({x for _, pattern in lines for x, _ in points(found, pattern)})
    return script + [
        f'set title "{title}"', f'set xlabel "{unit}"', 'set key outside right',
        # Zero has no logarithm.
        'set logscale y', 'set logscale x 2' if 0 not in xs else 'set xrange [-8:*]',
        f'set xtics ({", ".join(str(x) for x in xs)})', 'set yrange [*:*]', 'set grid',
        'plot ' + ', '.join(plots)]


def bars(found, title, logarithmic, names, rows):
    script = ['$d << EOD']
    for label, wanted in rows:
        values = []
        for name in wanted:
            if name not in found:
                raise judge.DataError(f'plot: there is no figure {name}')
            values.append(f'{found[name][0] / found[name][1]:.3f}')
        script.append(f'"{label}" {" ".join(values)}')
    return script + [
        'EOD', f'set title "{title}"', 'set style data histograms', 'set style fill solid 0.7 border -1',
        'set boxwidth 0.9', 'set xtics rotate by -35', 'set grid ytics',
        'set logscale y; set yrange [0.1:*]' if logarithmic else 'set yrange [0:*]',
        'set key outside right',
        'plot ' + ', '.join(f'$d using {i + 2}:xtic(1) title "{name}"' for i, name in enumerate(names))]


def plot(directory, name, script):
    """One SVG, by gnuplot."""
    path = os.path.join(directory, f'{name}.svg')
    text = '\n'.join(['set terminal svg size 960,540 noenhanced background "white"',
                      f'set output "{path}.new"', *script, 'unset output']) + '\n'
    done = subprocess.run(['gnuplot'], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, text=True)
    if done.returncode:
        if os.path.exists(f'{path}.new'):
            os.unlink(f'{path}.new')
        raise judge.DataError(f'gnuplot: {name}.svg: {(done.stdout.strip() or "failed").splitlines()[-1]}')
    os.replace(f'{path}.new', path)


def plots(directory, found):
    for name, curve in CURVES.items():
        plot(directory, name, curves(found, *curve))
    for name, bar in BARS.items():
        plot(directory, name, bars(found, *bar))


def write(path, text):
    with open(f'{path}.new', 'w', encoding='utf-8') as f:
        f.write(text)
    os.replace(f'{path}.new', path)


def plans(the_run):
    tests = [t for t in the_run.tests.values() if t.bench]
    quick = [t for t in tests if t.bench == 'check']
    return [('base', figures.MACHINE, quick), ('default', figures.MACHINE, tests),
            ('default', figures.MACHINE, quick, AGAIN)]


def results(the_run, wanted):
    """Write what there is to read, and return (figures, spread)."""
    found, again = {}, {}
    for job in the_run.jobs:
        (again if AGAIN in job.name else found).update(figures.of_job(job))
    percent, where = figures.spread(found, again)
    rows = [(r, *r.value(found)) for r in wanted]
    write(os.path.join(the_run.dir, 'bench.json'), json.dumps({
        'machine': figures.MACHINE, 'spread': {'percent': percent, 'figure': where},
        'figures': {name: {'total': t, 'nr': n} for name, (t, n) in sorted(found.items())},
        'ratios': [{'name': r.name, 'cost': cost, 'of': of, 'ratio': ratio, 'tolerance': r.tolerance}
                   for r, cost, of, ratio in rows]}, indent=1) + '\n')
    with open(os.path.join(the_run.dir, 'summary.md'), 'a', encoding='utf-8') as f:
        f.write(figures.table(wanted, found))
        f.write(f'\nTwo boots of the series differed by {percent:.2f} % at most ({where}).\n\n')
        f.writelines(f'![{name}]({name}.svg)\n' for name in (*CURVES, *BARS))
    plots(the_run.dir, found)
    return found, percent


def keep():
    given = os.environ.get('KEEP') or ''
    if given not in ('', '1'):
        raise judge.DataError(f'KEEP={given}: wanted is 1, to make what is counted the committed figures')
    return bool(given)


def told(the_run, wanted, before):
    """Say how the ratios compare with those before, or make them the committed ones."""
    found, percent = results(the_run, wanted)
    if before is None:
        write(figures.COMMITTED, figures.as_text(found, percent))
        write(figures.DOCUMENT, figures.document(wanted, found, percent))
        the_run.say(f'{len(wanted)} ratios: {os.path.relpath(figures.DOCUMENT, run.TOP)}')
        return judge.EXIT_GOOD
    worse = [why for *_, why in figures.compare(wanted, found, before) if why]
    for why in worse:
        the_run.say(f'worse: {why}')
    the_run.say(f'{len(wanted)} ratios, {len(worse)} worse than committed, two boots differ by {percent:.2f} %: '
                f'{os.path.relpath(the_run.dir, run.TOP)}/summary.md')
    return judge.EXIT_FAIL if worse else judge.EXIT_GOOD


def main():
    keeps = keep()
    wanted = figures.ratios(data.check()[2])
    # Found now, not after ten minutes.
    before = None if keeps else figures.committed()[0]
    if before:
        figures.compare(wanted, before, before)
    run.boots()
    if sys.argv[1:] == ['names']:
        return judge.EXIT_GOOD
    if sys.argv[1:]:
        raise judge.DataError('usage: bench.py [names]')
    the_run = run.Run('bench')
    status = the_run.execute(plans(the_run))[0]
    if status:
        return status
    try:
        return told(the_run, wanted, before)
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    run.guarded(main)
