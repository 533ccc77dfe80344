# SPDX-License-Identifier: GPL-2.0-only
"""Start QEMU, hand the guest its plan, take its records.

The guest's init (guest/init.c) reads the plan through fw_cfg and writes records on
a virtio-serial port, which is QEMU's standard output here; the console goes to a
file and is looked at after the boot.
"""

import os
import select
import shlex
import signal
import subprocess
import time

# Seconds, before the slowdown of machine and kernel and TIMEOUT_FACTOR.
BOOT_TIMEOUT = 30
# Beyond a test's own time-out, which the guest enforces.
GRACE = 20

COMMAND_LINE = 'console=ttyAMA0 panic=-1 loglevel=7 printk.time=1'


class Result:
    """One boot: records per test, facts, how it ended ('' if well)."""

    def __init__(self):
        self.tests = {}         # name -> (end, value, milliseconds, output bytes)
        self.facts = {}
        self.notes = []
        self.kmemleak = b''
        self.ended = ''
        self.started = None     # the test that was running when the guest went away
        self.hello = False


def command(qemu, machine, kernel, initrd, plan, console, cmdline, memory, drives=()):
    """The exact QEMU command, as a list."""
    words = [qemu, '-machine', machine['machine'], '-cpu', machine['cpu'],
             '-smp', machine['smp'], '-m', memory,
             '-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot',
             '-run-with', 'exit-with-parent=on',
             '-kernel', kernel, '-initrd', initrd, '-append', cmdline,
             '-serial', f'file:{console}']
    words += ['-chardev', 'stdio,id=results,signal=off',
              '-device', 'virtio-serial-device',
              '-device', 'virtserialport,chardev=results,name=results',
              '-fw_cfg', f'name=opt/harness/plan,file={plan}']
    for i, path in enumerate(drives):
        words += ['-drive', f'if=none,id=d{i},format=raw,cache=unsafe,file={path}',
                  '-device', f'virtio-blk-device,drive=d{i}']
    return words


class _Reader:
    """Splits what comes from the guest into lines and counted blocks."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = bytearray()
        self.eof = False

    def fill(self, deadline):
        """Read once; False when the deadline passed first."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.fd], [], [], left)[0]:
            return False
        data = os.read(self.fd, 1 << 16)
        self.eof = not data
        self.buffer += data
        return True

    def take(self, count):
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def line(self):
        end = self.buffer.find(b'\n')
        if end < 0:
            return None
        return self.take(end + 1)[:-1].decode(errors='replace')


def _stop(process):
    """Leave nothing behind: the whole group of QEMU goes."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
            break
        except subprocess.TimeoutExpired:
            continue
    process.stdout.close()
    process.stdin.close()


def run(words, tests, factor, stderr_path, result, on_start, on_end):
    """Boot and follow until the guest powers off, hangs or dies.

    tests maps a name to its time-out in seconds, factor stretches all of them. result
    is filled as it happens; on_start(name) and on_end(name, (end, value, milliseconds,
    output)) are called when it does.
    """
    with open(stderr_path, 'wb') as stderr:
        # A group of its own, so that Ctrl-C at the terminal reaches us alone. Standard
        # input stays open: at its end QEMU would disconnect the channel.
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=stderr, start_new_session=True)
    reader = _Reader(process.stdout.fileno())
    outputs = {}
    limit = BOOT_TIMEOUT * factor
    deadline = time.monotonic() + limit
    block = None                # (name, bytes still to come) of an out or kmemleak record
    try:
        while not result.ended:
            if block:
                name, left = block
                data = reader.take(left)
                outputs.setdefault(name, bytearray()).extend(data)
                block = (name, left - len(data)) if left > len(data) else None
                if not block:
                    continue
            line = None if block else reader.line()
            if line is None:
                if reader.eof:
                    result.ended = 'the guest stopped before it was done'
                elif not reader.fill(deadline):
                    what = f'in {result.started}' if result.started else \
                        'between tests' if result.hello else 'while booting'
                    result.ended = f'no sign of life for {limit:.0f} s {what}'
                continue

            kind, _, rest = line.partition(' ')
            limit = BOOT_TIMEOUT * factor
            if kind == 'hello':
                result.hello = True
            elif kind == 'fact':
                name, _, value = rest.partition(' ')
                result.facts[name] = value
            elif kind == 'note':
                result.notes.append(rest)
            elif kind == 'start':
                result.started = rest
                on_start(rest)
            elif kind in ('out', 'kmemleak'):
                name, _, length = rest.rpartition(' ')
                block = (name if kind == 'out' else '<kmemleak>', int(length))
                if not block[1]:
                    block = None
            elif kind == 'end':
                name, end, value, milliseconds = rest.split()
                result.started = None
                got = (end, int(value), int(milliseconds), bytes(outputs.pop(name, b'')))
                result.tests[name] = got
                on_end(name, got)
                if end == 'stuck':
                    result.ended = f'{name} could not be killed'
            elif kind == 'error':
                result.ended = f'plan refused: {rest}'
            elif kind == 'done':
                break
            else:
                result.ended = f'unknown record: {line[:60]}'
            if result.started:
                limit = tests.get(result.started, BOOT_TIMEOUT) * factor + GRACE
            deadline = time.monotonic() + limit
        if not result.ended:
            try:
                process.wait(10 * factor)
            except subprocess.TimeoutExpired:
                result.ended = 'did not power off'
        result.kmemleak = bytes(outputs.pop('<kmemleak>', b''))
        if result.started:
            result.tests[result.started] = ('lost', 0, 0, bytes(outputs.pop(result.started, b'')))
    finally:
        _stop(process)


def shell_quoted(words):
    """A command that can be pasted, one option a line."""
    out = [shlex.quote(words[0])]
    for word in words[1:]:
        if word.startswith('-') and not word.startswith('-1'):
            out.append('\\\n\t' + shlex.quote(word))
        else:
            out[-1] += ' ' + shlex.quote(word)
    return ' '.join(out)


def idregs(qemu, machine, program):
    """Run guest/idregs.S on the bare machine and return what it prints."""
    words = [qemu, '-machine', machine['machine'], '-cpu', machine['cpu'], '-m', '64M',
             '-display', 'none', '-monitor', 'none', '-nic', 'none', '-serial', 'stdio',
             '-run-with', 'exit-with-parent=on', '-kernel', program]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, check=False, start_new_session=True)
    if done.returncode:
        raise OSError(done.stderr.decode(errors='replace').strip() or f'exit status {done.returncode}')
    return done.stdout.decode(errors='replace')
