# SPDX-License-Identifier: GPL-2.0-only
"""The data files: machines.ini, variants, matrix, tests.ini and checkpatch-allowed.ini, read and checked."""

import configparser
import fnmatch
import os
import re

from judge import DataError
from ledger import FEATURES

HERE = os.path.dirname(os.path.abspath(__file__))

MACHINE_KEYS = {'why', 'machine', 'cpu', 'smp', 'memory', 'devices', 'append', 'slowdown'}
TEST_KEYS = {'why', 'program', 'args', 'base-args', 'set', 'needs', 'base', 'base-shows', 'fails', 'skip-cases',
             'timeout', 'hugepages', 'write', 'swap', 'memory', 'not-on', 'run'}
ALLOWED_KEYS = {'patch', 'match', 'reason'}

# set = of tests.ini
SETS = ('series', 'mainline', 'regression')

# Which tests the second column of the matrix takes, if it isn't names or globs of them.
KINDS = {
    'series': lambda test: test.set == 'series',
    'differ': lambda test: test.set == 'series' and test.base != 'pass',
    'mainline': lambda test: test.set == 'mainline',
    'all': lambda test: test.set in ('series', 'mainline'),
    'every': lambda test: True,
}


def _ini(name):
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
    ini = _ini('machines.ini')
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


def matrix():
    """[(variant, set, [machine])] of make check."""
    return [(v, s, m.split()) for v, s, m in _table('matrix', 3)]


def of_kind(kind, known):
    """The tests of a row of the matrix, in the order of known."""
    if kind in KINDS:
        return [t for t in known.values() if KINDS[kind](t)]
    return [known[name] for name in select(kind.split(','), known, 'matrix: test')]


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
        self.not_on = row.get('not-on', '').split()
        if row.get('run', 'yes') not in ('yes', 'no'):
            raise DataError(f'{where}: run = {row["run"]}: wanted is yes or no')
        self.run = row.get('run') != 'no' and self.set != 'regression'
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
    ini = _ini('tests.ini')
    return {name: Test(name, dict(ini[name])) for name in ini.sections()}


def checkpatch_allowed():
    """What checkpatch.pl may report: [(section, type, its keys)]."""
    ini = _ini('checkpatch-allowed.ini')
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
    for test in known_tests.values():
        for name in test.not_on:
            if name not in known_machines and name not in known_variants:
                raise DataError(f'tests.ini: [{test.name}]: not-on {name}: no such machine or variant')
    return known_machines, known_variants, known_tests
