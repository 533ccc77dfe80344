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
import threading
import time

import data

# Seconds, before the slowdown of machine and kernel and TIMEOUT_FACTOR.
BOOT_TIMEOUT = 30
# Beyond a test's own time-out, which the guest enforces.
GRACE = 20

_guests = set()
_guests_lock = threading.Lock()
_stopping = threading.Event()

# The last part of a machine's memory, which the kernel isn't told of, and RAM on top of
# it. Its memory ends inside a memory section, and so it has struct pages beyond its end:
# memory that it doesn't own is not always memory that it doesn't know. What is on top
# is an aligned PMD of 64K pages, as device memory may be.
LAST = 64 << 20
TOP = 512 << 20
HIDDEN = LAST + TOP

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
    known = data.memory_bytes(memory) - LAST
    words = [qemu, '-machine', machine['machine'], '-cpu', machine['cpu'],
             '-smp', machine['smp'], '-m', f'{known + HIDDEN >> 20}M',
             '-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot',
             '-run-with', 'exit-with-parent=on',
             '-kernel', kernel, '-initrd', initrd, '-append', f'{cmdline} mem={known >> 20}M',
             '-serial', f'file:{console}']
    words += ['-chardev', 'stdio,id=results,signal=off',
              '-device', 'virtio-serial-device',
              '-device', 'virtserialport,chardev=results,name=results',
              '-fw_cfg', f'name=opt/harness/plan,file={plan}']
    for i, path in enumerate(drives):
        words += ['-drive', f'if=none,id=d{i},format=raw,cache=unsafe,file={path}',
                  '-device', f'virtio-blk-device,drive=d{i}']
    return words + machine['devices'].split()


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
    """Leave nothing behind: the whole group of QEMU goes, including what outlived QEMU."""
    for sig, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            pass
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
    process.stdout.close()
    process.stdin.close()


class _BadRecord(Exception):
    """The guest said what guest/init.c never says."""


class _Follower:
    """Takes records and keeps a Result: what guest/init.c says, and in which order."""

    ENDS = ('exit', 'signal', 'timeout', 'stuck', 'error')

    def __init__(self, result, on_start, on_end):
        self.result = result
        self.on_start = on_start
        self.on_end = on_end
        self.outputs = {}
        self.block = None       # [name, bytes still to come] of an out or kmemleak record
        self.call = None
        self.done = False

    def data(self, reader):
        """Bytes of a block; False when more must be read first."""
        name, left = self.block
        data = reader.take(left)
        self.outputs.setdefault(name, bytearray()).extend(data)
        self.block = [name, left - len(data)] if left > len(data) else None
        return not self.block

    def record(self, line):
        """One line; True when it is a step on the way to the end."""
        kind, _, rest = line.partition(' ')
        take = self.KINDS.get(kind)
        try:
            if not take or (kind == 'hello') == self.result.hello:
                raise ValueError
            step = take(self, rest)
        except ValueError as error:
            raise _BadRecord(f'bad record: {line[:60]}') from error
        # Not above: what a callback raises is not the guest's.
        call, self.call = self.call, None
        if call:
            call()
        return step

    def _hello(self, rest):
        if rest != '1':
            raise ValueError
        self.result.hello = True
        return True

    def _fact(self, rest):
        name, value = rest.split(' ', 1)
        self.result.facts[name] = value
        return True

    def _note(self, rest):
        self.result.notes.append(rest)
        return not self.result.started

    def _start(self, rest):
        if self.result.started or not rest:
            raise ValueError
        self.result.started = rest
        self.call = lambda: self.on_start(rest)
        return True

    def _expect(self, name, length):
        if not length.isdigit():
            raise ValueError
        if int(length):
            self.block = [name, int(length)]
        return False

    def _out(self, rest):
        name, length = rest.split(' ')
        if name != self.result.started:
            raise ValueError
        return self._expect(name, length)

    def _kmemleak(self, rest):
        return self._expect('', rest)

    def _end(self, rest):
        name, end, value, milliseconds = rest.split(' ')
        if name != self.result.started or end not in self.ENDS:
            raise ValueError
        got = (end, int(value), int(milliseconds), bytes(self.outputs.pop(name, b'')))
        self.result.started = None
        self.result.tests[name] = got
        self.call = lambda: self.on_end(name, got)
        if end == 'stuck':
            self.result.ended = f'{name} could not be killed'
        return True

    def _error(self, rest):
        self.result.ended = f'plan refused: {rest}'
        return True

    def _done(self, rest):
        if rest or self.result.started:
            raise ValueError
        self.done = True
        return True

    KINDS = {'hello': _hello, 'fact': _fact, 'note': _note, 'start': _start, 'out': _out,
             'kmemleak': _kmemleak, 'end': _end, 'error': _error, 'done': _done}

    def close(self):
        self.result.kmemleak = bytes(self.outputs.pop('', b''))
        name = self.result.started
        if name:
            self.result.tests[name] = ('lost', 0, 0, bytes(self.outputs.pop(name, b'')))


def run(words, tests, factor, stderr_path, result, on_start, on_end, nice=0):
    """Boot and follow until the guest powers off, hangs or dies.

    tests maps a name to its time-out in seconds, factor stretches all of them. result
    is filled as things happen; on_start(name) and on_end(name, (end, value, milliseconds,
    output)) are called when they do. nice is how much the guest yields to others that run
    at the same time.
    """
    with open(stderr_path, 'wb') as stderr:
        # A group of its own, so that Ctrl-C at the terminal reaches us alone; not a session,
        # beyond which Linux does not compare priorities (sched_autogroup). Standard input
        # stays open: at its end QEMU would disconnect the channel.
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=stderr, process_group=0)
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
    try:
        with _guests_lock:
            _guests.add(process)
            if _stopping.is_set():
                result.ended = 'stopped'
        reader = _Reader(process.stdout.fileno())
        follower = _Follower(result, on_start, on_end)
        limit = BOOT_TIMEOUT * factor
        deadline = time.monotonic() + limit
        while not result.ended and not follower.done:
            if follower.block and follower.data(reader):
                continue
            line = None if follower.block else reader.line()
            if line is not None:
                try:
                    # What a test prints does not give it more time.
                    if follower.record(line):
                        limit = tests.get(result.started, BOOT_TIMEOUT) * factor + GRACE \
                            if result.started else BOOT_TIMEOUT * factor
                        deadline = time.monotonic() + limit
                except _BadRecord as error:
                    result.ended = str(error)
            elif reader.eof:
                result.ended = 'the guest stopped before it was done'
            elif not reader.fill(deadline):
                what = f'in {result.started}' if result.started else \
                    'between tests' if result.hello else 'while booting'
                result.ended = f'no sign of life for {limit:.1f} s {what}'
        if not result.ended:
            try:
                # All was taken: the guest may power off, QEMU drops what is on its way.
                os.write(process.stdin.fileno(), b'\n')
            except BrokenPipeError:
                pass
            try:
                process.wait(10 * factor)
            except subprocess.TimeoutExpired:
                result.ended = 'did not power off'
        follower.close()
    finally:
        with _guests_lock:
            _guests.discard(process)
        _stop(process)


def stop_all():
    """Stop the guests that run() follows in other threads, and those to come."""
    with _guests_lock:
        _stopping.set()
        for process in _guests:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


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
