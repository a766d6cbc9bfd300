"""One application lacks something: its jobs are switched off, loudly; nothing is lost; the others run on."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

import models.openchat
from models.platform import SCHEMA
from stack.ports import free_port
from tasks import availability
from tasks.apps import APPS
from tasks.attachments import process, recover, rescan, urls
from tasks.attachments.payload import ProcessAttachment
from tasks.delivery import audit, drain, record
from tasks.delivery.events import RecordStatus
from tests.commands.cli import on
from tests.delivery.people import Pern, event
from tests.delivery.world import OpenchatWorld
from tests.platform import Platform, environment, eventually
from workers.app import app as celery
from workers.inspection import Fault

BREAK = "ALTER TABLE openchat.attachment RENAME COLUMN scan_result TO verdict"
MEND = "ALTER TABLE openchat.attachment RENAME COLUMN verdict TO scan_result"
SENTENCE = "The column openchat.attachment.scan_result does not exist."


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """As a process that has just begun."""
    availability.forget()
    yield
    availability.forget()


@pytest.fixture
def broken(platform: Platform) -> Platform:
    platform.sql(BREAK)
    return platform


def announced(platform: Platform) -> list[str]:
    """Return the attachments that messages in the queue name."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        messages = [json.loads(one) for one in client.lrange("attachments", 0, -1)]
    return [str(one["headers"]["argsrepr"]) for one in messages]


def runs(platform: Platform, job: str) -> list[tuple[str, str | None]]:
    """Return how the runs of a job ended, and why."""
    return [
        tuple(row)
        for row in platform.sql(
            "SELECT outcome, error FROM roomkeeper.job_runs WHERE job = :job ORDER BY id", job=job
        )
    ]


def inbox(platform: Platform) -> list[str]:
    return [row.app for row in platform.sql("SELECT app FROM roomkeeper.status_inbox ORDER BY id")]


# -- which one it is -------------------------------------------------------------------------------------


@pytest.fixture
def service(platform: Platform) -> Iterator[Platform]:
    """The platform, whose role is no superuser and may do all that is needed."""
    everything = ", ".join([SCHEMA, *(schema for app in APPS.values() for schema in app.models.SCHEMAS)])
    platform.sql("CREATE ROLE service_of_tests LOGIN BYPASSRLS")
    platform.sql(f"GRANT USAGE ON SCHEMA {everything} TO service_of_tests")
    platform.sql(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {everything} TO service_of_tests"
    )
    yield platform
    platform.sql("DROP OWNED BY service_of_tests")
    platform.sql("DROP ROLE service_of_tests")


@pytest.mark.parametrize(
    ("statement", "off"),
    [
        ("DROP TABLE audiorooms.room_participants CASCADE", {"audiorooms"}),
        (BREAK, {"openchat"}),
        ("ALTER TABLE pern.attachments ALTER COLUMN file_size TYPE text", {"pern"}),
        ("ALTER SCHEMA interaction_schema RENAME TO interactions", {"connect"}),
        ("REVOKE UPDATE ON pern.users FROM service_of_tests", {"pern"}),
        ("REVOKE USAGE ON SCHEMA echoroom FROM service_of_tests", {"echoroom"}),
        (
            "ALTER ROLE service_of_tests NOBYPASSRLS; ALTER TABLE openchat.session ENABLE ROW LEVEL SECURITY",
            # The tables of these are behind it as they are delivered.
            {"openchat", "echoroom", "audiorooms"},
        ),
        ("DROP TABLE roomkeeper.holds", set()),
    ],
)
def test_what_lacks_something_is_switched_off_alone(service: Platform, statement: str, off: set[str]) -> None:
    service.sql(statement)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE service_of_tests")
        found = availability.find_faults(connection, service.settings)
    assert set(found.applications) == off
    assert bool(found.platform) is not bool(off)
    assert all(found.applications.values())


def test_a_policy_that_is_off_takes_nothing_along(platform: Platform) -> None:
    """What an operator does about it meanwhile: the others of its application go on."""
    platform.sql("ALTER TABLE openchat.verification DROP COLUMN expires_at")
    with platform.engine.begin() as connection:
        assert set(availability.find_faults(connection, platform.settings).applications) == {"openchat"}
        platform.set(sweep_off="openchat.verifications")
        assert availability.find_faults(connection, platform.settings).all() == []


# -- what its jobs do, and the others' --------------------------------------------------------------------


def test_its_runs_are_noted_with_the_reason_and_others_run(broken: Platform) -> None:
    celery.loader.import_default_modules()
    tasks: Any = celery.tasks
    # A sweep, a retention policy, a rollup.
    for name in ("openchat.mutes", "openchat.deleted_attachments", "openchat.daily"):
        tasks[name]()
        assert runs(broken, name) == [("failed", f"openchat is switched off: {SENTENCE}")]
    for name in ("echoroom.typing", "pern.daily"):
        tasks[name]()
        assert [outcome for outcome, _ in runs(broken, name)] == ["done"]
    listed = " ".join(re.sub("[│─-╿]", " ", on(broken, "policies", "openchat").out).split())
    assert "openchat is switched off" in listed


def test_its_attachments_wait_and_are_found_again(broken: Platform) -> None:
    broken.sql(MEND)
    row_id = broken.openchat_attachment(b"theirs")
    broken.sql(BREAK)
    others = broken.pern_attachment(b"others", is_encrypted=False)
    request = ProcessAttachment(app="openchat", id=row_id)
    task: Any = process.process
    assert task(request) == "waits: no job of openchat runs here"
    assert broken.job(row_id) is None
    # Periodic work of all applications.
    for job in (recover.recover, urls.renew_urls, rescan.rescan, audit.audit):
        job()
    assert broken.job(row_id) is None
    assert broken.job(others) is not None
    assert len(announced(broken)) == 1
    assert {outcome for outcome, _ in runs(broken, "attachments.recover")} == {"done"}
    assert broken.dead_letters() == []
    broken.sql(MEND)
    availability.forget()
    recover.recover()
    assert len(announced(broken)) == 2
    assert broken.job(row_id) is not None


def test_its_statuses_wait_in_the_inbox_and_others_are_merged(broken: Platform) -> None:
    broken.sql(MEND)
    pern, openchat = Pern(), OpenchatWorld()
    room = openchat.conversation()
    sender, reader = openchat.participant(room), openchat.participant(room)
    message_id = openchat.message(room, sender, 1)
    with broken.engine.begin() as connection:
        openchat.save(connection)
        (ada, bob) = pern.people(connection, 2)
        (message,) = pern.messages(connection, ada, 1)
    broken.sql(BREAK)
    of_openchat = RecordStatus(app="openchat", events=[event(message_id, reader, "read", 86_400)])
    assert record.record(of_openchat) == "1 wait"
    assert record.record(RecordStatus(app="pern", events=[event(message, bob, "read", 1)])) == "1 recorded"
    broken.sql(
        "UPDATE roomkeeper.status_inbox"
        " SET due_at = now() - interval '2 days', received_at = now() - interval '2 days'"
    )
    drain.drain()
    # However long that takes: they are no dead letters.
    assert (inbox(broken), broken.dead_letters()) == (["openchat"], [])
    broken.sql(MEND)
    availability.forget()
    drain.drain()
    assert (inbox(broken), broken.dead_letters()) == ([], [])
    assert broken.row(models.openchat.Message, message_id).read_by_count == 1


# -- how it is told, and comes back -----------------------------------------------------------------------


def test_it_is_told_once_and_comes_back_by_itself(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "RECHECK_SECONDS", 0.05)
    settings = platform.settings
    with capture_logs() as logs:
        assert availability.disabled(settings) == {}
        platform.sql(BREAK)
        eventually(lambda: "openchat" not in availability.available(settings))
        assert availability.disabled(settings) == {
            "openchat": [
                Fault(SENTENCE, "Run the migrations of the application that the table belongs to."),
            ]
        }
        platform.sql(MEND)
        eventually(lambda: "openchat" in availability.available(settings))
    events = [(one["log_level"], one["event"]) for one in logs if one["event"].startswith("application.")]
    assert events == [("error", "application.switched_off"), ("warning", "application.switched_on")]


def test_a_task_that_meets_what_is_missing_has_it_judged_anew(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "LEAST_SECONDS", 0.0)
    settings = platform.settings
    assert availability.disabled(settings) == {}
    platform.sql(BREAK)
    assert availability.disabled(settings) == {}
    with pytest.raises(Exception, match="scan_result"):
        platform.sql("SELECT scan_result FROM openchat.attachment")
    assert set(availability.disabled(settings)) == {"openchat"}


def test_a_database_that_is_away_changes_nothing(broken: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "RECHECK_SECONDS", 0.0)
    settings = broken.settings
    away = {"DATABASE_URL": f"postgresql://ada@127.0.0.1:{free_port()}/chat"}
    with environment(away):
        assert availability.disabled(settings) == {}
    availability.forget()
    assert set(availability.disabled(settings)) == {"openchat"}
    with environment(away):
        assert set(availability.disabled(settings)) == {"openchat"}


def test_check_says_so_and_ends_with_one(broken: Platform) -> None:
    broken.set(archive_root=broken.folder / "archive", max_file_bytes=2 * 1024 * 1024)
    outcome = on(broken, "check")
    assert outcome.code == 1
    assert outcome.faults == [
        (SENTENCE, "Run the migrations of the application that the table belongs to."),
    ]
