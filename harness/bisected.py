#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The record of what make bisect has seen good, harness/bisected, and the series held to it.

A line of it is a column of make bisect, a key and the subject of a patch; it is about all
patches that have the key. The key is made of what the column depends on and what is in
patches/ and the files that the series adds: what differs from the base, without
line numbers, so that another point release of it makes no difference where the patches
apply to it; and the configuration.

  style            message and edits of the patch, and its rows of checkpatch-allowed.ini
  kernel, sparse   the kernel before the patch and with it: without documentation and
                   selftests but with their modules
  selftests        tools/ and the headers that it uses, before the patch and with it
  quick            kernel and selftests, and the selftests before, from which those that the
                   patch brings are known (QUICK=1)
  tests            kernel and selftests; has quick as well

The line "columns" names those that make check wants of each patch. make bisect KEEP=1
(perpatch.py) adds one when all patches have it, and takes none away.

bisected.py prints what make check would. Exit status: 0 all is on record; 1 a patch
isn't; 2 that can't be told.
"""

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys

import data
import judge
import worktree

# What make bisect looks at, and what of it is recorded.
COLUMNS = ('style', 'kernel', 'sparse', 'selftests', 'tests')
RECORDED = ('style', 'kernel', 'sparse', 'selftests', 'quick', 'tests')

# Where it looks.
MACHINE = 'max'
VARIANT = 'bisect'

RECORD = os.path.join(data.HERE, 'bisected')

HEAD = '''# SPDX-License-Identifier: GPL-2.0-only
#
# What of the series was seen good, patch by patch; make check holds the series against it.
# Written by make bisect KEEP=1, and not by hand: column, what it was seen of (a hash of
# contents that are in git, see bisected.py), the first patch that it is of. "columns" are
# those that each patch has to have.
#
# Written last with {versions}.
'''

# What a key is made of doesn't depend on who runs it, nor on their configuration.
ENVIRONMENT = {'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_NOSYSTEM': '1', 'GIT_ATTR_NOSYSTEM': '1', 'LC_ALL': 'C'}
DIFF = ('diff-tree', '-r', '--no-renames')
EDITS = (*DIFF, '-p', '--binary', '--full-index', '--unified=3', '--inter-hunk-context=0', '--no-indent-heuristic',
         '--diff-algorithm=myers', '--no-color', '--no-ext-diff', '--no-textconv')
NONE = '0' * 40


def digest(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


# --- keys ------------------------------------------------------------------

MODULES = 'tools/testing/selftests/kvm/test_modules/'


def of_kernel(path):
    elsewhere = ('Documentation/', 'tools/testing/')
    return path.startswith(MODULES) or path != 'MAINTAINERS' and not path.startswith(elsewhere)


def of_selftests(path):
    return path.startswith(('tools/', 'include/uapi/', 'arch/arm64/include/', 'arch/arm64/tools/'))


def configuration():
    """The lines of the fragments that say something."""
    found = []
    for name in data.fragments(VARIANT):
        with open(os.path.join(data.HERE, 'config', f'{name}.config'), encoding='utf-8') as f:
            found += re.findall(r'^(?:CONFIG_.*|# CONFIG_\w+ is not set)$', f.read(), re.M)
    return found


class Keys:
    """Of each patch, by column."""

    def __init__(self):
        self.base = worktree.ask('rev-parse', 'base')
        self.config = configuration()
        self.allowed = data.checkpatch_allowed()
        self._edits = {}
        self._states = {}

    @staticmethod
    def _ask(*words):
        done = subprocess.run(['git', '-c', 'core.attributesFile=/dev/null', '--literal-pathspecs',
                               '--git-dir', worktree.GIT_DIR, *words], cwd=worktree.TOP, check=False,
                              env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            raise judge.DataError(f'git {words[0]}: {done.stderr.decode(errors="replace").strip() or "failed"}')
        return done.stdout.decode(errors='surrogateescape')

    def contents(self, old, new):
        """path -> what the new commit has there, of all that differs: a file, or edits to one."""
        fields = self._ask(*DIFF, '-z', '--raw', old, new).split('\0')
        rows = {path: tuple(row.split()[1:4]) for row, path in zip(fields[::2], fields[1::2])}
        edited = [path for path, (_, a, b) in rows.items() if NONE not in (a, b) and (path, a, b) not in self._edits]
        if edited:
            parts = re.split(r'^diff --git ', self._ask(*EDITS, old, new, '--', *edited), flags=re.M)[1:]
            if len(parts) != len(edited):
                raise judge.DataError(f'git {EDITS[0]}: {len(parts)} files differ, and not {len(edited)}')
            for path, part in zip(edited, parts):
                part = re.sub(r'^index .*\n', '', part, count=1, flags=re.M)
                self._edits[path, *rows[path][1:]] = digest(re.sub(r'^@@ .*', '@@', part, flags=re.M))
        return {path: 'gone' if b == NONE else [mode, b if a == NONE else self._edits[path, a, b]]
                for path, (mode, a, b) in rows.items()}

    def _state(self, commit, is_part):
        if commit not in self._states:
            self._states[commit] = self.contents(self.base, commit)
        return {path: what for path, what in self._states[commit].items() if is_part(path)}

    def kernel(self, commit):
        return digest('kernel', self.config, self._state(commit, of_kernel))

    def selftests(self, commit):
        return digest('selftests', self._state(commit, of_selftests))

    def _style(self, patch):
        rows = [(kind, row['match']) for _, kind, row in self.allowed
                if any(fnmatch.fnmatchcase(patch.subject, glob) for glob in row['patch'].strip().split('\n'))]
        message = self._ask('rev-list', '-n1', '--no-commit-header', '--format=%B', patch.commit)
        return digest('style', message, self.contents(patch.parent, patch.commit), sorted(rows))

    def of(self, patch):
        before, now = ((self.kernel(c), self.selftests(c)) for c in (patch.parent, patch.commit))
        kernel = digest('kernel', before[0], now[0])
        found = {'style': self._style(patch), 'kernel': kernel, 'sparse': kernel,
                 'selftests': digest('selftests', before[1], now[1]),
                 'quick': digest('quick', MACHINE, *now, before[1]), 'tests': digest('tests', MACHINE, *now)}
        return {column: key[:20] for column, key in found.items()}


# --- the record ------------------------------------------------------------

class Record:
    """columns: those wanted of each patch; lines: (column, key) -> subject."""

    def __init__(self, columns=(), lines=None):
        self.columns = tuple(columns)
        self.lines = lines or {}

    def has(self, column, keys):
        return (column, keys[column]) in self.lines or column == 'quick' and ('tests', keys['tests']) in self.lines

    def text(self, versions):
        lines = [' '.join(['columns', *self.columns])]
        lines += [f'{column:9} {key} {subject}' for (column, key), subject in self.lines.items()]
        return HEAD.format(versions=versions) + '\n'.join(lines) + '\n'


def parse(text):
    columns, lines = None, {}
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip() or line.startswith('#'):
            continue
        where = f'bisected:{number}'
        if line.split()[0] == 'columns':
            if columns is not None:
                raise judge.DataError(f'{where}: a second line "columns"')
            columns = line.split()[1:]
            for column in columns:
                if column not in RECORDED:
                    raise judge.DataError(f'{where}: columns: {column}: there are: {" ".join(RECORDED)}')
            continue
        match = re.fullmatch(r'(\w+) +([0-9a-f]{20}) (.*\S)', line)
        if not match or match[1] not in RECORDED:
            raise judge.DataError(f'{where}: wanted is COLUMN KEY SUBJECT, of the columns {" ".join(RECORDED)}')
        if (match[1], match[2]) in lines:
            raise judge.DataError(f'{where}: {match[1]} {match[2]} is there twice')
        lines[match[1], match[2]] = match[3]
    if columns is None:
        raise judge.DataError('bisected: no line "columns": make bisect KEEP=1 writes it')
    return Record(columns, lines)


def committed():
    try:
        with open(RECORD, encoding='utf-8') as f:
            return parse(f.read())
    except FileNotFoundError as error:
        raise judge.DataError('harness/bisected is missing: make bisect KEEP=1') from error
    except UnicodeDecodeError as error:
        raise judge.DataError(f'bisected: {error}') from error


def renewed(record, patches, keys, proven):
    """The record with what is proven, (column, key), and without what is of no patch now.

    keys: of each patch, by column.
    """
    lines = {}
    for patch, mine in zip(patches, keys):
        for column in RECORDED:
            key = column, mine[column]
            if (key in record.lines or key in proven) and key not in lines:
                lines[key] = patch.subject
    new = Record(record.columns, lines)
    wanted = [c for c in RECORDED if c in record.columns or patches and all(new.has(c, mine) for mine in keys)]
    # Whoever wants all tests need not say that they want some.
    new.columns = tuple(c for c in wanted if c != 'quick' or 'tests' not in wanted)
    return new


def missing(record, patches, keys):
    """[(patch, the columns that it should be on record for and isn't)]"""
    return [(patch, [c for c in record.columns if not record.has(c, mine)]) for patch, mine in zip(patches, keys)]


def command(patch, columns):
    """What proves them."""
    only = [c for c in COLUMNS if c in columns or c == 'tests' and 'quick' in columns]
    quick = ' QUICK=1' if 'quick' in columns and 'tests' not in columns else ''
    return (f'make bisect TOPIC={patch.topic.partition("-")[2]} PATCHES={patch.in_topic} '
            f'ONLY={",".join(only)}{quick} KEEP=1')


def look():
    """(sentence, [(patch, why it isn't on record, or '')])."""
    record = committed()
    if not record.columns:
        raise judge.DataError('bisected: there is no column that each patch is on record for: make bisect KEEP=1')
    patches = worktree.series()
    made = Keys()
    rows = [(patch, f'{", ".join(lacks)} not on record: {command(patch, lacks)}' if lacks else '')
            for patch, lacks in missing(record, patches, [made.of(p) for p in patches])]
    bad = sum(bool(why) for _, why in rows)
    if bad:
        return f'{bad} of {len(rows)} patches not on record, the commands are beside them', rows
    return f'{len(rows)} patches on record: {" ".join(record.columns)}', rows


def line(patch, why):
    return f'{patch.number} {patch.name} {patch.subject}: {why}'


def hold(run):
    """For make check: each patch is on record.

    One more result of a job with the series, a case a patch.
    """
    jobs = sorted((job for job in run.jobs if job.source == 'series'),
                  key=lambda job: (job.machine_name != MACHINE, job.variant != 'default'))
    if not jobs:
        return
    verdict, cases = 'pass', []
    try:
        reason, rows = look()
        cases = [{'name': f'{p.name} {p.subject}', 'result': 'fail' if why else 'pass', 'reason': why}
                 for p, why in rows]
        lines = [line(p, why) for p, why in rows if why]
        if lines:
            verdict = 'fail'
    except judge.DataError as error:
        verdict, reason, lines = 'untrusted', str(error), []
    with open(jobs[0].path('output/bisected.log'), 'w', encoding='utf-8') as f:
        f.write('\n'.join([*lines, reason]) + '\n')
    for text in lines:
        jobs[0].say(f'  bisected   {text}')
    jobs[0].add('bisected', verdict, reason, cases)


def main():
    try:
        sentence, rows = look()
    except (judge.DataError, OSError) as error:
        print(f'bisected: {error}', file=sys.stderr)
        return judge.EXIT_UNTRUSTED
    for patch, why in rows:
        if why:
            print(line(patch, why))
    print(sentence)
    return judge.EXIT_FAIL if any(why for _, why in rows) else judge.EXIT_GOOD


if __name__ == '__main__':
    sys.exit(main())
