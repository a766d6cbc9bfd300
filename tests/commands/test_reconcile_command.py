"""`roomkeeper reconcile`: what it says, and how it ends."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, text
from syrupy.assertion import SnapshotAssertion

from commands import reconcile as command
from models.platform import AttachmentJob
from tests.commands.cli import Outcome, on, refused, stable, timeless
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import Platform
from tests.servers import SeaweedFSServer

APPLY = ("--apply", "--reason", "monthly")

#: Days are counted back from today.
pytestmark = pytest.mark.usefixtures("same_day")


@pytest.fixture
def store(platform: Platform) -> Platform:
    """A platform whose objects are orphans as soon as they are there."""
    platform.set(reconcile_prefixes="derived/,uploads/", reconcile_grace_hours=1e-9)
    return platform


def served(platform: Platform, key: str) -> str:
    """Insert a row that names an object, and is served."""
    row_id = platform.openchat_attachment(None, storage_key=key)
    ended = {"state": "finished", "outcome": "accepted", "finished_at": datetime.now(UTC), "attempt": 1}
    with platform.engine.begin() as connection:
        connection.execute(insert(AttachmentJob).values(app="openchat", attachment_id=row_id, **ended))
    return str(row_id)


def wrong(outcome: Outcome) -> list[tuple[str, str]]:
    assert outcome.code == 1
    return outcome.faults


# -- what it says -------------------------------------------------------------------------------------------


def test_it_looks_and_changes_nothing(store: Platform, snapshot: SnapshotAssertion) -> None:
    store.put(b"12345", "uploads/named")
    store.put(b"123", "uploads/orphan ü")
    served(store, "uploads/named")
    lost = served(store, "uploads/gone")
    before = store.objects()
    outcome = on(store, "reconcile")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("local: 2 objects, 8 bytes\n")
    assert f" {datetime.now(UTC):%Y-%m-%d} " in outcome.out
    assert timeless(stable(outcome, lost=lost)) == snapshot
    assert store.objects() == before


def test_it_mends_and_keeps_who_and_why(
    store: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    store.put(b"1", "uploads/named")
    served(store, "uploads/named")
    for actor in ("ada", ""):
        store.put(b"123", "uploads/orphan")
        served(store, "uploads/gone")
        monkeypatch.setenv("SUDO_USER", "eva")
        options = ("--actor", actor) if actor else ()
        outcome = on(store, "reconcile", *APPLY, *options)
        assert (outcome.code, outcome.err) == (0, "")
        assert " 1 orphan " in outcome.out
        assert stable(outcome).splitlines()[-2:] == snapshot(name="each")
        assert set(store.objects()) == {"uploads/named"}
    for table, column in (("receipts", "content->>'actor'"), ("attachment_events", "actor")):
        found = store.sql(f"SELECT {column} FROM roomkeeper.{table} ORDER BY 1")
        assert [row[0] for row in found] == ["ada", "eva"]


def test_there_is_nothing_to_mend(store: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(store, "reconcile", *APPLY)
    assert (outcome.code, outcome.err) == (0, "")
    assert stable(outcome) == snapshot


def test_only_some_are_named(store: Platform) -> None:
    for number in range(20):
        store.put(b"1", f"uploads/{number}")
        served(store, f"uploads/gone-{number}")
    outcome = on(store, "reconcile")
    assert outcome.out.count("    uploads/") == 5
    assert outcome.out.count("    openchat ") == 5


def test_what_no_terminal_shows_is_not_printed(store: Platform) -> None:
    store.put(b"1", "uploads/\u202egnp.exe")
    outcome = on(store, "reconcile")
    assert "\u202e" not in outcome.out
    assert "uploads/\N{REPLACEMENT CHARACTER}gnp.exe" in outcome.out


def test_what_is_young_or_of_others_is_counted(store: Platform, snapshot: SnapshotAssertion) -> None:
    store.put(b"1", "derived/others/1")
    assert stable(on(store, "reconcile")) == snapshot(name="of others")
    store.set(reconcile_grace_hours=1)
    store.put(b"1", "uploads/1")
    assert stable(on(store, "reconcile")) == snapshot(name="young")


def test_one_store_or_application(store: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> None:
    store.use_s3(seaweedfs, bucket)
    outcome = on(store, "reconcile")
    assert [line for line in outcome.out.splitlines() if "objects," in line] == [
        "local: 0 objects, 0 bytes",
        "s3: 0 objects, 0 bytes",
    ]
    assert "local" not in on(store, "reconcile", "--store", "s3").out
    store.put(b"1", "derived/openchat/1")
    assert "local: 1 object, 1 byte" in on(store, "reconcile", "--store", "local", "--app", "openchat").out
    assert "local: 0 objects" in on(store, "reconcile", "--store", "local", "--app", "pern").out


def test_how_far_it_is_is_told_in_lines(
    store: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    store.put(b"1", "uploads/1")
    outcome = on(store, "reconcile", *APPLY)
    assert outcome.err == snapshot


# -- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", [(), APPLY], ids=["look", "apply"])
def test_too_much_stops_it(store: Platform, apply: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    for number in range(21):
        store.put(b"1", f"uploads/{number}")
    outcome = on(store, "reconcile", *apply)
    ((sentence, advice),) = wrong(outcome)
    assert sentence.startswith("local: 21 of 21 objects ")
    for name in ("DATABASE_URL", "SCHEMAS", "STORAGE_ROOT", "RECONCILE_PREFIXES", "RECONCILE_SHARE"):
        assert name in advice
    # Which of the orphans are named is chance.
    lines = timeless(stable(outcome)).splitlines()
    assert [line for line in lines if not line.startswith("    uploads/")] == snapshot
    assert len(store.objects()) == 21
    assert store.sql("SELECT outcome FROM roomkeeper.job_runs") == [("stopped",)]


def test_a_reason_is_needed_to_change_anything(store: Platform, snapshot: SnapshotAssertion) -> None:
    store.put(b"1", "uploads/1")
    for options in ((), ("--reason", " ")):
        assert refused(on(store, "reconcile", "--apply", *options), "--reason") == snapshot(name="either")
    assert len(store.objects()) == 1


@pytest.mark.parametrize(
    "arguments",
    [("--app", "openchta"), ("--app", "connect"), ("--store", "gcs"), ("--store", "s3")],
    ids=" ".join,
)
def test_what_is_not_known_is_a_sentence(
    store: Platform, arguments: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    assert refused(on(store, "reconcile", *arguments), arguments[1]) == snapshot


@pytest.mark.parametrize(
    ("settings", "arguments", "name"),
    [
        ({"apps": "pern"}, ("--app", "openchat"), "ROOMKEEPER_APPS"),
        ({"reconcile_prefixes": ","}, (), "ROOMKEEPER_RECONCILE_PREFIXES"),
        ({"reconcile_prefixes": "a/../b"}, (), "ROOMKEEPER_RECONCILE_PREFIXES"),
        ({"storage_root": "/nowhere"}, (), "store"),
    ],
    ids=["not enabled", "no prefix", "wrong prefix", "no directory"],
)
def test_a_wrong_setting_is_a_sentence(
    store: Platform,
    settings: dict[str, Any],
    arguments: tuple[str, ...],
    name: str,
    snapshot: SnapshotAssertion,
) -> None:
    store.set(**settings)
    assert refused(on(store, "reconcile", *arguments), name) == snapshot


def test_a_table_that_cannot_be_asked_is_a_sentence(store: Platform, snapshot: SnapshotAssertion) -> None:
    store.put(b"1", "uploads/1")
    store.sql("ALTER TABLE pern.attachments RENAME COLUMN file_path TO path")
    outcome = on(store, "reconcile", *APPLY)
    ((sentence, _advice),) = wrong(outcome)
    assert "pern.attachments" in sentence
    assert outcome.out == ""
    assert outcome.err == snapshot
    assert len(store.objects()) == 1


def test_a_schema_that_is_absent_is_a_sentence(store: Platform) -> None:
    store.sql("DROP SCHEMA roomkeeper CASCADE")
    ((_sentence, advice),) = wrong(on(store, "reconcile"))
    assert "roomkeeper db upgrade" in advice


def test_a_store_that_is_away_is_a_sentence(
    store: Platform, seaweedfs: SeaweedFSServer, bucket: str, snapshot: SnapshotAssertion
) -> None:
    proxy = FaultProxy(seaweedfs.server.ports["s3"])
    store.use_s3(seaweedfs, bucket, proxy.address)
    try:
        with proxy.doing(Fault(status=503)):
            assert refused(on(store, "reconcile", "--store", "s3"), "SlowDown") == snapshot
    finally:
        proxy.close()


def test_another_run_is_a_sentence(store: Platform, snapshot: SnapshotAssertion) -> None:
    with store.engine.begin() as connection:
        key = {"key": "roomkeeper:storage.reconcile"}
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        assert refused(on(store, "reconcile", *APPLY)) == snapshot


def test_ctrl_c_is_a_sentence(
    store: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "compare", end)
    outcome = on(store, "reconcile")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == snapshot
