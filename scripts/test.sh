#!/bin/sh
# Runs lint, types and imports beside the tests; fails if any of them does. Run by `make test`.
set -u
# Python keeps what it compiled: test processes that start later need not do it again.
unset PYTHONDONTWRITEBYTECODE
checked=$(mktemp)
trap 'rm -f "$checked"' EXIT
make --no-print-directory check >"$checked" 2>&1 &
check=$!
# pytest rewrites each test file at its first import: once here, and not in each test process.
.venv/bin/pytest -m "not system" --collect-only -q >/dev/null 2>&1
# A test that waits leaves the processor to others, so there are more processes than processors. A file stays
# together, for what it shares; and those with few tests, which are the long ones, are not left for the end.
.venv/bin/pytest -m "not system" -n 4 --dist loadfile --no-loadscope-reorder
tested=$?
wait "$check"
right=$?
cat "$checked"
[ "$right" = 0 ] || echo "make check has failed: see above." >&2
[ "$tested" = 0 ] && [ "$right" = 0 ]
