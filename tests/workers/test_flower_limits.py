"""Flower over weeks: its memory stays flat, and a killed worker is not called online."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from beat_schedule import timetable
from commands.programs import FLOWER_OFFLINE_SECONDS, FLOWER_TASKS
from stack.ports import free_port
from tasks.apps import POLICIES, ROLLUPS
from tests.platform import Platform, Program, eventually
from tests.workers.test_dead_letters import events
from tests.workers.test_flower import PASSWORD, Visitor
from workers.app import app

#: Published at once. A broker drops a subscriber that has more than some MB to read.
TASKS_AT_ONCE, TASKS_PER_MESSAGE = 1_000, 10
#: What a Flower with its full number of tasks may grow by, while half as many come and go. Without its limit
#: it grows by more than 20.
GROWTH_MIB = 15


@pytest.fixture
def visitor(platform: Platform) -> Visitor:
    made = Visitor(free_port())
    platform.set(flower_port=made.port, flower_password=PASSWORD, worker_processes=1)
    return made


def started(platform: Platform, visitor: Visitor) -> Program:
    program = platform.start("flower")
    eventually(lambda: visitor.ask("/healthcheck", None)[0] == 200, what="Flower serves")
    return program


def counted(visitor: Visitor, metric: str) -> float:
    """Return the sum of a metric over all of its labels."""
    return sum(
        float(value) for value in re.findall(rf"^{metric}{{.*}} (\S+)$", visitor.ask("/metrics")[1], re.M)
    )


@pytest.mark.system
def test_its_memory_stays_flat(platform: Platform, visitor: Visitor) -> None:
    """It gets the three events of a real task for as many tasks as it keeps, and for half as many more."""
    flower = started(platform, visitor)
    # It lives on: of a worker that is offline Flower forgets the metrics by which we count.
    platform.worker()
    eventually(lambda: counted(visitor, "flower_worker_online") == 1, what="Flower hears the worker")
    heard = real_events(platform)
    assert [event["type"] for event in heard] == ["task-received", "task-started", "task-succeeded"]

    replay(platform, visitor, heard, FLOWER_TASKS)
    full = resident_mib(flower)
    replay(platform, visitor, heard, FLOWER_TASKS // 2)
    assert resident_mib(flower) - full < GROWTH_MIB
    assert resident_mib(flower) < 350
    assert len(json.loads(visitor.ask("/api/tasks?limit=100000")[1])) == FLOWER_TASKS


def real_events(platform: Platform) -> list[dict[str, Any]]:
    """Return the events of the task of a file, as a worker sends them."""
    with events(platform) as heard:
        task = platform.enqueue("openchat", platform.openchat_attachment(b"Milk\n", "notes.txt"))

        def own() -> list[dict[str, Any]]:
            return [event for event in heard if event.get("uuid") == task]

        eventually(lambda: own() and own()[-1]["type"] == "task-succeeded", what="the task ends")
        return own()


def replay(platform: Platform, visitor: Visitor, heard: list[dict[str, Any]], tasks: int) -> None:
    """Send the events of so many tasks more, each with an id of its own, no faster than Flower takes them."""
    target = counted(visitor, "flower_events_total")
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, enabled=True)
        for _ in range(tasks // TASKS_AT_ONCE):
            for _ in range(TASKS_AT_ONCE // TASKS_PER_MESSAGE):
                ids = [str(uuid4()) for _ in range(TASKS_PER_MESSAGE)]
                # As a busy worker sends them.
                dispatcher.producer.publish(
                    [event | {"uuid": task} for task in ids for event in heard],
                    routing_key="task.multi",
                    exchange=dispatcher.exchange.name,
                    declare=[dispatcher.exchange],
                    serializer="json",
                )
            target += TASKS_AT_ONCE * len(heard)
            eventually(partial(taken, visitor, target), what="Flower takes events")


def taken(visitor: Visitor, events_in_all: float) -> bool:
    return counted(visitor, "flower_events_total") >= events_in_all


def resident_mib(program: Program) -> float:
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.system
def test_a_killed_worker_is_not_called_online(platform: Platform, visitor: Visitor) -> None:
    started(platform, visitor)
    worker = platform.worker()
    eventually(lambda: counted(visitor, "flower_worker_online") == 1, what="Flower hears the worker")
    worker.kill()

    def online() -> list[Any]:
        workers = json.loads(visitor.ask("/workers?json=1")[1])["data"]
        return [one for one in workers if one["status"]]

    # By its heartbeats, two seconds apart.
    eventually(lambda: online() == [], 15, "the list has it offline")
    eventually(
        lambda: counted(visitor, "flower_worker_online") == 0,
        FLOWER_OFFLINE_SECONDS + 10,
        "the metric is gone",
    )


def test_periodic_jobs_send_no_events(platform: Platform) -> None:
    """Their runs are in the job history. Tasks that messages start are what Flower is for."""
    periodic = {entry["task"] for entry in timetable(platform.settings).values()}
    silent = {name for name, task in app.tasks.items() if not task.send_events}
    assert periodic <= silent
    assert {"attachments.process", "delivery.record", "analytics.room"}.isdisjoint(silent)
    assert {name for name in silent - periodic if not name.startswith("celery.")} <= {*POLICIES, *ROLLUPS}
