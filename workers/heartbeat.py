"""The heartbeat of a worker or of beat: its row of `roomkeeper.workers`, written by a thread.

The main process of a worker never waits for the database, so the thread has a connection of its own. While
the database does not answer only the thread waits: for as long as TCP takes to give up a connection whose
other side does not acknowledge. A child process has neither the thread nor its connection.

A process is alive as long as it touches its health file: a worker whose loop has stopped writes no heartbeat.
"""

import atexit
import os
import platform
import threading
import time
from collections.abc import Callable
from importlib import metadata
from uuid import uuid4

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from workers import revision
from workers.db import create
from workers.settings import Settings

log = structlog.get_logger(__name__)

#: How often a heartbeat is written, in seconds.
EVERY_SECONDS = 15.0
#: For how long a process is alive that has said so.
ALIVE_SECONDS = 30.0
#: The longest that a process waits at its end for its row to be deleted.
END_SECONDS = 2.0
#: Rows of dead processes: how long each is kept, and the last one of its kind.
KEPT, LAST_KEPT = "1 hour", "7 days"
#: A row without a heartbeat for so long is of a dead process, as in `liveness.DEAD_AFTER`.
DEAD = "1 minute"
#: What bounds the wait for a server that has gone silently. In milliseconds, seconds, seconds, and tries.
_BOUNDS = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

_WRITE = text("""
    INSERT INTO roomkeeper.workers (id, kind, host, pid, version, revision)
    VALUES (:id, :kind, :host, :pid, :version, :revision)
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
""")
_REMOVE_DEAD = text(f"""
    DELETE FROM roomkeeper.workers AS dead
     WHERE seen_at < now() - interval '{LAST_KEPT}'
        OR seen_at < now() - interval '{KEPT}' AND EXISTS (
           SELECT FROM roomkeeper.workers AS newer
            WHERE newer.kind = dead.kind AND newer.seen_at > dead.seen_at)
""")  # noqa: S608 - constants
# A process that was killed before this one must not be reported as the last that was seen of its kind; beside
# others that run its row stays.
_REMOVE_OWN = text(f"""
    DELETE FROM roomkeeper.workers AS one
     WHERE id = :id
        OR kind = :kind AND seen_at < now() - interval '{DEAD}' AND NOT EXISTS (
           SELECT FROM roomkeeper.workers AS other
            WHERE other.kind = one.kind AND other.id <> :id AND other.seen_at >= now() - interval '{DEAD}')
""")  # noqa: S608 - constants
# A heartbeat that a crash takes back is written again in a moment.
_LIGHT = text("SELECT set_config('synchronous_commit', 'off', true)")

#: When this process has said that it is alive, by its own clock.
_alive_at = time.monotonic()


def alive() -> None:
    """Note that this process is alive: its loop turns, or waits for a server and reports that."""
    global _alive_at
    _alive_at = time.monotonic()


class Heartbeat:
    """Writes the heartbeats of this process from `start` to `stop`.

    Args:
        kind: the kind of worker, or 'beat'.
    """

    def __init__(self, kind: str, settings: Settings) -> None:
        self._row = {
            "id": uuid4(),
            "kind": kind,
            "host": platform.node(),
            "pid": os.getpid(),
            "version": metadata.version("roomkeeper"),
            "revision": revision.newest(),
        }
        self._written = False
        self._failing = False
        # Here, not in the thread: a child that is forked meanwhile must find nothing half imported.
        self._engine = create(settings, **_BOUNDS)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first heartbeat at once, and then one every `EVERY_SECONDS`; delete the row at exit."""
        alive()
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Delete the row, if the database does so within `END_SECONDS`.

        The last of its kind deletes the rows of dead processes, too.
        """
        # A child process has a copy of this object, and not the thread.
        if os.getpid() == self._row["pid"]:
            self._over.set()
            self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while not self._over.is_set():
            if time.monotonic() - _alive_at < ALIVE_SECONDS:
                self._try(self._write)
            self._over.wait(EVERY_SECONDS)
        if self._written:
            self._try(lambda connection: connection.execute(_REMOVE_OWN, self._row))
        self._engine.dispose()

    def _write(self, connection: Connection) -> None:
        connection.execute(_WRITE, self._row)
        connection.execute(_REMOVE_DEAD)
        self._written = True

    def _try(self, step: Callable[[Connection], object]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(_LIGHT)
                step(connection)
        except SQLAlchemyError as error:
            # Once for an outage: everything else reports it, too.
            if not self._failing:
                log.warning("heartbeat.not_written", error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False
