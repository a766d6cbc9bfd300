#!/bin/sh
# Makes sure that clamd, the virus scanner, is there. Run by `make install`.
set -eu
command -v clamd >/dev/null 2>&1 && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing clamav-daemon from Debian…"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clamav-daemon >/dev/null
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    echo "Installing clamav-daemon from Debian, with sudo…"
    sudo -n apt-get update -qq
    sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clamav-daemon >/dev/null
else
    echo "The virus scanner is missing; type: sudo apt-get install clamav-daemon" >&2
    exit 1
fi
command -v clamd >/dev/null 2>&1 || {
    echo "clamav-daemon was installed, but there is no clamd; type: sudo apt-get install clamav-daemon" >&2
    exit 1
}
