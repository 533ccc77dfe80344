#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Boot machines, run tests, judge, and write down what was seen.

Called by the Makefile:

  run.py names    check TESTS, MACHINES, KERNEL, BOOTS and TIMEOUT_FACTOR of the environment
  run.py run      TESTS, MACHINES and KERNEL of the environment choose
  run.py check    what harness/matrix says
  run.py regression   what TESTS and MACHINES choose of what harness/matrix.regression says;
                  regression-names checks that this is not empty
  run.py doctor   what this host has, and what each machine will run
  run.py shell    a shell in the first of MACHINES

Several guests run at a time, as many as BOOTS says or the host has processors for.

Exit status: see judge.py; 130 when interrupted.
"""

import concurrent.futures
import datetime
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import bisected
import boot
import compare
import data
import figures
import judge
import ledger

TOP = os.path.dirname(data.HERE)
BUILD = os.path.join(TOP, 'build')
IMAGE = os.path.join(BUILD, 'image')
QEMU = os.environ.get('QEMU') or os.path.join(BUILD, 'qemu', 'run')

# A boot that reaches no test twice in a row will not the third time either.
HOPELESS = 2

# Lines of a failed test's output that the end of a run shows.
RECALL = 6

# What guests yield to the one that takes longest.
NICE = 5


def sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for block in iter(lambda: f.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def output_of(*words):
    """First line that a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=False, text=True)
    except OSError:
        return ''
    return done.stdout.partition('\n')[0]


def kernel_image(variant, source):
    return os.path.join(BUILD, source, f'obj-{variant}', 'arch/arm64/boot/Image')


def factor_of(machine, slowdown):
    try:
        given = float(os.environ.get('TIMEOUT_FACTOR') or 1)
    except ValueError:
        given = 0
    if not 0 < given < float('inf'):
        raise judge.DataError(f'TIMEOUT_FACTOR={os.environ["TIMEOUT_FACTOR"]}: wanted is a number above 0')
    return given * float(machine['slowdown']) * slowdown


def boots():
    """How many guests at a time: a test keeps less than one processor busy, it often waits."""
    given = os.environ.get('BOOTS')
    if given:
        if not given.isdigit() or not int(given):
            raise judge.DataError(f'BOOTS={given}: wanted is a number above 0')
        return int(given)
    processors = os.cpu_count() or 1
    return processors + 1 if processors <= 2 else max(3, processors // 2)


class Job:
    """The tests of one kernel on one machine: as many boots as that takes."""

    def __init__(self, run, name, variant, memory, tests, label=''):
        self.run = run
        self.machine_name = name
        self.machine = run.machines[name]
        self.variant = variant
        self.source, slowdown, append = run.variants[variant]
        self.factor = factor_of(self.machine, slowdown) * run.crowd
        self.tests = {t.name: t for t in tests}
        self.memory = memory
        self.name = label or f'{name}-{variant}' + (f'-{memory}' if memory != self.machine['memory'] else '')
        self.dir = os.path.join(run.dir, self.name)
        os.makedirs(os.path.join(self.dir, 'output'))
        self.swap = max([t.swap for t in tests if t.swap], key=data.memory_bytes, default='')
        self.cmdline = ' '.join(f'{boot.COMMAND_LINE} {append} {self.machine["append"]}'.split())
        self.nice = 0
        self.features = {}
        self.results = {}       # name -> dict
        self.begun = False
        self.splats = []
        self.complaints = []
        self.facts = {}

    def path(self, name):
        return os.path.join(self.dir, name)

    def say(self, text):
        """With several guests at a time each line says which one it is from."""
        self.run.say(f'{self.name:{self.run.column}}{text}' if self.run.column else text)

    def _idregs(self):
        try:
            text = boot.idregs(QEMU, self.machine, os.path.join(IMAGE, 'idregs.elf'))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise judge.DataError(f'machine {self.machine_name}: {error}') from error
        with open(self.path('idregs.txt'), 'w', encoding='utf-8') as f:
            f.write(text)
        return ledger.parse_idregs(text)

    def _learn(self, result, console):
        """The ledger, once the guest has told its facts."""
        if self.features:
            return
        with open(console, encoding='utf-8', errors='replace') as f:
            seen = ledger.Boot(self.idregs, self.cmdline, result.facts, f.read(),
                               data.memory_bytes(self.memory))
        self.facts = dict(result.facts)
        self.features = ledger.ledger(seen)
        with open(self.path('ledger.txt'), 'w', encoding='utf-8') as f:
            for name, (present, why) in self.features.items():
                f.write(f'{name:18} {"yes" if present else "no":4} {why}\n')
        present = [n for n, (yes, _) in self.features.items() if yes]
        self.run.say(f'{self.name}: {" ".join(present)}')

    def _done(self, name, end, value, milliseconds, output):
        test = self.tests[name]
        text = output.decode(errors='replace')
        with open(self.path(f'output/{name}.log'), 'wb') as f:
            f.write(output)
        got = judge.outcome(end, value, text, self.run.parser)
        verdict = judge.judge(test, got, self.features, self.source == 'base', text)
        self.results[name] = {
            'name': name, 'verdict': verdict.verdict, 'reason': verdict.reason,
            'result': got.result, 'end': end, 'value': value, 'seconds': milliseconds / 1000,
            'cases': [{'name': n, 'result': r, 'reason': w} for n, r, w in got.cases],
        }
        self.say(f'  {verdict.verdict:10} {name:32} {milliseconds / 1000:6.1f} s  {verdict.reason}'.rstrip())

    def add(self, name, verdict, reason, cases):
        """A result that no guest has printed; output/NAME.log is the caller's."""
        self.results[name] = {
            'name': name, 'verdict': verdict, 'reason': reason, 'result': verdict, 'end': 'exit',
            'value': 0, 'seconds': 0, 'cases': cases,
        }
        self.say(f'  {verdict:10} {name:32} {0:6.1f} s  {reason}'.rstrip())

    def _boot(self, number, pending):
        console = self.path(f'console-{number}.log')
        plan = self.path(f'plan-{number}')
        with open(plan, 'w', encoding='utf-8') as f:
            # Nothing but the probe is to run for make doctor.
            if pending:
                f.write(f'modules {self.variant}\n')
            for name in pending:
                f.write('\n'.join(self.tests[name].plan(self.factor, self.source == 'base')) + '\n')
        drives = []
        if self.swap:
            disk = self.path('swap.img')
            with open(disk, 'wb') as f:
                f.truncate(data.memory_bytes(self.swap))
            drives.append(disk)
        words = boot.command(QEMU, self.machine, kernel_image(self.variant, self.source),
                             os.path.join(self.run.image, 'initramfs.cpio'), plan, console,
                             self.cmdline, self.memory, drives)
        with open(self.path(f'qemu-{number}.sh'), 'w', encoding='utf-8') as f:
            f.write('#!/bin/sh\n' + boot.shell_quoted(words) + '\n')

        result = boot.Result()

        def started(_name):
            self._learn(result, console)

        def ended(name, got):
            if name in self.tests:
                self._done(name, *got)

        try:
            boot.run(words, {n: self.tests[n].timeout for n in pending}, self.factor,
                     self.path(f'qemu-{number}.stderr'), result, started, ended, self.nice)
        finally:
            for disk in drives:
                os.unlink(disk)
        if result.started and result.started in self.tests:
            if not self.features:
                self._learn(result, console)
            self._done(result.started, *result.tests[result.started])
        if result.hello and not self.features:
            self._learn(result, console)

        if os.path.exists(console):
            with open(console, encoding='utf-8', errors='replace') as f:
                text = f.read()
            for kind, test, line in judge.scan_console(text, self.run.splats, self.run.allowed):
                self.splats.append({'kind': kind, 'test': test, 'line': line})
                self.say(f'  splat      {kind}{f" in {test}" if test else ""}: {line}')
        if result.kmemleak.strip():
            with open(self.path('kmemleak.txt'), 'ab') as f:
                f.write(result.kmemleak)
            self.splats.append({'kind': 'kmemleak', 'test': None, 'line': 'see kmemleak.txt'})
            self.say('  splat      kmemleak: see kmemleak.txt')
        with open(self.path('notes.txt'), 'a', encoding='utf-8') as f:
            f.writelines(note + '\n' for note in result.notes)
        return result

    def execute(self):
        self.begun = True
        self.idregs = self._idregs()
        number = idle = 0
        while True:
            pending = [n for n in self.tests if n not in self.results]
            number += 1
            result = self._boot(number, pending)
            if self.run.interrupted:
                return
            left = [n for n in self.tests if n not in self.results]
            if result.ended:
                stderr = self._qemu_said(number)
                self.complaints.append(f'boot {number}: {result.ended}{stderr}')
                self.say(f'  boot       {result.ended}{stderr}')
                idle = 0 if len(left) < len(pending) else idle + 1
                if left and not stderr and idle < HOPELESS and result.hello:
                    continue
            if left:
                self.complaints.append(f'not run: {" ".join(left)}')
                self.say(f'  boot       not run: {" ".join(left)}')
            return

    def _qemu_said(self, number):
        """The last thing QEMU complained about, other than being stopped by us."""
        with open(self.path(f'qemu-{number}.stderr'), encoding='utf-8', errors='replace') as f:
            said = [l.strip() for l in f if l.strip() and 'terminating on signal' not in l]
        return f': QEMU: {said[-1]}' if said else ''


class Run:
    """Several jobs, one result directory, one sentence at the end."""

    def __init__(self, kind):
        self.machines, self.variants, self.tests = data.check()
        self.kind = kind
        self.start = time.time()
        self.jobs = []
        self.splats = judge.load_splats(os.path.join(data.HERE, 'splats'))
        self.allowed = judge.load_allowed(os.path.join(data.HERE, 'splats-allowed.ini'))
        self.parser = judge.KunitParser(os.path.join(BUILD, 'series', 'tree'))
        self.dir = ''
        self.image = IMAGE
        self.interrupted = False
        self.column = 0         # width of the name of a job before what it prints
        self.crowd = 1          # factor on time-outs

    @staticmethod
    def directory(kind):
        """A new one each time; never an old one again."""
        stamp = datetime.datetime.now().strftime('%Y%m%d-%H%M%S')
        results = os.path.join(TOP, 'results')
        os.makedirs(results, exist_ok=True)
        for n in range(1, 100):
            path = os.path.join(results, f'{stamp}-{kind}' + (f'.{n}' if n > 1 else ''))
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            return path
        raise judge.DataError(f'{results}: no free name for a result directory')

    @staticmethod
    def say(text):
        print(text, flush=True)

    def execute(self, plans):
        """plans: [(variant, machine, tests)]; what needs more memory boots separately.

        A fourth item is added to the name of the job.
        """
        count = boots()
        self.dir = self.directory(self.kind)
        jobs = []
        for variant, machine, tests, *label in plans:
            by_memory = {}
            for test in tests:
                by_memory.setdefault(test.memory_on(self.machines[machine]), []).append(test)
            for memory in sorted(by_memory, key=data.memory_bytes):
                jobs.append((machine, variant, memory, by_memory[memory],
                             f'{machine}-{variant}-{label[0]}' if label else ''))
        count = min(count, len(jobs))
        # Two processors in each guest.
        self.crowd = max(1, 2 * count / (os.cpu_count() or 1))
        self.jobs = [Job(self, *job) for job in jobs]
        if count > 1:
            # What takes long first, or it is alone at the end.
            self.jobs.sort(key=lambda job: -job.factor * len(job.tests))
            # It is the one that all others together may not take longer than.
            for job in self.jobs[1:]:
                job.nice = NICE
            self.column = max(len(job.name) for job in self.jobs)
        if self.kind == 'check':
            bisected.hold(self)
        with concurrent.futures.ThreadPoolExecutor(max(1, count)) as pool:
            begun = [pool.submit(job.execute) for job in self.jobs]
            try:
                for future in begun:
                    future.result()
            except BaseException as error:
                self.interrupted = True
                for future in begun:
                    future.cancel()
                boot.stop_all()
                if not isinstance(error, KeyboardInterrupt):
                    raise
        self.jobs = [job for job in self.jobs if job.begun]
        if self.kind == 'check' and not self.interrupted:
            figures.hold(self)
        return self.finish()

    def job(self, machine, variant, memory, tests, label=''):
        job = Job(self, machine, variant, memory, tests, label)
        self.jobs.append(job)
        job.execute()
        return job

    def verdicts(self):
        return [r['verdict'] for job in self.jobs for r in job.results.values()]

    def comparisons(self):
        """Of base and series; none where only one of them was booted."""
        return compare.of_jobs(self.jobs, self.tests, data.counterparts())

    def finish(self):
        verdicts = self.verdicts()
        splats = [s for job in self.jobs for s in job.splats]
        complaints = [c for job in self.jobs for c in job.complaints]
        status = judge.exit_status(verdicts, splats, complaints)
        compared = self.comparisons()
        if status == judge.EXIT_GOOD and any(c.worse() for c in compared):
            status = judge.EXIT_FAIL
        if self.interrupted:
            status = 130
        count = {v: verdicts.count(v) for v in ('pass', 'fail', 'skip', 'unexpected', 'untrusted')}
        sentence = (f'{count["pass"]} passed, {count["fail"]} failed, {count["skip"]} skipped as expected, '
                    f'{count["unexpected"]} skipped unexpectedly, {count["untrusted"]} without evidence, '
                    f'{len(splats)} kernel splats, {len(complaints)} boots in trouble')
        if self.interrupted:
            sentence = f'interrupted: {sentence}'
        self._write(sentence, status, count, compared)
        self.recall()
        if compared:
            self.say('\n'.join(compare.closing(compared)))
        self.say(f'{sentence}: {os.path.relpath(self.dir, TOP)}')
        return status, count

    def recall(self):
        """What went wrong once more, at the end, where it is looked for first."""
        for job in self.jobs:
            for complaint in job.complaints:
                self.say(f'{job.name}: {complaint}')
            for splat in job.splats:
                self.say(f'{job.name}: splat in {splat["test"] or "no test"}: {splat["line"]}')
            for r in job.results.values():
                if r['verdict'] in ('pass', 'skip'):
                    continue
                self.say(f'{job.name}: {r["verdict"]} {r["name"]}: {r["reason"]}')
                with open(job.path(f'output/{r["name"]}.log'), encoding='utf-8', errors='replace') as f:
                    said = [l.rstrip() for l in f if l.strip()]
                for line in said[-RECALL:]:
                    self.say(f'    {line}')

    def environment(self):
        tree = os.path.join(BUILD, 'series', 'tree')
        found = {
            'repository': output_of('git', '-C', TOP, 'describe', '--always', '--dirty', '--abbrev=12'),
            'series': output_of('git', '-C', tree, 'describe', '--always', '--dirty', '--abbrev=12'),
            'base': output_of('cat', os.path.join(BUILD, 'base.version')),
            'qemu': output_of(QEMU, '--version'),
            'compiler': output_of('aarch64-linux-gnu-gcc', '--version'),
            'binutils': output_of('aarch64-linux-gnu-ld', '--version'),
            'host': output_of('uname', '-srm'),
            'initramfs.sha256': sha256(os.path.join(IMAGE, 'initramfs.cpio')),
        }
        for job in self.jobs:
            image = kernel_image(job.variant, job.source)
            if f'kernel.{job.variant}.sha256' not in found and os.path.exists(image):
                found[f'kernel.{job.variant}.sha256'] = sha256(image)
        return found

    def _write(self, sentence, status, count, compared):
        jobs = [{'name': job.name, 'machine': job.machine_name, 'kernel': job.variant, 'facts': job.facts,
                 'ledger': {n: {'present': p, 'why': w} for n, (p, w) in job.features.items()},
                 'tests': list(job.results.values()), 'splats': job.splats,
                 'complaints': job.complaints} for job in self.jobs]
        environment = self.environment()
        document = {'kind': self.kind, 'started': datetime.datetime.fromtimestamp(self.start).isoformat(),
                    'seconds': round(time.time() - self.start, 1), 'status': status, 'sentence': sentence,
                    'counts': count, 'environment': environment, 'jobs': jobs,
                    'comparisons': [c.document() for c in compared]}
        with open(os.path.join(self.dir, 'results.json'), 'w', encoding='utf-8') as f:
            json.dump(document, f, indent=1)
            f.write('\n')
        packages = os.path.join(BUILD, 'qemu', 'packages.sha256')
        if os.path.exists(packages):
            shutil.copy(packages, os.path.join(self.dir, 'qemu-packages.sha256'))
        with open(os.path.join(self.dir, 'packages.txt'), 'w', encoding='utf-8') as f:
            with open(os.path.join(data.HERE, 'packages'), encoding='utf-8') as wanted:
                names = [l.partition('#')[0].strip() for l in wanted]
            subprocess.run(['dpkg-query', '-W', *filter(None, names)], stdout=f,
                           stderr=subprocess.DEVNULL, check=False)
        self._junit()
        self._summary(document, compare.table(compared) if compared else [])

    def _junit(self):
        """By the kernel's own writer, from the kernel's own tree of results."""
        module = self.parser.module
        status = {'pass': module.TestStatus.SUCCESS, 'skip': module.TestStatus.SKIPPED,
                  'fail': module.TestStatus.FAILURE}
        root = module.Test()
        root.name = self.kind
        for job in self.jobs:
            suite = module.Test()
            suite.name = job.name
            for r in job.results.values():
                case = module.Test()
                case.name = r['name']
                case.status = status.get(r['verdict'], module.TestStatus.TEST_CRASHED)
                case.skip_reason = r['reason']
                case.log = [r['reason']] if r['reason'] else []
                suite.subtests.append(case)
                suite.counts.add_status(case.status)
            root.subtests.append(suite)
            root.counts.add_subtest_counts(suite.counts)
        self.parser.junit.write_junit_result(root, os.path.join(self.dir, 'junit.xml'))

    def _summary(self, document, table):
        lines = [f'# {self.kind}: {document["sentence"]}', '',
                 f'Started {document["started"]}, took {document["seconds"]} s, exit status {document["status"]}.',
                 '', '| what | version |', '|---|---|']
        lines += [f'| {k} | {v} |' for k, v in document['environment'].items()]
        lines += table
        for job in document['jobs']:
            lines += ['', f'## {job["name"]}', '']
            lines += [f'* {c}' for c in job['complaints']]
            lines += [f'* splat: {s["kind"]} in {s["test"] or "no test"}: `{s["line"]}`' for s in job['splats']]
            lines += ['Features: ' + ', '.join(
                n if f['present'] else f'no {n} ({f["why"]})' for n, f in job['ledger'].items()), '',
                      '| verdict | test | seconds | reason |', '|---|---|---|---|']
            lines += [f'| {t["verdict"]} | {t["name"]} | {t["seconds"]:.1f} | '
                      f'{t["reason"].replace("|", chr(92) + "|")} |' for t in job['tests']]
        with open(os.path.join(self.dir, 'summary.md'), 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')


def chosen(machines, variants, default='max'):
    """The machines and the kernel variant that the environment names."""
    names = data.select((os.environ.get('MACHINES') or default).split(), machines, 'machine')
    variant = os.environ.get('KERNEL') or 'default'
    known = [v for v, (source, _, _) in variants.items() if source not in ('mutant', 'bisect')]
    if variant not in known:
        raise judge.DataError(f'kernel variant {variant}: there is none; there are: {" ".join(known)}')
    return names, variant


def plan_run(run):
    names, variant = chosen(run.machines, run.variants)
    words = (os.environ.get('TESTS') or '').split()
    if words:
        tests = [run.tests[n] for n in data.select(words, run.tests, 'test')]
    else:
        tests = [t for t in run.tests.values() if t.run]
    plans = []
    for name in names:
        # Whoever names a test gets it, even where it is not run by default.
        mine = [t for t in tests if words or not {name, variant} & set(t.not_on)]
        plans.append((variant, name, mine))
    return plans


def plan_check(run):
    plans = []
    for variant, kind, names in data.matrix():
        for name in data.select(names, run.machines, 'machine'):
            tests = [t for t in data.of_kind(kind, run.tests) if not {name, variant} & set(t.not_on)]
            if tests:
                plans.append((variant, name, tests))
    return plans


def plan_regression(machines, variants, known):
    """As the matrix says, not as not-on of tests.ini."""
    wanted = data.select((os.environ.get('MACHINES') or 'all').split(), machines, 'machine')
    names = data.select((os.environ.get('TESTS') or 'all').split(), known, 'test')
    plans = []
    for machine, base, variant, tests in data.regression_pairs(known, variants, machines):
        mine = [t for t in tests if t.name in names]
        if machine in wanted and mine:
            plans += [(base, machine, mine), (variant, machine, mine)]
    if not plans:
        raise judge.DataError(f'{data.REGRESSION} has none of these tests on these machines')
    return plans


def doctor(run):
    """The host, then what each machine has and which tests will skip there, and why."""
    names, variant = chosen(run.machines, run.variants, 'all')
    for what, value in (('qemu', output_of(QEMU, '--version')),
                        ('compiler', output_of('aarch64-linux-gnu-gcc', '--version')),
                        ('base', output_of('cat', os.path.join(BUILD, 'base.version'))),
                        ('processors', str(os.cpu_count())),
                        ('free disk', f'{shutil.disk_usage(BUILD).free >> 30} GiB')):
        run.say(f'{what:12} {value}')
    run.dir = run.directory('doctor')
    good = True
    for name in names:
        run.say('')
        job = run.job(name, variant, run.machines[name]['memory'], [])
        good = good and bool(job.features) and not job.complaints
        for feature, (present, why) in job.features.items():
            run.say(f'  {feature:18} {"yes" if present else "no":4} {why}')
        for test in run.tests.values():
            missing = judge.first_false(test.needs, job.features) if job.features else ''
            if missing:
                run.say(f'  will skip          {test.name}: no {missing}')
    return judge.EXIT_GOOD if good else judge.EXIT_UNTRUSTED


def shell(run):
    """An interactive shell; the guest's console is this terminal (Ctrl-a x ends QEMU)."""
    names, variant = chosen(run.machines, run.variants)
    name = names[0]
    machine = run.machines[name]
    plan = os.path.join(BUILD, 'shell.plan')
    with open(plan, 'w', encoding='utf-8') as f:
        f.write(f'modules {variant}\nshell\n')
    source, _, append = run.variants[variant]
    words = boot.command(QEMU, machine, kernel_image(variant, source),
                         os.path.join(IMAGE, 'initramfs-shell.cpio'), plan, '/dev/null',
                         f'{boot.COMMAND_LINE} {append} {machine["append"]}', machine['memory'])
    # Console and monitor on the terminal, results nowhere.
    words[words.index('file:/dev/null')] = 'mon:stdio'
    words[words.index('stdio,id=results,signal=off')] = 'null,id=results'
    if not sys.stdin.isatty():
        run.say(boot.shell_quoted(words))
    return subprocess.call(words)


def interrupt(_signal, _frame):
    raise KeyboardInterrupt


def main():
    kind = sys.argv[1] if len(sys.argv) == 2 else ''
    if kind == 'names':
        machines, variants, tests = data.check()
        figures.ratios(tests)
        chosen(machines, variants)
        data.select((os.environ.get('TESTS') or 'all').split(), tests, 'test')
        factor_of({'slowdown': 1}, 1)
        boots()
        return judge.EXIT_GOOD
    if kind == 'run':
        run = Run(kind)
        return run.execute(plan_run(run))[0]
    if kind == 'check':
        run = Run(kind)
        status, count = run.execute(plan_check(run))
        print(f'{count["pass"]} passed, {count["fail"] + count["unexpected"] + count["untrusted"]} failed, '
              f'{count["skip"]} skipped')
        return status
    if kind == 'regression-names':
        plan_regression(*data.check())
        return judge.EXIT_GOOD
    if kind == 'regression':
        run = Run(kind)
        return run.execute(plan_regression(run.machines, run.variants, run.tests))[0]
    if kind == 'doctor':
        return doctor(Run(kind))
    if kind == 'shell':
        return shell(Run(kind))
    raise judge.DataError('usage: run.py names|run|check|regression|regression-names|doctor|shell')


def guarded(work):
    """Run a program's work and leave with its status; what it cannot do is one line."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(work())
    except judge.DataError as error:
        print(f'run: {error}', file=sys.stderr)
    except OSError as error:
        print(f'run: {error.filename or ""}: {error.strerror or error}', file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(judge.EXIT_UNTRUSTED)


if __name__ == '__main__':
    guarded(main)
