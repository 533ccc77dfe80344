# SPDX-License-Identifier: GPL-2.0-only
"""Stands for QEMU and the guest in it: speaks the record protocol of guest/init.c.

    fake_guest.py MODE [QEMU's words...]

MODE is a script, words separated by commas: each is done in turn.

    hello, done         these records
    probe               some facts
    test=NAME=END=VALUE a test: start, some output, end
    hang=NAME           a test that starts and prints, and nothing more
    sleep               nothing for ever
    record=TEXT         that line (_ for a blank)
    split               everything from here on a byte at a time
    big=NAME            a test with two megabytes of output in many blocks
    stderr=TEXT         on stderr
    exit=STATUS
    child               a process of its own that ignores SIGTERM, in the same group
    deaf                SIGTERM is ignored
    console=FILE        that file's text appears on the console
    plan[=NAME]         the tests of the plan that QEMU is given: each passes, with
                        KTAP, but in test NAME the guest goes away
"""

import os
import re
import signal
import sys
import time

if '--version' in sys.argv:
    print('QEMU emulator version 11.1.3 (fake)')
    sys.exit(0)

words = sys.argv[2:]
byte_by_byte = False


def send(data):
    if isinstance(data, str):
        data = data.encode()
    for piece in [data[i:i + 1] for i in range(len(data))] if byte_by_byte else [data]:
        while piece:
            piece = piece[os.write(1, piece):]


def console(text):
    for word in words:
        if word.startswith('file:'):
            with open(word[5:], 'a', encoding='utf-8', newline='') as f:
                f.write(text)


def run_test(name, end='exit', value='0', output=b'TAP version 13\n1..1\nok 1 a case\n'):
    console(f'[    1.000000] harness: start {name}\r\n')
    send(f'start {name}\n')
    half = len(output) // 2
    for part in (output[:half], output[half:]):
        send(f'out {name} {len(part)}\n')
        send(part)
    send(f'end {name} {end} {value} 12\n')
    console(f'[    2.000000] harness: end {name}\r\n')


def plan():
    text = next(w for w in words if w.startswith('name=opt/harness/plan')).partition('file=')[2]
    with open(text, encoding='utf-8') as f:
        return re.findall(r'^test (\S+)', f.read(), re.M)


if any(w.endswith('idregs.elf') for w in words):
    print('ID_AA64PFR1_EL1 0x0000000000000300\nEND 0x0000000000000000')
    sys.exit(0)

for step in sys.argv[1].split(','):
    verb, _, rest = step.partition('=')
    if verb == 'hello':
        send('hello 1\n')
    elif verb == 'done':
        send('done\n')
    elif verb == 'probe':
        console('[    0.100000] kvm [1]: VHE mode initialized successfully\r\n')
        send('fact kvm 1\nfact page_size 4096\nfact cap.KVM_CAP_ARM_EL2 0\n')
    elif verb == 'test':
        run_test(*rest.split('='))
    elif verb == 'big':
        send(f'start {rest}\n')
        for number in range(64):
            send(f'out {rest} 32768\n')
            send(b'end x exit 0 1\n'.ljust(32767, b'.') + b'\n')
        send(f'end {rest} exit 0 12\n')
    elif verb == 'hang':
        send(f'start {rest}\n')
        send(f'out {rest} 6\nbefore')
        time.sleep(600)
    elif verb == 'sleep':
        time.sleep(600)
    elif verb == 'record':
        send(rest.replace('_', ' ') + '\n')
    elif verb == 'raw':
        send(rest.replace('_', ' ').replace('|', '\n'))
    elif verb == 'split':
        byte_by_byte = True
    elif verb == 'stderr':
        os.write(2, rest.replace('_', ' ').encode() + b'\n')
    elif verb == 'exit':
        sys.exit(int(rest))
    elif verb == 'deaf':
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif verb == 'child':
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
    elif verb == 'console':
        with open(rest, encoding='utf-8', newline='') as f:
            console(f.read())
    elif verb == 'plan':
        for name in plan():
            if name == rest:
                send(f'start {name}\n')
                sys.exit(0)
            run_test(name)
    else:
        sys.exit(f'fake guest: {verb}?')
