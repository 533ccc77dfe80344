# SPDX-License-Identifier: GPL-2.0-only
"""The data files: machines.ini, variants, matrix and matrix.regression, tests.ini and
checkpatch-allowed.ini, read and checked."""

import configparser
import fnmatch
import os
import re

from judge import DataError
from ledger import FEATURES

HERE = os.path.dirname(os.path.abspath(__file__))

MACHINE_KEYS = {'why', 'machine', 'cpu', 'smp', 'memory', 'devices', 'append', 'slowdown'}
TEST_KEYS = {'why', 'program', 'args', 'base-args', 'set', 'needs', 'base', 'base-shows', 'fails', 'skip-cases',
             'timeout', 'hugepages', 'write', 'swap', 'memory', 'bench', 'not-on', 'run', 'check'}
ALLOWED_KEYS = {'patch', 'match', 'reason'}

# set = of tests.ini
SETS = ('series', 'mainline', 'regression')

# What make check boots, and what make regression does.
MATRIX, REGRESSION = 'matrix', 'matrix.regression'

# Which tests the second column of a matrix takes; others are names or globs of them.
KINDS = {
    'series': lambda test: test.set == 'series',
    'mainline': lambda test: test.set == 'mainline',
    'all': lambda test: test.set in ('series', 'mainline'),
    'every': lambda test: test.check,
    'regression': lambda test: test.set == 'regression',
    'bench': lambda test: test.bench == 'check',
}


def read_ini(name):
    ini = configparser.ConfigParser(interpolation=None)
    path = os.path.join(HERE, name)
    with open(path, encoding='utf-8') as f:
        try:
            ini.read_file(f)
        except configparser.Error as error:
            raise DataError(f'{name}: {error}') from error
    return ini


def _table(name, columns):
    """Rows of a file of blank-separated columns; the last takes the rest."""
    with open(os.path.join(HERE, name), encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            line = line.partition('#')[0].strip()
            if not line:
                continue
            row = line.split(None, columns - 1)
            if len(row) != columns:
                raise DataError(f'{name}:{number}: wanted are {columns} columns')
            yield row


def memory_bytes(text):
    """2G, 512M -> bytes."""
    units = {'M': 1 << 20, 'G': 1 << 30}
    if not text[:-1].isdigit() or text[-1:] not in units:
        raise DataError(f'{text}: wanted is a size as 512M or 2G')
    return int(text[:-1]) * units[text[-1]]


def _number(where, key, text, kind=int):
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < float('inf'):
        raise DataError(f'{where}: {key} = {text}: wanted is a number above 0')
    return value


def _memory(where, key, text):
    try:
        memory_bytes(text)
    except DataError as error:
        raise DataError(f'{where}: {key} = {error}') from error
    return text


def machines():
    ini = read_ini('machines.ini')
    for name in ini.sections():
        unknown = set(ini[name]) - MACHINE_KEYS
        if unknown:
            raise DataError(f'machines.ini: [{name}]: unknown key {min(unknown)}')
        where = f'machines.ini: [{name}]'
        _number(where, 'slowdown', ini[name]['slowdown'], float)
        _memory(where, 'memory', ini[name]['memory'])
    return {name: dict(ini[name]) for name in ini.sections()}


def variants():
    """name -> (source tree, slowdown, what is added to the command line)."""
    return {name: (source, _number(f'variants: {name}', 'slowdown', slowdown, float),
                   '' if append == '-' else append)
            for name, source, slowdown, append, _ in _table('variants', 5)}


def fragments(variant):
    """Of harness/config, what the kernel of the variant is made of."""
    return next(config.split() for name, *_, config in _table('variants', 5) if name == variant)


def counterparts():
    """Variant of the series -> that of the base which is made in the same way."""
    made = {(source, append, *sorted(config.split())): name
            for name, source, _, append, config in _table('variants', 5)}
    return {name: made['base', *how[1:]] for how, name in made.items()
            if how[0] == 'series' and ('base', *how[1:]) in made}


def matrix(name=MATRIX):
    """[(variant, tests, [machine])] of make check, or of make regression."""
    return [(v, s, m.split()) for v, s, m in _table(name, 3)]


def of_kind(kind, known, name=MATRIX):
    """The tests of a row of a matrix, in the order of known."""
    words = kind.split(',')
    named = [w for w in words if w not in KINDS]
    names = set(select(named, known, f'{name}: test')) if named else set()
    return [t for t in known.values() if t.name in names or any(KINDS[w](t) for w in words if w in KINDS)]


def regression_pairs(known_tests, known_variants, known_machines):
    """[(machine, variant of the base, variant of the series, [test])] of make regression.

    What it compares has to be run on both.
    """
    planned = {}
    for variant, kind, names in matrix(REGRESSION):
        select([variant], known_variants, f'{REGRESSION}: variant')
        for machine in select(names, known_machines, f'{REGRESSION}: machine'):
            planned.setdefault((machine, variant), set()).update(
                t.name for t in of_kind(kind, known_tests, REGRESSION))
    bases = counterparts()
    for machine, variant in planned:
        if variant not in bases and variant not in bases.values():
            raise DataError(f'{REGRESSION}: variant {variant}: it has no counterpart in variants, '
                            'with the same configuration and command line, to be compared with')
    pairs = []
    for variant, base in bases.items():
        for machine in known_machines:
            mine, theirs = planned.get((machine, variant), set()), planned.get((machine, base), set())
            if mine != theirs:
                raise DataError(f'{REGRESSION}: {min(mine ^ theirs)} on {machine}: '
                                f'both or neither of {base} and {variant} can run it')
            if mine:
                pairs.append((machine, base, variant, [t for t in known_tests.values() if t.name in mine]))
    return pairs


class Test:
    """One row of tests.ini; see there what the keys mean."""

    def __init__(self, name, row):
        where = f'tests.ini: [{name}]'
        unknown = set(row) - TEST_KEYS
        if unknown:
            raise DataError(f'{where}: unknown key {min(unknown)}')
        self.name = name
        self.why = row.get('why', '')
        self.program = row.get('program') or f'kvm/arm64/{name}'
        self.args = row.get('args', '').split()
        self.base_args = row.get('base-args', row.get('args', '')).split()
        self.set = row.get('set', 'series')
        if self.set not in SETS:
            raise DataError(f'{where}: set = {self.set}: wanted is one of {", ".join(SETS)}')
        self.needs = row.get('needs', '')
        self.base = row.get('base', '')
        if self.set == 'series' and self.base not in ('fail', 'skip', 'pass'):
            raise DataError(f'{where}: a test of the series says what it does on the base: '
                            'base = fail, skip or pass')
        self.base_shows = [l.strip() for l in row.get('base-shows', '').split('\n') if l.strip()]
        if self.base == 'fail' and not self.base_shows:
            raise DataError(f'{where}: base = fail wants base-shows, the lines that show the defect')
        self.fails = self._rules(where, row.get('fails', ''))
        self.skip_cases = self._rules(where, row.get('skip-cases', ''))
        # A case of mainline's tests may skip for reasons that are not listed here.
        self.strict_cases = self.set == 'series'
        self.timeout = _number(where, 'timeout', row.get('timeout', '120'))
        self.hugepages = [h.split(':') for h in row.get('hugepages', '').split()]
        if not all(len(h) == 2 and h[0].isdigit() and h[1].isdigit() for h in self.hugepages):
            raise DataError(f'{where}: hugepages = {row["hugepages"]}: wanted is KB:COUNT ...')
        self.write = [w.split(None, 1) for w in row.get('write', '').split('\n') if w.strip()]
        if not all(len(w) == 2 for w in self.write):
            raise DataError(f'{where}: write: wanted are lines "PATH VALUE"')
        self.swap = _memory(where, 'swap', row['swap']) if row.get('swap') else ''
        self.memory = _memory(where, 'memory', row['memory']) if row.get('memory') else ''
        self.bench = row.get('bench', '')
        if self.bench not in ('', 'check', 'full'):
            raise DataError(f'{where}: bench = {self.bench}: wanted is check or full')
        self.not_on = row.get('not-on', '').split()
        if row.get('run', 'yes') not in ('yes', 'no'):
            raise DataError(f'{where}: run = {row["run"]}: wanted is yes or no')
        self.run = row.get('run') != 'no' and self.set != 'regression'
        if row.get('check', 'yes') not in ('yes', 'no'):
            raise DataError(f'{where}: check = {row["check"]}: wanted is yes or no')
        self.check = row.get('check') != 'no'
        if not self.check and self.set != 'regression':
            raise DataError(f'{where}: check = no is for set = regression, which make regression runs')
        for expression in [self.needs] + [e for e, _ in self.fails] + [e for _, e in self.skip_cases]:
            for word in expression.split():
                if word.lstrip('!') not in FEATURES:
                    raise DataError(f'{where}: unknown feature {word.lstrip("!")}; '
                                    f'there are {" ".join(FEATURES)}')

    @staticmethod
    def _rules(where, text):
        rules = []
        for line in text.split('\n'):
            if line.strip():
                left, colon, right = line.partition(':')
                if not colon:
                    raise DataError(f'{where}: wanted is "A: B", not {line}')
                rules.append((left.strip(), right.strip()))
        return rules

    def memory_on(self, machine):
        """What the test wants, at least what the machine has anyway."""
        return max(machine['memory'], self.memory or machine['memory'], key=memory_bytes)

    def plan(self, factor, on_base=False):
        """Lines for guest/init.c."""
        lines = [f'hugepages {kb} {count}' for kb, count in self.hugepages]
        lines += [f'write {path} {value}' for path, value in self.write]
        if self.swap:
            lines.append('swap /dev/vda')
        lines.append(' '.join(['test', self.name, str(round(self.timeout * factor)),
                               f'/tests/{self.program}', *(self.base_args if on_base else self.args)]))
        return lines


def tests():
    ini = read_ini('tests.ini')
    return {name: Test(name, dict(ini[name])) for name in ini.sections()}


def checkpatch_allowed():
    """What checkpatch.pl may report: [(section, type, its keys)]."""
    ini = read_ini('checkpatch-allowed.ini')
    found = []
    for name in ini.sections():
        where, row = f'checkpatch-allowed.ini: [{name}]', dict(ini[name])
        if set(row) != ALLOWED_KEYS or not all(row.values()):
            raise DataError(f'{where}: wanted are {", ".join(sorted(ALLOWED_KEYS))}')
        try:
            re.compile(row['match'])
        except re.error as error:
            raise DataError(f'{where}: match: {error}') from error
        found.append((name, name.split()[0], row))
    return found


def select(words, known, what):
    """Names or globs -> names in the order of known; an error that names the valid ones."""
    if words == ['all']:
        return list(known)
    for word in words:
        if not fnmatch.filter(known, word):
            raise DataError(f'{what} {word}: there is none; there are: {" ".join(known)}')
    return [name for name in known if any(fnmatch.fnmatchcase(name, w) for w in words)]


def check():
    """Read everything once, so that a slip in the data is found before a boot."""
    known_machines, known_variants, known_tests = machines(), variants(), tests()
    for variant, kind, names in matrix():
        of_kind(kind, known_tests)
        select([variant], known_variants, 'matrix: variant')
        select(names, known_machines, 'matrix: machine')
    regression_pairs(known_tests, known_variants, known_machines)
    for test in known_tests.values():
        for name in test.not_on:
            if name not in known_machines and name not in known_variants:
                raise DataError(f'tests.ini: [{test.name}]: not-on {name}: no such machine or variant')
    return known_machines, known_variants, known_tests
