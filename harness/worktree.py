# SPDX-License-Identifier: GPL-2.0-only
"""The base's repository: the commits of the series, and work trees of it for mutants.py and
perpatch.py."""

import glob
import os
import subprocess

import data
import judge

TOP = os.path.dirname(data.HERE)
GIT_DIR = os.path.join(TOP, 'build', 'base', 'tree', '.git')


def git(*words):
    done = subprocess.run(['git', *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, text=True)
    if done.returncode:
        raise judge.DataError(f'git {words[-1]}: {(done.stdout.strip().splitlines() or ["failed"])[0]}')
    return done.stdout.strip()


def ask(*words):
    """Of the repository, whatever is checked out."""
    return git('--git-dir', GIT_DIR, *words)


def composed():
    return ask('rev-parse', 'refs/series/composed')


def at(tree, commit):
    """The tree is as the commit has it; only what differs is touched."""
    if not os.path.isdir(tree):
        ask('worktree', 'prune')
        ask('worktree', 'add', '-q', '--detach', tree, commit)
    git('-C', tree, 'reset', '-q', '--hard', commit)
    git('-C', tree, 'clean', '-q', '-f', '-d')


class Patch:
    """A file of patches/ and its commit."""

    def __init__(self, number, path, commit, parent, subject):
        self.number = number
        self.topic = os.path.basename(os.path.dirname(path))
        self.name = f'{self.topic}/{os.path.basename(path)[:4]}'
        self.in_topic = 0
        self.file = f'{self.topic}-{os.path.basename(path)}'
        self.commit = commit
        self.parent = parent
        self.subject = subject


def patch_files():
    return sorted(glob.glob(os.path.join(TOP, 'patches', '*', '0*.patch')))


def series():
    files = patch_files()
    parent = ask('rev-parse', 'base')
    log = ask('rev-list', '--reverse', '--no-commit-header', '--format=%H %s', f'base..{composed()}')
    commits = [line.partition(' ') for line in log.splitlines()]
    if len(files) != len(commits):
        raise judge.DataError('build/series/tree is not what patches/ say: make tree')
    found = []
    for number, (path, (commit, _, subject)) in enumerate(zip(files, commits), 1):
        patch = Patch(number, path, commit, parent, subject)
        patch.in_topic = 1 + sum(p.topic == patch.topic for p in found)
        found.append(patch)
        parent = commit
    return found
