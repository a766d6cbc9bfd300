"""Which workers and beats are alive? Judged by their heartbeats, by the database's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from models.platform import Worker
from workers.inspection import Fault
from workers.queues import BEAT, KINDS, PROGRAMS, kind_of_queue

#: A process without a heartbeat for so long is dead, or its host is away: four heartbeats.
DEAD_AFTER = timedelta(minutes=1)
#: A kind that was never seen is missed when others have run for so long: a deploy starts one after another.
GRACE = timedelta(minutes=10)
#: A queue of so many messages is long: runs of jobs wait in it.
LONG = 100


@dataclass(frozen=True, slots=True)
class Process:
    """A worker or a beat.

    Attributes:
        age: how long ago its last heartbeat was.
        running: for how long it has run, up to now or to its last heartbeat.
    """

    kind: str
    host: str
    pid: int
    revision: str
    seen_at: datetime
    age: timedelta
    running: timedelta

    @property
    def alive(self) -> bool:
        """Whether its heartbeats come."""
        return self.age <= DEAD_AFTER

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, last seen at {self.seen_at:%Y-%m-%d %H:%M:%S} UTC"


def read(connection: Connection) -> list[Process]:
    """Return the processes that run or were killed, the one that was seen last first."""
    columns = (Worker.kind, Worker.host, Worker.pid, Worker.revision, Worker.seen_at)
    age, running = func.clock_timestamp() - Worker.seen_at, func.clock_timestamp() - Worker.started_at
    rows = connection.execute(select(*columns, age, running).order_by(Worker.seen_at.desc()))
    return [Process(*row) for row in rows]


def alive(processes: Sequence[Process]) -> dict[str, int]:
    """Return how many processes of each kind are alive."""
    return {kind: sum(one.alive for one in processes if one.kind == kind) for kind in PROGRAMS}


def missing(processes: Sequence[Process]) -> dict[str, Process | None]:
    """Return the kinds of which no process is alive, each with the one that was seen last, if any.

    Before the first heartbeat of all, nothing is missing: workers of the version before write none.
    """
    settled = any(one.alive and one.running > GRACE for one in processes)
    numbers = alive(processes)
    last = {kind: next((one for one in processes if one.kind == kind), None) for kind in PROGRAMS}
    return {
        kind: last[kind] for kind in PROGRAMS if not numbers[kind] and (last[kind] is not None or settled)
    }


def faults(processes: Sequence[Process]) -> list[Fault]:
    """Return a fault for each kind of which no process is alive, and a warning for each dead one beside."""
    found = []
    for kind, last in missing(processes).items():
        since = "is running" if last is None else f"has been seen for {duration(last.age)}: {last}"
        found.append(Fault(f"No {_called(kind)} {since}.", _start(kind)))
    numbers = alive(processes)
    for kind in PROGRAMS:
        dead = [one for one in processes if one.kind == kind and not one.alive]
        if dead and numbers[kind]:
            found.append(
                Fault(
                    f"{_several(len(dead), kind)} ended without notice: {dead[0]}. Running: {numbers[kind]}.",
                    "See the logs of that host. Its row goes an hour after the last heartbeat.",
                    warning=True,
                )
            )
    return found


def why_silent(processes: Sequence[Process], lengths: Mapping[str, int], kind: str = "maintenance") -> str:
    """Return what to do about jobs that do not run, though none fails.

    Args:
        lengths: of the queues, in messages; empty if the broker does not answer.
        kind: the kind of worker that runs them.
    """
    absent = [one for one in (kind, BEAT) if one in missing(processes)]
    if absent:
        return " ".join(_start(one) for one in absent)
    long = {queue: n for queue, n in lengths.items() if n >= LONG and kind_of_queue(queue) == kind}
    if long:
        queue, number = max(long.items(), key=lambda item: item[1])
        return (
            f"The queue {queue} is long: {number:,} messages. Start more workers of kind {kind}, or see in "
            "their logs what takes them so long."
        )
    if not processes:
        return f"Is beat running, and a worker of kind {kind}?"
    return f"Beat and a worker of kind {kind} are running: see their logs."


def _called(kind: str) -> str:
    return f"worker of kind {kind}" if kind in KINDS else kind


def _several(number: int, kind: str) -> str:
    if number == 1:
        return f"A {_called(kind)}"
    return f"{number} workers of kind {kind}" if kind in KINDS else f"{number} {kind}s"


def _start(kind: str) -> str:
    program = f"worker {kind}" if kind in KINDS else kind
    return f"Start it, or see in its log why it ended: roomkeeper {program}"


def duration(age: timedelta) -> str:
    """Return a time in the largest unit of which it is two or more, or in minutes."""
    minutes = int(age.total_seconds() // 60)
    for unit, size in (("days", 24 * 60), ("hours", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{max(minutes, 1)} minute{'s' if minutes > 1 else ''}"
