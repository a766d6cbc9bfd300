"""`outbox.relay`: everything enqueued in SQL is published, in order, under its own id; nothing is lost."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from redis import Redis
from structlog.testing import capture_logs

from beat_schedule import timetable
from tasks import outbox
from tasks.attachments import process  # noqa: F401 - a worker imports all tasks
from tests.platform import Platform, environment, eventually
from tests.servers import ValkeyServer
from workers import job_history
from workers.app import app as celery
from workers.settings import get_settings
from workers.state_metrics import State

Service = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Message:
    """What a worker would get."""

    id: str
    task: str
    args: list[Any]


def enqueue(service: Service, *row_ids: UUID) -> list[str]:
    """Enqueue attachments of openchat; return the tasks' ids."""
    ids = []
    for row_id in row_ids or (uuid4(),):
        payload = json.dumps({"app": "openchat", "id": str(row_id)})
        found = service.execute("SELECT roomkeeper.enqueue('attachments.process', %s::jsonb)", (payload,))
        ids += [str(made) for (made,) in found]
    return ids


def published(platform: Platform, queue: str = "attachments") -> list[Message]:
    """Return what is in a queue, the first to be taken first."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        raw = client.lrange(queue, 0, -1)
    messages = [json.loads(one) for one in reversed(raw)]
    return [
        Message(one["headers"]["id"], one["headers"]["task"], json.loads(base64.b64decode(one["body"]))[0])
        for one in messages
    ]


def ids_of(messages: list[Message]) -> list[str]:
    return [message.id for message in messages]


def waiting(platform: Platform) -> int:
    return len(platform.sql("SELECT FROM roomkeeper.outbox WHERE published_at IS NULL"))


def runs(platform: Platform) -> list[tuple[str, int]]:
    rows = platform.sql(
        "SELECT outcome, rows FROM roomkeeper.job_runs WHERE job = 'outbox.relay' ORDER BY id"
    )
    return [(row.outcome, row.rows) for row in rows]


@contextmanager
def configured(platform: Platform, **settings: object) -> Iterator[None]:
    """Change settings for this process too."""
    platform.set(**settings)
    names = ("DATABASE_URL", "ROOMKEEPER_")
    with environment({name: value for name, value in platform.environment.items() if name.startswith(names)}):
        yield


# -- what is published -------------------------------------------------------------------------------------


def test_what_is_committed_is_published_once_under_its_id(platform: Platform, service: Service) -> None:
    row_id = uuid4()
    (task_id,) = enqueue(service, row_id)
    outbox.relay()
    payload = {"app": "openchat", "id": str(row_id)}
    assert published(platform) == [Message(task_id, "attachments.process", [payload])]
    outbox.relay()
    assert len(published(platform)) == 1
    ((marked,),) = platform.sql("SELECT published_at FROM roomkeeper.outbox")
    assert marked is not None


def test_what_is_rolled_back_never_was(platform: Platform, service: Service) -> None:
    with service.transaction(force_rollback=True):
        enqueue(service)
        outbox.relay()
    outbox.relay()
    assert published(platform) == []
    assert runs(platform) == []


def test_an_idle_run_leaves_no_trace(platform: Platform, service: Service) -> None:
    before = platform.everything()
    outbox.relay()
    assert platform.everything() == before
    enqueue(service)
    outbox.relay()
    outbox.relay()
    assert runs(platform) == [("done", 1)]


@pytest.mark.system
def test_ten_thousand_rows_keep_their_order(platform: Platform, service: Service) -> None:
    payload = json.dumps({"app": "openchat", "id": str(uuid4())})
    found = service.execute(
        "SELECT roomkeeper.enqueue('attachments.process', %s::jsonb) FROM generate_series(1, 10000)",
        (payload,),
    )
    ids = [str(made) for (made,) in found]
    assert len(ids) == 10_000
    while waiting(platform):
        outbox.relay()
    assert ids_of(published(platform)) == ids
    assert sum(rows for _, rows in runs(platform)) == 10_000


def test_rows_that_commit_late_with_lower_ids_are_not_lost(
    platform: Platform, service: Service, database: str
) -> None:
    with psycopg.connect(database) as late:
        (early_id,) = enqueue(late)
        (later_id,) = enqueue(service)
        outbox.relay()
        assert ids_of(published(platform)) == [later_id]
        late.commit()
    outbox.relay()
    assert ids_of(published(platform)) == [later_id, early_id]
    assert waiting(platform) == 0


def test_two_relays_at_once_publish_each_row_once(platform: Platform, service: Service) -> None:
    enqueue(service, *(uuid4() for _ in range(500)))
    threads = [threading.Thread(target=outbox.relay) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.relay()
    found = ids_of(published(platform))
    assert len(found) == len(set(found)) == 500
    assert sum(rows for _, rows in runs(platform)) == 500


def test_while_one_runs_another_leaves_it_alone(platform: Platform, service: Service) -> None:
    enqueue(service)
    with job_history.run(outbox.JOB):
        outbox.relay()
        assert published(platform) == []
    outbox.relay()
    assert len(published(platform)) == 1
    # That of the run that did nothing, by hand; and no word of the one that was skipped.
    assert runs(platform) == [("done", 0), ("done", 1)]


def test_rows_that_a_run_without_its_lock_still_holds_are_passed_over(
    platform: Platform, service: Service, database: str
) -> None:
    first, second = enqueue(service, uuid4(), uuid4())
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM roomkeeper.outbox ORDER BY id LIMIT 1 FOR UPDATE")
        outbox.relay()
        assert ids_of(published(platform)) == [second]
    outbox.relay()
    assert ids_of(published(platform)) == [second, first]


def test_a_run_ends_when_its_time_is_spent(
    platform: Platform, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(service, *(uuid4() for _ in range(250)))
    now = iter([0.0, 19.9, 20.0, 20.0, 20.0])
    monkeypatch.setattr(outbox, "monotonic", lambda: next(now))
    outbox.relay()
    assert (len(published(platform)), runs(platform)) == (100, [("more", 100)])
    monkeypatch.undo()
    # Half of a soft limit that is shorter.
    with configured(platform, task_soft_limit_seconds=2):
        now = iter([0.0, 0.9, 1.0, 1.0, 1.0])
        monkeypatch.setattr(outbox, "monotonic", lambda: next(now))
        outbox.relay()
    assert len(published(platform)) == 200
    monkeypatch.undo()
    outbox.relay()
    assert len(published(platform)) == 250


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_a_task_that_this_version_does_not_know_waits_for_a_day_and_becomes_a_dead_letter(
    platform: Platform, service: Service
) -> None:
    ((unknown,),) = service.execute(
        "INSERT INTO roomkeeper.outbox (task, payload) VALUES ('attachments.fold', '{\"a\": 1}')"
        " RETURNING task_id"
    ).fetchall()
    (known,) = enqueue(service)
    outbox.relay()
    assert ids_of(published(platform)) == [known]
    # A newer version may publish it, and no other row waits for it.
    assert (platform.dead_letters(), waiting(platform)) == ([], 1)
    service.execute("UPDATE roomkeeper.outbox SET created_at = now() - interval '1 day'")
    outbox.relay()
    (letter,) = platform.dead_letters()
    assert (letter.task, letter.task_id, letter.payload, letter.reason) == (
        "attachments.fold",
        str(unknown),
        {"args": [{"a": 1}], "kwargs": {}},
        "no task of this version is called 'attachments.fold'",
    )
    assert waiting(platform) == 0
    outbox.relay()
    assert len(platform.dead_letters()) == 1


def test_a_dead_letter_is_there_only_if_its_row_is_marked(platform: Platform, service: Service) -> None:
    service.execute(
        "INSERT INTO roomkeeper.outbox (task, payload, created_at)"
        " VALUES ('attachments.fold', '{}', now() - interval '1 day')"
    )
    service.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';"
        "CREATE TRIGGER fail BEFORE UPDATE ON roomkeeper.outbox FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    with pytest.raises(Exception, match=r"function fail\(\)"):
        outbox.relay()
    assert platform.dead_letters() == []
    assert runs(platform) == [("failed", 0)]
    service.execute("DROP TRIGGER fail ON roomkeeper.outbox")
    outbox.relay()
    assert len(platform.dead_letters()) == 1


def test_while_the_broker_is_down_everything_waits_in_order(
    platform: Platform, service: Service, valkey: ValkeyServer
) -> None:
    ids = enqueue(service, uuid4(), uuid4())
    outbox.relay()
    for away, back in (
        (valkey.stop, valkey.start),
        (valkey.freeze, valkey.thaw),
        (valkey.kill, valkey.start),
    ):
        ids += enqueue(service, *(uuid4() for _ in range(3)))
        away()
        with capture_logs() as logs:
            outbox.relay()
        assert [line["event"] for line in logs] == ["outbox.broker_away"]
        assert waiting(platform) == 3
        ids += enqueue(service)
        back()
        outbox.relay()
        assert waiting(platform) == 0
    found = ids_of(published(platform))
    # What was sent to a broker that was frozen, or died at once, may be there twice, under the same id.
    assert list(dict.fromkeys(found)) == ids
    assert all(outcome == "done" for outcome, _ in runs(platform))


def test_a_broker_that_is_full_or_goes_away_halfway_is_waited_for(
    platform: Platform, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = enqueue(service, *(uuid4() for _ in range(5)))
    send, sent = celery.send_task, []

    def fails(*args: Any, **options: Any) -> Any:
        sent.append(options["task_id"])
        if len(sent) == 3:
            with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
                client.config_set("maxmemory", "1")
        return send(*args, **options)

    monkeypatch.setattr(celery, "send_task", fails)
    outbox.relay()
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.config_set("maxmemory", "0")
    # Those that were published are marked, and no other.
    assert (ids_of(published(platform)), waiting(platform)) == (ids[:2], 3)
    outbox.relay()
    assert ids_of(published(platform)) == ids


def test_a_relay_that_is_killed_before_it_marks_publishes_again_under_the_same_id(
    platform: Platform, service: Service, database: str
) -> None:
    row_id = platform.openchat_attachment(b"Milk, bread\n")
    (task_id,) = enqueue(service, row_id)
    # What would mark the row waits for a lock.
    service.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END';"
        "CREATE TRIGGER hold BEFORE UPDATE ON roomkeeper.outbox FOR EACH ROW EXECUTE FUNCTION hold()"
    )
    with psycopg.connect(database) as lock:
        lock.execute("SELECT pg_advisory_xact_lock(7)")
        worker = platform.worker("delivery")
        platform.send("outbox.relay", queue="delivery-periodic")
        eventually(lambda: published(platform), what="the message is published")
        worker.kill()
    service.execute("DROP TRIGGER hold ON roomkeeper.outbox")
    assert waiting(platform) == 1

    def marked() -> bool:
        # Until the server has noticed that the worker is gone, its transaction holds the row.
        outbox.relay()
        return waiting(platform) == 0

    eventually(marked, what="the row is published again")
    assert ids_of(published(platform)) == [task_id, task_id]
    platform.worker("attachments")
    assert platform.finished(row_id).outcome == "accepted"
    eventually(lambda: not published(platform), what="the second message is taken too")
    assert len(platform.sql("SELECT FROM roomkeeper.attachment_events WHERE event = 'claimed'")) == 1
    assert platform.dead_letters() == []


@pytest.mark.system
def test_from_a_transaction_to_a_verdict(platform: Platform, service: Service) -> None:
    platform.set(outbox_every_seconds=0.2, attachment_grace_seconds=3600)
    platform.worker("delivery")
    platform.worker("attachments")
    platform.start("beat")
    row_id = platform.pern_attachment(b"Milk, bread\n", "a.txt", "text/plain", is_encrypted=False)
    payload = json.dumps({"app": "pern", "id": str(row_id)})
    service.execute("SELECT roomkeeper.enqueue('attachments.process', %s::jsonb)", (payload,))
    assert platform.finished(row_id).outcome == "accepted"
    assert len(platform.sql("SELECT FROM roomkeeper.attachment_events WHERE event = 'claimed'")) == 1
    assert runs(platform) == [("done", 1)]


# -- what is kept ------------------------------------------------------------------------------------------


def test_what_was_published_goes_when_its_time_is_over(platform: Platform, service: Service) -> None:
    ids = enqueue(service, *(uuid4() for _ in range(4)))
    for task_id, at in zip(
        ids,
        ("now() - interval '86401 s'", "now() - interval '86390 s'", "now() - interval '9 days'", "NULL"),
        strict=True,
    ):
        platform.sql(
            f"UPDATE roomkeeper.outbox SET created_at = now() - interval '10 days', published_at = {at}"
            " WHERE task_id = :id",
            id=task_id,
        )
    outbox.relay()
    left = platform.sql("SELECT task_id FROM roomkeeper.outbox ORDER BY id")
    # Never what has not been published, however old.
    assert [str(row.task_id) for row in left] == [ids[1], ids[3]]
    assert ids_of(published(platform)) == [ids[3]]
    assert runs(platform) == [("done", 3)]
    with configured(platform, outbox_keep_seconds=0):
        assert get_settings().outbox_keep_seconds == 0
        outbox.relay()
    assert platform.sql("SELECT FROM roomkeeper.outbox") == []


def test_many_old_rows_go_in_bounded_transactions(
    platform: Platform, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.execute(
        "INSERT INTO roomkeeper.outbox (task, payload, published_at)"
        " SELECT 'attachments.process', '{}', now() - interval '2 days' FROM generate_series(1, 2500)"
    )
    batches: list[int] = []
    remove = outbox._remove

    def counted(settings: Any) -> tuple[int, bool]:
        removed, more = remove(settings)
        batches.append(removed)
        return removed, more

    monkeypatch.setattr(outbox, "_remove", counted)
    outbox.relay()
    assert batches == [1000, 1000, 500]
    assert platform.sql("SELECT FROM roomkeeper.outbox") == []


# -- what is told --------------------------------------------------------------------------------------------


def asked(platform: Platform) -> dict[tuple[str, str], float]:
    """Return the ages of the first task that is not published, and of the statuses that wait longest."""
    (found,) = (
        family
        for family in State(platform.settings).collect()
        if family.name == "roomkeeper_queue_rows_age_seconds"
    )
    return {(one.labels["work"], one.labels["app"]): one.value for one in found.samples}


def test_the_ages_of_what_waits_are_told(platform: Platform) -> None:
    assert asked(platform) == {}
    for created, published_at in (("300 s", "now()"), ("200 s", "NULL"), ("100 s", "NULL")):
        platform.sql(
            "INSERT INTO roomkeeper.outbox (task, payload, created_at, published_at)"
            f" VALUES ('t', '{{}}', now() - interval '{created}', {published_at})"
        )
    for due in ("- interval '30 s'", "- interval '50 s'", "+ interval '900 s'"):
        platform.sql(
            "INSERT INTO roomkeeper.status_inbox (app, events, received_at, due_at)"
            f" VALUES ('pern', '[]', now() - interval '1 h', now() {due})"
        )
    ages = asked(platform)
    assert ages.keys() == {("outbox", ""), ("statuses", "pern")}
    assert 200 <= ages["outbox", ""] < 260
    assert 50 <= ages["statuses", "pern"] < 110
    platform.sql("UPDATE roomkeeper.outbox SET published_at = now()")
    platform.sql("UPDATE roomkeeper.status_inbox SET due_at = now() + interval '1 h'")
    assert asked(platform) == {}


def test_a_turn_may_wait_for_ten_minutes_behind_others(platform: Platform) -> None:
    def entry() -> dict[str, Any]:
        return timetable(platform.settings)["outbox.relay"]

    assert entry() == {"task": "outbox.relay", "schedule": timedelta(seconds=1), "options": {"expires": 600}}
    platform.set(outbox_every_seconds=900)
    assert entry()["options"] == {"expires": 900}


def test_a_job_that_is_not_quiet_tells_of_every_run(platform: Platform) -> None:
    def recorded() -> list[tuple[str, str, int]]:
        rows = platform.sql("SELECT job, outcome, rows FROM roomkeeper.job_runs ORDER BY id")
        return [(row.job, row.outcome, row.rows) for row in rows]

    with job_history.run("loud"), job_history.run("loud") as second:
        assert second is None
    assert sorted(recorded()) == [("loud", "done", 0), ("loud", "skipped", 0)]
    with job_history.run("quiet", quiet=True), job_history.run("quiet", quiet=True) as second:
        assert second is None
    assert len(recorded()) == 2
    with job_history.run("quiet", quiet=True) as run:
        assert run is not None
        run.rows += 1
    assert recorded()[2:] == [("quiet", "done", 1)]
    with pytest.raises(ValueError, match="no"), job_history.run("quiet", quiet=True):
        raise ValueError("no")
    assert recorded()[3:] == [("quiet", "failed", 0)]
