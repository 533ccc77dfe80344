# SPDX-License-Identifier: GPL-2.0-only
"""What a test, a console and a whole run are worth.

A verdict is one of

  pass        the test did what tests.ini expects (it passed, or it failed on the
              base kernel where it is declared to)
  fail        it did something else
  skip        it skipped where it must
  unexpected  it skipped where it must not: nothing was shown, so the run cannot be
              trusted
  untrusted   its output is no evidence: truncated, without its plan, or its exit
              status says something other than its output

Exit status of a run:

  0  all as expected
  1  a test failed
  2  the run cannot be trusted
"""

import configparser
import datetime
import fnmatch
import re
import sys

EXIT_GOOD, EXIT_FAIL, EXIT_UNTRUSTED = 0, 1, 2

# kselftest.h
KSFT_PASS, KSFT_FAIL, KSFT_XFAIL, KSFT_SKIP = 0, 1, 2, 4


class DataError(Exception):
    """A data file says something that cannot be."""


# --- console ---------------------------------------------------------------

_ANSI = re.compile(r'\x1b\[[0-9;?]*[a-zA-Z]')
_PREFIX = re.compile(r'^(<\d+>)?(\[ *\d+\.\d+\])?(\[ *[TC]\d+\])?(\s*printk: )? ?')
_MARK = re.compile(r'harness: (start|end) (\S+)')
_TRACE_END = re.compile(r'---\[ end trace ')

# How far a report reaches when nothing ends it, and beyond the end of its trace: a
# panic is announced there.
REPORT_LINES, AFTER_TRACE = 100, 4


def load_splats(path):
    """Return [(name, regex, continues)] from the pattern file."""
    patterns = []
    with open(path, encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            line = line.rstrip('\n')
            if not line.strip() or line.startswith('#'):
                continue
            try:
                name, pattern = line.split(None, 1)
                patterns.append((name.lstrip('+'), re.compile(pattern), name.startswith('+')))
            except (ValueError, re.error) as error:
                raise DataError(f'{path}:{number}: wanted are a name and a pattern: {error}') from error
    if not patterns:
        raise DataError(f'{path}: no patterns; a console nobody looks at proves nothing')
    return patterns


def load_allowed(path, today=None):
    """Return [regex] of the allowed reports that have not expired."""
    today = today or datetime.date.today()
    ini = configparser.ConfigParser(interpolation=None)
    allowed = []
    try:
        with open(path, encoding='utf-8') as f:
            ini.read_file(f)
        for name in ini.sections():
            entry = dict(ini[name])
            if sorted(entry) != ['expires', 'link', 'match', 'reason'] or not all(entry.values()):
                raise DataError(f'{path}: [{name}]: wanted are match, reason, link and expires')
            match = re.compile(entry['match'])
            if datetime.date.fromisoformat(entry['expires']) >= today:
                allowed.append(match)
    except (configparser.Error, re.error, ValueError) as error:
        raise DataError(f'{path}: {error}') from error
    return allowed


def console_lines(text):
    """The lines of a console log without CR, colours and printk's prefixes."""
    for line in _ANSI.sub('', text.replace('\r', '')).split('\n'):
        yield _PREFIX.sub('', line, count=1)


def scan_console(text, patterns, allowed=()):
    """Return [(kind, test, line)], a report a row; test is None outside of one.

    A test is charged with what is printed while it runs. Asynchronous reports
    (kmemleak, a tag check fault in async mode) can be another's.

    A line that continues a report (a + in the pattern file) is a row of its own if
    there is no report just before it.
    """
    found = []
    test = None
    reach = 0       # lines to which the last report reaches
    for line in console_lines(text):
        reach -= 1
        mark = _MARK.match(line)
        if mark:
            test = mark[2] if mark[1] == 'start' else None
            continue
        if _TRACE_END.match(line):
            reach = min(reach, AFTER_TRACE)
            continue
        for kind, pattern, continues in patterns:
            if not pattern.match(line):
                continue
            if continues and reach > 0:
                reach = REPORT_LINES
            elif not any(a.search(line) for a in allowed):
                found.append((kind, test, line.strip()))
                reach = REPORT_LINES
            else:
                # What is allowed does not hide what follows it.
                reach = 0
            break
    return found


# --- one test --------------------------------------------------------------

class Outcome:
    """What a test did: result is pass, fail, skip or untrusted."""

    def __init__(self, result, reason='', cases=()):
        self.result = result
        self.reason = reason
        self.cases = list(cases)    # (name, pass|fail|skip|untrusted, reason)


_ASSERTION = '==== Test Assertion Failure ===='
_RESULT = re.compile(r'(not )?ok \d+')
# What every test of some kind prints, and which says nothing.
_IDLE = re.compile(r'Random seed: |# (Totals:|figure|Planned tests !=|Starting \d+ tests| +RUN) |1\.\.|K?TAP version ')


def _last_line(output):
    lines = [l.strip() for l in output.split('\n')]
    lines = [l for l in lines if l and not _IDLE.match(l)]
    return lines[-1][:160] if lines else 'without a word'


def _skip_reason(output):
    """The line that says so, without what it begins with."""
    for line in reversed(output.split('\n')):
        match = re.search(r'# SKIP\b[ -]*(.*\S)', line) or \
            re.match(r'\s*(?:# )?(?:SKIP(?:PED)?|Skipp(?:ed|ing)(?: test)?)\b[:, -]+(.*\S)', line, re.I)
        if match:
            return match[1][:160]
    return _last_line(output)


def _assertion(output):
    """file:line and the condition, then, behind the trace, the message."""
    lines = output.partition(_ASSERTION)[2].split('\n')[1:30]
    said = [l.strip() for l in lines if l.strip()]
    message = [l for l in said[2:] if not re.match(r'\d+\s+0x|\d+\t|\(|sh: |pid=', l)]
    return ': '.join(said[:1] + message[:1])[:200] or 'an assertion failed'


def _fail_reason(output):
    if _ASSERTION in output:
        return _assertion(output)
    said = first = ''
    failed = 0
    for line in output.split('\n'):
        line = line.strip()
        if line.startswith('Bail out!'):
            return line[:200]
        if line.startswith('not ok ') and '# SKIP' not in line:
            first = first or (line + (f': {said}' if said else ''))[:160]
            failed += 1
        if _RESULT.match(line):
            said = ''
        elif line.startswith('# ') and not said and not _IDLE.match(line):
            # Of what a case says before it fails, the first is what it found.
            said = line[2:].strip()
    if first:
        return first + (f' (and {failed - 1} more)' if failed > 1 else '')
    return _last_line(output)


def parse_ktap(output, parser):
    """Cases of a KTAP document by the kernel's parser; None if there is none.

    Returns (cases, complaint); a complaint is what makes the document no evidence.
    """
    if not re.search(r'^(K?TAP version \d+)', output, re.M):
        return None
    test = parser.parse(output)
    # kselftest's "ok 1 # SKIP name: reason" has its name behind the directive.
    cases = [(t.name or t.skip_reason, parser.status(t), t.skip_reason or '') for t in test.subtests]
    if re.search(r'^Bail out!', output, re.M):
        return cases, 'KTAP that bails out'
    if test.expected_count is None:
        return cases, 'KTAP without a plan'
    done = [c for c in cases if c[1] != 'untrusted']
    if len(done) != test.expected_count:
        return done, f'KTAP truncated: {test.expected_count} planned, {len(done)} results'
    # The parser stops at the end of the plan: what comes after it is counted here.
    results = sum(bool(_RESULT.match(line)) for line in output.split('\n'))
    if results > test.expected_count:
        return cases, f'KTAP with {test.expected_count} planned, {results} results'
    if test.counts.errors:
        return cases, f'KTAP with {test.counts.errors} errors in it'
    if test.counts.failed and not any(status == 'fail' for _, status, _ in cases):
        return cases, 'KTAP with a nested case that failed in one that passed'
    return cases, ''


def outcome(end, value, output, parser):
    """Judge one test from how it ended and what it printed.

    end is exit, signal, timeout, stuck, error (init could not start it) or lost
    (the guest went away while it ran).
    """
    if end == 'lost':
        return Outcome('untrusted', 'the guest went away while it ran')
    if end == 'error':
        return Outcome('untrusted', f'could not be started: errno {value}')

    ktap = parse_ktap(output, parser)
    cases, complaint = ktap if ktap else ([], '')
    if end == 'stuck':
        return Outcome('fail', f'not killable after {value} s', cases)
    if end == 'timeout':
        return Outcome('fail', f'timed out after {value} s', cases)
    if end == 'signal':
        return Outcome('fail', f'killed by signal {value}', cases)
    failed = [name for name, status, _ in cases if status == 'fail']
    if value == KSFT_SKIP:
        # An assertion that fails while errno happens to be EACCES ends like a skip.
        if failed or _ASSERTION in output:
            return Outcome('fail', f'{_fail_reason(output)} [exit status {value}]', cases)
        return Outcome('skip', _skip_reason(output), cases)
    if value not in (KSFT_PASS, KSFT_XFAIL):
        return Outcome('fail', f'{_fail_reason(output)} [exit status {value}]', cases)
    if complaint:
        return Outcome('untrusted', complaint, cases)
    if failed:
        return Outcome('untrusted', f'exit status {value}, but {failed[0]} failed', cases)
    if _ASSERTION in output:
        # Of a child whose exit status nobody looked at.
        return Outcome('untrusted', f'exit status {value}, but {_assertion(output)}', cases)
    if not output.strip():
        return Outcome('untrusted', f'exit status {value}, but no output at all', cases)
    if not ktap and re.search(r'^usage: ', output, re.M | re.I):
        # KVM's tests answer options that they do not know with exit status 0.
        return Outcome('untrusted', 'nothing but its usage: args in tests.ini?', cases)
    if cases and all(status == 'skip' for _, status, _ in cases):
        return Outcome('skip', f'all {len(cases)} cases: {cases[0][2] or cases[0][0]}', cases)
    return Outcome('pass', '', cases)


class Verdict:
    def __init__(self, verdict, reason):
        self.verdict = verdict
        self.reason = reason


def judge(test, got, features, on_base, output=''):
    """Hold an Outcome against what tests.ini expects of the test there.

    features is the ledger: name -> (present, why).
    """
    if got.result == 'untrusted':
        return Verdict('untrusted', got.reason)

    missing = first_false(test.needs, features)
    if missing:
        why = features[missing.lstrip('!')][1] if missing.lstrip('!') in features else ''
        if got.result == 'skip':
            return Verdict('skip', f'{got.reason or "skipped"} [no {missing}: {why}]')
        return Verdict('fail', f'must skip without {missing} ({why}), but: {got.result} {got.reason}'.rstrip())

    expected = 'pass'
    why = ''
    if on_base and test.base:
        expected, why = test.base, 'as declared for the base'
    for expression, reason in test.fails:
        if not first_false(expression, features):
            expected, why = 'fail', reason

    if got.result == expected:
        if expected == 'pass':
            if test.strict_cases and not got.cases:
                return Verdict('untrusted', 'exit status 0 without KTAP: nothing says what was tested')
            return _judge_cases(test, got, features)
        if on_base and expected == test.base:
            # A test that fails for another reason than its defect proves nothing.
            unseen = [p for p in test.base_shows if not re.search(p, output)]
            if unseen:
                return Verdict('fail', f'{expected}s on the base, but does not show "{unseen[0]}": {got.reason}')
        return Verdict('pass', f'{expected}s {why}: {got.reason}')
    if got.result == 'skip':
        return Verdict('unexpected', got.reason)
    if expected != 'pass':
        return Verdict('fail', f'expected to {expected} ({why}), but: {got.result} {got.reason}'.rstrip())
    return Verdict('fail', got.reason)


def _judge_cases(test, got, features):
    """A case that skips inside a test that passes must be declared as well."""
    for pattern, expression in test.skip_cases:
        if not first_false(expression, features) and \
                not fnmatch.filter([name for name, _, _ in got.cases], pattern):
            return Verdict('fail', f'skip-cases {pattern}: there is no such case')
    skipped = 0
    for name, status, reason in got.cases:
        rules = [e for glob, e in test.skip_cases if fnmatch.fnmatchcase(name, glob)]
        must = any(not first_false(e, features) for e in rules)
        if status == 'skip':
            skipped += 1
            if not must and test.strict_cases:
                return Verdict('unexpected', f'case skipped: {reason or name}')
        elif must:
            return Verdict('fail', f'case {name} must skip here, but: {status}')
    note = f'{len(got.cases)} cases' if got.cases else ''
    if skipped:
        note += f', {skipped} skipped'
    return Verdict('pass', note)


# --- expressions over the ledger -------------------------------------------

def first_false(expression, features):
    """The first name of "a !b c" that does not hold; '' if all do."""
    for word in expression.split():
        name = word.lstrip('!')
        if name not in features:
            raise DataError(f'unknown feature {name}; there are {" ".join(sorted(features))}')
        if features[name][0] == word.startswith('!'):
            return word
    return ''


# --- the kernel's KTAP parser ----------------------------------------------

class KunitParser:
    """tools/testing/kunit/kunit_parser.py of the tree, made quiet."""

    def __init__(self, tree):
        sys.path.insert(0, f'{tree}/tools/testing/kunit')
        sys.dont_write_bytecode = True
        try:
            import kunit_junit                      # pylint: disable=import-error
            import kunit_parser                     # pylint: disable=import-error
            from kunit_printer import null_printer  # pylint: disable=import-error
        except ImportError as error:
            raise DataError(f'{tree}: without the kernel\'s KTAP parser ({error}): make tree') from error
        self.module = kunit_parser
        self.junit = kunit_junit
        self._printer = null_printer

    def parse(self, output):
        return self.module.parse_run_tests(output.split('\n'), self._printer)

    def status(self, test):
        s = self.module.TestStatus
        return {s.SUCCESS: 'pass', s.FAILURE: 'fail', s.SKIPPED: 'skip'}.get(test.status, 'untrusted')


def exit_status(verdicts, splats, complaints):
    """Of a whole run: untrusted before failed before good."""
    if splats or complaints or any(v in ('unexpected', 'untrusted') for v in verdicts):
        return EXIT_UNTRUSTED
    if not verdicts:
        return EXIT_UNTRUSTED
    return EXIT_FAIL if 'fail' in verdicts else EXIT_GOOD
