"""Metrics over HTTP: what the processes of a worker count together, and what the database knows."""

import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from commands import rollup_status
from stack.ports import free_port
from tasks.apps import ROLLUPS, policies, rollups
from tasks.attachments import operator_actions
from tasks.retention import holds, receipts
from tests.platform import Platform, environment, eventually
from tests.servers import ClamdServer, PostgresServer, ValkeyServer
from workers import metrics
from workers.db import transaction
from workers.known_bad import EICAR
from workers.scanner import Scanner, Version
from workers.state_metrics import State, Taken

EVERY = timedelta(minutes=1)
PAGE = Path(__file__).parent.parent.parent / "docs" / "operations.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


@pytest.fixture
def state(platform: Platform) -> Iterator[State]:
    values = {k: v for k, v in platform.environment.items() if k.startswith(("ROOMKEEPER_", "DATABASE_URL"))}
    with environment(values):
        yield State(platform.settings, {"echoroom.typing": EVERY, "echoroom.ghosts": EVERY})


def asked(state: State) -> Samples:
    registry = CollectorRegistry()
    registry.register(state)
    return parsed(generate_latest(registry).decode())


def queue_labels(app: str, job_state: str) -> tuple[tuple[str, str], ...]:
    return (("app", app), ("state", job_state), ("work", "attachments"))


def test_the_processes_of_a_worker_are_counted_together(platform: Platform) -> None:
    port = free_port()
    platform.set(worker_metrics_port=port, worker_processes=2)
    worker = platform.worker()
    rows = [platform.openchat_attachment(b"text") for _ in range(4)] + [platform.openchat_attachment(EICAR)]
    for row_id in rows:
        platform.enqueue("openchat", row_id)
    for row_id in rows:
        platform.finished(row_id)
    accepted = (("app", "openchat"), ("outcome", "accepted"), ("reason", ""), ("verdict", "clean"))
    infected = (
        ("app", "openchat"),
        ("outcome", "quarantined"),
        ("reason", "malware"),
        ("verdict", "infected"),
    )

    def counted() -> bool:
        found = scraped(port)
        return (
            found.get(("roomkeeper_attachment_attempts_total", accepted)) == 4
            and found.get(("roomkeeper_attachment_attempts_total", infected)) == 1
        )

    eventually(counted, what="five attempts are counted")
    found = scraped(port)
    assert found["roomkeeper_attachment_bytes_total", (("app", "openchat"),)] == 4 * 4 + len(EICAR)
    for phase in ("fetch", "identify", "scan"):
        assert found["roomkeeper_attachment_phase_seconds_count", (("phase", phase),)] == 5
    assert sum(value for (name, _), value in found.items() if name == "roomkeeper_scans_total") == 5
    worker.process.terminate()
    worker.process.wait(30)


def test_the_command_serves_the_state(platform: Platform) -> None:
    port = free_port()
    platform.set(metrics_port=port)
    platform.sql("DROP INDEX echoroom.idx_typing_indicators_expires")
    platform.sql("ALTER TABLE openchat.attachment DROP COLUMN scan_result")
    platform.start("metrics")

    def up() -> bool:
        try:
            return scraped(port)["roomkeeper_up", (("part", "database"),)] == 1
        except OSError:
            return False

    eventually(up, what="metrics are served")
    # Of all policies and rollups that run.
    found = scraped(port)
    overdue = set(of(found, "roomkeeper_policy_overdue", "policy"))
    assert overdue == {*policies(platform.settings), *rollups(platform.settings)}
    limits = of(found, "roomkeeper_rollup_lag_limit_seconds", "rollup")
    assert limits == {
        name: rollup.late_after.total_seconds() for name, rollup in rollups(platform.settings).items()
    }
    # What an application lacks is its own affair; whether an index serves its policies is not asked then.
    disabled = {"echoroom": 0, "openchat": 1, "connect": 0, "pern": 0, "audiorooms": 0}
    assert of(found, "roomkeeper_application_disabled", "app") == disabled
    without = of(found, "roomkeeper_policy_without_index", "policy")
    assert {name for name, value in without.items() if value} == {"echoroom.typing"}
    assert without.keys() == {
        name
        for name, policy in policies(platform.settings).items()
        if policy.index_condition is not None and not name.startswith("openchat.")
    }
    taken = platform.start("metrics")
    assert taken.process.wait(60) == 1
    assert f"Metrics cannot be served on 127.0.0.1:{port}" in taken.output()


def test_what_waits_is_counted_and_its_age_told(platform: Platform, state: State) -> None:
    found = asked(state)
    assert not any(name.startswith("roomkeeper_queue_rows_age") for name, _ in found)
    for app, job_state, due in (
        ("openchat", "waiting", "now() - interval '100 s'"),
        ("openchat", "waiting", "now() - interval '50 s'"),
        ("openchat", "waiting", "now() + interval '50 s'"),
        ("pern", "waiting", "now() + interval '50 s'"),
        ("pern", "failed", "NULL"),
    ):
        platform.sql(
            "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, not_before)"
            f" VALUES (:app, :id, :state, {due})",
            app=app,
            id=uuid4(),
            state=job_state,
        )
    platform.sql(
        "INSERT INTO roomkeeper.dead_letters (task, task_id, payload, reason) VALUES ('t', 'i', '{}', 'r')"
    )
    found = asked(state)
    waiting = {labels: value for (name, labels), value in found.items() if name == "roomkeeper_queue_rows"}
    assert waiting == {
        queue_labels("openchat", "due"): 2,
        queue_labels("openchat", "later"): 1,
        queue_labels("pern", "later"): 1,
        queue_labels("pern", "failed"): 1,
    }
    ages = {labels: v for (name, labels), v in found.items() if name == "roomkeeper_queue_rows_age_seconds"}
    # Not those that are not due yet.
    assert ages.keys() == {queue_labels("openchat", "due"), queue_labels("pern", "failed")}
    assert 100 <= ages[queue_labels("openchat", "due")] < 160
    assert found["roomkeeper_dead_letters", ()] == 1


def test_rows_of_each_kind_of_work_are_counted_by_application_and_state(
    platform: Platform, state: State
) -> None:
    """The truth is in the tables; the queues of the broker are empty."""
    minute, day = "interval '60 s'", "interval '1 day'"
    for app, columns, values in (
        ("openchat", "state, not_before", f"'waiting', now() - {minute}"),
        ("openchat", "state, not_before", f"'waiting', now() + {minute}"),
        ("openchat", "state, lease_until", f"'running', now() + {minute}"),
        ("pern", "state, lease_until", f"'running', now() - {minute}"),
        ("pern", "state, updated_at", f"'failed', now() - {minute}"),
        ("pern", "state, outcome, finished_at", "'finished', 'accepted', now()"),
        ("pern", "state, outcome, finished_at", f"'finished', 'accepted', now() - {day}"),
    ):
        platform.sql(
            f"INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, {columns})"
            f" VALUES (:app, gen_random_uuid(), {values})",
            app=app,
        )
    for published in ("NULL", "now()", f"now() - {day}"):
        platform.sql(
            "INSERT INTO roomkeeper.outbox (task, payload, created_at, published_at)"
            f""" VALUES ('t', '{{"app": "pern"}}', now() - {minute}, {published})"""
        )
    for due in (f"now() - {minute}", f"now() + {minute}"):
        platform.sql(
            f"INSERT INTO roomkeeper.status_inbox (app, events, due_at) VALUES ('pern', '[]', {due})"
        )
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('delivery.drain', now(), now(), 7, 'done'), ('delivery.drain', now(), now(), 4, 'more')"
    )
    found = asked(state)

    def by(name: str, *labels: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(dict(given)[label] for label in labels): value
            for (family, given), value in found.items()
            if family == f"roomkeeper_queue_rows{name}"
        }

    assert by("", "work", "app", "state") == dict.fromkeys(
        [
            *(("attachments", "openchat", job_state) for job_state in ("due", "later", "running")),
            *(("attachments", "pern", job_state) for job_state in ("abandoned", "failed")),
            ("outbox", "pern", "due"),
            *(("statuses", "pern", inbox_state) for inbox_state in ("due", "later")),
        ],
        1,
    )
    ages = by("_age_seconds", "work", "app", "state")
    assert ages.keys() == {
        ("attachments", "openchat", "due"),
        ("attachments", "pern", "abandoned"),
        ("attachments", "pern", "failed"),
        ("outbox", "pern", "due"),
        ("statuses", "pern", "due"),
    }
    assert all(60 <= seconds < 120 for seconds in ages.values())
    assert by("_done", "work", "app") == {
        ("attachments", "pern"): 1,
        ("outbox", "pern"): 1,
        ("statuses", ""): 11,
    }


def test_what_ails_a_policy_is_told(platform: Platform, state: State) -> None:
    def by_policy(name: str) -> dict[str, float]:
        found = asked(state).items()
        return {
            labels[0][1]: value for (family, labels), value in found if family == f"roomkeeper_policy_{name}"
        }

    assert by_policy("overdue") == {"echoroom.typing": 0, "echoroom.ghosts": 0}
    assert by_policy("stuck_rows") == {"echoroom.typing": 0, "echoroom.ghosts": 0}
    ghosts = [("echoroom.ghosts", minutes, 7) for minutes in (3, 2, 1)]
    for job, minutes, remaining in (("echoroom.typing", 4, 0), *ghosts):
        platform.sql(
            "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome, remaining)"
            " SELECT :job, at, at, 0, 'done', :remaining FROM (SELECT now() - :ago AS at) AS moment",
            job=job,
            ago=timedelta(minutes=minutes),
            remaining=remaining,
        )
    assert by_policy("overdue") == {"echoroom.typing": 1, "echoroom.ghosts": 0}
    assert by_policy("stuck_rows") == {"echoroom.typing": 0, "echoroom.ghosts": 7}


def of(found: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for (family, labels), value in found.items() if family == name}


def test_how_far_rollups_have_come_is_told(platform: Platform) -> None:
    name = "pern.security_daily"
    asking = State(
        platform.settings, lags=lambda connection: rollup_status.lags(connection, platform.settings)
    )

    def by_rollup(metric: str) -> dict[str, float]:
        return of(asked(asking), f"roomkeeper_rollup_{metric}", "rollup")

    # Of those that have never run nothing is known but the limit.
    assert (by_rollup("lag_seconds"), by_rollup("watermark_timestamp_seconds")) == ({}, {})
    assert set(by_rollup("lag_limit_seconds")) == set(rollups(platform.settings))
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    settle = ROLLUPS[name].grace
    for watermark, lag in (
        (today, timedelta(0)),
        (today - timedelta(days=3), now - (today - timedelta(days=2) + settle)),
    ):
        platform.sql("DELETE FROM roomkeeper.rollups")
        platform.sql(
            "INSERT INTO roomkeeper.rollups (name, zone, watermark, covered_from)"
            " VALUES (:name, 'UTC', :watermark, '2026-01-01Z')",
            name=name,
            watermark=watermark,
        )
        assert by_rollup("watermark_timestamp_seconds") == {name: watermark.timestamp()}
        ((rollup_name, seconds),) = by_rollup("lag_seconds").items()
        assert rollup_name == name
        assert lag.total_seconds() <= seconds < lag.total_seconds() + (60 if lag else 1)
    # What is off is not told.
    platform.set(sweep_off=name)
    off = State(platform.settings, lags=lambda connection: rollup_status.lags(connection, platform.settings))
    assert name not in of(asked(off), "roomkeeper_rollup_lag_limit_seconds", "rollup")
    assert of(asked(off), "roomkeeper_rollup_lag_seconds", "rollup") == {}


def test_a_policy_that_was_stopped_is_told(platform: Platform, state: State) -> None:
    assert set(of(asked(state), "roomkeeper_policy_stopped", "policy").values()) == {0}
    for outcome, minutes, expected in (("stopped", 2, 1), ("skipped", 1, 1), ("done", 0, 0)):
        platform.sql(
            "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
            " SELECT 'echoroom.typing', at, at, 0, :outcome FROM (SELECT now() - :ago AS at) AS moment",
            ago=timedelta(minutes=minutes),
            outcome=outcome,
        )
        stopped = of(asked(state), "roomkeeper_policy_stopped", "policy")
        assert stopped == {"echoroom.typing": expected, "echoroom.ghosts": 0}


def test_what_retention_took_is_counted_by_its_receipts(platform: Platform, state: State) -> None:
    def taken(policy: str, rows: int, kind: str = "taken") -> None:
        with transaction() as connection:
            receipts.append(connection, kind=kind, policy=policy, run=uuid4(), rows=rows, content={})

    assert of(asked(state), "roomkeeper_retention_rows_total", "policy") == {}
    taken("pern.messages", 5)
    taken("pern.messages", 7)
    taken("pern.messages", 3, "restored")
    taken("connect.logs", 2, "dropped")
    expected = {"pern.messages": 12, "connect.logs": 2}
    for _ in range(2):
        assert of(asked(state), "roomkeeper_retention_rows_total", "policy") == expected
    taken("pern.messages", 1)
    assert of(asked(state), "roomkeeper_retention_rows_total", "policy") == expected | {"pern.messages": 13}
    # Another process knows as much.
    other = of(asked(State(platform.settings)), "roomkeeper_retention_rows_total", "policy")
    assert other == expected | {"pern.messages": 13}


def test_of_many_receipts_only_new_ones_are_read(platform: Platform) -> None:
    with transaction() as connection:
        for _ in range(500):
            receipts.append(connection, kind="taken", policy="pern.x", run=uuid4(), rows=1, content={})
    platform.sql("ANALYZE roomkeeper.receipts")
    read = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'receipts'"
    taken = Taken()
    found = []
    for _ in range(2):
        with transaction() as connection:
            taken.read(connection)
            found.append(connection.execute(text(read)).scalar_one())
    assert taken.rows == {"pern.x": 500}
    # The second has those of the first with it, unless they have been handed on.
    assert found[0] >= 500
    assert found[1] - found[0] < 10


def test_legal_holds_are_counted(platform: Platform, state: State) -> None:
    assert of(asked(state), "roomkeeper_holds", "app") == {}
    for app in ("audiorooms", "audiorooms", "audiorooms"):
        holds.place(app, "user", uuid4(), reason="a suit", actor="ada")
    holds.lift(2, actor="ada")
    assert of(asked(state), "roomkeeper_holds", "app") == {"audiorooms": 2}


def test_pending_deletions_are_told(platform: Platform, state: State) -> None:
    names = ("roomkeeper_pending_deletions", "roomkeeper_pending_deletions_attempts")
    age = "roomkeeper_pending_deletions_age_seconds"
    assert [of(asked(state), name, "store") for name in (*names, age)] == [{}, {}, {}]
    for store, attempts, minutes in (("s3", 0, 1), ("s3", 4, 90), ("local", 0, 0)):
        platform.sql(
            "INSERT INTO roomkeeper.pending_deletions"
            " (app, attachment_id, policy, store, key, attempts, created_at)"
            " VALUES ('pern', gen_random_uuid(), 'x', :store, 'a', :attempts, now() - :ago)",
            store=store,
            attempts=attempts,
            ago=timedelta(minutes=minutes),
        )
    found = asked(state)
    assert [of(found, name, "store") for name in names] == [{"s3": 2, "local": 1}, {"s3": 4, "local": 0}]
    ages = of(found, age, "store")
    assert 5400 <= ages["s3"] < 5500
    assert 0 <= ages["local"] < 60


def test_what_is_reopened_is_due_since_then(platform: Platform, state: State) -> None:
    row_id = platform.openchat_attachment(b"text")
    platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs"
        " (app, attachment_id, state, outcome, created_at, updated_at, finished_at)"
        " VALUES ('openchat', :id, 'finished', 'refused',"
        " now() - interval '9 days', now() - interval '9 days', now() - interval '9 days')",
        id=row_id,
    )
    operator_actions.act("retry", "openchat", row_id, actor="ada", reason="the object is back")
    age = ("roomkeeper_queue_rows_age_seconds", queue_labels("openchat", "due"))
    assert 0 <= asked(state)[age] < 60
    # And it grows until a worker takes it.
    platform.sql("UPDATE roomkeeper.attachment_jobs SET updated_at = now() - interval '100 s'")
    assert 100 <= asked(state)[age] < 160


def test_what_is_away_is_said_and_the_rest_told(
    platform: Platform, state: State, valkey: ValkeyServer, clamd: ClamdServer
) -> None:
    platform.send("attachments.recover", queue="maintenance")
    found = asked(state)
    assert {labels[0][1]: v for (name, labels), v in found.items() if name == "roomkeeper_up"} == {
        "database": 1,
        "broker": 1,
        "scanner": 1,
    }
    assert found["roomkeeper_queue_length", (("queue", "maintenance"),)] == 1
    assert found["roomkeeper_queue_length", (("queue", "attachments"),)] == 0
    valkey.stop()
    clamd.stop()
    found = asked(state)
    assert found["roomkeeper_up", (("part", "broker"),)] == 0
    assert found["roomkeeper_up", (("part", "scanner"),)] == 0
    assert found["roomkeeper_up", (("part", "database"),)] == 1


def test_a_database_that_is_away_is_said(state: State, postgres: PostgresServer) -> None:
    postgres.stop()
    found = asked(state)
    assert found["roomkeeper_up", (("part", "database"),)] == 0
    assert found["roomkeeper_up", (("part", "broker"),)] == 1


def test_the_age_of_the_signatures_is_told(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    released = datetime.now(UTC) - timedelta(days=5)
    monkeypatch.setattr(Scanner, "versions", lambda self: Version("1", "2", released))
    age = asked(state)["roomkeeper_signature_age_seconds", ()]
    assert 5 * 86400 <= age < 5 * 86400 + 60
    monkeypatch.setattr(Scanner, "versions", lambda self: Version("1", "local"))
    assert ("roomkeeper_signature_age_seconds", ()) not in asked(state)


def _row(name: str, kind: str, labels: Iterable[str], meaning: str) -> str:
    total = "_total" if kind == "counter" else ""
    return f"| `{name}{total}` | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"


def test_the_page_has_every_metric(platform: Platform, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Version("ClamAV 1.4", "27000", datetime.now(UTC))
    monkeypatch.setattr(Scanner, "versions", lambda self: released)
    # What a metric without samples is labelled with is known to its family only.
    by_state = [
        _row(family.name, family.type, getattr(family, "_labelnames", ()), family.documentation)
        for family in state.collect()
    ]
    counts = [found for found in vars(metrics).values() if isinstance(found, MetricWrapperBase)]
    by_workers = [
        _row(found._name, str(found._type), found._labelnames, found._documentation) for found in counts
    ]
    text = PAGE.read_text()
    for marker, rows in (("state", by_state), ("workers", by_workers)):
        _, begin, rest = text.partition(f"<!-- {marker} -->\n")
        table, end, _ = rest.partition(f"\n<!-- /{marker} -->")
        assert begin and end, "the markers are missing"
        expected = ["| metric | labels | meaning |", "| --- | --- | --- |", *sorted(rows)]
        assert table.splitlines() == expected, "put this between the markers:\n" + "\n".join(expected)
