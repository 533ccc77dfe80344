# SPDX-License-Identifier: GPL-2.0-only
"""tree.sh and refresh.sh on a base of a few files.

Holds: the same patches give the same commit ids, everywhere and every time; only
files that differ are written; a round trip through the tree changes no byte; what is
edited with plain git arrives in patches/; what cannot be right is refused with its
name and with nothing written; work that is only in the tree is never overwritten.
"""

import os
import re
import shutil
import subprocess

from tests import common

KERNEL_MAKEFILE = 'kernelversion:\n\t@echo {release}\n'
LINES = ''.join(f'line {n}\n' for n in range(1, 41))

FIX = '''Subject: KVM: arm64: Fix the first thing

The body.

  - indented
---

{diff}'''

NEW = '''Subject: KVM: arm64: selftests: Add a test

It brings two files and a line in a list.
---
New-file: tools/testing/new_test.c
New-file: tools/testing/new.sh

{diff}'''


class TreeTest(common.Sandbox):
    # (path, text) of files that the base has as well.
    more_files = ()

    def setUp(self):
        super().setUp()
        self.make_base(self.top)
        self.tree = os.path.join(self.top, 'build/series/tree')
        # Nothing about who runs this may decide anything.
        self.write('../.gitconfig', '[user]\nname = A\nemail = a@b\n[diff]\nnoprefix = true\n'
                   '[core]\nautocrlf = true\n[commit]\ngpgsign = true\n')

    def git(self, *words, cwd=None, status=0, **env):
        done = subprocess.run(['git', *words], cwd=cwd or self.tree, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False,
                              env={'PATH': self.path, 'HOME': '/nonexistent', 'GIT_CONFIG_GLOBAL': '/dev/null',
                                   'GIT_AUTHOR_NAME': 'n', 'GIT_AUTHOR_EMAIL': 'e@e',
                                   'GIT_COMMITTER_NAME': 'n', 'GIT_COMMITTER_EMAIL': 'e@e',
                                   'GIT_EDITOR': 'true', 'GIT_SEQUENCE_EDITOR': 'true', **env})
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout.strip()

    def make_base(self, top, release='7.3.4', lines=LINES):
        """As fetch.sh leaves it: branch base, one commit."""
        base = os.path.join(top, 'build/base/tree')
        os.makedirs(os.path.join(base, 'arch/arm64/kvm'))
        os.makedirs(os.path.join(base, 'tools/testing'))
        for path, text in (('Makefile', KERNEL_MAKEFILE.format(release=release)),
                           ('arch/arm64/kvm/mmu.c', lines),
                           ('arch/arm64/kvm/guest.c', LINES),
                           ('tools/testing/list', 'a\nb\n'),
                           ('.gitignore', '*.o\n'),
                           *self.more_files):
            os.makedirs(os.path.dirname(os.path.join(base, path)), exist_ok=True)
            with open(os.path.join(base, path), 'w', encoding='utf-8') as f:
                f.write(text)
        date = {'GIT_AUTHOR_DATE': '@0 +0000', 'GIT_COMMITTER_DATE': '@0 +0000'}
        self.git('init', '-q', '-b', 'base', cwd=base)
        self.git('add', '-f', '-A', cwd=base)
        self.git('commit', '-q', '-m', f'Linux {release}', cwd=base, **date)
        shutil.copy(os.path.join(common.HARNESS, 'base'), os.path.join(top, 'harness/base'))
        with open(os.path.join(top, 'harness/base'), 'w', encoding='utf-8') as f:
            f.write('# comment\n7.3.4\n')

    def diff(self, path, old, new, count=1):
        """A git diff of the base's file with one replacement."""
        base = os.path.join(self.top, 'build/base/tree')
        full = os.path.join(base, path)
        with open(full, encoding='utf-8') as f:
            text = f.read()
        with open(full, 'w', encoding='utf-8') as f:
            f.write(text.replace(old, new, count))
        diff = self.git('diff', '--full-index', cwd=base)
        with open(full, 'w', encoding='utf-8') as f:
            f.write(text)
        return diff + '\n'

    def make_patches(self):
        self.write('patches/1-fixes/0001-KVM-arm64-Fix-the-first-thing.patch',
                   FIX.format(diff=self.diff('arch/arm64/kvm/mmu.c', 'line 20\n', 'line twenty\n')))
        self.write('patches/2-more/0001-KVM-arm64-selftests-Add-a-test.patch',
                   NEW.format(diff=self.diff('tools/testing/list', 'b\n', 'b\nc\n')))
        self.write('tools/testing/new_test.c', '/* a test */\n')
        self.write('tools/testing/new.sh', '#!/bin/sh\n', 0o755)

    def compose(self, **env):
        return self.run_in('harness/tree.sh', **env)

    def composed(self):
        self.make_patches()
        done = self.compose()
        self.assertEqual(done.status, 0, done)

    def refresh(self, **env):
        return self.run_in('harness/refresh.sh', **env)

    def everything(self):
        """path -> (mode, bytes) of what refresh may write."""
        found = {}
        for top in ('patches', 'tools', 'arch', 'include', 'Documentation', 'harness/base'):
            full = os.path.join(self.top, top)
            paths = [full] if os.path.isfile(full) else \
                [os.path.join(d, n) for d, _, names in os.walk(full) for n in names]
            for path in paths:
                with open(path, 'rb') as f:
                    found[os.path.relpath(path, self.top)] = (os.stat(path).st_mode, f.read())
        return found

    def refused(self, done, *words):
        """One line says it, and nothing is left half done."""
        self.assertEqual(done.status, 2, done)
        last = done.err.rstrip('\n').split('\n')[-1]
        for word in words:
            self.assertIn(word, last, done)
        left = [n for n in os.listdir(os.path.join(self.top, 'build')) if '.' in n]
        self.assertEqual(left, [], 'left in build/')

    def commit(self, path, text, message, *more, mode=None):
        full = os.path.join(self.tree, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, 'w', encoding='utf-8') as f:
            f.write(text)
        if mode:
            os.chmod(full, mode)
        self.git('add', '-f', path)
        self.git('commit', '-q', '-m', message, *more)


class Compose(TreeTest):
    def test_commits_are_as_the_patches_say(self):
        self.composed()
        self.assertEqual(self.git('log', '--format=%s|%an|%at|%ct', 'base..'),
                         'KVM: arm64: selftests: Add a test|series|0|0\n'
                         'KVM: arm64: Fix the first thing|series|0|0')
        self.assertEqual(self.git('log', '-1', '--format=%b', 'HEAD~1'), 'The body.\n\n  - indented')
        self.assertEqual(self.git('rev-parse', '--abbrev-ref', 'HEAD'), 'series')
        self.assertIn('line twenty\n', self.read('build/series/tree/arch/arm64/kvm/mmu.c'))
        self.assertEqual(self.git('status', '--porcelain'), '')
        self.assertEqual(self.git('ls-tree', 'HEAD', 'tools/testing/new.sh').split()[0], '100755')
        self.assertTrue(os.access(os.path.join(self.tree, 'tools/testing/new.sh'), os.X_OK))

    def test_same_ids_twice_and_elsewhere(self):
        self.composed()
        first = self.git('rev-parse', 'HEAD')
        for directory in ('build/series', 'build/base'):
            shutil.rmtree(os.path.join(self.top, directory))
        self.make_base(self.top)
        self.assertEqual(self.compose(GIT_AUTHOR_NAME='who', TZ='Asia/Tokyo').status, 0)
        self.assertEqual(self.git('rev-parse', 'HEAD'), first)
        other = os.path.join(self.dir, 'another place')
        shutil.copytree(self.top, other, ignore=shutil.ignore_patterns('build'))
        self.make_base(other)
        done = self.run_in('harness/tree.sh', cwd=other, LC_ALL='de_DE.UTF-8')
        self.assertEqual(done.status, 0, done)
        self.assertEqual(self.git('rev-parse', 'HEAD', cwd=f'{other}/build/series/tree'), first)

    def test_unchanged_is_silent(self):
        self.composed()
        done = self.compose()
        self.assertEqual((done.status, done.said), (0, ''))

    def test_only_what_differs_is_written(self):
        self.composed()
        old = {}
        for path in ('arch/arm64/kvm/mmu.c', 'arch/arm64/kvm/guest.c', 'Makefile',
                     'tools/testing/list', 'tools/testing/new_test.c'):
            full = os.path.join(self.tree, path)
            os.utime(full, ns=(10**18, 10**18))
            old[path] = full
        self.git('status')      # so that git knows the new times
        self.write('tools/testing/new_test.c', '/* another test */\n')
        self.assertEqual(self.compose().status, 0)
        self.assertEqual([p for p, full in old.items() if os.stat(full).st_mtime_ns != 10**18],
                         ['tools/testing/new_test.c'])

    def test_patch_removed_restores_the_base(self):
        self.composed()
        shutil.rmtree(os.path.join(self.top, 'patches/1-fixes'))
        self.assertEqual(self.compose().status, 0)
        self.assertEqual(self.read('build/series/tree/arch/arm64/kvm/mmu.c'), LINES)

    def test_no_patches_at_all(self):
        done = self.compose()
        self.assertEqual(done.status, 0, done)
        self.assertEqual(self.git('rev-parse', 'HEAD'), self.git('rev-parse', 'base'))

    def test_does_not_apply(self):
        self.composed()
        head = self.git('rev-parse', 'HEAD')
        name = 'patches/1-fixes/0001-KVM-arm64-Fix-the-first-thing.patch'
        self.write(name, self.read(name).replace(' line 19\n', ' line nineteen\n'))
        done = self.compose()
        self.refused(done, name, 'arch/arm64/kvm/mmu.c', 'line 17')
        self.assertIn('hunk: @@ -17,7 +17,7 @@', done.err)
        self.assertEqual(self.git('rev-parse', 'HEAD'), head)
        self.assertEqual(self.git('status', '--porcelain'), '')

    def test_no_fuzz_no_less_context(self):
        """Two of three lines of context would do for patch(1)."""
        self.make_patches()
        name = 'patches/1-fixes/0001-KVM-arm64-Fix-the-first-thing.patch'
        self.write(name, self.read(name).replace(' line 17\n', ' line seventeen\n'))
        self.refused(self.compose(), name)

    def test_new_file_missing(self):
        self.make_patches()
        os.unlink(os.path.join(self.top, 'tools/testing/new_test.c'))
        self.refused(self.compose(), '2-more/0001', 'tools/testing/new_test.c')

    def test_new_file_that_the_base_has(self):
        self.make_patches()
        name = 'patches/2-more/0001-KVM-arm64-selftests-Add-a-test.patch'
        self.write(name, self.read(name).replace('tools/testing/new.sh', 'arch/arm64/kvm/guest.c'))
        self.write('arch/arm64/kvm/guest.c', 'mine\n')
        self.refused(self.compose(), '2-more/0001', 'arch/arm64/kvm/guest.c')

    def test_file_that_no_patch_brings(self):
        self.make_patches()
        self.write('arch/arm64/kvm/stray.c', '\n')
        self.refused(self.compose(), 'arch/arm64/kvm/stray.c', 'New-file')

    def test_markdown_that_no_patch_brings(self):
        """It is about this repository, and not part of the series."""
        self.composed()
        self.write('Documentation/benchmarks.md', '# Benchmarks\n')
        self.assertEqual(self.compose().said, '')
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/series/tree/Documentation/benchmarks.md')))

    def test_patch_without_subject(self):
        self.make_patches()
        self.write('patches/1-fixes/0002-x.patch', 'no header\n---\n')
        self.refused(self.compose(), 'patches/1-fixes/0002-x.patch')

    def test_patch_that_changes_nothing(self):
        self.make_patches()
        self.write('patches/1-fixes/0002-x.patch', 'Subject: x: y\n\nbody\n---\n')
        self.refused(self.compose(), 'patches/1-fixes/0002-x.patch', 'nothing')

    def test_no_base(self):
        shutil.rmtree(os.path.join(self.top, 'build'))
        self.refused(self.compose(), 'make fetch')

    def test_other_release_is_named(self):
        shutil.rmtree(os.path.join(self.top, 'build'))
        self.make_base(self.top)
        self.make_patches()
        shutil.rmtree(os.path.join(self.top, 'build'))
        self.make_base(self.top, '7.3.9', LINES.replace('line 40', 'line forty'))
        done = self.compose()
        self.assertEqual(done.status, 0, done)
        self.assertIn('base is Linux 7.3.9, the series was last refreshed on 7.3.4', done.out)
        self.assertIn('differs from the recorded base: arch/arm64/kvm/mmu.c', done.out)
        self.assertNotIn('tools/testing/list', done.out)

    def test_interrupted(self):
        """A signal in the middle: no directory of its own is left, the next one works."""
        self.make_patches()
        self.fake('git', f'#!/bin/sh\n[ "$1" != mailinfo ] || sleep 30\nexec {shutil.which("git")} "$@"\n')
        process = self.start('harness/tree.sh')
        self.wait_for(lambda: os.path.isdir(os.path.join(self.top, 'build', f'compose.{process.pid}')))
        common.time.sleep(0.3)
        os.killpg(process.pid, common.signal.SIGINT)
        done = self.finish(process)
        self.assertEqual(done.status, 130, done)
        self.assertEqual([n for n in os.listdir(os.path.join(self.top, 'build')) if '.' in n], [])
        os.unlink(os.path.join(self.bin, 'git'))
        self.assertEqual(self.compose().status, 0)

    def wait_for(self, what):
        until = common.time.monotonic() + 20
        while not what():
            self.assertLess(common.time.monotonic(), until, 'waited in vain')
            common.time.sleep(0.02)


class LocalWork(TreeTest):
    """What is only in build/series/tree is never overwritten."""

    def test_dirty_and_patches_unchanged(self):
        self.composed()
        self.write('build/series/tree/arch/arm64/kvm/guest.c', 'work\n')
        done = self.compose()
        self.assertEqual(done.status, 0, done)
        self.assertIn('local work', done.out)
        self.assertEqual(self.read('build/series/tree/arch/arm64/kvm/guest.c'), 'work\n')

    def test_dirty_and_patches_changed(self):
        self.composed()
        self.write('build/series/tree/arch/arm64/kvm/guest.c', 'work\n')
        self.write('tools/testing/new_test.c', '/* another */\n')
        self.refused(self.compose(), 'make refresh', 'reset --hard')
        self.assertEqual(self.read('build/series/tree/arch/arm64/kvm/guest.c'), 'work\n')

    def test_untracked_and_patches_changed(self):
        self.composed()
        self.write('build/series/tree/arch/arm64/kvm/stray.c', 'work\n')
        self.write('tools/testing/new_test.c', '/* another */\n')
        self.refused(self.compose(), 'make refresh')
        self.assertEqual(self.read('build/series/tree/arch/arm64/kvm/stray.c'), 'work\n')

    def test_committed_and_patches_changed(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'work\n', 'KVM: arm64: Work')
        head = self.git('rev-parse', 'HEAD')
        self.write('tools/testing/new_test.c', '/* another */\n')
        self.refused(self.compose(), 'make refresh')
        self.assertEqual(self.git('rev-parse', 'HEAD'), head)

    def test_dropped_as_the_message_says(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'work\n', 'KVM: arm64: Work')
        self.write('tools/testing/new_test.c', '/* another */\n')
        self.assertEqual(self.compose().status, 2)
        self.git('reset', '-q', '--hard', 'refs/series/composed')
        self.assertEqual(self.compose().status, 0)
        self.assertEqual(self.read('build/series/tree/tools/testing/new_test.c'), '/* another */\n')

    def test_check(self):
        self.composed()
        self.assertEqual(self.run_in('harness/tree.sh', 'check-no-local-work').status, 0)
        self.write('build/series/tree/arch/arm64/kvm/guest.c', 'work\n')
        self.refused(self.run_in('harness/tree.sh', 'check-no-local-work'), 'make refresh')


class Refresh(TreeTest):
    def round_trip(self):
        """Refresh, compose from nothing: the tree must be the same. Returns refresh's end."""
        tree = self.git('rev-parse', 'HEAD^{tree}')
        log = self.git('log', '--format=%s%n%b', 'base..')
        done = self.refresh()
        self.assertEqual(done.status, 0, done)
        after = self.compose()
        self.assertEqual(after.status, 0, after)
        self.assertEqual(self.git('rev-parse', 'HEAD^{tree}'), tree)
        # The trailer is for refresh alone.
        self.assertEqual(re.sub(r'\n+', '\n', self.git('log', '--format=%s%n%b', 'base..')),
                         re.sub(r'\n+', '\n', re.sub('^Topic: .*', '', log, flags=re.M)))
        self.assertEqual(self.compose().said, '')
        return done

    def topic(self, name):
        return sorted(os.listdir(os.path.join(self.top, 'patches', name)))

    def nothing_written(self, *words):
        before = self.everything()
        done = self.refresh()
        self.refused(done, *words)
        self.assertEqual(self.everything(), before)

    def test_nothing_to_do_changes_no_byte(self):
        self.composed()
        self.refresh()      # diff headers as refresh writes them
        self.assertEqual(self.compose().status, 0)
        before = self.everything()
        self.round_trip()
        self.assertEqual(self.everything(), before)

    def test_fixup_and_autosquash(self):
        self.composed()
        path = 'arch/arm64/kvm/mmu.c'
        self.commit(path, self.read(f'build/series/tree/{path}').replace('line twenty', 'line XX'),
                    'fixup! KVM: arm64: Fix the first thing')
        self.nothing_written('autosquash')
        self.git('rebase', '-q', '-i', '--autosquash', 'base')
        self.round_trip()
        text = self.read('patches/1-fixes/0001-KVM-arm64-Fix-the-first-thing.patch')
        self.assertIn('+line XX\n', text)
        self.assertNotIn('twenty', text)
        self.assertEqual(len(self.everything()), 5)

    def test_reworded_body(self):
        self.composed()
        self.git('commit', '-q', '--amend', '-m',
                 'KVM: arm64: selftests: Add a test\n\nSaid better.')
        self.round_trip()
        self.assertIn('\nSaid better.\n---\n', self.read('patches/2-more/0001-KVM-arm64-selftests-Add-a-test.patch'))

    def test_new_files(self):
        self.composed()
        self.commit('Documentation/virt/new.rst', 'text\n', 'KVM: arm64: Add a document')
        self.commit('tools/testing/run.py', '#!/usr/bin/python3\n', 'KVM: arm64: selftests: Add a script', mode=0o755)
        self.round_trip()
        self.assertEqual(self.topic('2-more'), ['0001-KVM-arm64-selftests-Add-a-test.patch',
                                                '0002-KVM-arm64-Add-a-document.patch',
                                                '0003-KVM-arm64-selftests-Add-a-script.patch'])
        self.assertEqual(self.read('Documentation/virt/new.rst'), 'text\n')
        self.assertIn('New-file: Documentation/virt/new.rst\n', self.read('patches/2-more/0002-KVM-arm64-Add-a-document.patch'))
        self.assertTrue(os.access(os.path.join(self.top, 'tools/testing/run.py'), os.X_OK))
        self.assertEqual(self.git('ls-tree', 'HEAD', 'tools/testing/run.py').split()[0], '100755')

    def test_mode_alone_changes(self):
        self.composed()
        os.chmod(os.path.join(self.tree, 'tools/testing/new_test.c'), 0o755)
        self.git('commit', '-q', '-a', '--amend', '--no-edit')
        self.round_trip()

    def test_binary_edit_and_empty_file(self):
        self.composed()
        self.commit('tools/testing/empty', '', 'KVM: arm64: selftests: Add nothing')
        self.round_trip()

    def test_new_file_goes(self):
        self.composed()
        self.git('rm', '-q', 'tools/testing/new.sh')
        self.git('commit', '-q', '--amend', '--no-edit')
        self.round_trip()
        self.assertFalse(os.path.exists(os.path.join(self.top, 'tools/testing/new.sh')))

    def test_file_of_the_base_goes(self):
        self.composed()
        self.git('rm', '-q', 'arch/arm64/kvm/guest.c')
        self.git('commit', '-q', '-m', 'KVM: arm64: Remove guest.c')
        self.round_trip()

    def test_later_patch_changes_a_new_file(self):
        self.composed()
        self.commit('tools/testing/new_test.c', '/* better */\n', 'KVM: arm64: selftests: Better')
        self.nothing_written('Better', 'tools/testing/new_test.c', 'fixup')

    def test_later_patch_removes_a_new_file(self):
        self.composed()
        self.git('rm', '-q', 'tools/testing/new_test.c')
        self.git('commit', '-q', '-m', 'KVM: arm64: selftests: Drop it')
        self.nothing_written('Drop it', 'tools/testing/new_test.c')

    def test_topic_trailer(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: Last\n\nBody.\n\nTopic: 3-last')
        self.round_trip()
        self.assertEqual(self.topic('3-last'), ['0001-KVM-arm64-Last.patch'])
        self.assertNotIn('Topic:', self.read('patches/3-last/0001-KVM-arm64-Last.patch'))

    def test_topic_out_of_order(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: Late\n\nBody.\n\nTopic: 1-fixes')
        self.nothing_written('Late', '1-fixes')

    def test_no_topic(self):
        self.assertEqual(self.compose().status, 0)
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: First')
        self.nothing_written('First', 'Topic: NAME')

    def test_dirty(self):
        self.composed()
        self.write('build/series/tree/arch/arm64/kvm/guest.c', 'work\n')
        self.nothing_written('not committed')

    def test_untracked(self):
        self.composed()
        self.write('build/series/tree/arch/arm64/kvm/stray.c', 'work\n')
        self.nothing_written('not committed')

    def test_merge(self):
        self.composed()
        self.git('checkout', '-q', '-b', 'side', 'base')
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: Side')
        self.git('checkout', '-q', 'series')
        self.git('merge', '-q', '--no-edit', 'side')
        self.nothing_written('merge')

    def test_not_on_the_base(self):
        self.composed()
        self.git('checkout', '-q', '--orphan', 'other')
        self.git('commit', '-q', '-m', 'x')
        self.nothing_written('not based')

    def test_empty_commit(self):
        self.composed()
        self.git('commit', '-q', '--allow-empty', '-m', 'KVM: arm64: Nothing')
        self.nothing_written('Nothing')

    def test_same_subject_twice(self):
        """A commit's subject tells which topic it belongs to."""
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: Fix the first thing')
        self.nothing_written('Fix the first thing')

    def body(self, line):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', f'KVM: arm64: Odd\n\nBefore.\n\n{line}\nafter')
        self.nothing_written('Odd')

    def test_body_with_three_dashes(self):
        self.body('---')

    def test_body_with_a_diff_line(self):
        self.body('diff --git a/x b/x')

    def test_body_with_a_diff_of_another_kind(self):
        self.body('--- a/arch/arm64/kvm/mmu.c')

    def test_body_with_an_index_line(self):
        self.body('Index: x')

    def test_body_with_a_new_file_line(self):
        """Harmless above the dashes: only what stands below them counts."""
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', 'KVM: arm64: Odd\n\nNew-file: nonsense\n\nafter')
        self.round_trip()

    def test_body_with_header_like_lines(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n',
                    'KVM: arm64: Odd\n\nSubject: not one\nFrom: nobody\n\n>From here\n\nafter')
        self.round_trip()

    def test_subject_with_brackets_and_long(self):
        self.composed()
        self.commit('arch/arm64/kvm/guest.c', 'x\n', f'[RFC] KVM: arm64: Über {"long " * 20}end\n\nBödy.')
        self.round_trip()

    def test_interrupted_before_writing(self):
        self.composed()
        self.fake('git', f'#!/bin/sh\n[ "$1" != rev-list ] || sleep 30\nexec {shutil.which("git")} "$@"\n')
        before = self.everything()
        process = self.start('harness/refresh.sh')
        common.time.sleep(0.7)
        os.killpg(process.pid, common.signal.SIGINT)
        done = self.finish(process)
        self.assertEqual(done.status, 130, done)
        self.assertEqual(self.everything(), before)
        self.assertEqual([n for n in os.listdir(os.path.join(self.top, 'build')) if '.' in n], [])

    def test_no_tree(self):
        self.refused(self.refresh(), 'make tree')

    def test_release_is_recorded(self):
        shutil.rmtree(os.path.join(self.top, 'build'))
        self.make_base(self.top, '7.3.9')
        self.composed()
        self.refresh()
        self.assertEqual(self.read('harness/base'), '# comment\n7.3.9\n')
