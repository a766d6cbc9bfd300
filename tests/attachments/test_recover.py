"""The recovery job: it announces attachments that no worker has, once, and nothing else."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from sqlalchemy import text

from models import openchat
from tasks.apps import APPS
from tasks.attachments import attachment_work
from tasks.attachments import recover as module
from tasks.attachments.process import process
from tasks.attachments.recover import JOB, recover
from tasks.policies.attachment import AttachmentTable
from tests.platform import Platform, ago, environment
from tests.servers import ValkeyServer
from workers import job_history

BOTH = pytest.mark.parametrize("app", ["openchat", "pern"])
Configure = Callable[..., None]


@pytest.fixture
def configure(platform: Platform) -> Iterator[Configure]:
    """Change settings for this process too."""
    with ExitStack() as stack:

        def run(**settings: object) -> None:
            platform.set(**settings)
            values = {
                name: value
                for name, value in platform.environment.items()
                if name.startswith("ROOMKEEPER_") or name == "DATABASE_URL"
            }
            stack.enter_context(environment(values))

        run()
        yield run


def table(app: str) -> AttachmentTable:
    found = APPS[app].attachments
    assert found is not None
    return found


def upload(platform: Platform, app: str, **columns: Any) -> UUID:
    content = uuid4().bytes
    if app == "openchat":
        return platform.openchat_attachment(content, **columns)
    return platform.pern_attachment(content, **columns)


def enter(platform: Platform, app: str, row_id: UUID, state: str, **columns: object) -> None:
    """Enter a job into our own table; `columns` are SQL."""
    names = ", ".join(["", *columns])
    values = ", ".join(["", *map(str, columns.values())])
    platform.sql(
        f"INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state{names})"
        f" VALUES (:app, :id, :state{values})",
        app=app,
        id=row_id,
        state=state,
    )


def announced(platform: Platform) -> list[tuple[str, UUID]]:
    """Return what lies in the broker's queue, and empty it."""
    found = []
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        while raw := client.rpop("attachments"):
            assert isinstance(raw, bytes)
            message = json.loads(raw)
            assert message["headers"]["task"] == "attachments.process"
            [[payload], options, _] = json.loads(base64.b64decode(message["body"]))
            assert options == {}
            assert set(payload) == {"app", "id"}
            found.append((payload["app"], UUID(payload["id"])))
        assert client.dbsize() - client.exists("_kombu.binding.attachments") <= 3
    return found


def runs(platform: Platform) -> list[tuple[int, str, str | None]]:
    """Return the job history: rows, outcome, error of each run."""
    rows = platform.sql(
        "SELECT job, rows, outcome, error, started_at, finished_at FROM roomkeeper.job_runs ORDER BY id"
    )
    for row in rows:
        assert row.job == JOB
        assert ago(600) < row.started_at <= row.finished_at < ago(-60)
    return [(row.rows, row.outcome, row.error) for row in rows]


# -- What is announced --------------------------------------------------------------------------------------


@BOTH
def test_a_row_that_was_never_enqueued_is_announced_once(
    platform: Platform, configure: Configure, app: str
) -> None:
    row_id = upload(platform, app)
    before = platform.row(table(app).model, row_id)
    recover.run()
    assert announced(platform) == [(app, row_id)]
    job = platform.job(row_id)
    assert job is not None
    assert (job.state, job.attempt, job.failures, job.waits) == ("waiting", 0, 0, 0)
    assert job.enqueued_at == job.created_at
    assert job.not_before is None
    # The application's row is the claim's to change.
    assert platform.row(table(app).model, row_id) == before
    recover.run()
    assert announced(platform) == []
    assert runs(platform) == [(1, "done", None), (0, "done", None)]


@BOTH
def test_the_grace_is_exact(platform: Platform, app: str) -> None:
    """A row as old as the grace is left to its service; one that is a microsecond older is taken up."""
    platform.set(attachment_grace_seconds=30)
    name = "openchat.attachment" if app == "openchat" else "pern.attachments"
    for age, wanted in (("0 s", 0), ("29 s", 0), ("30 s", 0), ("30.000001 s", 1), ("1 day", 1)):
        row_id = upload(platform, app)
        # In one transaction, in which `now()` stands still.
        with platform.engine.connect() as connection:
            change = f"UPDATE {name} SET created_at = now() - interval '{age}' WHERE id = :id"
            connection.execute(text(change), {"id": row_id})
            adopted, _ = module._adopt(connection, app, table(app), platform.settings)
            assert (row_id in adopted) == bool(wanted), age
            connection.rollback()


def test_the_grace_is_exact_whatever_time_zone_the_database_prefers(platform: Platform) -> None:
    platform.set(attachment_grace_seconds=600)
    row_id = upload(platform, "openchat")
    [(database,)] = platform.sql("SELECT current_database()")
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        platform.sql(f"ALTER DATABASE \"{database}\" SET timezone = '{zone}'")
        platform.engine.dispose()
        for age, wanted in ((590, False), (610, True)):
            platform.sql(
                "UPDATE openchat.attachment SET created_at = :at",
                at=datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age),
            )
            with platform.engine.connect() as connection:
                adopted, _ = module._adopt(connection, "openchat", table("openchat"), platform.settings)
                assert (row_id in adopted) == wanted
                connection.rollback()


#: State and columns of a job, and whether it is announced then.
DUE: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("waiting", {}, True),
    ("waiting", {"not_before": "now() - interval '1 microsecond'"}, True),
    ("waiting", {"not_before": "now()"}, True),
    ("waiting", {"not_before": "now() + interval '1 microsecond'"}, False),
    ("running", {"lease_until": "now() + interval '1 microsecond'"}, False),
    ("running", {"lease_until": "now()"}, False),
    ("running", {"lease_until": "now() - interval '1 microsecond'"}, True),
    ("finished", {"outcome": "'accepted'"}, False),
    ("failed", {}, False),
    # Announced before: once more only after the requeue time, 900 s.
    ("waiting", {"enqueued_at": "now()"}, False),
    ("waiting", {"enqueued_at": "now() - interval '900 s'"}, False),
    ("waiting", {"enqueued_at": "now() - interval '900.000001 s'"}, True),
    (
        "running",
        {"lease_until": "now() - interval '1 s'", "enqueued_at": "now() - interval '899 s'"},
        False,
    ),
    (
        "running",
        {"lease_until": "now() - interval '1 s'", "enqueued_at": "now() - interval '901 s'"},
        True,
    ),
    (
        "waiting",
        {"not_before": "now() + interval '1 s'", "enqueued_at": "now() - interval '901 s'"},
        False,
    ),
)


@BOTH
def test_what_is_due_is_announced(platform: Platform, app: str) -> None:
    platform.set(attachment_requeue_seconds=900)
    other = "pern" if app == "openchat" else "openchat"
    for state, columns, wanted in DUE:
        row_id, other_id = uuid4(), uuid4()
        names, values = ", ".join(["", *columns]), ", ".join(["", *columns.values()])
        with platform.engine.connect() as connection:
            for owner, attachment_id in ((app, row_id), (other, other_id)):
                statement = (
                    f"INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state{names})"
                    f" VALUES ('{owner}', '{attachment_id}', '{state}'{values})"
                )
                connection.execute(text(statement))
            before = everybody(connection)
            due = module._due(connection, app, platform.settings)
            assert due == ([row_id] if wanted else []), (state, columns)
            after = everybody(connection)
            assert after[other_id] == before[other_id]
            if wanted:
                changed = {name for name in after[row_id] if after[row_id][name] != before[row_id][name]}
                assert changed == {"enqueued_at"}
            else:
                assert after == before
            connection.rollback()


def everybody(connection: Any) -> dict[UUID, dict[str, Any]]:
    rows = connection.execute(text("SELECT *, now() AS now FROM roomkeeper.attachment_jobs"))
    return {row.attachment_id: row._asdict() for row in rows}


def test_each_kind_is_announced_in_one_run(platform: Platform, configure: Configure) -> None:
    new, waiting, left, held, failed, done = (upload(platform, "pern") for _ in range(6))
    enter(platform, "pern", waiting, "waiting", not_before="now() - interval '1 s'", waits=3)
    enter(platform, "pern", left, "running", lease_until="now() - interval '1 s'", attempt=1)
    enter(platform, "pern", held, "running", lease_until="now() + interval '60 s'", attempt=1)
    enter(platform, "pern", failed, "failed")
    enter(platform, "pern", done, "finished", outcome="'accepted'")
    other = upload(platform, "openchat")
    recover.run()
    assert sorted(announced(platform)) == sorted(
        [("pern", new), ("pern", waiting), ("pern", left), ("openchat", other)]
    )
    assert runs(platform) == [(4, "done", None)]


def test_who_is_announced_can_be_claimed(platform: Platform, configure: Configure) -> None:
    new, left = upload(platform, "pern"), upload(platform, "pern")
    enter(platform, "pern", left, "running", lease_until="now() - interval '1 s'", attempt=1)
    recover.run()
    for row_id in (new, left):
        with platform.engine.begin() as connection:
            own_claim = attachment_work.claim(
                connection, "pern", table("pern"), row_id, "worker", platform.settings
            )
        assert own_claim is not None


# -- What is not --------------------------------------------------------------------------------------------


def test_an_idle_run_changes_only_the_ledger(platform: Platform, configure: Configure) -> None:
    for app in ("openchat", "pern"):
        row_id = upload(platform, app)
        enter(platform, app, row_id, "finished", outcome="'accepted'")
    before = platform.everything()
    recover.run()
    assert announced(platform) == []
    after = platform.everything()
    assert runs(platform) == [(0, "done", None)]
    del before["roomkeeper.job_runs"], after["roomkeeper.job_runs"]
    assert after == before


def test_openchats_own_word_and_deletion_count(platform: Platform, configure: Configure) -> None:
    for status in ("completed", "failed"):
        upload(platform, "openchat", processing_status=status)
    upload(platform, "openchat", is_deleted=True)
    wanted = [
        upload(platform, "openchat", processing_status="pending", is_deleted=None),
        upload(platform, "openchat", processing_status="processing"),
    ]
    recover.run()
    assert sorted(announced(platform)) == sorted(("openchat", row_id) for row_id in wanted)


def test_an_application_that_is_disabled_is_left_alone(platform: Platform, configure: Configure) -> None:
    configure(apps="pern,connect")
    new, waiting = upload(platform, "openchat"), upload(platform, "openchat")
    enter(platform, "openchat", waiting, "waiting")
    pern_id = upload(platform, "pern")
    recover.run()
    assert announced(platform) == [("pern", pern_id)]
    assert platform.job(new) is None
    assert runs(platform) == [(1, "done", None)]


# -- Bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["never enqueued", "due"])
def test_a_batch_is_bounded_and_says_that_there_is_more(
    platform: Platform, configure: Configure, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    uploads = {("pern", upload(platform, "pern")) for _ in range(5)}
    if known:
        for _, row_id in uploads:
            enter(platform, "pern", row_id, "waiting")
    recover.run()
    batch = announced(platform)
    assert len(batch) == 3
    recover.run()
    batch += announced(platform)
    assert len(batch) == 5
    assert set(batch) == uploads
    recover.run()
    assert announced(platform) == []
    assert runs(platform) == [(3, "more", None), (2, "done", None), (0, "done", None)]


# -- Two at once, and none ----------------------------------------------------------------------------------


def test_a_second_twin_skips_its_turn(platform: Platform, configure: Configure) -> None:
    row_id = upload(platform, "pern")
    with job_history.run(JOB) as first:
        assert first is not None
        recover.run()
        assert announced(platform) == []
        assert platform.job(row_id) is None
    recover.run()
    assert announced(platform) == [("pern", row_id)]
    # In the order in which they began to write.
    assert sorted(runs(platform), key=str) == sorted(
        [(0, "skipped", None), (0, "done", None), (1, "done", None)], key=str
    )


def test_another_job_is_no_reason_to_skip(platform: Platform, configure: Configure) -> None:
    with job_history.run("another.job"):
        recover.run()
    outcomes = platform.sql("SELECT job, outcome FROM roomkeeper.job_runs ORDER BY job")
    assert [tuple(row) for row in outcomes] == [("another.job", "done"), (JOB, "done")]


def test_of_many_twins_at_once_each_file_is_announced_once(platform: Platform, configure: Configure) -> None:
    uploads = [upload(platform, "pern") for _ in range(20)]
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        recover.run()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(announced(platform)) == sorted(("pern", row_id) for row_id in uploads)
    ended = runs(platform)
    assert len(ended) == 4
    assert {outcome for _, outcome, _ in ended} <= {"done", "skipped"}
    assert sum(rows for rows, _, _ in ended) == 20


@pytest.mark.parametrize("known", [False, True], ids=["never enqueued", "due"])
def test_a_broker_that_is_away_leaves_nothing_marked(
    platform: Platform, configure: Configure, valkey: ValkeyServer, known: bool
) -> None:
    row_id = upload(platform, "openchat")
    if known:
        enter(platform, "openchat", row_id, "waiting")
    before = platform.everything()
    valkey.stop()
    with pytest.raises(OperationalError):
        recover.run()
    [(rows, outcome, error)] = runs(platform)
    assert (rows, outcome) == (0, "failed")
    assert error is not None
    assert error.startswith("OperationalError")
    after = platform.everything()
    del before["roomkeeper.job_runs"], after["roomkeeper.job_runs"]
    assert after == before
    valkey.start()
    recover.run()
    assert announced(platform) == [("openchat", row_id)]
    assert runs(platform)[1:] == [(1, "done", None)]


def test_a_publish_that_fails_half_way_leaves_all_to_the_next_turn(
    platform: Platform, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = {("pern", upload(platform, "pern")) for _ in range(3)}
    real = process.apply_async
    sent: list[object] = []

    def apply_async(*args: Any) -> None:
        if len(sent) == 2:
            raise OperationalError("gone")
        sent.append(real(*args))

    monkeypatch.setattr(process, "apply_async", apply_async)
    with pytest.raises(OperationalError):
        recover.run()
    # A message may be sent twice; a file may not be marked without one.
    assert len(announced(platform)) == 2
    assert platform.sql("SELECT count(*) FROM roomkeeper.attachment_jobs")[0][0] == 0
    monkeypatch.undo()
    recover.run()
    assert set(announced(platform)) == uploads
    assert [outcome for _, outcome, _ in runs(platform)] == ["failed", "done"]


def test_a_worker_that_claims_meanwhile_is_not_in_the_way(platform: Platform, configure: Configure) -> None:
    """Locked rows are skipped, not waited for."""
    held, free = upload(platform, "pern"), upload(platform, "pern")
    for row_id in (held, free):
        enter(platform, "pern", row_id, "waiting")
    with platform.engine.connect() as other:
        other.execute(
            text("SELECT 1 FROM roomkeeper.attachment_jobs WHERE attachment_id = :id FOR UPDATE"),
            {"id": held},
        )
        recover.run()
        other.rollback()
    assert announced(platform) == [("pern", free)]


def test_what_the_run_sees_is_the_row_and_not_its_files(platform: Platform, configure: Configure) -> None:
    """An announcement carries ids only."""
    row_id = platform.openchat_attachment(b"x", "secret-plan.txt")
    recover.run()
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        [raw] = client.lrange("attachments", 0, -1)
    message = json.loads(raw)
    assert "secret" not in raw.decode()
    assert b"secret" not in base64.b64decode(message["body"])
    assert platform.row(openchat.Attachment, row_id).filename == "secret-plan.txt"


def test_a_table_without_states_is_walked_through_a_stretch_at_a_time(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRETCH", 2)
    ids = sorted(upload(platform, "pern", id=UUID(int=number)) for number in (10, 20, 30, 40, 50))

    def turn() -> list[UUID]:
        known = set(adopted())
        recover.run()
        return sorted(set(adopted()) - known)

    def adopted() -> list[UUID]:
        rows = platform.sql("SELECT attachment_id FROM roomkeeper.attachment_jobs WHERE app = 'pern'")
        return [row.attachment_id for row in rows]

    assert [turn(), turn(), turn()] == [ids[:2], ids[2:4], ids[4:]]
    # Round again: what has come since is found wherever it lies.
    late = upload(platform, "pern", id=UUID(int=25))
    assert [turn(), turn(), turn()] == [[], [late], []]


def test_the_walk_does_not_go_on_before_a_stretch_is_done(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRETCH", 4)
    monkeypatch.setattr(module, "BATCH", 3)
    for number in range(1, 6):
        upload(platform, "pern", id=UUID(int=number))
    counts = []
    for _ in range(3):
        recover.run()
        counts.append(platform.sql("SELECT count(*) FROM roomkeeper.attachment_jobs")[0][0])
    assert counts == [3, 4, 5]
