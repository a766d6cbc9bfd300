#!/bin/sh
# Makes sure that PgBouncer, and what benchmarks are compared with, are there. Run by `make bench` and
# `make test-system`. A benchmark does without its peer, and says so: what cannot be installed is a warning.
set -eu
wanted=
command -v vipsthumbnail >/dev/null 2>&1 || wanted="$wanted libvips-tools"
command -v clamdscan >/dev/null 2>&1 || wanted="$wanted clamdscan"
# Debian puts it where only root looks.
command -v pgbouncer >/dev/null 2>&1 || [ -x "${SBIN:-/usr/sbin}/pgbouncer" ] || wanted="$wanted pgbouncer"
# Pack the archives of the corpus.
command -v zip >/dev/null 2>&1 || wanted="$wanted zip"
command -v 7z >/dev/null 2>&1 || wanted="$wanted p7zip-full"
command -v bsdtar >/dev/null 2>&1 || wanted="$wanted libarchive-tools"
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "What system tests and benchmarks need is missing; type: sudo apt-get install$wanted" >&2
    exit 0
fi
echo "Installing$wanted from Debian, for system tests and benchmarks…"
# shellcheck disable=SC2086 # several words each
$as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null ||
    echo "Debian's$wanted could not be installed; benchmarks do without, and tests of PgBouncer and archives fail." >&2
