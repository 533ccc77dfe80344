# SPDX-License-Identifier: GPL-2.0-only
"""The harness's own tests: make check starts them, `make harness-check` alone.

They need no network, boot QEMU only where build/ already has what that takes, and
leave nothing behind. samples/README says where the sample logs are from.
"""
