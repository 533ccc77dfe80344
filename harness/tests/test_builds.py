# SPDX-License-Identifier: GPL-2.0-only
"""builds.sh, docs.sh and diagnostics.py on a base of a few files, with a make that plays the kernel's.

Holds: what the series' build says and the base's does not is an error, however often it is
asked, and names its place; what both say is not; one bad build does not hide another;
options, compilers and targets of harness/builds arrive, or it stops; a source that no build
compiles is named; what is good is not built again; bad input gets one line.
"""

import os
import re
import signal
import sys
import time
import unittest

from tests import common
from tests.test_tree import LINES, TreeTest

sys.path.insert(0, common.HARNESS)
import diagnostics      # noqa: E402  pylint: disable=wrong-import-position

MAKEFILE = '''
MAKEFLAGS += -r
kernelversion:
	@echo 7.3.4
olddefconfig:
	@sed -i /GONE/d $(O)/.config
%config:
	@mkdir -p $(O) && echo '$@' >$(O)/.config
%/ %.o vmlinu%: FORCE
	@sh scripts/cc $@ $(O) '$(ARCH) $(CROSS_COMPILE)$(LLVM) W=$(W)'
htmldocs:
	@sh scripts/sphinx $(O) $(SPHINXDIRS)
Makefile: ;
FORCE: ;
'''

# Of a line "say X" the compiler says X, and of "fail X", which it does not compile. Like make
# it says nothing of what it has.
CC = r'''
status=0
for c in $(find ${1%.o}* -name '*.c' | sort); do
	o=$2/${c%.c}.o
	[ ! $o -nt $c ] || continue
	echo "$c $3" >>$2/compiled
	case $c in *slow*) sleep 60 ;; esac
	sed -n "s|.*say \(.*\)|$PWD/$c:LINE:1: warning: \1|p; s|.*fail \(.*\)|../$c:LINE:1: error: \1|p" $c |
		awk -v c=$c '{ sub(/LINE/, 10 * NR); print }'
	! grep -q fail $c || { status=1; continue; }
	mkdir -p $(dirname $o)
	cp $c $o
done
[ $status -eq 0 ] || echo "make: *** [$1] Error 1"
exit $status
'''

MERGE_CONFIG = r'''
while [ $# -gt 0 ]; do
	case $1 in
	-O) obj=$2; shift ;;
	-*) ;;
	*) files="$files $1" ;;
	esac
	shift
done
mkdir -p $obj
cat $files >$obj/.config
'''

CONFIG = r'''#!/bin/sh
case $3 in
--state) sed -n "s/^$4=//p" $2 | tail -n 1 | grep . || echo undef ;;
--set-val) echo "$4=$5" >>$2 ;;
esac
'''

SPHINX = r'''
o=$1
shift
for d; do
	for p in $(find Documentation/$d -name '*.rst'); do
		! grep -q unseen $p || continue
		grep -Hn 'say ' $p | sed "s|^\([^:]*:[0-9]*:\).*say |$PWD/\1 WARNING: |"
		mkdir -p $o/$(dirname Documentation/output/${p#*/})
		echo $p >$o/Documentation/output/${p#*/}
		mv $o/Documentation/output/${p#*/} $o/Documentation/output/$(echo ${p#*/} | sed 's/rst$/html/')
	done
done
echo "$@" >$o/dirs
'''

KERNEL_DOC = r'''#!/bin/sh
[ "$1 $2" = '-none -Wall' ] || exit 1
shift 2
grep -Hn 'undescribed' "$@" | sed 's/^\([^:]*:[0-9]*\):.*/Warning: \1 not described/'
exit 0
'''

REFERENCES = r'''
for my $file (split /\n/, `git grep -l Documentation/gone`) { print STDERR "$file: Documentation/gone.rst\n"; }
'''

BUILDS = '''# a comment
one\tarm64\tgcc\tallnoconfig common 4k\tarch/arm64/kvm/ mm/a.o\tbecause
two\tx86_64\tgcc\tdefconfig KVM=m WERROR=n\tmm/a.o\tbecause
three\tarm64\tclang-19\tallmodconfig\tmm/a.o\tbecause
'''


class KernelTest(TreeTest):
    more_files = (('Makefile', MAKEFILE), ('scripts/cc', CC), ('scripts/sphinx', SPHINX),
                  ('scripts/kconfig/merge_config.sh', MERGE_CONFIG), ('scripts/config', CONFIG),
                  ('scripts/kernel-doc', KERNEL_DOC), ('tools/docs/documentation-file-ref-check', REFERENCES),
                  ('arch/arm64/kvm/Kconfig', LINES), ('mm/a.c', LINES), ('mm/b.c', LINES),
                  ('arch/arm64/kvm/old.c', 'say old\n'),
                  ('Documentation/index.rst', LINES), ('Documentation/virt/index.rst', 'say old\n'),
                  ('Documentation/virt/kvm/index.rst', LINES), ('Documentation/virt/kvm/api.rst', LINES),
                  ('Documentation/virt/kvm/arm/x.rst', LINES), ('Documentation/dev/a.rst', LINES))

    def make_base(self, top, *words, **named):
        super().make_base(top, *words, **named)
        base = os.path.join(top, 'build/base/tree')
        for script in ('scripts/config', 'scripts/kernel-doc'):
            os.chmod(os.path.join(base, script), 0o755)
        self.git('commit', '-q', '-a', '--amend', '--no-edit', cwd=base)

    def setUp(self):
        super().setUp()
        self.git('worktree', 'add', '-q', '-b', 'series', self.tree, 'base',
                 cwd=os.path.join(self.top, 'build/base/tree'))
        self.commit('arch/arm64/kvm/mmu.c', LINES.replace('line 20\n', 'line twenty\n'), 'KVM: arm64: Fix')
        self.write('harness/builds', BUILDS)

    def edit(self, path, old, new):
        """A commit of the series."""
        text = self.read(f'build/series/tree/{path}')
        self.assertIn(old, text)
        self.commit(path, text.replace(old, new, 1), f'{path}: Change')

    def compiled(self, name, side='series'):
        path = os.path.join(self.top, f'build/builds/{name}/{side}/compiled')
        if not os.path.exists(path):
            return []
        return self.read(path).splitlines()


class Builds(KernelTest):
    def builds(self, words='all', **env):
        return self.run_in('harness/builds.sh', BUILDS=words, JOBS='1', **env)

    def good(self, words='all'):
        done = self.builds(words)
        self.assertEqual((done.status, done.err), (0, ''), done)
        self.assertNotRegex(done.out, '[\r\033]')
        return done

    def bad(self, *lines, words='all', names='one'):
        done = self.builds(words)
        self.assertEqual(done.status, 1, done)
        said = done.err.rstrip('\n').split('\n')
        self.assertEqual([l.strip() for l in said[:-1]], list(lines), done)
        self.assertIn(f'the base does not give: {names} (', said[-1])
        self.assertNotIn('without a new warning', done.out)
        return done

    def test_rows_arrive(self):
        done = self.good()
        self.assertRegex(done.out, r'^  build +one: arm64, gcc ')
        self.assertTrue(done.out.endswith('3 without a new warning\n'), done)
        self.assertEqual([l for l in self.compiled('one') if 'old' not in l],
                         [f'{c} arm64 aarch64-linux-gnu- W=1'
                          for c in ('arch/arm64/kvm/guest.c', 'arch/arm64/kvm/mmu.c', 'mm/a.c')])
        self.assertEqual(self.compiled('two'), ['mm/a.c x86_64  W=1'])
        self.assertEqual(self.compiled('three'), ['mm/a.c arm64 -19 W=1'])
        self.assertIn('CONFIG_KVM=y', self.read('build/builds/one/series/.config'))
        self.assertEqual(self.read('build/builds/two/series/.config'), 'defconfig\nKVM=m\nWERROR=n\n')
        self.assertEqual(self.read('build/builds/three/series/.config'), 'allmodconfig\n')

    def test_a_kernel_is_linked_without_w(self):
        self.write('harness/builds', BUILDS.replace('\tmm/a.o', '\tvmlinux'))
        self.commit('vmlinux.c', '', 'What the make of this test has instead')
        self.good('two')
        self.assertEqual(self.compiled('two'), ['vmlinux.c x86_64  W='])

    def test_the_base_is_built_if_there_is_something_to_compare(self):
        self.good()
        self.assertNotEqual(self.compiled('one', 'base'), [])
        self.assertEqual(self.compiled('two', 'base'), [])

    def test_good_is_not_built_again(self):
        self.good()
        before = self.compiled('one')
        done = self.good()
        self.assertEqual(done.out.count('\n'), 1, done)
        self.assertEqual(self.compiled('one'), before)

    def test_documentation_compiles_nothing(self):
        self.good()
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'line three\n')
        self.assertEqual(self.good().out.count('\n'), 1)

    def test_only_what_changed_is_compiled(self):
        self.good()
        before = self.compiled('one')
        time.sleep(0.02)
        self.edit('mm/a.c', 'line 3\n', 'line three\n')
        self.good()
        self.assertEqual(self.compiled('one')[len(before):], ['mm/a.c arm64 aarch64-linux-gnu- W=1'])

    def test_work_that_is_not_committed(self):
        self.good('two')
        time.sleep(0.02)
        self.write('build/series/tree/mm/a.c', 'say new\n')
        self.bad('mm/a.c:10:1: warning: new', words='two', names='two')

    def test_new_warning(self):
        self.edit('arch/arm64/kvm/mmu.c', 'line 3\n', 'say new\n')
        for _ in range(3):
            self.bad('arch/arm64/kvm/mmu.c:10:1: warning: new')

    def test_new_warning_where_the_base_has_one(self):
        self.edit('arch/arm64/kvm/old.c', 'say old\n', 'say old\nsay old\n')
        self.bad('arch/arm64/kvm/old.c:10:1: warning: old (the base: 1 of these)',
                 'arch/arm64/kvm/old.c:20:1: warning: old (the base: 1 of these)')

    def test_warning_that_moved(self):
        self.edit('arch/arm64/kvm/old.c', 'say old\n', 'fine\nsay old\n')
        self.good()

    def test_mended(self):
        self.edit('mm/a.c', 'line 3\n', 'fail new\n')
        self.bad('mm/a.c:10:1: error: new', words='two', names='two')
        self.edit('mm/a.c', 'fail new\n', 'line 3\n')
        self.good('two')

    def test_one_does_not_hide_another(self):
        self.edit('mm/a.c', 'line 3\n', 'fail new\n')
        self.edit('arch/arm64/kvm/mmu.c', 'line 3\n', 'say newer\n')
        error = 'mm/a.c:10:1: error: new'
        self.bad('arch/arm64/kvm/mmu.c:10:1: warning: newer', error, error, error, names='one two three')

    def test_too_many_to_show(self):
        self.edit('mm/a.c', 'line 3\n', ''.join(f'say {n}\n' for n in range(26)))
        done = self.builds('two')
        lines = done.err.strip().split('\n')
        self.assertEqual(len(lines), 27, done)
        self.assertEqual(lines[25].strip(), 'and so on: build/builds/two/new')
        self.assertEqual(self.read('build/builds/two/new').count('\n'), 26)

    def test_neither_builds(self):
        for tree in 'base', 'series':
            self.write(f'build/{tree}/tree/mm/a.c', 'fail old\n')
        done = self.builds('two')
        self.assertEqual(done.status, 2, done)
        self.assertIn('two does not build, and neither does the base', done.err)

    def test_fails_without_a_word(self):
        self.edit('scripts/cc', 'status=0', 'case $1 in mm/*) exit 3 ;; esac; status=0')
        done = self.builds('two')
        self.assertEqual(done.status, 2, done)
        self.assertIn('two: make failed, and gives no reason', done.err)

    def test_option_that_does_not_survive(self):
        self.write('harness/builds', BUILDS.replace('KVM=m', 'GONE=m'))
        done = self.builds('two')
        self.assertEqual(done.status, 2, done)
        self.assertIn('GONE=m: it is undef', done.err)
        self.assertEqual(self.compiled('two'), [])

    def test_option_off_that_is_not_there(self):
        self.write('harness/builds', BUILDS.replace('KVM=m', 'GONE=n'))
        self.good('two')

    def test_left_out(self):
        self.edit('mm/b.c', 'line 3\n', 'line three\n')
        done = self.builds()
        self.assertEqual(done.status, 2, done)
        self.assertIn('no build of harness/builds compiles mm/b.c', done.err)
        self.good('two')

    def test_chosen(self):
        done = self.good('t*')
        self.assertEqual(re.findall(r'build +(\w+):', done.out), ['two', 'three'])
        self.assertEqual(self.compiled('one'), [])

    def test_interrupted(self):
        self.commit('mm/a-slow.c', 'say new\n', 'mm: Add')
        self.edit('mm/a.c', 'line 3\n', 'say new\n')
        self.write('harness/builds', BUILDS.replace('mm/a.o\t', 'mm/\t'))
        process = self.start('harness/builds.sh', BUILDS='two')
        until = time.monotonic() + common.PATIENCE
        while not any('slow' in line for line in self.compiled('two')):
            self.assertLess(time.monotonic(), until, 'waited in vain')
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(self.finish(process).status, 130)
        # What was said by then is said again.
        self.edit('scripts/cc', 'sleep 60', ':')
        self.bad('mm/a-slow.c:10:1: warning: new', 'mm/a.c:10:1: warning: new', words='two', names='two')


class BadInput(KernelTest):
    def says(self, *words, **env):
        for script in ('names',), ():
            done = self.run_in('harness/builds.sh', *script, **env)
            self.assertEqual((done.status, done.out), (2, ''), done)
            self.assertEqual(done.err.count('\n'), 1, done)
            for word in words:
                self.assertIn(word, done.err)
        self.assertFalse(os.path.exists(os.path.join(self.top, 'build/builds')))

    def test_names_are_good(self):
        done = self.run_in('harness/builds.sh', 'names')
        self.assertEqual((done.status, done.said), (0, ''), done)

    def test_no_such_build(self):
        self.says('BUILDS=nope: there are: one two three', BUILDS='one nope')

    def test_rows(self):
        for old, new, *words in (
                ('\tbecause', '', 'one', '6 columns'), ('\tbecause', '\ta\tb', 'one', '6 columns'),
                ('two\t', 'one\t', 'two builds of one name'),
                ('x86_64\t', 'z80\t', 'two', 'no gcc for z80'), ('clang-19', 'clang', 'three', 'no clang for arm64'),
                ('defconfig', 'config', 'two', 'config is no target'),
                (' 4k', ' 5k', 'one', '5k'), ('defconfig', 'defconfig common', 'two', 'common'),
                ('common 4k', 'KVM=y 4k', 'one', '4k'), ('KVM=m', 'KVM=x', 'two', 'KVM=x')):
            with self.subTest(new=new):
                self.write('harness/builds', BUILDS.replace(old, new))
                self.says('harness/builds', *words)

    def test_usage(self):
        self.assertIn('usage', self.run_in('harness/builds.sh', 'nmaes').err)


class Packages(common.Sandbox):
    """Each list is for those who need it."""

    def test_lists(self):
        self.fake('dpkg-query', '#!/bin/sh\nprintf "%s\\n" "$*" >>$HOME/asked\nprintf installed\n')
        for words, there, not_there in (((), 'gcc-aarch64', 'clang'), (('builds',), 'clang-19', 'sphinx'),
                                        (('docs',), 'sphinx', 'gcc')):
            done = self.run_in('harness/packages.sh', *words)
            self.assertEqual((done.status, done.said), (0, ''), done)
            asked = self.read('../asked')
            self.assertIn(there, asked)
            self.assertNotIn(not_there, asked)
            os.unlink(os.path.join(self.dir, 'asked'))

    def test_make_asks_for_them_where_needed(self):
        steps = {target: self.run_in('make', '-n', target).out for target in ('run', 'check', 'builds', 'docs')}
        for target, out in steps.items():
            self.assertEqual('packages.sh builds' in out, target == 'builds', target)
            self.assertEqual('packages.sh docs' in out, target == 'docs', target)


class TheRows(unittest.TestCase):
    """harness/builds itself."""

    def test_packages_are_named(self):
        def words(name):
            with open(os.path.join(common.HARNESS, name), encoding='utf-8') as f:
                return {l.partition('#')[0].strip() for l in f}
        with open(os.path.join(common.HARNESS, 'builds'), encoding='utf-8') as f:
            rows = [l.rstrip('\n').split('\t') for l in f if not l.startswith('#')]
        there = words('packages') | words('packages-builds')
        compilers = {'arm64': 'gcc-aarch64-linux-gnu', 'riscv': 'gcc-riscv64-linux-gnu', 'x86_64': 'gcc'}
        self.assertEqual({r[1] for r in rows}, set(compilers))
        for name, arch, compiler, *_ in rows:
            wanted = {compilers[arch]} if compiler == 'gcc' else \
                {compiler, compiler.replace('clang', 'lld'), compiler.replace('clang', 'llvm')}
            self.assertLessEqual(wanted, there, name)


class Docs(KernelTest):
    def docs(self):
        return self.run_in('harness/docs.sh')

    def good(self):
        done = self.docs()
        self.assertEqual((done.status, done.err), (0, ''), done)
        return done

    def bad(self, *lines, tools='sphinx'):
        done = self.docs()
        self.assertEqual(done.status, 1, done)
        said = done.err.rstrip('\n').split('\n')
        self.assertEqual([l.strip() for l in said[:-1]], list(lines), done)
        self.assertIn(f'docs: what the base does not give: {tools} (', said[-1])

    def dirs(self, side='series'):
        return self.read(f'build/docs/{side}/dirs').split()

    def test_nearest_index_and_none_twice(self):
        self.edit('Documentation/virt/kvm/arm/x.rst', 'line 3\n', 'line three\n')
        self.good()
        self.assertEqual(self.dirs(), ['virt/kvm'])
        self.edit('Documentation/dev/a.rst', 'line 3\n', 'line three\n')
        self.good()
        self.assertEqual(self.dirs(), ['.'])

    def test_two_directories(self):
        self.commit('Documentation/dev/index.rst', 'a\n', 'Documentation: dev')
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'line three\n')
        self.good()
        self.assertEqual(self.dirs(), ['dev', 'virt/kvm'])

    def test_new_directory_and_what_the_base_says(self):
        self.commit('Documentation/dev/index.rst', 'a\n', 'Documentation: dev')
        self.edit('Documentation/virt/index.rst', 'say old\n', 'fine\nsay old\n')
        done = self.good()
        self.assertEqual(self.dirs(), ['dev', 'virt'])
        self.assertEqual(self.dirs('base'), ['virt'])
        self.assertIn('2 pages', done.out)

    def test_again_is_silent(self):
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'line three\n')
        self.good()
        self.assertEqual(self.good().out, '')

    def test_new_warning(self):
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'say new\n')
        for _ in range(2):
            self.bad('Documentation/virt/kvm/api.rst:3: WARNING: new')

    def test_not_committed(self):
        self.good()
        self.write('build/series/tree/Documentation/virt/kvm/api.rst', 'say new\n')
        self.bad('Documentation/virt/kvm/api.rst:1: WARNING: new')

    def test_no_page(self):
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'unseen\n')
        done = self.docs()
        self.assertEqual(done.status, 2, done)
        self.assertIn('Documentation/virt/kvm/api.rst: sphinx made no page of it', done.err)

    def test_kernel_doc(self):
        self.commit('arch/arm64/kvm/new.h', 'undescribed\n', 'KVM: arm64: New')
        self.edit('mm/a.c', 'line 3\n', 'undescribed\n')
        self.bad('Warning: arch/arm64/kvm/new.h:1 not described', 'Warning: mm/a.c:3 not described',
                 tools='kernel_doc')

    def test_reference(self):
        self.edit('mm/a.c', 'line 3\n', 'Documentation/gone.rst\n')
        self.bad('mm/a.c: warning: nothing is at Documentation/gone.rst', tools='references')

    def test_all_are_named(self):
        self.edit('Documentation/virt/kvm/api.rst', 'line 3\n', 'say new\n')
        self.edit('mm/a.c', 'line 3\n', 'undescribed\nDocumentation/gone.rst\n')
        self.bad('Documentation/virt/kvm/api.rst:3: WARNING: new', 'Warning: mm/a.c:3 not described',
                 'mm/a.c: warning: nothing is at Documentation/gone.rst', tools='sphinx kernel_doc references')

    def test_a_tool_that_fails(self):
        self.edit('scripts/kernel-doc', 'exit 0', 'exit 1')
        done = self.docs()
        self.assertEqual(done.status, 2, done)
        self.assertIn('kernel-doc of ', done.err)


class Diagnostics(unittest.TestCase):
    TREE = '/build/series/tree'

    def said(self, *lines):
        return diagnostics.diagnostics('\n'.join(lines), self.TREE)

    def new(self, now, before=()):
        return diagnostics.new(self.said(*now), self.said(*before))

    def test_what_is_one(self):
        lines = (
            "/build/series/tree/mm/a.c:3:7: warning: unused variable 'x' [-Wunused-variable]",
            '../tree/include/linux/a.h:1:1: error: expected ;',
            './include/linux/a.h:1: fatal error: a.h: No such file or directory',
            'Warning: include/linux/a.h:7 No description found for return value of \'a\'',
            '/build/series/tree/Documentation/a.rst:9: WARNING: Title underline too short.',
            'Documentation/a.rst:9: SEVERE: Unexpected section title.',
            'aarch64-linux-gnu-ld: mm/a.o: in function `f\': a.c:(.text+0x10): undefined reference to `g\'',
            'ld.lld-19: error: undefined symbol: g',
            'mm/b.o:(.bss+0x0): multiple definition of `x\'; mm/a.o:(.bss+0x0): first defined here',
            'vmlinux.o: warning: objtool: f+0x1c: call to g() leaves .noinstr.text section',
            'ERROR: modpost: "g" [arch/x86/kvm/kvm.ko] undefined!',
            'WARNING: unmet direct dependencies detected for A',
            '.config:12:warning: override: reassigning to symbol A')
        for line in lines:
            with self.subTest(line=line):
                self.assertEqual(len(self.said(line)), 1)
        self.assertEqual(len(self.said(*lines)), len(lines))

    def test_what_is_none(self):
        for line in ('make[2]: *** [scripts/Makefile.build:1: mm/a.o] Error 1', 'Using alabaster theme',
                     '   12 |         pr_err("error: %d", 1);', '      |         ^~~~ error: x',
                     'mm/a.c: In function \'error\':', 'In file included from mm/a.c:1:',
                     'mm/a.c:9:1: note: in expansion of macro X', '1 warning generated.'):
            with self.subTest(line=line):
                self.assertEqual(self.said(line), {})

    def test_directory_is_left_out(self):
        for line in ('/build/series/tree/mm/a.c:3:7: warning: x', '../../series/tree/../mm/a.c:3:7: warning: x'):
            self.assertRegex(self.new([line])[0], r'mm/a\.c:3:7: warning: x$')
        self.assertEqual(self.new(['../mm/a.c:3:7: warning: x'], ['/build/series/tree/mm/a.c:5:7: warning: x']), [])

    def test_lines_do_not_matter(self):
        for now, before in (('mm/a.c:3:7: warning: x', 'mm/a.c:30:9: warning: x'),
                            ('Warning: a.h:3 x', 'Warning: a.h:4 x'), ('a.rst:3: WARNING: x', 'a.rst:4: WARNING: x'),
                            ('a.o: warning: objtool: f+0x1: x', 'a.o: warning: objtool: f+0x2: x')):
            with self.subTest(now=now):
                self.assertEqual(self.new([now], [before]), [])
                self.assertEqual(self.new([now]), [now])

    def test_text_and_file_do(self):
        for before in 'mm/a.c:3:7: warning: y', 'mm/b.c:3:7: warning: x', 'mm/a.c:3:7: error: x':
            self.assertEqual(self.new(['mm/a.c:3:7: warning: x'], [before]), ['mm/a.c:3:7: warning: x'])

    def test_a_header_counts_once(self):
        line = 'a.h:3:7: warning: x'
        self.assertEqual(self.new([line, line, line], [line]), [])

    def test_more_places(self):
        self.assertEqual(self.new(['a.c:3:7: warning: x', 'a.c:5:7: warning: x'], ['a.c:4:7: warning: x']),
                         ['a.c:3:7: warning: x (the base: 1 of these)', 'a.c:5:7: warning: x (the base: 1 of these)'])

    def test_fewer_places(self):
        self.assertEqual(self.new(['a.c:4:7: warning: x'], ['a.c:3:7: warning: x', 'a.c:5:7: warning: x']), [])


class DiagnosticsCommand(common.Sandbox):
    def test_status(self):
        self.write('now', f'{self.top}/a.c:1:1: warning: x\n')
        self.write('before', 'a.c:2:1: warning: x\n')
        self.write('none', '')
        for words, status, out in ((('.', 'now'), 1, 'a.c:1:1: warning: x\n'), (('.', 'none'), 0, ''),
                                   (('.', 'now', '/x', 'before'), 0, ''),
                                   (('.', 'now', '/x', 'none'), 1, 'a.c:1:1: warning: x\n')):
            done = self.run_in('harness/diagnostics.py', *words)
            self.assertEqual((done.status, done.out, done.err), (status, out, ''), words)

    def test_bad_input(self):
        for words, says in ((('.',), 'usage'), (('.', 'nope'), 'nope: No such file')):
            done = self.run_in('harness/diagnostics.py', *words)
            self.assertEqual((done.status, done.out, done.err.count('\n')), (2, '', 1), done)
            self.assertIn(says, done.err)
