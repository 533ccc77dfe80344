#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Hold each patch of the series, not only the last, to what DESIGN.md section 7 says.

For each, in order:

  style      checkpatch.pl --strict reports nothing but a missing sign-off and what
             checkpatch-allowed.ini has; git log --check reports nothing
  kernel     builds with W=1 (kernel-doc too); no object has a warning that it did not have
             before the patch
  sparse     nor a report of sparse
  selftests  build; no warning that was not there before
  tests      those of the series and of mainline that exist by then pass on machine max or
             skip as they must there, as judge.py has it. There is no exception: a patch
             that brings a test comes after what the test needs

All that is compiled is compared, so that with a change to a header each user of it counts.
"Before" is the patch before it that was built.

Kernel and selftests are built in build/bisect, from commit to commit, so that make compiles
what a patch touches. What was seen is kept there in small files, by what it depends on: the
source without documentation and tests, the config and the compiler for a kernel's warnings;
that kernel, the test's program, its section in tests.ini and what boots and judges it for
a test. So a patch that changes documentation costs nothing, one that changes a test a
boot with that test, and what was seen once is not done again, not even after an interrupt.
A failure is not kept.

Environment: TOPIC=, a topic without its number; PATCHES=, numbers and ranges in it (in the
series if there is no TOPIC), "3-5 9"; ONLY=, the columns that are looked at, "kernel,sparse";
QUICK=1: of the tests only those that make run has, and those that the patch brings; KEEP=1:
where nothing failed, what was seen good goes on record (bisected.py); JOBS=, make's -j.
"perpatch.py names" checks nothing but that. Exit status: 0 all is well; 1 something failed;
2 the run cannot be trusted.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import bisected
import data
import judge
import mailcheck
import run
import worktree

from bisected import COLUMNS, MACHINE, VARIANT, digest

# Scripts, and their arguments, that build it.
KERNEL_STEPS = [('kernel.sh', VARIANT)]
SELFTESTS_STEPS = [('selftests.sh', 'bisect'), ('image.sh', 'bisect')]

HOME = os.path.join(run.BUILD, 'bisect')
TREE = os.path.join(HOME, 'tree')
LOG = os.path.join(run.BUILD, 'log')

# Goes up when what is kept would be different with the same input.
FORMAT = 1

# What decides a test's result besides kernel, program and expectation.
JUDGES = ('boot.py', 'judge.py', 'ledger.py', 'splats', 'splats-allowed.ini')
# What of a row of tests.ini does not.
INDIFFERENT = ('why', 'base', 'base_args', 'base_shows', 'run', 'not_on')

GOOD = ('pass', 'skip')


# --- what is shown ---------------------------------------------------------

def out(text):
    """A line, in the place of what a terminal was told to wait for."""
    print(('\r\033[K' if sys.stdout.isatty() else '') + text, flush=True)


@contextlib.contextmanager
def step(name, detail):
    """As lib.sh's: one line with the time it took."""
    if sys.stdout.isatty():
        print(f'  {name:10} {detail} ...', end='', flush=True)
    start = time.monotonic()
    yield
    out(f'  {name:10} {detail:52} {time.monotonic() - start:4.0f} s')


# --- the series ------------------------------------------------------------

def topics():
    """Names without their number -> names."""
    return {t.partition('-')[2]: t for t in (os.path.basename(os.path.dirname(p)) for p in worktree.patch_files())}


def numbers(words, last):
    """"3-5 9" -> {3, 4, 5, 9}."""
    wanted = set()
    for word in words:
        match = re.fullmatch(r'(\d+)(?:-(\d+))?', word)
        first, end = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= end <= last:
            raise judge.DataError(f'PATCHES={word}: wanted are numbers and ranges from 1 to {last}, as "3-5 9"')
        wanted.update(range(first, end + 1))
    return wanted


def choose(topic, words, known):
    """Whether a patch is one of those; known are the names of topics, without and with their number."""
    if topic and topic not in known:
        raise judge.DataError(f'TOPIC={topic}: there are: {" ".join(known)}')
    counts = collections.Counter(os.path.basename(os.path.dirname(p)) for p in worktree.patch_files())
    last = counts[known[topic]] if topic else sum(counts.values())
    wanted = numbers(words, last) or set(range(1, last + 1))

    def is_chosen(patch):
        if topic:
            return patch.topic == known[topic] and patch.in_topic in wanted
        return patch.number in wanted
    return is_chosen


def only(text):
    """The columns that are looked at: "kernel,sparse", all of them if nothing is said."""
    words = re.split(r'[,\s]+', text.strip(', '))
    for word in filter(None, words):
        if word not in COLUMNS:
            raise judge.DataError(f'ONLY={word}: there are: {" ".join(COLUMNS)}')
    return [c for c in COLUMNS if c in words or words == ['']]


def names():
    """What the environment asks for, or one line that says what is wrong."""
    is_chosen = choose(os.environ.get('TOPIC') or '', (os.environ.get('PATCHES') or '').split(), topics())
    quick = os.environ.get('QUICK') or ''
    if quick not in ('', '0', '1'):
        raise judge.DataError(f'QUICK={quick}: wanted is 1, or nothing')
    keeps = os.environ.get('KEEP') or ''
    if keeps not in ('', '1'):
        raise judge.DataError(f'KEEP={keeps}: wanted is 1, to have what was seen good on record')
    if keeps:
        # What is wrong with it is said now, not after hours.
        on_record()
    return is_chosen, only(os.environ.get('ONLY') or ''), quick == '1', keeps == '1'


# --- what is kept ----------------------------------------------------------

def load(path):
    try:
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    except (FileNotFoundError, ValueError):
        return None


def save(path, what):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + '.new', 'w', encoding='utf-8') as f:
        json.dump(what, f, indent=0, sort_keys=True)
        f.write('\n')
    os.replace(path + '.new', path)


def kept(kind, key):
    return os.path.join(HOME, 'kept', kind, key)


# --- what make said --------------------------------------------------------

# "  CC [M]  arch/arm64/kvm/mmu.o"
_STEP = re.compile(r'  ([A-Z][A-Z0-9_]*)(?: \[\w+\])? +(\S+) *$')
_REPORT = re.compile(r'(?i)\b(?:warning|error):')


def parse_log(text, roots=()):
    """{object: [(who reports, line)]} of make -O, also of those without a report.

    make -O keeps together what is said of a target. What compiler and sparse quote of the
    source is left out; each report has a line with "warning:" or "error:".
    """
    about, who = 'make', 'W=1'
    found = {about: []}
    for line in text.split('\n'):
        for root in roots:
            line = line.replace(root + '/', '')
        step = _STEP.match(line)
        if step and step[1] == 'CHECK':
            who = 'sparse'
        elif step:
            about, who = step[2], 'W=1'
            found[about] = []
        elif _REPORT.search(line) and not line[0].isspace() and not re.match(r'make(\[\d+\])?: ', line):
            # kernel-doc comes after sparse.
            by = 'W=1' if re.match(r'(Warning|Error): ', line) else who
            found[about].append([by, line])
    return found


def compiled(found):
    return sum(name.endswith('.o') for name in found)


def normal(report):
    """Without the line number, which any change moves."""
    return report[0], re.sub(r'(\.\w+):\d+(:\d+)?', r'\1', report[1])


def new_reports(before, now):
    """Reports on an object that has more of the kind than it had before."""
    for name in sorted(now):
        left = collections.Counter(normal(r) for r in before.get(name, ()))
        for report in now[name]:
            if left[normal(report)]:
                left[normal(report)] -= 1
            else:
                yield report


# What sparse 0.6.4 says of each of these, in all of the tree.
_NO_CONSTANT = re.compile(r'(\S+):(\d+):\d+: error: bad constant expression')
_MODULE_INFO = re.compile(r'(?:MODULE_[A-Z_]+|module_param\w*)\(')


def is_of_module_info(commit, line):
    """Whether sparse reports a MODULE_LICENSE() or the like, which is no constant to it."""
    match = _NO_CONSTANT.fullmatch(line)
    if not match:
        return False
    lines = worktree.ask('show', f'{commit}:{os.path.normpath(match[1])}').split('\n')
    return int(match[2]) <= len(lines) and bool(_MODULE_INFO.match(lines[int(match[2]) - 1]))


def remove(directory):
    """What was built in it, and what it was built from."""
    shutil.rmtree(directory, ignore_errors=True)
    if os.path.exists(directory + '.stamp'):
        os.unlink(directory + '.stamp')


class Objects:
    """What is known of the objects in a directory that make builds from commit to commit.

    An object's reports are those of its last compilation. The file is marked while make
    runs: where it ended without being asked to, nobody knows what it said last, and all
    is compiled again.
    """

    def __init__(self, kind, directories, logs):
        self.path = os.path.join(HOME, f'{kind}.json')
        self.directories = directories
        self.logs = [os.path.join(LOG, log) for log in logs]
        state = load(self.path) or {'at': '', 'running': True, 'reports': {}}
        self.at, self.reports = state['at'], state['reports']
        self.count = 0
        if state['running']:
            self.forget()

    def forget(self):
        for directory in self.directories:
            remove(directory)
        self.at, self.reports = '', {}

    def _save(self, running):
        save(self.path, {'at': self.at, 'running': running, 'reports': self.reports})

    def build(self, commit, scripts):
        """Run the scripts; True if all went well."""
        if self.at and subprocess.run(['git', '--git-dir', worktree.GIT_DIR, 'merge-base', '--is-ancestor',
                                       self.at, commit], stderr=subprocess.DEVNULL, check=False).returncode:
            self.go_back()
        self.at = commit
        self._save(True)
        for log in self.logs:
            if os.path.exists(log):
                os.unlink(log)
        good = False
        try:
            good = all(script(*words) == 0 for words in scripts)
        finally:
            self.count = 0
            for log in self.logs:
                if os.path.exists(log):
                    with open(log, encoding='utf-8', errors='replace') as f:
                        found = parse_log(f.read(), (TREE, *self.directories))
                    self.count += compiled(found)
                    found[f'make, {os.path.basename(log)}'] = found.pop('make')
                    # Whoever has what was known before keeps it.
                    self.reports = {**self.reports, **found}
            self.reports = {name: reports for name, reports in self.reports.items() if reports}
            self._save(False)
        return good


class Kernel(Objects):
    def go_back(self):
        """What is said of an object that the commit doesn't have yet must not be known.

        Each that had a report is compiled again, if it is one of the commit's.
        """
        objects, modules = self.directories
        remove(modules)
        for name in [*self.reports, '.image.stamp']:
            path = os.path.normpath(os.path.join(objects, name))
            if path.startswith(objects + '/') and os.path.isfile(path):
                os.unlink(path)
        self.reports = {}


class Selftests(Objects):
    go_back = Objects.forget


def script(*words):
    """A script of the harness, which says itself what it does; an interrupt is for all of it."""
    with subprocess.Popen([os.path.join(data.HERE, words[0]), *words[1:]], cwd=run.TOP,
                          stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            raise


# --- a patch ---------------------------------------------------------------

class Row:
    """What came out of a patch: by column what is wrong, and a word of what was done."""

    def __init__(self, patch):
        self.patch = patch
        self.wrong = {column: [] for column in COLUMNS}
        self.did = {column: '' for column in COLUMNS}
        self.untrusted = False
        self.seconds = 0.0

    def cell(self, column):
        if self.wrong[column]:
            return f'{len(self.wrong[column])} wrong'
        return self.did[column] or '-'

    def cells(self):
        return [f'{self.patch.number}', self.patch.name, self.patch.commit[:12],
                *(self.cell(c) for c in COLUMNS), f'{self.seconds:.0f} s']

    @property
    def verdict(self):
        if self.untrusted:
            return 'untrusted'
        return 'fail' if any(self.wrong.values()) else 'good'


class Boots(run.Run):
    """Boots that say only what is wrong; all of it is in the log beside the results."""

    def say(self, text):     # pylint: disable=arguments-differ
        with open(os.path.join(self.dir, 'tests.log'), 'a', encoding='utf-8') as f:
            f.write(text + '\n')
        if text.startswith('  ') and text.split()[0] not in GOOD:
            out(text)


class Bisect:
    def __init__(self, the_run, columns, quick):
        self.run = the_run
        self.run.image = os.path.join(HOME, 'image')
        self.columns = columns
        self.quick = quick
        self.objects = Kernel('kernel', [os.path.join(HOME, f'obj-{VARIANT}'), os.path.join(HOME, f'mod-{VARIANT}')],
                              [f'kernel-{VARIANT}.log', f'modules-{VARIANT}.log'])
        self.selftests = Selftests('selftests', [os.path.join(HOME, 'selftests'), os.path.join(HOME, 'headers'),
                                                 os.path.join(HOME, 'image')], ['selftests-bisect.log'])
        self.tools = [FORMAT, run.output_of('aarch64-linux-gnu-gcc', '--version'), run.output_of('sparse', '--version')]
        self.config = [run.sha256(os.path.join(data.HERE, 'config', f'{name}.config'))
                       for name in data.fragments(VARIANT)]
        with_guest = [os.path.join('guest', n) for n in sorted(os.listdir(os.path.join(data.HERE, 'guest')))]
        self.judges = [[run.sha256(os.path.join(data.HERE, n)) for n in (*JUDGES, *with_guest)],
                       run.output_of(run.QEMU, '--version'), self.run.machines[MACHINE], self.run.variants[VARIANT]]
        self.built = ''         # the commit whose kernel, selftests and image are there
        self._ids = {}

    # What a build depends on.

    def _tree(self, commit, path, leave_out=()):
        key = commit, path, leave_out
        if key not in self._ids:
            try:
                text = worktree.ask('ls-tree', f'{commit}:{path}')
            except judge.DataError:
                text = ''
            self._ids[key] = [line for line in text.split('\n') if line.partition('\t')[2] not in leave_out]
        return self._ids[key]

    def kernel_key(self, commit):
        return digest('kernel', self.tools, self.config, self.modules_id(commit),
                      self._tree(commit, '', ('Documentation', 'MAINTAINERS', 'tools')),
                      self._tree(commit, 'tools', ('testing',)))

    def modules_id(self, commit):
        return self._tree(commit, 'tools/testing/selftests/kvm/test_modules')

    def selftests_key(self, commit):
        return digest('selftests', self.tools, *(self._tree(commit, path) for path in (
            'tools', 'include/uapi', 'arch/arm64/include', 'arch/arm64/tools')))

    def _build(self, what, objects, steps, commit, row):
        """Whether it builds; the row is told of how much there was to do."""
        worktree.at(TREE, commit)
        self.built = ''
        good = objects.build(commit, steps)
        if row:
            row.did[what] = f'{objects.count} objects'
        return good

    # Builds. Each returns what is kept of it, None if it failed.

    def kernel(self, commit, row=None):
        path = kept('kernel', self.kernel_key(commit))
        found = load(path)
        if found:
            return found
        if not self._build('kernel', self.objects, KERNEL_STEPS, commit, row):
            return None
        found = {'reports': self.objects.reports}
        save(path, found)
        return found

    def programs(self, commit, row=None):
        path = kept('selftests', self.selftests_key(commit))
        found = load(path)
        if found:
            return found
        if not self._build('selftests', self.selftests, SELFTESTS_STEPS, commit, row):
            return None
        found = {'reports': self.selftests.reports, 'programs': {}}
        for program in sorted({t.program for t in self.run.tests.values()}):
            binary = os.path.join(HOME, 'image', 'tests', program)
            if os.path.exists(os.path.join(HOME, 'selftests', 'kselftest', program)):
                found['programs'][program] = run.sha256(binary)
        save(path, found)
        return found

    def build_to_boot(self, commit):
        """Kernel, selftests and image of that commit, even where what they say is known."""
        if self.built == commit:
            return True
        worktree.at(TREE, commit)
        if not self.objects.build(commit, KERNEL_STEPS) or not self.selftests.build(commit, SELFTESTS_STEPS):
            return False
        self.built = commit
        return True

    # Tests.

    def chosen_tests(self, patch, programs):
        """Which tests of the commit are run."""
        added = set(worktree.ask('diff-tree', '-r', '--name-only', '--diff-filter=A', '--no-commit-id',
                                 patch.parent, patch.commit).split('\n'))
        for test in self.run.tests.values():
            if test.set not in ('series', 'mainline') or test.program not in programs or \
                    {MACHINE, 'default'} & set(test.not_on):
                continue
            if not self.quick or test.run or f'tools/testing/selftests/{test.program}.c' in added:
                yield test

    def test_key(self, patch, test, program):
        row = {k: v for k, v in vars(test).items() if k not in INDIFFERENT}
        return digest('test', self.kernel_key(patch.commit), program, row, self.judges)

    def tests(self, patch, programs, row):
        keys = {t.name: self.test_key(patch, t, programs[t.program]) for t in self.chosen_tests(patch, programs)}
        results = {name: load(kept('tests', key)) for name, key in keys.items()}
        pending = [self.run.tests[name] for name, result in results.items() if not result]
        if pending:
            if not self.build_to_boot(patch.commit):
                row.wrong['tests'].append('kernel or selftests do not build, see build/log')
                return
            by_memory = collections.defaultdict(list)
            for test in pending:
                by_memory[test.memory_on(self.run.machines[MACHINE])].append(test)
            for memory, tests in sorted(by_memory.items(), key=lambda item: data.memory_bytes(item[0])):
                with step('boot', f'{MACHINE}, {memory}: {len(tests)} of {len(keys)} tests'):
                    job = self.run.job(MACHINE, VARIANT, memory, tests,
                                       f'{patch.number:02}-{patch.commit[:12]}-{memory}')
                self._hold(job, tests, keys, row)
        row.did['tests'] = f'{len(pending)} of {len(keys)} run' if pending else f'{len(keys)} known'

    @staticmethod
    def _hold(job, tests, keys, row):
        well = not job.complaints and not job.splats
        for complaint in job.complaints:
            row.wrong['tests'].append(f'boot: {complaint}')
        for splat in job.splats:
            row.wrong['tests'].append(f'splat in {splat["test"] or "no test"}: {splat["line"]}')
        row.untrusted |= not well
        for test in tests:
            got = job.results.get(test.name)
            if got and got['verdict'] in GOOD:
                if well:
                    save(kept('tests', keys[test.name]), {k: got[k] for k in ('verdict', 'reason', 'seconds')})
            elif got:
                row.untrusted |= got['verdict'] != 'fail'
                row.wrong['tests'].append(f'{test.name}: {got["verdict"]}: {got["reason"]}')

    # All of it.

    def _kernel(self, patch, before, row):
        """False if it doesn't build."""
        now = self.kernel(patch.commit, row)
        if now is None:
            row.wrong['kernel' if 'kernel' in self.columns else 'sparse'].append(
                f'does not build: build/log/kernel-{VARIANT}.log')
            row.did['kernel'] = ''
            return False
        key = self.kernel_key(patch.commit)
        same = key == before['kernel_key']
        row.did['kernel'] = row.did['kernel'] or ('same' if same else 'known')
        row.did['sparse'] = 'same' if same else 'nothing new'
        for by, line in new_reports(before['kernel']['reports'], now['reports']):
            if by != 'sparse' or not is_of_module_info(patch.commit, line):
                row.wrong['sparse' if by == 'sparse' else 'kernel'].append(line)
        before['kernel'], before['kernel_key'] = now, key
        return True

    def _selftests(self, patch, before, row):
        now = self.programs(patch.commit, row)
        if now is None:
            row.wrong['selftests'].append('do not build: build/log/selftests-bisect.log')
            return False
        key = self.selftests_key(patch.commit)
        row.did['selftests'] = row.did['selftests'] or ('same' if key == before['selftests_key'] else 'known')
        for _, line in new_reports(before['selftests']['reports'], now['reports']):
            row.wrong['selftests'].append(line)
        before['selftests'], before['selftests_key'] = now, key
        return True

    def patch(self, patch, before):
        """before: the records of the patch before it, which become its own."""
        row = Row(patch)
        start = time.monotonic()
        builds = True
        if self.compares_kernels:
            builds = self._kernel(patch, before, row)
        if 'selftests' in self.columns:
            builds = self._selftests(patch, before, row) and builds
        if 'tests' in self.columns and builds:
            found = self.programs(patch.commit)
            if found is None:
                row.wrong['tests'].append('the selftests do not build: build/log/selftests-bisect.log')
            else:
                self.tests(patch, found['programs'], row)
        for column in COLUMNS:
            if column not in self.columns:
                row.wrong[column], row.did[column] = [], ''
        row.seconds = time.monotonic() - start
        return row

    @property
    def compares_kernels(self):
        return 'kernel' in self.columns or 'sparse' in self.columns

    def before(self, commit):
        """The records that a first patch is compared with."""
        found = {}
        if self.compares_kernels:
            found.update(kernel=self.kernel(commit), kernel_key=self.kernel_key(commit))
        if 'selftests' in self.columns:
            found.update(selftests=self.programs(commit), selftests_key=self.selftests_key(commit))
        if None in found.values():
            raise judge.DataError(f'{commit[:12]}, before the first of the patches, does not build')
        return found


# --- style -----------------------------------------------------------------

def patchcheck(*words):
    done = subprocess.run([os.path.join(data.HERE, 'patchcheck.sh'), *words], cwd=run.TOP, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise judge.DataError(f'patchcheck.sh {words[0]}: failed')
    return done.stdout.splitlines()


def style(patches):
    """{patch's number: what is wrong}, and what is wrong with checkpatch-allowed.ini, of all patches."""
    tree = os.path.join(run.BUILD, 'series', 'tree')
    script_id = run.sha256(os.path.join(tree, 'scripts', 'checkpatch.pl'))
    texts = {p.number: worktree.ask('format-patch', '-1', '--stdout', '--full-index', p.commit) + '\n' for p in patches}
    # Not by the id of the commit, in its first line: that changes with each patch before it.
    places = {p.number: kept('style', digest(FORMAT, texts[p.number].partition('\n')[2], script_id)) for p in patches}
    reports = {p.number: load(places[p.number]) for p in patches}
    todo = [p for p in patches if reports[p.number] is None]
    if todo:
        work = os.path.join(HOME, 'mails')
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        for p in todo:
            with open(os.path.join(work, p.file), 'w', encoding='utf-8') as f:
                f.write(texts[p.number])
        with step('style', f'checkpatch.pl on {len(todo)} patches'):
            lines = patchcheck('checkpatch', tree, '--ignore=MISSING_SIGN_OFF',
                               *(os.path.join(work, p.file) for p in todo))
        for p in todo:
            mine = [line.partition(p.file)[2] for line in lines if p.file + ':' in line]
            reports[p.number] = {'checkpatch': mine}
        if sum(len(reports[p.number]['checkpatch']) for p in todo) != len(lines):
            raise judge.DataError(f'checkpatch.pl: {next((l for l in lines if ".patch:" not in l), lines[0])}')
        for p in todo:
            save(places[p.number], reports[p.number])
        shutil.rmtree(work)
    wrong = {p.number: [] for p in patches}
    of_file = {p.file: p for p in patches}
    others = []
    mails = [types.SimpleNamespace(name=p.file, subject=p.subject) for p in patches]
    report = '\n'.join(p.file + line for p in patches for line in reports[p.number]['checkpatch'])
    for finding in mailcheck.checkpatch(report, mails, []):
        name = finding.partition(':')[0]
        if name in of_file:
            wrong[of_file[name].number].append(finding[len(name) + 1:])
        else:
            others.append(finding)
    of_subject = {p.subject: p for p in patches}
    for line in patchcheck('whitespace', worktree.GIT_DIR, f'base..{worktree.composed()}'):
        subject = next(s for s in of_subject if line.startswith(s + ': '))
        wrong[of_subject[subject].number].append(line[len(subject) + 2:])
    return wrong, others


# --- the end ---------------------------------------------------------------

HEAD = ['', 'patch', 'commit', *COLUMNS, 'time']


def table(rows):
    lines = [HEAD] + [row.cells() for row in rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    for line, row in zip(lines, [None, *rows]):
        verdict = row.verdict if row else ''
        subject = row.patch.subject if row else ''
        cells = '  '.join(cell.ljust(width) for cell, width in zip(line, widths))
        yield f'  {verdict:9} {cells}  {subject}'


def on_record():
    return bisected.committed() if os.path.exists(bisected.RECORD) else bisected.Record()


def keep(rows, patches, keys, columns, quick):
    """What the rows show, all of them good, goes on record.

    The keys are from before the run: what is edited in the meantime was not looked at.
    """
    shown = ['quick' if column == 'tests' and quick else column for column in columns]
    proven = {(column, keys[row.patch.number - 1][column]) for row in rows for column in shown}
    record = bisected.renewed(on_record(), patches, keys, proven)
    tools = [worktree.ask('log', '-1', '--format=%s', 'base')]
    if set(columns) != {'style'}:
        tools += [run.output_of('aarch64-linux-gnu-gcc', '--version'), 'sparse ' + run.output_of('sparse', '--version')]
    if 'tests' in columns:
        tools.append(run.output_of(run.QEMU, '--version'))
    with open(bisected.RECORD + '.new', 'w', encoding='utf-8') as f:
        f.write(record.text(', '.join(tools)))
    os.replace(bisected.RECORD + '.new', bisected.RECORD)
    for column in bisected.RECORDED:
        count = sum(record.has(column, mine) for mine in keys)
        if count:
            out(f'  on record  {column:9} {count} of {len(patches)} patches'
                + ('' if column in record.columns or column == 'quick' else ', make check does not ask for it yet'))


def finish(the_run, rows, chosen, others, interrupted):
    bad = [row for row in rows if row.verdict != 'good']
    untrusted = [row for row in rows if row.untrusted]
    sentence = f'{len(rows) - len(bad)} patches good, {len(bad) - len(untrusted)} failed, {len(untrusted)} not trusted'
    if interrupted or len(rows) < len(chosen):
        sentence = f'interrupted: {sentence}, {len(chosen) - len(rows)} of {len(chosen)} not looked at'
    for line in table(rows):
        out(line.rstrip())
    for row in bad:
        for column, wrong in row.wrong.items():
            for what in wrong:
                out(f'{row.patch.name} {row.patch.commit[:12]} {column}: {what}')
    for what in others:
        out(what)
    save(os.path.join(the_run.dir, 'results.json'), {
        'kind': 'bisect', 'sentence': sentence, 'others': others,
        'patches': [{'patch': row.patch.name, 'commit': row.patch.commit, 'subject': row.patch.subject,
                     'verdict': row.verdict, 'wrong': row.wrong, 'did': row.did, 'seconds': round(row.seconds, 1)}
                    for row in rows]})
    with open(os.path.join(the_run.dir, 'summary.md'), 'w', encoding='utf-8') as f:
        f.write(f'# bisect: {sentence}\n\n| | {" | ".join(HEAD)} | subject |\n|{"---|" * (len(HEAD) + 2)}\n')
        for row in rows:
            f.write(f'| {row.verdict} | {" | ".join(row.cells())} | {row.patch.subject} |\n')
        f.write('\n')
        for row in bad:
            f.writelines(f'* {row.patch.name}, {column}: `{what}`\n'
                         for column in COLUMNS for what in row.wrong[column])
        f.writelines(f'* `{what}`\n' for what in others)
    out(f'{sentence}: {os.path.relpath(the_run.dir, run.TOP)}')
    if interrupted:
        return 130
    if untrusted:
        return judge.EXIT_UNTRUSTED
    return judge.EXIT_FAIL if bad or others else judge.EXIT_GOOD


def main():
    is_chosen, columns, quick, keeps = names()
    if sys.argv[1:] == ['names']:
        return judge.EXIT_GOOD
    if sys.argv[1:]:
        raise judge.DataError('usage: perpatch.py [names]')
    if script('tree.sh', 'check-no-local-work'):
        return judge.EXIT_UNTRUSTED
    patches = worktree.series()
    chosen = [p for p in patches if is_chosen(p)]
    the_run = Boots('bisect')
    the_run.dir = the_run.directory('bisect')
    rows, others, keys, interrupted = [], [], [], False
    try:
        if keeps:
            made = bisected.Keys()
            keys = [made.of(p) for p in patches]
        if 'style' in columns:
            wrong, others = style(patches)
        bisect = Bisect(the_run, columns, quick)
        before = None
        for patch in chosen:
            if before is None or patch.parent != before['commit']:
                before = bisect.before(patch.parent)
            out(f'{patch.number}/{len(patches)} {patch.name} {patch.subject}')
            row = bisect.patch(patch, before)
            before['commit'] = patch.commit
            if 'style' in columns:
                row.wrong['style'], row.did['style'] = wrong[patch.number], 'clean'
            rows.append(row)
            out(f'  {row.verdict:10} {"; ".join(f"{c} {row.cell(c)}" for c in COLUMNS):52} {row.seconds:4.0f} s')
    except KeyboardInterrupt:
        interrupted = True
    status = finish(the_run, rows, chosen, others, interrupted)
    if keeps and status == judge.EXIT_GOOD:
        keep(rows, patches, keys, columns, quick)
    elif keeps:
        out('nothing goes on record, not all is good')
    return status


if __name__ == '__main__':
    run.guarded(main)
