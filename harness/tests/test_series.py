# SPDX-License-Identifier: GPL-2.0-only
"""series.sh and mailcheck.py on a base of a few files, with scripts that play the kernel's.

Holds: what is written is a topic that git am turns into the composed trees, by the one who
signs it off, to those get_maintainer.pl names, and says what it applies to; each check stops
what it is there for, by its name, and nothing is written then; what is tolerated has a
reason; bad input gets one line; an interrupt leaves nothing behind.
"""

import email
import email.policy
import fnmatch
import glob
import os
import re
import shutil
import signal
import sys
import unittest

from tests import common
from tests.test_tree import LINES, TreeTest

sys.path.insert(0, common.HARNESS)
import data     # noqa: E402  pylint: disable=wrong-import-position

WHO = 'A Developer <dev@example.org>'

# What a patch adds after "report" is what it reports; the other names who maintains what.
CHECKPATCH = r'''
die "not strict\n" unless grep { $_ eq "--strict" } @ARGV;
for my $file (grep { !/^--/ } @ARGV) {
	open(my $f, "<", $file) or die;
	while (<$f>) { print "$file:$.: WARNING:$1: $2\n" if /^\+.*report (\w+) (.*?)( \*\/)?$/; }
}
open(my $f, ">", ".checkpatch-camelcase.date.1");
'''
GET_MAINTAINER = r'''
open(my $f, "<", $ARGV[-1]) or die;
my $text = join("", <$f>);
exit 0 if $text =~ /orphan/;
print "M Aintainer <m\@kernel.example> (maintainer:KVM (KVM/arm64))\n" if $text =~ m{a/arch};
print "R. Eviewer <r\@kernel.example> (reviewer:KVM (KVM/arm64))\n" if $text =~ m{a/arch};
print "S Elftests <s\@kernel.example> (maintainer:SELFTESTS)\n" if $text =~ m{a/(tools|Documentation)};
print "K Eyword <k\@kernel.example> (maintainer:RT:Keyword:thing)\n" if $text =~ /thing/;
print "list\@kernel.example (open list:KVM)\nlinux-kernel\@kernel.example (open list)\n";
'''

TESTS_INI = '''[new_test]
program = new_test
base = fail
base-shows = stale
[other_test]
program = other_test
base = pass
'''

COVER = '''Subject: {subject}

{text}
What was tested: all of it under QEMU. Hardware was not at hand.
'''

PATCH = '''Subject: {subject}

{body}
---
{new}
{diff}'''


class SeriesTest(TreeTest):
    more_files = (('scripts/checkpatch.pl', CHECKPATCH), ('scripts/get_maintainer.pl', GET_MAINTAINER),
                  ('include/uapi/linux/kvm.h', LINES), ('Documentation/index.rst', LINES))

    def setUp(self):
        super().setUp()
        self.write('harness/tests.ini', TESTS_INI)
        self.write('harness/checkpatch-allowed.ini', '')
        self.write('build/base.stamp', 'other\n')
        self.new_test('one')
        self.patch('1-fixes/0001', 'KVM: arm64: Fix one thing', 'line 10\n', 'line ten\n',
                   new='tools/testing/selftests/new_test.c')
        self.patch('1-fixes/0002', 'KVM: arm64: Fix two', 'line 20\n', 'line twenty\n',
                   body='Two\nlines.\n\n  - indented')
        self.patch('2-more/0001', 'KVM: arm64: Do more', 'line 30\n', 'line thirty\n', path='arch/arm64/kvm/guest.c',
                   new='tools/testing/selftests/more.c')
        self.write('tools/testing/selftests/more.c', 'int main(void)\n{\n\treturn 1;\n}\n')
        self.write('harness/tests.ini', TESTS_INI + '[more]\nprogram = more\nbase = skip\n')
        self.write('patches/1-fixes/cover-letter', COVER.format(subject='KVM: arm64: Fix it', text='It is wrong.\n'))
        self.write('patches/2-more/cover-letter', COVER.format(
            subject='KVM: arm64: More', text='There is no more.\n\nThis depends on "KVM:\narm64: Fix it".\n'))

    def new_test(self, text):
        self.write('tools/testing/selftests/new_test.c', f'int main(void)\n{{\n\treturn 0; /* {text} */\n}}\n')

    def patch(self, name, subject, old, to, path='arch/arm64/kvm/mmu.c', body='The body.', new=''):
        self.write(f'patches/{name}-x.patch', PATCH.format(
            subject=subject, body=body, new=''.join(f'New-file: {n}\n' for n in new.split()),
            diff=self.diff(path, old, to)))

    def edit(self, path, old, to):
        text = self.read(path)
        self.assertIn(old, text)
        self.write(path, text.replace(old, to))

    def series(self, topic='fixes', compose=True, **env):
        if compose:
            done = self.compose()
            self.assertEqual(done.status, 0, done)
        return self.run_in('harness/series.sh', **{'TOPIC': topic, 'SIGNOFF': WHO, **env})

    def good(self, topic='fixes', **env):
        """The mails, cover letter first."""
        done = self.series(topic, **env)
        self.assertEqual((done.status, done.err), (0, ''), done)
        self.assertNotRegex(done.out, '[\r\033]')
        self.nothing_left()
        out = f'build/mails/{topic}-v{env.get("V", 1)}'
        self.assertIn(f'git send-email {out}/*.patch', done.out)
        self.last = done
        return [self.mail(p) for p in sorted(glob.glob(os.path.join(self.top, out, '*.patch')))]

    @staticmethod
    def mail(path):
        with open(path, 'rb') as f:
            return email.message_from_binary_file(f, policy=email.policy.default)

    def nothing_left(self):
        self.assertEqual([n for n in os.listdir(os.path.join(self.top, 'build')) if re.search(r'\.\d+$', n)], [])
        self.assertEqual(glob.glob(os.path.join(self.tree, '.checkpatch*')), [])

    def stops(self, check, *words, topic='fixes', **env):
        """It is that check alone which finds something, with all the words in one line."""
        done = self.series(topic, **env)
        self.assertEqual(done.status, 2, done)
        lines = done.err.rstrip('\n').split('\n')
        self.assertRegex(lines[-1], f'^series: {topic} is not fit to be sent, nothing was written: {check} \\d+$')
        self.assertTrue(any(l.startswith(f'  {check} ') and all(w in l for w in words) for l in lines), done)
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/mails')), done)
        self.nothing_left()
        return done


class Mails(SeriesTest):
    def test_what_is_written(self):
        cover, one, two = self.good()
        self.assertEqual([m['Subject'] for m in (cover, one, two)],
                         ['[PATCH 0/2] KVM: arm64: Fix it', '[PATCH 1/2] KVM: arm64: Fix one thing',
                          '[PATCH 2/2] KVM: arm64: Fix two'])
        for mail in (cover, one, two):
            self.assertEqual(mail['From'], WHO)
            self.assertEqual(str(mail['To']).split(', '),
                             ['M Aintainer <m@kernel.example>', 'S Elftests <s@kernel.example>'])
            self.assertEqual(re.sub('"', '', str(mail['Cc'])).split(', '),
                             ['R. Eviewer <r@kernel.example>', 'K Eyword <k@kernel.example>',
                              'list@kernel.example', 'linux-kernel@kernel.example'])
        text = cover.get_content()
        self.assertTrue(text.startswith('It is wrong.\n\nWhat was tested: all'), text)
        self.assertIn('\nThis applies to v7.3.4.\n', text)
        self.assertIn(' 2 files changed, ', text)
        self.assertNotIn('base-commit', text)
        self.assertNotIn('Changes in', text)
        self.assertIn('\n\nTwo\nlines.\n\n  - indented\n\nSigned-off-by: A Developer <dev@example.org>\n---\n',
                      '\n\n' + two.get_content())
        self.assertRegex(two.get_content(), r'\nindex [0-9a-f]{40}\.\.[0-9a-f]{40} 100644\n')
        self.assertIn('to 2, cc 4', self.last.out)

    def test_nobody_else_is_in_it(self):
        self.good('fixes')
        self.good('more')
        for path in glob.glob(os.path.join(self.top, 'build/mails/*/*')):
            text = self.read(path)
            self.assertNotIn('series@invalid', text)
            self.assertNotIn(self.dir, text)

    def test_topic_that_depends(self):
        cover, _ = self.good('more')
        text = cover.get_content()
        self.assertIn('\nThis applies to v7.3.4,\nwith these before it, in this order:\n\n'
                      ' - "KVM: arm64: Fix it" (2 patches)\n', text)
        self.assertEqual(len(re.findall(r'^prerequisite-patch-id: [0-9a-f]{40}$', text, re.M)), 2)

    def test_applied_by_hand(self):
        """Onto the base, in a clone that knows of nothing else."""
        for topic in ('fixes', 'more'):
            self.good(topic)
        clone = os.path.join(self.dir, 'clone')
        self.git('clone', '-q', '-b', 'base', '--single-branch', os.path.join(self.top, 'build/base/tree'), clone)
        patches = [p for t in ('fixes', 'more') for p in
                   sorted(glob.glob(os.path.join(self.top, f'build/mails/{t}-v1/*.patch'))) if 'cover' not in p]
        self.git('am', '-q', *patches, cwd=clone)
        self.assertEqual(self.git('log', '--format=%T', 'origin/base..', cwd=clone),
                         self.git('log', '--format=%T', 'base..'))
        self.assertEqual(self.git('log', '--format=%an <%ae>', 'origin/base..', cwd=clone), '\n'.join([WHO] * 3))

    def test_name_that_is_not_ascii(self):
        who = 'Jörg A. Müller <dev@example.org>'
        for mail in self.good(SIGNOFF=who)[1:]:
            self.assertEqual(re.sub('"', '', str(mail['From'])), who)
            self.assertIn(f'\nSigned-off-by: {who}\n', mail.get_content())

    def test_trailers_that_are_there(self):
        self.edit('patches/1-fixes/0002-x.patch', '  - indented\n', '  - indented\n\nFixes: 123456789012 ("x")\n')
        self.assertIn('\n\nFixes: 123456789012 ("x")\nSigned-off-by: A', self.good()[2].get_content())

    def test_of_debian(self):
        self.write('build/base.stamp', 'debian\n')
        self.write('build/base.version', '7.3.4-1\n')
        self.assertIn('\nThis applies to v7.3.4, as Debian has it in linux-source 7.3.4-1.\n',
                      self.good()[0].get_content())

    def test_of_a_clone(self):
        clone = os.path.join(self.dir, 'a clone')
        self.git('clone', '-q', os.path.join(self.top, 'build/base/tree'), clone, cwd=self.top)
        self.git('tag', 'v7.3-rc9', cwd=clone)
        commit = self.git('rev-parse', 'HEAD', cwd=clone)
        self.write('build/base.stamp', f'{clone} {commit}\n')
        text = self.good()[0].get_content()
        self.assertIn(f'\nThis applies to v7.3-rc9, commit {commit[:12]}.\n', text)
        self.assertIn(f'\nbase-commit: {commit}\n', text)

    def test_first_release_has_no_zero(self):
        shutil.rmtree(os.path.join(self.top, 'build'))
        self.make_base(self.top, '7.3.0-rc2')
        self.assertIn('\nThis applies to v7.3-rc2.\n', self.good()[0].get_content())

    def test_second_version(self):
        self.write('patches/1-fixes/changelog', 'Changes in v2:\n - It is better.\n')
        cover, one, _ = self.good(V='2')
        self.assertEqual((cover['Subject'], one['Subject']),
                         ('[PATCH v2 0/2] KVM: arm64: Fix it', '[PATCH v2 1/2] KVM: arm64: Fix one thing'))
        self.assertIn('\n\nChanges in v2:\n - It is better.\n', cover.get_content())

    def test_cover_for_b4(self):
        self.good()
        self.assertTrue(self.read('build/mails/fixes-v1/cover').startswith('KVM: arm64: Fix it\n\nIt is wrong.\n'))

    def test_old_mails_go(self):
        self.good()
        self.write('build/mails/fixes-v1/0009-stale.patch', 'x')
        self.assertEqual(len(self.good()), 3)

    def test_place_with_blanks(self):
        top = os.path.join(self.dir, 'another place')
        shutil.copytree(self.top, top)
        shutil.rmtree(os.path.join(top, 'build/series'), ignore_errors=True)
        for step in ('tree', 'series'):
            done = self.run_in(f'harness/{step}.sh', cwd=top, TOPIC='more', SIGNOFF=WHO)
            self.assertEqual(done.status, 0, done)


class Checks(SeriesTest):
    def test_no_cover_letter(self):
        os.unlink(os.path.join(self.top, 'patches/1-fixes/cover-letter'))
        self.stops('cover', 'patches/1-fixes/cover-letter')

    def test_cover_without_subject(self):
        self.edit('patches/1-fixes/cover-letter', 'Subject: ', '')
        self.stops('cover', 'Subject')

    def test_cover_without_text(self):
        self.edit('patches/1-fixes/cover-letter', 'It is wrong.\n', '')
        self.stops('cover', 'what the series does')

    def test_cover_without_tests(self):
        self.edit('patches/1-fixes/cover-letter', 'What was tested: ', '')
        self.stops('cover', 'What was tested')

    def test_cover_without_what_could_not_be_tested(self):
        self.edit('patches/1-fixes/cover-letter', ' Hardware was not at hand.', '')
        self.stops('cover', 'hardware')

    def test_cover_with_long_lines(self):
        self.edit('patches/1-fixes/cover-letter', 'It is wrong.', 'It is wrong. ' * 9)
        self.stops('cover', 'line 3')

    def test_dependency_that_is_not_named(self):
        self.edit('patches/2-more/cover-letter', 'Fix it', 'Fix that')
        self.stops('depends', 'KVM: arm64: Fix it', topic='more')

    def test_changelog_missing(self):
        self.stops('changelog', 'patches/1-fixes/changelog', 'Changes in v2:', V='2')

    def test_changelog_empty(self):
        self.write('patches/1-fixes/changelog', 'Changes in v3:\n\nChanges in v2:\n - Better.\n')
        self.stops('changelog', 'Changes in v3:', V='3')

    def test_changelog_of_a_later_version(self):
        self.write('patches/1-fixes/changelog', 'Changes in v3:\n - Best.\n\nChanges in v2:\n - Better.\n')
        self.stops('changelog', 'version 3', V='2')

    def test_placeholder(self):
        for path, old, to in (('patches/1-fixes/cover-letter', 'wrong', 'TBD'),
                              ('patches/1-fixes/0002-x.patch', 'lines.', '<fill this in>'),
                              ('patches/1-fixes/0002-x.patch', 'Fix two', 'Fix *** two'),
                              ('tools/testing/selftests/new_test.c', 'one', 'FIXME: two')):
            with self.subTest(path):
                text = self.read(path)
                self.edit(path, old, to)
                self.stops('placeholder', to)
                self.write(path, text)

    def test_names_of_temporary_files_are_none(self):
        self.new_test('mkstemp("/tmp/XXXXXX")')
        self.good()

    def test_sign_off_of_somebody_else(self):
        self.edit('patches/1-fixes/0002-x.patch', '  - indented\n', '\nSigned-off-by: X <x@example.org>\n')
        self.stops('signoff', '0002-', 'x@example.org')

    def test_checkpatch(self):
        self.new_test('report LONG_LINE line length of 120')
        self.stops('checkpatch', '0001-KVM-arm64-Fix-one-thing.patch:', 'LONG_LINE', 'line length of 120')

    def test_checkpatch_that_is_broken(self):
        self.write('build/base/tree/scripts/checkpatch.pl', 'die "what is that\\n";\n')
        self.git('commit', '-q', '-a', '--amend', '--no-edit', cwd=os.path.join(self.top, 'build/base/tree'))
        self.stops('checkpatch', 'what is that')

    def allow(self, **keys):
        row = {'patch': 'KVM: arm64: Fix*thing', 'match': 'line length', 'reason': 'It is longer.', **keys}
        self.write('harness/checkpatch-allowed.ini', '[LONG_LINE here]\n' +
                   ''.join(f'{k} = {v}\n' for k, v in row.items() if v))

    def test_checkpatch_tolerated(self):
        self.new_test('report LONG_LINE line length of 120')
        self.allow()
        self.good()
        self.assertIn('1 report of checkpatch.pl tolerated', self.last.out)
        self.assertRegex(self.read('build/log/series-checks.log'), 'LONG_LINE: line length of 120\n +It is longer.\n')

    def test_checkpatch_tolerated_elsewhere(self):
        self.new_test('report LONG_LINE line length of 120')
        for keys in ({'patch': 'KVM: arm64: Other'}, {'match': 'line width'}):
            self.allow(**keys)
            self.stops('checkpatch', 'line length of 120')

    def test_checkpatch_tolerated_for_nothing(self):
        self.allow()
        self.stops('checkpatch', 'LONG_LINE here', 'nothing')
        self.allow(patch='*')
        self.good()

    def test_checkpatch_tolerated_without_reason(self):
        self.allow(reason='')
        done = self.series()
        self.assertEqual(done.status, 2, done)
        self.assertIn('checkpatch-allowed.ini: [LONG_LINE here]: wanted are match, patch, reason', done.err)
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/mails')))

    def uapi(self, *names):
        self.patch('1-fixes/0003', 'KVM: Add a capability', 'line 7\n',
                   'line 7\n' + ''.join(f'#define {n} 1\n' for n in names), path='include/uapi/linux/kvm.h')
        self.edit('patches/1-fixes/0003-x.patch', 'The body.', 'The body of arch: a/arch')

    def test_name_that_is_not_documented(self):
        self.uapi('KVM_CAP_NEW', 'KVM_CAP_NEWER')
        self.patch('1-fixes/0004', 'Documentation: Say so', 'line 7\n', 'line 7, KVM_CAP_NEWER.\n',
                   path='Documentation/index.rst')
        done = self.stops('documentation', '0003-', 'KVM_CAP_NEW ')
        self.assertNotIn('KVM_CAP_NEWER', done.err)

    def test_document_in_no_index(self):
        self.write('Documentation/virt/new.rst', 'x\n')
        self.patch('1-fixes/0003', 'Documentation: More', 'line 7\n', 'line 7\n   virt/newer\n',
                   path='Documentation/index.rst', new='Documentation/virt/new.rst')
        self.stops('documentation', 'Documentation/virt/new.rst')
        self.edit('patches/1-fixes/0003-x.patch', 'virt/newer', 'virt/new')
        self.good()

    def test_kernel_without_a_test(self):
        self.edit('tools/testing/selftests/new_test.c', 'main', 'helper')
        self.stops('test', 'arch/arm64/kvm/mmu.c')

    def test_test_that_proves_nothing(self):
        self.edit('harness/tests.ini', 'base = fail\n', 'base = pass\n')
        self.stops('test', 'arch/arm64/kvm/mmu.c')

    def test_test_without_a_section(self):
        self.patch('1-fixes/0003', 'KVM: selftests: Another', 'b\n', 'b\nc\n', path='tools/testing/list',
                   new='tools/testing/selftests/unknown.c')
        self.write('tools/testing/selftests/unknown.c', 'int main(void)\n{\n}\n')
        self.stops('test', 'tools/testing/selftests/unknown.c', 'tests.ini')

    def test_nobody_maintains_it(self):
        self.edit('patches/1-fixes/0002-x.patch', 'Two', 'An orphan: two')
        self.stops('recipients', '0002-')

    def test_whitespace(self):
        self.new_test('blank \n')
        self.stops('whitespace', 'KVM: arm64: Fix one thing', 'new_test.c:3', 'trailing whitespace')

    def test_heading_that_looks_like_a_conflict(self):
        self.write('Documentation/new.rst', 'Heading\n=======\n')
        self.patch('1-fixes/0003', 'Documentation: More', 'line 7\n', 'line 7\n   new\n',
                   path='Documentation/index.rst', new='Documentation/new.rst')
        self.good()
        shutil.rmtree(os.path.join(self.top, 'build/mails'))
        self.write('Documentation/new.rst', '<<<<<<< one\nHeading\n=======\n>>>>>>> other\n')
        self.stops('placeholder', '<<<<<<< one')

    def test_several_are_told_at_once(self):
        self.new_test('report LONG_LINE line length of 120, TODO')
        done = self.series(V='2')
        self.assertIn('nothing was written: changelog 1, checkpatch 1, placeholder 1', done.err)

    def test_mail_that_arrives_as_another(self):
        """git am takes what is in brackets off a subject."""
        self.edit('patches/1-fixes/0002-x.patch', 'KVM: arm64: Fix two', '[arm64] Fix two')
        done = self.series()
        self.assertEqual(done.status, 2, done)
        self.assertIn('-[arm64] Fix two', done.err)
        self.assertRegex(done.err.rstrip('\n').split('\n')[-1], '^series: am: .*2 patches on v7.3.4 failed')
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/mails')))
        self.nothing_left()

    def test_work_that_is_only_in_the_tree(self):
        self.assertEqual(self.compose().status, 0)
        self.write('build/series/tree/arch/arm64/kvm/guest.c', 'work\n')
        self.refused(self.series(), 'make refresh')

    def refused(self, done, *words):
        self.assertEqual(done.status, 2, done)
        for word in words:
            self.assertIn(word, done.err)
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/mails')))
        self.nothing_left()

    def test_no_tree(self):
        self.refused(self.series(compose=False), 'make tree')

    def test_base_without_checkpatch(self):
        self.git('rm', '-q', 'scripts/checkpatch.pl', cwd=os.path.join(self.top, 'build/base/tree'))
        self.git('commit', '-q', '--amend', '--no-edit', cwd=os.path.join(self.top, 'build/base/tree'))
        self.refused(self.series(), 'scripts/checkpatch.pl')

    def interrupted(self, when):
        self.good()
        before = sorted(os.listdir(os.path.join(self.top, 'build/mails/fixes-v1')))
        self.fake('git', f'#!/bin/sh\ncase " $* " in *" {when} "*) sleep 30;; esac\n'
                  f'exec {shutil.which("git")} "$@"\n')
        process = self.start('harness/series.sh', TOPIC='fixes', SIGNOFF=WHO)
        until = common.time.monotonic() + 30
        while not any(re.search(f'/git .*{when} ', command + ' ') for _, command in common.processes(self.dir)):
            self.assertLess(common.time.monotonic(), until, 'waited in vain')
            common.time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        done = self.finish(process)
        self.assertEqual(done.status, 130, done)
        self.nothing_left()
        self.assertEqual(sorted(os.listdir(os.path.join(self.top, 'build/mails/fixes-v1'))), before)

    def test_interrupted_in_checks(self):
        self.interrupted('--check')

    def test_interrupted_in_am(self):
        self.interrupted('am')


class BadInput(SeriesTest):
    """One line, with what would be right, before anything is done."""

    def says(self, *words, command=('harness/series.sh', 'names'), **env):
        done = self.run_in(*command, **{'TOPIC': 'fixes', 'SIGNOFF': WHO, **env})
        self.assertEqual((done.status, done.out), (2, ''), done)
        lines = [l for l in done.err.rstrip('\n').split('\n') if not l.startswith('make: ***')]
        self.assertEqual(len(lines), 1, done)
        for word in words:
            self.assertIn(word, lines[0])

    def test_good(self):
        for env in ({}, {'V': '12'}, {'TOPIC': 'more'}, {'SIGNOFF': "Renée O'Hara-Ng (x) <r+k@a-b.example>"}):
            done = self.run_in('harness/series.sh', 'names', **{'TOPIC': 'fixes', 'SIGNOFF': WHO, **env})
            self.assertEqual((done.status, done.said), (0, ''), done)

    def test_topic(self):
        for topic in ('', 'nonsense', '*', '.', '/', 'fixes more', '-fixes'):
            self.says(f'TOPIC={topic}:', 'fixes more', TOPIC=topic)

    def test_version(self):
        for version in ('0', '01', 'x', 'v2', '-1', '1.5', '1 2', '100'):
            self.says(f'V={version}:', '1, 2, 3', V=version)

    def test_no_sign_off(self):
        self.says('SIGNOFF', 'Name <address>', SIGNOFF='')

    def test_sign_off(self):
        for who in ('A Developer', 'dev@example.org', '<dev@example.org>', 'Name <address>', 'A <dev@example>',
                    'A <@example.org>', 'A <dev@>', 'A <d@e@example.org>', 'A <dev @example.org>',
                    'A B. <dev@example.org>', 'A <dev@example.org', 'A dev@example.org>', 'A <dev@example.org> B',
                    'A <dev@example.org>\nB <b@example.org>', 'series <series@invalid>', 'A <b@c.invalid>',
                    ' A <dev@example.org>', 'A <dev@exämple.org>'):
            with self.subTest(who):
                done = self.run_in('harness/series.sh', 'names', TOPIC='fixes', SIGNOFF=who)
                self.assertEqual((done.status, done.out), (2, ''), done)
                self.assertIn('wanted is "Name <address>"', done.err)

    def test_through_make(self):
        self.fake('apt-get', f'#!/bin/sh\n: >{self.dir}/called\nexit 1\n')
        self.says('TOPIC=nonsense', 'fixes more', command=('make', 'series', 'TOPIC=nonsense'))
        self.says('V=x', command=('make', 'series', 'V=x'))
        self.says('SIGNOFF=A', command=('make', 'series', 'SIGNOFF=A'))
        self.assertFalse(os.path.exists(f'{self.dir}/called'))

    def test_usage(self):
        self.says('names', command=('harness/series.sh', 'nonsense'))


class AsItIs(unittest.TestCase):
    """The data of the project itself."""

    def subjects(self):
        for path in glob.glob(os.path.join(common.TOP, 'patches/*/0*.patch')):
            with open(path, encoding='utf-8') as f:
                yield re.match('Subject: (.*)', f.read())[1]

    def test_what_is_tolerated_is_of_the_series(self):
        subjects = list(self.subjects())
        for name, _, row in data.checkpatch_allowed():
            for pattern in row['patch'].strip().split('\n'):
                self.assertTrue(fnmatch.filter(subjects, pattern), f'[{name}]: {pattern}')

    def test_b4_ignores_the_same(self):
        with open(os.path.join(common.TOP, '.b4-config'), encoding='utf-8') as f:
            ignored = re.search(r'checkpatch\.pl .*--ignore (\S+)', f.read())[1].split(',')
        self.assertEqual(sorted(ignored), sorted(kind for _, kind, row in data.checkpatch_allowed()
                                                 if row['patch'] == '*'))


if __name__ == '__main__':
    unittest.main()
