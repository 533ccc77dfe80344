#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""diagnostics.py TREE LOG [TREE LOG]: the warnings and errors of a build in the first tree
that the build in the second does not give, or all of them.

A log is what compilers, linkers, kconfig, modpost, kernel-doc or sphinx said. What is said
is the same when only line numbers differ; it is new when it is said of more places than
before. A place that several objects include, and so warn of, counts once.

Prints what is new as it is in the log, with the tree's directory taken away. Exit status:
0 nothing is new; 1 something is; 2 a log could not be read.
"""

import os
import re
import sys

# "x.c:1:2: warning: text", "Warning: x.h:1 text", "x.rst:1: WARNING: text"; what the
# linker says of a symbol. Nothing of the source that a compiler shows counts.
SAID = re.compile(r'(?:^|[\s:])(?:warning|(?:fatal )?error|severe|critical): |'
                  r': undefined reference to |: multiple definition of ', re.I)
SOURCE = re.compile(r'^\s*\d* \|')
PLACE = re.compile(r'^((?:warning: |error: )?[^\s:]+):(\d+)(:\d+)?(?=[:\s])', re.I)
# Where in a section or a function it is; objtool, ld.
OFFSET = re.compile(r'\+0x[0-9a-f]+')


def diagnostics(log, tree):
    """What is said -> {where: line}, in the order of the log."""
    found = {}
    names = '|'.join(re.escape(n) for n in {os.path.abspath(tree), os.path.realpath(tree)})
    prefix = re.compile(rf'(?:(?:{names})/|(?<![\w./])(?:\.\.?/)+)')
    for line in log.splitlines():
        if SOURCE.match(line) or not SAID.search(line):
            continue
        line = prefix.sub('', line.strip())
        place = PLACE.match(line)
        text = PLACE.sub(r'\1', line, count=1) if place else line
        where = place.group(2, 3) if place else OFFSET.findall(line)[:1]
        found.setdefault(OFFSET.sub('', text), {}).setdefault(tuple(where), line)
    return found


def new(now, before):
    """The lines of what is said now of more places than before."""
    lines = []
    for text, places in now.items():
        known = len(before.get(text, ()))
        if len(places) > known:
            lines += [line + (f' (the base: {known} of these)' if known else '') for line in places.values()]
    return lines


def main(words):
    if len(words) not in (2, 4):
        print('usage: diagnostics.py TREE LOG [TREE LOG]', file=sys.stderr)
        return 2
    said = []
    for tree, path in zip(words[::2], words[1::2]):
        try:
            with open(path, encoding='utf-8', errors='replace') as f:
                said.append(diagnostics(f.read(), tree))
        except OSError as error:
            print(f'diagnostics: {path}: {error.strerror}', file=sys.stderr)
            return 2
    lines = new(said[0], said[1] if len(said) > 1 else {})
    print(''.join(line + '\n' for line in lines), end='')
    return 1 if lines else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
