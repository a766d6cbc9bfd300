#!/bin/sh
# Makes sure that the programs of PostgreSQL 15 are there: some tests run on it, too. Run by `make test`.
set -eu
programs="${POSTGRESQL_15:-/usr/lib/postgresql/15/bin}"
config="${CREATECLUSTER_CONF:-/etc/postgresql-common/createcluster.conf}"
[ -x "$programs/postgres" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "PostgreSQL 15, which tests run on, is missing; type: sudo apt-get install postgresql-15" >&2
    exit 1
fi
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
}
echo "Installing postgresql-15 from Debian, for tests…"
$as_root apt-get update -qq
# Of the package only the programs are wanted: no cluster is made, and none is started.
install postgresql-common
$as_root cp -p "$config" "$config.before-roomkeeper"
restore() {
    $as_root mv "$config.before-roomkeeper" "$config"
}
trap restore EXIT
$as_root sed -i 's/^#*[[:space:]]*create_main_cluster.*/create_main_cluster = false/' "$config"
install postgresql-15
[ -x "$programs/postgres" ] || {
    echo "postgresql-15 was installed, but there is no $programs/postgres" >&2
    exit 1
}
