#!/bin/sh
# Builds .venv from the hashed lock file, through uv. Run by `make install`.
set -eu
: "${PYTHON:=python3}"

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Roomkeeper needs Python 3.11 or newer; '$PYTHON' is not. Name one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    # Debian splits venv off into a package of its own.
    if [ "$(id -u)" = 0 ]; then
        echo "Installing python3-venv from Debian…"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    else
        echo "Python's venv module is missing; type: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
# The lock file pins uv too, so that the environment can be locked anew from itself.
uv=$(grep -o '^uv==[^ ]*' requirements-dev.lock)
.venv/bin/python -m pip install -q --disable-pip-version-check "$uv"
# Compiled here: uv does not by itself, and with PYTHONDONTWRITEBYTECODE each start would compile every import anew,
# which is half of its CPU time.
.venv/bin/uv pip sync -q --compile-bytecode --python .venv/bin/python --require-hashes requirements-dev.lock
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
