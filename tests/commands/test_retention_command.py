"""`roomkeeper retention`: preview, approval, receipts, verification, restoring, as an operator has them."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from models.pern import AuditLog, Message
from tasks.retention import holds
from tasks.retention import task as retention
from tests.commands.cli import Outcome, on, stable, timeless
from tests.platform import Platform
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.retaining import days, everything, policy
from tests.servers import SeaweedFSServer
from tests.sweeps.sweeping import NOW, rows

AUDIT = "pern.audit_info"
#: Old by any clock.
LONG = timedelta(days=9000)


@pytest.fixture(autouse=True)
def at_work(platform: Platform) -> None:
    """A period, a place for archives, and a low safety limit."""
    days(platform, **{AUDIT: 400, "pern.messages": 400})
    platform.set(retention_floor=3)


def entries(platform: Platform, number: int, severity: str = "info") -> None:
    platform.sql(
        "INSERT INTO pern.audit_logs"
        " (id, action, resource_type, severity, ip_address, user_agent, created_at)"
        " SELECT gen_random_uuid(), 'login', 'user', CAST(:severity AS pern.enum_audit_logs_severity),"
        " '192.0.2.1', 'x', '2020-01-01Z' FROM generate_series(1, :number)",
        severity=severity,
        number=number,
    )


def ran(platform: Platform, name: str = AUDIT) -> None:
    """Take what is due, as beat would."""
    assert retention.run(policy(name), platform.settings, by_hand=True) is not None


def lines(outcome: Outcome) -> dict[str, list[str]]:
    """Return what is said, by what it is said of."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in outcome.out.splitlines():
        if re.match(r" *[a-z0-9, ]{1,18}  \S", line) or line.startswith(" " * 20):
            name = line[:18].strip() or name
            found.setdefault(name, []).append(line[20:])
    return found


def refused(outcome: Outcome, *names: str, **known: object) -> str:
    """Return the sentence of a command that did nothing else; it has these names in it."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    (sentence,) = outcome.err.splitlines()
    for name in names:
        assert name in sentence
    return stable(sentence, **known)


def normalised(outcome: Outcome | str, **known: object) -> str:
    """Return what was printed, without times, sizes and ages: rows are old by any clock."""
    text = timeless(stable(outcome, **known))
    text = re.sub(r"\b[\d,.]+ (?:bytes|kB)", "<size>", text)
    return re.sub(r"(?<=<time>), [\d,]+ days$", ", <age>", text, flags=re.MULTILINE)


def preview(platform: Platform, name: str, *options: str) -> str:
    """Return what is previewed of a policy."""
    outcome = on(platform, "retention", "preview", name, *options)
    assert (outcome.code, outcome.err) == (0, "")
    return normalised(outcome)


# -- preview ---------------------------------------------------------------------------------------------


def test_a_preview_tells_all(platform: Platform, snapshot: SnapshotAssertion) -> None:
    room = conversation(platform)
    old, writer = message(platform, room, LONG), person(platform)
    message(platform, room, timedelta(days=1), reply_to_id=old)
    message(platform, room, LONG, sender_id=writer)
    status(platform, old)
    attachment(platform, old, file_size=1500)
    holds.place("pern", "user", writer, reason="a suit", actor="ada")
    files, before = sorted(platform.folder.rglob("*")), platform.everything()
    outcome = on(platform, "retention", "preview", "pern.messages", "--now", "2026-03-01T12:00:00Z")
    assert (outcome.code, outcome.err) == (0, "")
    assert platform.everything() == before
    assert sorted(platform.folder.rglob("*")) == files
    shown = lines(outcome)
    assert shown["oldest"] == shown["newest"]
    assert shown["for example"] == [str(old)]
    # What goes, twice what goes along, what stays, what is on hold; and the file.
    assert (outcome.out.count(" 1 row "), outcome.out.count(" 1 row,")) == (4, 1)
    assert " 1 file, 1.5 kB " in outcome.out
    # How many bytes a row takes is the server's affair.
    assert re.sub(r"\d+ bytes", "<size>", stable(outcome, old=old)) == snapshot


def test_a_preview_of_a_run_that_would_stop(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 4)
    text = preview(platform, AUDIT)
    assert f"roomkeeper retention approve {AUDIT} --reason" in text
    assert text == snapshot
    assert len(lines(on(platform, "retention", "preview", AUDIT))["for example"]) == 4


def test_a_preview_without_a_place_for_archives(platform: Platform, snapshot: SnapshotAssertion) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    assert lines(on(platform, "retention", "preview", AUDIT))["archive"] == snapshot(name="missing")
    platform.set(archive_bucket="attic", archive_off="pern.messages")
    assert lines(on(platform, "retention", "preview", AUDIT))["archive"] == [f"s3://attic/{AUDIT}/"]
    archive = lines(on(platform, "retention", "preview", "pern.messages"))["archive"]
    assert archive == snapshot(name="switched off")


def test_a_policy_that_is_off_is_previewed_with_a_period(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    entries(platform, 2, "error")
    outcome = on(platform, "retention", "preview", "pern.audit_error")
    assert refused(outcome, "pern.audit_error=DAYS") == snapshot(name="off")
    outcome = on(platform, "retention", "preview", "pern.audit_error", "--days", "30")
    assert "30 days" in outcome.out
    assert re.search(r" 2 rows \S+ pern\.audit_logs, ", outcome.out)
    # Of one that runs, too.
    outcome = on(platform, "retention", "preview", AUDIT, "--days", "90")
    assert "90 days" in outcome.out
    outcome = on(platform, "retention", "preview", "pern.messages_by_conversation", "--days", "90")
    assert refused(outcome, "pern.messages_by_conversation") == snapshot(name="no period")
    assert on(platform, "retention", "preview", AUDIT, "--days", "0").code == 2


def test_all_policies_are_previewed_roughly(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("commands.policies.COUNTED", 4)
    platform.set(apps="pern", sweep_off="pern.messages", archive_root="/archive")
    entries(platform, 5)
    before = platform.everything()
    outcome = on(platform, "retention", "preview")
    assert (outcome.code, outcome.err) == (0, "")
    assert platform.everything() == before
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in outcome.out.splitlines()
        if line.startswith("│")
    }
    assert cells[AUDIT] == ["400 days", "4+", "3", "/archive/"]
    assert "ROOMKEEPER_SWEEP_OFF" in cells["pern.messages"][0]
    assert cells["pern.messages"][1] == "0"
    assert cells["pern.audit_security"][1:] == ["–", "–", "–"]
    assert not any(name.startswith("connect.") for name in cells)
    assert outcome.out == snapshot
    platform.environment.pop("ROOMKEEPER_RETENTION_DAYS")
    assert "ROOMKEEPER_RETENTION_DAYS=pern.audit_info=DAYS" in on(platform, "retention", "preview").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("preview", "pern.sessions"),
        ("preview", "pern.message"),
        ("preview", "--days", "30"),
        ("approve", AUDIT, "--reason", " "),
        ("restore", "1", "--reason", " "),
        # The advice was pasted as it is.
        ("approve", AUDIT, "--reason", "REASON."),
        ("approve", AUDIT, "--reason", "…"),
        ("receipt", "7"),
        ("restore", "7", "--reason", "x"),
        ("receipts", "pern.mesages"),
        ("preview", "connect.logs"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_a_sentence(
    platform: Platform, arguments: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    platform.set(apps="pern")
    before = platform.everything()
    assert refused(on(platform, "retention", *arguments)) == snapshot
    assert platform.everything() == before


def test_a_database_that_will_not_do_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    for arguments in (
        ("preview",),
        ("preview", AUDIT),
        ("approve", AUDIT, "--reason", "x"),
        ("approvals",),
        ("receipts",),
        ("receipt", "1"),
        ("verify",),
        ("restore", "1", "--reason", "x"),
    ):
        outcome = on(platform, "retention", *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        ((_, advice),) = outcome.faults
        assert "roomkeeper db upgrade" in advice


def test_counting_is_seen(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    message(platform, conversation(platform), LONG)
    outcome = on(platform, "retention", "preview", "pern.messages")
    assert outcome.err.splitlines()[-1] == snapshot
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    outcome = on(platform, "retention", "preview", "pern.messages")
    # What it drew is taken away.
    assert "pern.messages: " in outcome.err and "\x1b[2K" in outcome.err


# -- approve ---------------------------------------------------------------------------------------------


def approved(platform: Platform, name: str = AUDIT) -> Outcome:
    return on(platform, "retention", "approve", name, "--reason", "first [run]", "--actor", "ada")


def test_what_is_far_more_than_usual_is_approved(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 4)
    stopped = on(platform, "run", AUDIT)
    assert refused(stopped, AUDIT, " 3 rows", " 0.") == snapshot(name="stopped")
    assert len(rows(platform, AuditLog)) == 4
    outcome = approved(platform)
    assert (outcome.code, outcome.err) == (0, "")
    # The approval shows what was approved.
    assert re.search(r" 4 rows \S+ pern\.audit_logs, ", outcome.out)
    assert normalised(outcome) == snapshot(name="approved")
    ((row),) = platform.sql("SELECT * FROM roomkeeper.approvals")
    assert (row.policy, row.rows, row.period_seconds) == (AUDIT, 4, 400 * 86400)
    assert (row.reason, row.approved_by) == ("first [run]", "ada")
    assert row.expires_at - row.approved_at == timedelta(hours=24)
    assert lines(on(platform, "retention", "preview", AUDIT))["a run"] == snapshot(name="a run")
    ran(platform)
    assert rows(platform, AuditLog) == {}
    (line,) = on(platform, "retention", "approvals").out.splitlines()
    assert "4 taken" in line
    assert normalised(line) == snapshot(name="taken")
    platform.sql("UPDATE roomkeeper.approvals SET expires_at = now() - interval '1 s'")
    expired = normalised(on(platform, "retention", "approvals"))
    assert expired != f"{normalised(line)}\n"
    assert expired == snapshot(name="expired")


@pytest.mark.parametrize("hours", [0.5, 48])
def test_an_approval_holds_for_as_long_as_is_set(platform: Platform, hours: float) -> None:
    platform.set(approval_hours=hours)
    entries(platform, 4)
    assert approved(platform).code == 0
    ((left,),) = platform.sql("SELECT expires_at - approved_at FROM roomkeeper.approvals")
    assert left == timedelta(hours=hours)


def test_what_needs_no_approval_gets_none(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 3)
    outcome = approved(platform)
    assert refused(outcome, AUDIT, "3 rows", " 3.") == snapshot(name="few rows")
    outcome = on(platform, "retention", "approve", "pern.audit_error", "--reason", "x")
    assert refused(outcome, "pern.audit_error") == snapshot(name="off")
    assert platform.sql("SELECT * FROM roomkeeper.approvals") == []
    assert on(platform, "retention", "approvals").out == "None.\n"
    # One that is in force will do.
    entries(platform, 1)
    assert approved(platform).code == 0
    again = approved(platform)
    assert refused(again, AUDIT, "4 rows", " 7.") == snapshot(name="approved")
    assert len(platform.sql("SELECT * FROM roomkeeper.approvals")) == 1


def test_whoever_is_logged_in_approves(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "eve")
    entries(platform, 4)
    assert on(platform, "retention", "approve", AUDIT, "--reason", "x").code == 0
    assert [tuple(row) for row in platform.sql("SELECT approved_by FROM roomkeeper.approvals")] == [("eve",)]


# -- receipts --------------------------------------------------------------------------------------------


def test_receipts_are_listed_and_told(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    assert on(platform, "retention", "receipts").out == "None.\n"
    monkeypatch.setenv("SUDO_USER", "eve")
    old = message(platform, conversation(platform), LONG)
    status(platform, old)
    attachment(platform, old)
    outcome = on(platform, "run", "pern.messages")
    assert (outcome.code, outcome.err) == (0, "")
    assert "roomkeeper retention receipts pern.messages" in outcome.out.splitlines()[1]
    assert normalised(outcome) == snapshot(name="run")
    entries(platform, 2)
    ran(platform)
    outcome = on(platform, "retention", "receipts")
    assert normalised(outcome) == snapshot(name="receipts")
    first, second = outcome.out.splitlines()
    for part in ("pern.messages 1", "pern.message_statuses 1", "pern.attachments 1", "1 object; eve)"):
        assert part in second
    assert on(platform, "retention", "receipts", AUDIT).out.splitlines() == [first]
    assert on(platform, "retention", "receipts", "--limit", "1").out.splitlines() == [first]
    assert on(platform, "retention", "receipts", "pern.audit_error").out == "None.\n"
    outcome = on(platform, "retention", "receipt", "1")
    assert (outcome.code, outcome.err) == (0, "")
    shown = lines(outcome)
    (row,) = platform.sql("SELECT * FROM roomkeeper.receipts WHERE number = 1")
    assert (shown["number"], shown["kind"], shown["policy"], shown["rows"]) == (
        ["1"],
        ["taken"],
        ["pern.messages"],
        ["1"],
    )
    assert (shown["hash"], shown["previous"]) == ([row.hash], [row.previous])
    assert (shown["operator"], shown["table"]) == (["eve"], ["pern.messages"])
    assert shown["keys"][0].count(str(old)) == 2
    assert shown["run"] == [str(row.run)]
    archived = [one["key"] for one in row.content["archives"]]
    assert [line.partition(": ")[0] for line in shown["archive"]] == archived
    assert [line[:64] for line in shown["sha256"]] == [one["sha256"] for one in row.content["archives"]]
    # Archives are named by the moment and by their content.
    known = {f"key {number}": key for number, key in enumerate(archived, 1)}
    assert normalised(outcome, old=old, **known) == snapshot(name="receipt")


def forged(platform: Platform, change: str) -> None:
    """Change receipts as a superuser can."""
    platform.sql("ALTER TABLE roomkeeper.receipts DISABLE TRIGGER ALL")
    platform.sql(change)


@pytest.fixture
def chain(platform: Platform) -> list[str]:
    """Three receipts; their hashes."""
    for _ in range(3):
        entries(platform, 2)
        ran(platform)
    return [row.hash for row in platform.sql("SELECT hash FROM roomkeeper.receipts ORDER BY number")]


def test_a_chain_that_is_whole(platform: Platform, chain: list[str], snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "retention", "verify", "--archives")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("3 receipts, 3 archives")
    assert stable(outcome, last=chain[-1]) == snapshot
    for known in (chain[0], chain[2].upper()):
        assert on(platform, "retention", "verify", "--expect", known).code == 0


def test_an_empty_chain_is_whole(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "retention", "verify", "--archives")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == snapshot


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("UPDATE roomkeeper.receipts SET rows = 1 WHERE number = 2", "Receipt 2 "),
        (
            'UPDATE roomkeeper.receipts SET content = content || \'{"operator": "eve"}\' WHERE number = 3',
            "Receipt 3 ",
        ),
        ("DELETE FROM roomkeeper.receipts WHERE number = 2", "Receipts 2 to 2 "),
    ],
    ids=["rows", "content", "missing"],
)
def test_a_chain_that_was_tampered_with(
    platform: Platform, chain: list[str], change: str, wrong: str, snapshot: SnapshotAssertion
) -> None:
    forged(platform, change)
    outcome = on(platform, "retention", "verify")
    assert outcome.code == 1
    (sentence,) = outcome.err.splitlines()
    assert sentence.startswith(f"✗ {wrong}")
    assert stable(outcome) == snapshot(name="verify")
    # Showing a single receipt reports it as well.
    if "number = 3" in change:
        assert refused(on(platform, "retention", "receipt", "3"), "Receipt 3 ") == snapshot(name="receipt")


def test_a_chain_that_was_cut_short(
    platform: Platform, chain: list[str], snapshot: SnapshotAssertion
) -> None:
    forged(platform, "DELETE FROM roomkeeper.receipts WHERE number = 3")
    assert on(platform, "retention", "verify").code == 0
    outcome = on(platform, "retention", "verify", "--expect", chain[2])
    assert outcome.code == 1
    assert chain[2] in outcome.err
    assert stable(outcome, expected=chain[2]) == snapshot


def archives(platform: Platform) -> list[Path]:
    """Return the archive of each receipt, in their order."""
    root = platform.settings.archive_root
    assert root is not None
    named = "SELECT content->'archives'->0->>'key' AS key FROM roomkeeper.receipts ORDER BY number"
    return [root / row.key for row in platform.sql(named)]


def test_archives_that_are_not_what_was_written(
    platform: Platform, chain: list[str], snapshot: SnapshotAssertion
) -> None:
    one, two, _ = archives(platform)
    content = bytearray(one.read_bytes())
    content[10] ^= 1
    one.write_bytes(content)
    two.unlink()
    assert on(platform, "retention", "verify").code == 0
    outcome = on(platform, "retention", "verify", "--archives")
    assert outcome.code == 1
    changed, missing = (str(path.relative_to(platform.folder / "archive")) for path in (one, two))
    faults = outcome.err.splitlines()
    assert len(faults) == 2
    assert all(line.startswith("✗ Receipt ") for line in faults)
    assert "SHA-256" in next(line for line in faults if changed in line)
    assert any(missing in line for line in faults)
    assert stable(outcome, changed=changed, missing=missing) == snapshot


def test_archives_that_cannot_be_reached(
    platform: Platform, chain: list[str], snapshot: SnapshotAssertion
) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    outcome = on(platform, "retention", "verify", "--archives")
    assert refused(outcome, "3 archives") == snapshot


def test_verification_is_seen(
    platform: Platform, chain: list[str], monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    outcome = on(platform, "retention", "verify", "--archives")
    assert outcome.err == snapshot


# -- restore ---------------------------------------------------------------------------------------------


def test_what_was_taken_is_put_back(platform: Platform, snapshot: SnapshotAssertion) -> None:
    room = conversation(platform)
    old = message(platform, room, LONG)
    # Of today, by the clock that the command goes by.
    message(platform, room, NOW - datetime.now(UTC), reply_to_id=old)
    status(platform, old)
    attachment(platform, old)
    before = everything(platform)
    ran(platform, "pern.messages")
    put_back = ("retention", "restore", "1", "--reason", "a mistake", "--actor", "ada")
    outcome = on(platform, *put_back)
    assert (outcome.code, outcome.err) == (0, "")
    assert everything(platform) == before
    *each, stops, first, second = outcome.out.splitlines()
    for name in ("pern.attachments", "pern.message_statuses", "pern.messages"):
        assert any(line.startswith(f"{name}: 1 row ") for line in each)
    # To be pasted, one for each.
    assert [first, second] == [
        f'roomkeeper retention approve {name} --reason "REASON"'
        for name in ("pern.messages_by_conversation", "pern.messages")
    ]
    assert [*sorted(each), stops] == snapshot(name="put back")
    ((content,),) = platform.sql("SELECT content FROM roomkeeper.receipts WHERE number = 2")
    assert (content["operator"], content["reason"], content["of"]) == ("ada", "a mistake", 1)
    # Once more changes nothing.
    again = on(platform, *put_back)
    assert (again.code, everything(platform)) == (0, before)
    assert again.out == snapshot(name="again")
    # Now it waits, for this too.
    waits = on(platform, "run", "pern.messages")
    assert refused(waits, "pern.messages", "(receipt 2)") == snapshot(name="waits")
    assert old in rows(platform, Message)
    assert lines(on(platform, "retention", "preview", "pern.messages"))["a run"] == snapshot(name="a run")
    assert approved(platform, "pern.messages").code == 0
    assert on(platform, "run", "pern.messages").code == 0
    assert old not in rows(platform, Message)


def test_objects_that_wait_are_told_and_stay_with_restored_rows(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    assert on(platform, "retention", "pending").out == "None.\n"
    old = message(platform, conversation(platform), LONG)
    attachment(platform, old)
    attachment(platform, old, thumbnail_path=platform.put(b"small"))
    objects = platform.objects()
    unmounted = platform.store.with_name("unmounted")
    platform.store.rename(unmounted)
    ran(platform, "pern.messages")
    (objects_line,) = lines(on(platform, "retention", "receipt", "1"))["objects"]
    assert objects_line.startswith("3 ")
    assert normalised(objects_line) == snapshot(name="receipt")
    (line,) = on(platform, "retention", "pending").out.splitlines()
    assert "3 objects " in line and " 2 files " in line
    assert normalised(line) == snapshot(name="pending")
    user = person(platform)
    held = on(platform, "hold", "add", "pern", "user", str(user), "--reason", "a suit")
    assert normalised(held.out.splitlines()[1]) == snapshot(name="hold")
    platform.sql("UPDATE roomkeeper.pending_deletions SET attempts = 0, error = NULL, failing_since = NULL")
    (objects_line,) = lines(on(platform, "retention", "receipt", "1"))["objects"]
    assert normalised(objects_line) == snapshot(name="not tried")

    outcome = on(platform, "retention", "restore", "1", "--reason", "a mistake")
    assert any(line.startswith("3 objects ") for line in outcome.out.splitlines())
    assert sorted(outcome.out.splitlines()) == snapshot(name="restored")
    unmounted.rename(platform.store)
    assert platform.objects() == objects
    assert on(platform, "retention", "pending").out == "None.\n"
    (objects_line,) = lines(on(platform, "retention", "receipt", "1"))["objects"]
    assert objects_line == snapshot(name="kept")


def test_what_an_older_version_deleted_is_told(platform: Platform, snapshot: SnapshotAssertion) -> None:
    """It wrote the receipt when the objects were deleted."""
    attachment(platform, message(platform, conversation(platform), LONG))
    ran(platform, "pern.messages")
    platform.sql("DELETE FROM roomkeeper.deletion_events")
    assert lines(on(platform, "retention", "receipt", "1"))["objects"] == ["1"]
    outcome = on(platform, "retention", "restore", "1", "--reason", "a mistake")
    assert outcome.code == 0
    assert any(line.startswith("1 object ") for line in outcome.out.splitlines())
    assert sorted(outcome.out.splitlines()) == snapshot


def test_rows_that_are_there_with_other_values_stay(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 2)
    taken = rows(platform, AuditLog)
    ran(platform)
    changed, back = sorted(taken)
    entries(platform, 1)
    platform.sql("UPDATE pern.audit_logs SET id = :id, action = 'other'", id=changed)
    outcome = on(platform, "retention", "restore", "1", "--reason", "x")
    assert outcome.out.splitlines()[:2] == snapshot
    found = rows(platform, AuditLog)
    assert found[back] == taken[back]
    assert found[changed]["action"] == "other"


def test_what_cannot_be_put_back_is_a_sentence(
    platform: Platform, chain: list[str], snapshot: SnapshotAssertion
) -> None:
    archives(platform)[0].unlink()
    failed, *others = [on(platform, "retention", "restore", str(n), "--reason", "x") for n in (1, 2, 3)]
    assert refused(failed) == snapshot(name="no archive")
    assert [outcome.code for outcome in others] == [0, 0]
    # What was put back is not there to be put back.
    outcome = on(platform, "retention", "restore", "4", "--reason", "x")
    assert refused(outcome, "Receipt 4 ") == snapshot(name="restored rows")
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    outcome = on(platform, "retention", "restore", "2", "--reason", "x")
    assert refused(outcome, "Receipt 2 ") == snapshot(name="no place")


# -- by hand ---------------------------------------------------------------------------------------------


def test_a_run_without_a_period_is_refused(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 1, "error")
    for dry in ((), ("--dry-run",)):
        outcome = on(platform, "run", "pern.audit_error", *dry)
        sentence = refused(outcome, "pern.audit_error=DAYS")
        assert sentence == snapshot(name="either")
    assert len(rows(platform, AuditLog)) == 1


def test_a_run_without_a_place_for_archives_is_refused(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    entries(platform, 1)
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    assert refused(on(platform, "run", AUDIT), AUDIT) == snapshot
    assert len(rows(platform, AuditLog)) == 1


def test_a_dry_run_counts(platform: Platform, snapshot: SnapshotAssertion) -> None:
    entries(platform, 5)
    before = platform.everything()
    outcome = on(platform, "run", AUDIT, "--dry-run")
    assert outcome.out.startswith(f"{AUDIT}: 5 rows ")
    assert normalised(outcome) == snapshot
    assert platform.everything() == before


def test_all_of_it_on_an_s3_server(platform: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    platform.environment.update(seaweedfs.settings())
    platform.set(archive_bucket=bucket)
    entries(platform, 2)
    before = everything(platform)
    assert on(platform, "run", AUDIT).code == 0
    assert rows(platform, AuditLog) == {}
    outcome = on(platform, "retention", "verify", "--archives")
    assert (outcome.code, outcome.out.startswith("1 receipt, 1 archive")) == (0, True)
    assert on(platform, "retention", "restore", "1", "--reason", "x").code == 0
    assert everything(platform) == before
    (key,) = [one["Key"] for one in seaweedfs.client.list_objects_v2(Bucket=bucket)["Contents"]]
    seaweedfs.client.put_object(Bucket=bucket, Key=key, Body=b"something else")
    assert on(platform, "retention", "verify", "--archives").code == 1
