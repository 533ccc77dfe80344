# SPDX-License-Identifier: GPL-2.0-only
"""A work tree of the base's repository of its own, for mutants.py and perpatch.py."""

import os
import subprocess

import judge
import run

GIT_DIR = os.path.join(run.BUILD, 'base', 'tree', '.git')


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
