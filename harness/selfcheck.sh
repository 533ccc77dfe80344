#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# selfcheck.sh: the harness' own tests.

. harness/lib.sh

selfcheck() {
	PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -v -s harness/tests -t harness
}

step harness "its own tests, $(grep -ch '^    def test_' harness/tests/test_*.py | paste -sd+ | bc)" \
	selfcheck.log selfcheck
