# SPDX-License-Identifier: GPL-2.0-only
"""What several tests share: where things are, samples, a repository to play in."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

# A shell has what it starts in the background ignore SIGINT, and what is started here would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

sys.dont_write_bytecode = True

TESTS = os.path.dirname(os.path.abspath(__file__))
HARNESS = os.path.dirname(TESTS)
TOP = os.path.dirname(HARNESS)
BUILD = os.path.join(TOP, 'build')
BASE = os.path.join(BUILD, 'base', 'tree')
QEMU = os.path.join(BUILD, 'qemu', 'run')

# Seconds after which a script under test counts as hung.
PATIENCE = 60

NO_BASE = f'{os.path.relpath(BASE, TOP)} is not there: make fetch'


def sample(kind, name):
    """The lines of a sample, as they came."""
    with open(os.path.join(TESTS, 'samples', kind, name), encoding='utf-8', newline='') as f:
        return f.read()


def samples(kind):
    return sorted(n for n in os.listdir(os.path.join(TESTS, 'samples', kind)) if n.endswith('.log'))


def processes(word):
    """[(pid, command)] of the living whose command line or directory has the word."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                command = f.read().replace(b'\0', b' ').decode(errors='replace')
            directory = os.readlink(f'/proc/{pid}/cwd')
        except OSError:
            continue
        if int(pid) != os.getpid() and (word in command or word in directory):
            found.append((int(pid), command.strip()))
    return found


def left_over(word, seconds=5):
    """What processes() still finds after a while: one that was just killed is still there."""
    until = time.monotonic() + seconds
    while (left := processes(word)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


class Done:
    """A command that ended: status, what it printed, its lines on stderr."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err

    @property
    def said(self):
        return self.out + self.err

    def __str__(self):
        return f'exit status {self.status}\n--- stdout\n{self.out}--- stderr\n{self.err}'


class Sandbox(unittest.TestCase):
    """A copy of Makefile and harness/ in a temporary directory: self.top.

    A copy, not a link: refresh writes to harness/base. Each test is held to leave no
    process behind.
    """

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='harness-test-')
        self.addCleanup(self._clean)
        self.top = os.path.join(self.dir, 'top')
        os.mkdir(self.top)
        shutil.copy(os.path.join(TOP, 'Makefile'), self.top)
        shutil.copytree(HARNESS, os.path.join(self.top, 'harness'),
                        ignore=shutil.ignore_patterns('tests', '__pycache__'))
        self.bin = os.path.join(self.dir, 'bin')
        os.mkdir(self.bin)
        self.path = f'{self.bin}:{os.environ["PATH"]}'

    def _clean(self):
        left = left_over(self.dir)
        for pid, _ in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)
        self.assertEqual(left, [], 'processes were left running')

    def environment(self, **env):
        mine = {'PATH': self.path, 'HOME': self.dir, 'LC_ALL': 'C', 'PYTHONDONTWRITEBYTECODE': '1'}
        mine.update(env)
        return mine

    def start(self, *words, cwd=None, **env):
        return subprocess.Popen(words, cwd=cwd or self.top, env=self.environment(**env),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)

    def finish(self, process, patience=PATIENCE):
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            self.fail(f'still running after {patience} s\n{out}{err}')
        return Done(process.returncode, out, err)

    def run_in(self, *words, cwd=None, **env):
        return self.finish(self.start(*words, cwd=cwd, **env))

    def write(self, path, text, mode=None):
        path = os.path.join(self.top, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        if mode:
            os.chmod(path, mode)
        return path

    def read(self, path):
        with open(os.path.join(self.top, path), encoding='utf-8') as f:
            return f.read()

    def fake(self, name, script):
        """A program in front of PATH."""
        path = os.path.join(self.bin, name)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(script)
        os.chmod(path, 0o755)
        return path

    def fake_qemu(self, version='11.1.3'):
        return self.fake('qemu', f'#!/bin/sh\necho "QEMU emulator version {version} (fake)"\n')

    def path_without(self, *names):
        """A PATH with everything that this machine's has, but for some programs."""
        directory = os.path.join(self.dir, 'path')
        os.mkdir(directory)
        for d in os.environ['PATH'].split(':'):
            for name in os.listdir(d) if os.path.isdir(d) else ():
                link = os.path.join(directory, name)
                if name not in names and not os.path.lexists(link):
                    os.symlink(os.path.join(d, name), link)
        return f'{self.bin}:{directory}'
