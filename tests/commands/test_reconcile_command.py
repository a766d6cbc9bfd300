"""`roomkeeper reconcile`: what it says, and how it ends."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, text

from commands import reconcile as command
from models.platform import AttachmentJob
from tests.commands.cli import Outcome, on
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


def words(text: str) -> str:
    return " ".join(text.split())


def refused(platform: Platform, *arguments: str) -> str:
    outcome = on(platform, "reconcile", *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    return words(outcome.err)


def wrong(outcome: Outcome) -> list[tuple[str, str]]:
    assert outcome.code == 1
    return outcome.faults


# -- what it says -------------------------------------------------------------------------------------------


def test_it_looks_and_changes_nothing(store: Platform) -> None:
    store.put(b"12345", "uploads/named")
    store.put(b"123", "uploads/orphan ü")
    served(store, "uploads/named")
    lost = served(store, "uploads/gone")
    before = store.objects()
    outcome = on(store, "reconcile")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[:2] == ["local: 2 objects, 8 bytes", "  named by rows: 1"]
    assert lines[2].startswith(f"  orphans: 1, 3 bytes, the oldest of {datetime.now(UTC):%Y-%m-%d} ")
    assert lines[3:6] == [
        "    uploads/orphan ü",
        "  rows looked at: 2; their object is gone: 1",
        f"    openchat {lost}",
    ]
    assert lines[6].startswith("Nothing was changed. ")
    assert store.objects() == before


def test_it_mends_and_keeps_who_and_why(store: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(b"1", "uploads/named")
    served(store, "uploads/named")
    for actor in ("ada", ""):
        store.put(b"123", "uploads/orphan")
        served(store, "uploads/gone")
        monkeypatch.setenv("SUDO_USER", "eva")
        options = ("--actor", actor) if actor else ()
        outcome = on(store, "reconcile", *APPLY, *options)
        assert (outcome.code, outcome.err) == (0, "")
        assert "local: 1 orphan removed, 1 row given back to the pipeline." in outcome.out
        assert "Nothing was changed" not in outcome.out
        assert set(store.objects()) == {"uploads/named"}
    for table, column in (("receipts", "content->>'actor'"), ("attachment_events", "actor")):
        found = store.sql(f"SELECT {column} FROM roomkeeper.{table} ORDER BY 1")
        assert [row[0] for row in found] == ["ada", "eva"]


def test_there_is_nothing_to_mend(store: Platform) -> None:
    outcome = on(store, "reconcile", *APPLY)
    assert (outcome.code, outcome.err) == (0, "")
    assert "local: 0 orphans removed, 0 rows given back to the pipeline." in outcome.out


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


def test_what_is_young_or_of_others_is_counted(store: Platform) -> None:
    store.put(b"1", "derived/others/1")
    assert "  of applications that are not in this database: 1\n" in on(store, "reconcile").out
    store.set(reconcile_grace_hours=1)
    store.put(b"1", "uploads/1")
    assert "  named by no row, too young to be orphans: 1\n" in on(store, "reconcile").out


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


def test_how_far_it_is_is_told_in_lines(store: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    store.put(b"1", "uploads/1")
    outcome = on(store, "reconcile", *APPLY)
    assert outcome.err.splitlines() == [
        "local: 1 objects listed",
        "local: comparing",
        "local: 1 of 1 orphans removed",
    ]


# -- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", [(), APPLY])
def test_too_much_stops_it(store: Platform, apply: tuple[str, ...]) -> None:
    for number in range(21):
        store.put(b"1", f"uploads/{number}")
    outcome = on(store, "reconcile", *apply)
    ((sentence, advice),) = wrong(outcome)
    assert sentence == "local: 21 of 21 objects are named by no row, more than 0.05 of them."
    for name in ("DATABASE_URL", "SCHEMAS", "STORAGE_ROOT", "RECONCILE_PREFIXES", "RECONCILE_SHARE"):
        assert name in advice
    assert "Nothing was changed." in outcome.out
    assert len(store.objects()) == 21
    assert store.sql("SELECT outcome FROM roomkeeper.job_runs") == [("stopped",)]


def test_a_reason_is_needed_to_change_anything(store: Platform) -> None:
    store.put(b"1", "uploads/1")
    for options in ((), ("--reason", " ")):
        assert refused(store, "--apply", *options) == "--apply needs --reason: why, in a few words."
    assert len(store.objects()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--app", "openchta"), "--app must be openchat or pern, not 'openchta'."),
        (("--app", "connect"), "--app must be openchat or pern, not 'connect'."),
        (("--store", "gcs"), "--store must be local or s3, not 'gcs'."),
        (("--store", "s3"), "storage provider 's3' is not set up; set ROOMKEEPER_S3_BUCKET."),
    ],
)
def test_what_is_not_known_is_a_sentence(store: Platform, arguments: tuple[str, ...], sentence: str) -> None:
    assert refused(store, *arguments) == sentence


@pytest.mark.parametrize(
    ("settings", "arguments", "sentence"),
    [
        ({"apps": "pern"}, ("--app", "openchat"), "openchat is not enabled: ROOMKEEPER_APPS names pern."),
        (
            {"reconcile_prefixes": ","},
            (),
            "ROOMKEEPER_RECONCILE_PREFIXES is empty: there is nothing to look at.",
        ),
        (
            {"reconcile_prefixes": "a/../b"},
            (),
            "ROOMKEEPER_RECONCILE_PREFIXES names 'a/../b': the key is no relative path.",
        ),
        ({"storage_root": "/nowhere"}, (), "the store's directory is not there."),
    ],
)
def test_a_wrong_setting_is_a_sentence(
    store: Platform, settings: dict[str, Any], arguments: tuple[str, ...], sentence: str
) -> None:
    store.set(**settings)
    assert refused(store, *arguments).endswith(sentence)


def test_a_table_that_cannot_be_asked_is_a_sentence(store: Platform) -> None:
    store.put(b"1", "uploads/1")
    store.sql("ALTER TABLE pern.attachments RENAME COLUMN file_path TO path")
    outcome = on(store, "reconcile", *APPLY)
    ((sentence, _advice),) = wrong(outcome)
    assert "pern.attachments" in sentence
    assert "Nothing was changed: files that its rows name would be taken for orphans." in outcome.err
    assert len(store.objects()) == 1


def test_a_schema_that_is_absent_is_a_sentence(store: Platform) -> None:
    store.sql("DROP SCHEMA roomkeeper CASCADE")
    ((_sentence, advice),) = wrong(on(store, "reconcile"))
    assert advice == "Run: roomkeeper db upgrade"


def test_a_store_that_is_away_is_a_sentence(store: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> None:
    proxy = FaultProxy(seaweedfs.server.ports["s3"])
    store.use_s3(seaweedfs, bucket, proxy.address)
    try:
        with proxy.doing(Fault(status=503)):
            assert refused(store, "--store", "s3") == "the object store answers SlowDown."
    finally:
        proxy.close()


def test_another_run_is_a_sentence(store: Platform) -> None:
    with store.engine.begin() as connection:
        key = {"key": "roomkeeper:storage.reconcile"}
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        sentence = refused(store, *APPLY)
    assert sentence == "Another reconciliation is under way: nothing was done here."


def test_ctrl_c_is_a_sentence(store: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "compare", end)
    outcome = on(store, "reconcile")
    assert (outcome.code, outcome.out, words(outcome.err)) == (
        130,
        "",
        "Broken off; what was mended before is.",
    )
