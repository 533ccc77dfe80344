#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a topic must not be sent without: series.sh starts it.

mailcheck.py WORK TOPIC VERSION: WORK has plain/, patches as git format-patch writes them,
and checkpatch, the report on them; TOPIC is a directory of patches/. Prints a line "CHECK
WHERE: WHAT" for each finding and writes to WORK/tolerated what of the report is to stay.
The checks:

  cover          patches/TOPIC/cover-letter: subject, text, what was tested and what
                 could not be
  depends        it names the topic that comes before
  changelog      patches/TOPIC/changelog says what changed in each version from 2 on
  placeholder    text that somebody wanted to replace
  signoff        a sign-off of somebody else
  checkpatch     checkpatch.pl --strict reports what checkpatch-allowed.ini doesn't have
  documentation  a name of the uAPI that Documentation/ doesn't get; a document in no index
  test           a change of the kernel without a selftest that fails or skips on the base;
                 a selftest that tests.ini doesn't have
"""

import email
import email.policy
import fnmatch
import glob
import os
import re
import sys

import data
import judge
import run

PATCHES = os.path.join(run.TOP, 'patches')
# As RFC 5322 has it.
COLUMNS = 78

IN_TEXT = re.compile(r'\b(?:TODO|FIXME|XXX|TBD|EDITME|lorem ipsum)\b|\*\*\*|\?\?\?|BLURB HERE|SUBJECT HERE|'
                     r'<(?:your|the|fill|insert|link|url|name|version|message-id)\b[^>]*>|https?://\.\.\.', re.I)
IN_CODE = re.compile(r'\b(?:TODO|FIXME|XXX|TBD)\b|^(?:<{7}|>{7}) ')


class Mail:
    """A patch: subject, lines of its message, (path, is new, added lines) of each file."""

    def __init__(self, path):
        self.name = os.path.basename(path)
        with open(path, 'rb') as f:
            mail = email.message_from_binary_file(f, policy=email.policy.default)
        self.subject = re.sub(r'^\[PATCH[^]]*\] ', '', mail['Subject'])
        text = mail.get_content()
        message, _, rest = text.partition('\n---\n')
        self.message = message.split('\n')
        self.files = []
        for part in re.split(r'^diff --git ', rest, flags=re.M)[1:]:
            head, _, hunks = part.partition('\n@@ ')
            path = re.match(r'a/.* b/(.*)', head)[1]
            added = [line[1:] for line in hunks.split('\n')[1:] if line.startswith('+')]
            self.files.append((path, '\nnew file mode' in head, added))


def read(topic, name):
    try:
        with open(os.path.join(PATCHES, topic, name), encoding='utf-8') as f:
            return f.read()
    except FileNotFoundError:
        return ''


def subject_of(cover):
    match = re.match(r'Subject: (.*\S)', cover)
    return match[1] if match else ''


def cover(topic, text):
    if not text:
        yield f'patches/{topic}/cover-letter: there is none'
        return
    if not subject_of(text):
        yield 'cover-letter: its first line is not "Subject: ..."'
    body = text.partition('\n\n')[2]
    tested = re.search(r'^What was tested:.*', body, re.M | re.S)
    if not body[:tested.start() if tested else None].strip():
        yield 'cover-letter: it does not say what the series does, and why'
    if not tested:
        yield 'cover-letter: no paragraph "What was tested: ..." says on which machines'
    elif 'ardware' not in tested[0]:
        yield 'cover-letter: "What was tested:" does not say what of it on hardware'
    for number, line in enumerate(text.split('\n')[1:], 2):
        if len(line) > COLUMNS and ' ' in line.strip():
            yield f'cover-letter: line {number} has more than {COLUMNS} columns'


def depends(topic, text):
    before = [t for t in sorted(os.listdir(PATCHES)) if t < topic]
    if before:
        subject = subject_of(read(before[-1], 'cover-letter'))
        if f'"{subject}"' not in ' '.join(text.split()):
            yield f'cover-letter: it does not name "{subject}", on which it depends'


def changelog(topic, version):
    if version == 1:
        return
    parts = re.split(r'^Changes in v(\d+)\b.*\n', read(topic, 'changelog'), flags=re.M)
    said = {int(n): text.strip() for n, text in zip(parts[1::2], parts[2::2])}
    for n in range(version, 1, -1):
        if not said.get(n):
            yield f'patches/{topic}/changelog: nothing below a line "Changes in v{n}:"'
    for n in said:
        if n > version:
            yield f'patches/{topic}/changelog: it has a version {n}, and this is {version}'


def placeholder(topic, version, text, mails):
    places = [('cover-letter', text.split('\n'), IN_TEXT)]
    if version > 1:
        places.append(('changelog', read(topic, 'changelog').split('\n'), IN_TEXT))
    for mail in mails:
        places.append((mail.name, [mail.subject] + mail.message, IN_TEXT))
        places += [(f'{mail.name}: {path}', added, IN_CODE) for path, _, added in mail.files]
    for where, lines, wanted in places:
        for line in lines:
            if wanted.search(line):
                yield f'{where}: {line.strip()}'


def signoff(mails, who):
    for mail in mails:
        for line in mail.message:
            if line.startswith('Signed-off-by:') and line != f'Signed-off-by: {who}':
                yield f'{mail.name}: {line}: patches/ has no sign-off, SIGNOFF= adds it'


def checkpatch(report, mails, tolerated):
    """Findings; tolerated gets what is not one."""
    subjects = {mail.name: mail.subject for mail in mails}
    # (section, glob of subjects) -> type, regular expression, reason
    allowed = {(section, glob_): (kind, row['match'], row['reason'])
               for section, kind, row in data.checkpatch_allowed()
               for glob_ in row['patch'].strip().split('\n')}
    used = set()
    for line in report.split('\n'):
        match = re.match(r'(?:.*/)?([^/:]+\.patch):(\d+): (?:ERROR|WARNING|CHECK):(\w+): (.*)', line)
        if not match:
            if line.strip():
                yield line.strip()
            continue
        name, number, kind, what = match.groups()
        for key, (its_kind, wanted, reason) in allowed.items():
            if kind == its_kind and re.search(wanted, what) and fnmatch.fnmatchcase(subjects.get(name, ''), key[1]):
                used.add(key)
                tolerated.append(f'{name}:{number}: {kind}: {what}\n    {reason}')
                break
        else:
            yield f'{name}:{number}: {kind}: {what}'
    for section, glob_ in allowed:
        if glob_ != '*' and (section, glob_) not in used and fnmatch.filter(subjects.values(), glob_):
            yield f'checkpatch-allowed.ini: [{section}]: nothing of that is reported any more for {glob_}'


def documentation(mails):
    written = [(path, line) for mail in mails for path, _, added in mail.files
               if path.startswith('Documentation/') for line in added]
    words = {word for _, line in written for word in re.findall(r'\w+', line)}
    for mail in mails:
        for path, is_new, added in mail.files:
            if re.match(r'(include|arch/\w+/include)/uapi/', path):
                for name in re.findall(r'^#[ \t]*define[ \t]+(\w+)[ \t]+\S', '\n'.join(added), re.M):
                    if name not in words:
                        yield f'{mail.name}: {name} is new in {path}, and not in Documentation/'
            if is_new and path.startswith('Documentation/') and path.endswith('.rst'):
                here, name = os.path.split(path[:-len('.rst')])
                listed = {os.path.normpath(os.path.join(os.path.dirname(p), line.strip()))
                          for p, line in written if os.path.basename(p) == 'index.rst'}
                if name != 'index' and os.path.join(here, name) not in listed:
                    yield f'{mail.name}: {path} is in no index.rst'


def test(mails):
    known = data.tests()
    programs = {t.program: [u for u in known.values() if u.program == t.program] for t in known.values()}
    prove = []
    for mail in mails:
        for path, is_new, added in mail.files:
            match = re.match(r'tools/testing/selftests/(.*)\.c$', path)
            if not match or not is_new or not any(re.match(r'int main\(', line) for line in added):
                continue
            if match[1] not in programs:
                yield f'{mail.name}: {path} has no section in tests.ini'
            prove += [t for t in programs.get(match[1], ()) if t.base != 'pass']
    kernel = sorted({path for mail in mails for path, _, _ in mail.files
                     if not path.startswith(('tools/', 'Documentation/', 'MAINTAINERS'))})
    if kernel and not prove:
        yield f'{kernel[0]} changes, and of the topic\'s selftests none fails or skips on the base'


def main(work, topic, version):
    mails = [Mail(path) for path in sorted(glob.glob(os.path.join(work, 'plain', '*.patch')))]
    with open(os.path.join(work, 'checkpatch'), encoding='utf-8', errors='replace') as f:
        report = f.read()
    text = read(topic, 'cover-letter')
    tolerated = []
    checks = {
        'cover': cover(topic, text),
        'depends': depends(topic, text),
        'changelog': changelog(topic, version),
        'placeholder': placeholder(topic, version, text, mails),
        'signoff': signoff(mails, os.environ['SIGNOFF']),
        'checkpatch': checkpatch(report, mails, tolerated),
        'documentation': documentation(mails),
        'test': test(mails),
    }
    for name, found in checks.items():
        for what in found:
            print(f'{name:13} {what}')
    with open(os.path.join(work, 'tolerated'), 'w', encoding='utf-8') as f:
        f.writelines(f'tolerated     {line}\n' for line in tolerated)
    return judge.EXIT_GOOD


if __name__ == '__main__':
    run.guarded(lambda: main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
