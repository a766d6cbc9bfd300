"""`roomkeeper retention`: preview, approval, receipts, verification, restoring, as an operator has them."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.pern import AuditLog, Message
from tasks.retention import holds
from tasks.retention import task as retention
from tests.commands.cli import Outcome, on
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
    """A period, a place for archives, and a brake that is felt."""
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


def refused(outcome: Outcome) -> str:
    """Return the sentence of a command that did nothing else."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    (sentence,) = outcome.err.splitlines()
    return sentence


# -- preview ---------------------------------------------------------------------------------------------


def test_a_preview_tells_all(platform: Platform) -> None:
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
    assert outcome.out.startswith("messages older than 400 days in conversations without a limit ")
    assert outcome.out.endswith("Nothing was changed.\n")
    said = lines(outcome)
    assert said["moment"] == ["2026-03-01 12:00:00 UTC, what is older than 2025-01-25 12:00:00"]
    (would,) = said["would go"]
    assert re.fullmatch(r"1 row of pern\.messages, \d+ bytes without indexes", would)
    assert said["oldest"] == said["newest"]
    assert said["oldest"][0].endswith(", 9,000 days")
    assert said["for example"] == [str(old)]
    by_status, by_file = said["goes along"]
    assert re.fullmatch(r"1 row by pern\.message_statuses\.message_id, \d+ bytes", by_status)
    assert re.fullmatch(r"1 row by pern\.attachments\.message_id, \d+ bytes", by_file)
    assert said["stays, changed"] == ["1 row by pern.messages.reply_to_id, at most: reply_to_id"]
    assert said["objects"] == ["1 file, 1.5 kB as their rows say; and their pictures"]
    assert said["on hold"] == ["1 row, though old enough; see: roomkeeper hold list"]
    assert said["archive"] == [f"{platform.folder}/archive/pern.messages/"]
    assert said["a run"] == ["may take 3 rows, usually 0"]


def test_a_preview_of_a_run_that_would_stop(platform: Platform) -> None:
    entries(platform, 4)
    said = lines(on(platform, "retention", "preview", AUDIT))
    assert said["a run"] == [
        "would stop: it may take 3 rows, usually 0. If all of this may go: roomkeeper retention approve "
        f'{AUDIT} --reason "REASON"'
    ]
    assert len(said["for example"]) == 4


def test_a_preview_without_a_place_for_archives(platform: Platform) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    said = lines(on(platform, "retention", "preview", AUDIT))["archive"]
    assert said == ["missing, so it does not run: set ROOMKEEPER_ARCHIVE_ROOT or ROOMKEEPER_ARCHIVE_BUCKET"]
    platform.set(archive_bucket="attic", archive_off="pern.messages")
    assert lines(on(platform, "retention", "preview", AUDIT))["archive"] == [f"s3://attic/{AUDIT}/"]
    said = lines(on(platform, "retention", "preview", "pern.messages"))["archive"]
    assert said == ["none: ROOMKEEPER_ARCHIVE_OFF"]


def test_a_policy_that_is_off_is_previewed_with_a_period(platform: Platform) -> None:
    entries(platform, 2, "error")
    outcome = on(platform, "retention", "preview", "pern.audit_error")
    assert refused(outcome) == (
        "pern.audit_error is off until it has a period: add pern.audit_error=DAYS to "
        "ROOMKEEPER_RETENTION_DAYS. To see what a period would take, say --days."
    )
    outcome = on(platform, "retention", "preview", "pern.audit_error", "--days", "30")
    assert "older than 30 days" in outcome.out
    assert lines(outcome)["would go"][0].startswith("2 rows of pern.audit_logs, ")
    # Of one that runs, too.
    outcome = on(platform, "retention", "preview", AUDIT, "--days", "90")
    assert "older than 90 days" in outcome.out
    outcome = on(platform, "retention", "preview", "pern.messages_by_conversation", "--days", "90")
    assert refused(outcome) == (
        "pern.messages_by_conversation has no period: its rows say themselves when they are old."
    )
    assert on(platform, "retention", "preview", AUDIT, "--days", "0").code == 2


def test_all_policies_are_previewed_roughly(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("commands.policies.COUNTED", 4)
    platform.set(apps="pern", sweep_off="pern.messages")
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
    archive = f"{platform.folder}/archive/"
    assert cells[AUDIT][:3] == ["400 days", "4+", "3"]
    assert archive[:20] in cells[AUDIT][3]
    assert cells["pern.messages"][:2] == ["400 days; off: ROOMKEEPER_SWEEP_OFF", "0"]
    assert cells["pern.messages_by_conversation"][0] == "what each row says"
    assert cells["pern.audit_security"][1:] == ["–", "–", "–"]
    assert cells["pern.audit_security"][0].startswith("off: add pern.audit_security=DAYS to")
    assert not any(name.startswith("connect.") for name in cells)
    platform.environment.pop("ROOMKEEPER_RETENTION_DAYS")
    assert (
        "off: set ROOMKEEPER_RETENTION_DAYS=pern.audit_info=DAYS" in on(platform, "retention", "preview").out
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("preview", "pern.sessions"),
            "pern.sessions is no retention policy, and writes no receipts; see what is due: roomkeeper run "
            "pern.sessions --dry-run",
        ),
        (
            ("preview", "pern.message"),
            "'pern.message' is not a policy; `roomkeeper policies` lists them. Did you mean 'pern.messages'?",
        ),
        (("preview", "--days", "30"), "--now and --days are for one policy: name it."),
        (("approve", AUDIT, "--reason", " "), "--reason must say why, in a few words."),
        (("restore", "1", "--reason", " "), "--reason must say why, in a few words."),
        # The advice was pasted as it is.
        (("approve", AUDIT, "--reason", "REASON"), "--reason must say why, in a few words."),
        (("approve", AUDIT, "--reason", "…"), "--reason must say why, in a few words."),
        (("receipt", "7"), "There is no receipt 7; see: roomkeeper retention receipts"),
        (
            ("restore", "7", "--reason", "x"),
            "There is no receipt 7; see: roomkeeper retention receipts",
        ),
        (("receipts", "pern.mesages"), "'pern.mesages' is not a policy. Did you mean 'pern.messages'?"),
        (
            ("preview", "connect.logs"),
            "connect is not enabled: ROOMKEEPER_APPS names pern.",
        ),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    platform: Platform, arguments: tuple[str, ...], sentence: str
) -> None:
    platform.set(apps="pern")
    before = platform.everything()
    assert refused(on(platform, "retention", *arguments)) == sentence
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
        assert [advice for _, advice in outcome.faults] == ["Run: roomkeeper db upgrade"]


def test_counting_is_seen(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    message(platform, conversation(platform), LONG)
    outcome = on(platform, "retention", "preview", "pern.messages")
    assert outcome.err.splitlines()[-1] == "pern.messages: counting, page 1 of 1"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    outcome = on(platform, "retention", "preview", "pern.messages")
    # What it drew is taken away.
    assert "counting, page" in outcome.err and "\x1b[2K" in outcome.err


# -- approve ---------------------------------------------------------------------------------------------


def approved(platform: Platform, name: str = AUDIT) -> Outcome:
    return on(platform, "retention", "approve", name, "--reason", "first [run]", "--actor", "ada")


def test_what_is_far_more_than_usual_is_approved(platform: Platform) -> None:
    entries(platform, 4)
    stopped = on(platform, "run", AUDIT)
    assert refused(stopped).startswith(
        f"{AUDIT} would take more than 3 rows, and a run of it usually takes 0. "
    )
    assert len(rows(platform, AuditLog)) == 4
    outcome = approved(platform)
    assert (outcome.code, outcome.err) == (0, "")
    # Whoever approves sees what.
    assert lines(outcome)["would go"][0].startswith("4 rows of pern.audit_logs, ")
    assert re.search(
        rf"^Approval 1: {AUDIT} may take these 4 rows\. It holds until \d{{4}}-\d\d-\d\d \S+ UTC, ",
        outcome.out,
        re.MULTILINE,
    )
    ((row),) = platform.sql("SELECT * FROM roomkeeper.approvals")
    assert (row.policy, row.rows, row.period_seconds) == (AUDIT, 4, 400 * 86400)
    assert (row.reason, row.approved_by) == ("first [run]", "ada")
    assert row.expires_at - row.approved_at == timedelta(hours=24)
    assert lines(on(platform, "retention", "preview", AUDIT))["a run"] == [
        "may take 7 rows by approval 1, usually 0"
    ]
    ran(platform)
    assert rows(platform, AuditLog) == {}
    (line,) = on(platform, "retention", "approvals").out.splitlines()
    told = r"1  \S+ \S+  pern\.audit_info: 4 rows older than 400 d, 4 taken, until .*; ada: first \[run\]"
    assert re.fullmatch(told, line)
    platform.sql("UPDATE roomkeeper.approvals SET expires_at = now() - interval '1 s'")
    assert ", 4 taken, expired " in on(platform, "retention", "approvals").out


@pytest.mark.parametrize("hours", [0.5, 48])
def test_an_approval_holds_for_as_long_as_is_set(platform: Platform, hours: float) -> None:
    platform.set(approval_hours=hours)
    entries(platform, 4)
    assert approved(platform).code == 0
    ((left,),) = platform.sql("SELECT expires_at - approved_at FROM roomkeeper.approvals")
    assert left == timedelta(hours=hours)


def test_what_needs_no_approval_gets_none(platform: Platform) -> None:
    entries(platform, 3)
    outcome = approved(platform)
    assert refused(outcome) == (f"{AUDIT} needs no approval: 3 rows would go, and a run may take 3.")
    outcome = on(platform, "retention", "approve", "pern.audit_error", "--reason", "x")
    assert refused(outcome).startswith("pern.audit_error is off until it has a period: ")
    assert platform.sql("SELECT * FROM roomkeeper.approvals") == []
    assert on(platform, "retention", "approvals").out == "None.\n"
    # One that is in force will do.
    entries(platform, 1)
    assert approved(platform).code == 0
    assert "needs no approval: 4 rows would go, and a run may take 7." in approved(platform).err


def test_whoever_is_logged_in_approves(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "eve")
    entries(platform, 4)
    assert on(platform, "retention", "approve", AUDIT, "--reason", "x").code == 0
    assert [tuple(row) for row in platform.sql("SELECT approved_by FROM roomkeeper.approvals")] == [("eve",)]


# -- receipts --------------------------------------------------------------------------------------------


def test_receipts_are_listed_and_told(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(platform, "retention", "receipts").out == "None.\n"
    monkeypatch.setenv("SUDO_USER", "eve")
    old = message(platform, conversation(platform), LONG)
    status(platform, old)
    attachment(platform, old)
    outcome = on(platform, "run", "pern.messages")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[1] == (
        "What went, and where it is archived: roomkeeper retention receipts pern.messages"
    )
    entries(platform, 2)
    ran(platform)
    first, second = on(platform, "retention", "receipts").out.splitlines()
    assert re.fullmatch(r"2  \S+ \S+  pern\.audit_info: 2 rows taken \(pern\.audit_logs 2\)", first)
    assert re.match(r"1  \S+ \S+  pern\.messages: 1 row taken \(", second)
    for part in ("pern.messages 1", "pern.message_statuses 1", "pern.attachments 1", "1 object; eve)"):
        assert part in second
    assert on(platform, "retention", "receipts", AUDIT).out.splitlines() == [first]
    assert on(platform, "retention", "receipts", "--limit", "1").out.splitlines() == [first]
    assert on(platform, "retention", "receipts", "pern.audit_error").out == "None.\n"
    outcome = on(platform, "retention", "receipt", "1")
    assert (outcome.code, outcome.err) == (0, "")
    said = lines(outcome)
    (row,) = platform.sql("SELECT * FROM roomkeeper.receipts WHERE number = 1")
    assert (said["number"], said["kind"], said["policy"], said["rows"]) == (
        ["1"],
        ["taken"],
        ["pern.messages"],
        ["1"],
    )
    assert (said["hash"], said["previous"]) == ([row.hash], [row.previous])
    assert (said["operator"], said["objects"], said["table"]) == (["eve"], ["1 deleted"], ["pern.messages"])
    assert said["keys"] == [f"{old} to {old}"]
    assert said["rule"][0].startswith("messages older than 400 days in conversations ")
    assert said["run"] == [str(row.run)]
    archived = [one["key"] for one in row.content["archives"]]
    assert [line.partition(": ")[0] for line in said["archive"]] == archived
    assert [line[:64] for line in said["sha256"]] == [one["sha256"] for one in row.content["archives"]]


def forged(platform: Platform, change: str) -> None:
    """Change receipts as somebody does who may do everything."""
    platform.sql("ALTER TABLE roomkeeper.receipts DISABLE TRIGGER ALL")
    platform.sql(change)


@pytest.fixture
def chain(platform: Platform) -> list[str]:
    """Three receipts; their hashes."""
    for _ in range(3):
        entries(platform, 2)
        ran(platform)
    return [row.hash for row in platform.sql("SELECT hash FROM roomkeeper.receipts ORDER BY number")]


def test_a_chain_that_is_whole(platform: Platform, chain: list[str]) -> None:
    outcome = on(platform, "retention", "verify", "--archives")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "3 receipts, 3 archives: all as written.",
        f"The last one's hash, to be kept elsewhere and given as --expect the next time: {chain[-1]}",
    ]
    for known in (chain[0], chain[2].upper()):
        assert on(platform, "retention", "verify", "--expect", known).code == 0


def test_an_empty_chain_is_whole(platform: Platform) -> None:
    outcome = on(platform, "retention", "verify", "--archives")
    assert (outcome.code, outcome.out) == (0, "0 receipts, 0 archives: all as written.\n")


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ("UPDATE roomkeeper.receipts SET rows = 1 WHERE number = 2", ["Receipt 2 is not what was written."]),
        (
            'UPDATE roomkeeper.receipts SET content = content || \'{"operator": "eve"}\' WHERE number = 3',
            ["Receipt 3 is not what was written."],
        ),
        ("DELETE FROM roomkeeper.receipts WHERE number = 2", ["Receipts 2 to 2 are missing."]),
    ],
)
def test_a_chain_that_was_tampered_with(
    platform: Platform, chain: list[str], change: str, sentences: list[str]
) -> None:
    forged(platform, change)
    outcome = on(platform, "retention", "verify")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [f"✗ {sentence}" for sentence in sentences]
    # Whoever looks at one is told as well.
    if "number = 3" in change:
        shown = on(platform, "retention", "receipt", "3")
        assert shown.code == 1
        assert shown.err == "Receipt 3 is not what was written: see roomkeeper retention verify\n"


def test_a_chain_that_was_cut_short(platform: Platform, chain: list[str]) -> None:
    forged(platform, "DELETE FROM roomkeeper.receipts WHERE number = 3")
    assert on(platform, "retention", "verify").code == 0
    outcome = on(platform, "retention", "verify", "--expect", chain[2])
    assert outcome.code == 1
    assert outcome.err == f"✗ No receipt has the hash {chain[2]}: some are missing, or were written anew.\n"
    assert outcome.out == "2 receipts; 1 fault.\n"


def archives(platform: Platform) -> list[Path]:
    root = platform.settings.archive_root
    assert root is not None
    return sorted(root.rglob("*.parquet"))


def test_archives_that_are_not_what_was_written(platform: Platform, chain: list[str]) -> None:
    one, two, _ = archives(platform)
    content = bytearray(one.read_bytes())
    content[10] ^= 1
    one.write_bytes(content)
    two.unlink()
    assert on(platform, "retention", "verify").code == 0
    outcome = on(platform, "retention", "verify", "--archives")
    assert outcome.code == 1
    keys = {path: str(path.relative_to(platform.folder / "archive")) for path in (one, two)}
    told = outcome.err.splitlines()
    assert len(told) == 2
    for path, what in ((one, "is not what was written: its SHA-256 is "), (two, "")):
        assert any(line.startswith("✗ Receipt ") and keys[path] in line and what in line for line in told)
    assert outcome.out == "3 receipts, 3 archives; 2 faults.\n"


def test_archives_that_cannot_be_reached(platform: Platform, chain: list[str]) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    outcome = on(platform, "retention", "verify", "--archives")
    assert outcome.code == 1
    assert outcome.err == (
        "✗ Receipts name 3 archives, and no place of archives is set up: ROOMKEEPER_ARCHIVE_ROOT or "
        "ROOMKEEPER_ARCHIVE_BUCKET.\n"
    )


def test_verification_is_seen(platform: Platform, chain: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    outcome = on(platform, "retention", "verify", "--archives")
    assert outcome.err.splitlines() == [f"archives, archive {number} of 3" for number in (1, 2, 3)]


# -- restore ---------------------------------------------------------------------------------------------


def test_what_was_taken_is_put_back(platform: Platform) -> None:
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
    *restored, stops, first, second = outcome.out.splitlines()
    assert sorted(restored) == [
        "1 object that went with them cannot come back: the rows name what is not there.",
        "1 row got back the values that they had before the others went.",
        "pern.attachments: 1 row put back.",
        "pern.message_statuses: 1 row put back.",
        "pern.messages: 1 row put back.",
    ]
    assert stops.startswith("Receipt 2 says so. By their age they are due, so what would take them stops now")
    # To be pasted, one for each.
    assert [first, second] == [
        f'roomkeeper retention approve {name} --reason "REASON"'
        for name in ("pern.messages_by_conversation", "pern.messages")
    ]
    ((content,),) = platform.sql("SELECT content FROM roomkeeper.receipts WHERE number = 2")
    assert (content["operator"], content["reason"], content["of"]) == ("ada", "a mistake", 1)
    # Once more changes nothing.
    again = on(platform, *put_back)
    assert (again.code, everything(platform)) == (0, before)
    assert again.out.splitlines()[0] == "3 rows there already, as archived."
    assert again.out.splitlines()[-1] == "Nothing was changed."
    # Now it waits, for this too.
    assert refused(on(platform, "run", "pern.messages")).startswith(
        "Rows that pern.messages would take were put back (receipt 2)"
    )
    assert set(rows(platform, Message)) == set(rows(platform, Message)) | {old}
    said = lines(on(platform, "retention", "preview", "pern.messages"))["a run"]
    assert said[0].startswith("would stop. Rows that pern.messages would take were put back (receipt 2): ")
    assert approved(platform, "pern.messages").code == 0
    assert on(platform, "run", "pern.messages").code == 0
    assert old not in rows(platform, Message)


def test_objects_that_wait_are_told_and_stay_with_restored_rows(platform: Platform) -> None:
    assert on(platform, "retention", "pending").out == "None.\n"
    old = message(platform, conversation(platform), LONG)
    attachment(platform, old)
    attachment(platform, old, thumbnail_path=platform.put(b"small"))
    objects = platform.objects()
    unmounted = platform.store.with_name("unmounted")
    platform.store.rename(unmounted)
    ran(platform, "pern.messages")
    why = r"1 failed attempt since \S+ \S+ UTC: the store's directory is not there"
    (said,) = lines(on(platform, "retention", "receipt", "1"))["objects"]
    assert re.fullmatch(rf"3 waiting \({why}\)", said)
    (line,) = on(platform, "retention", "pending").out.splitlines()
    assert re.fullmatch(rf"\S+ \S+  pern\.messages, receipt 1: 3 objects of 2 files in local; {why}", line)
    user = person(platform)
    held = on(platform, "hold", "add", "pern", "user", str(user), "--reason", "a suit")
    assert held.out.splitlines()[1].startswith(
        "The objects of 2 files of pern, whose rows were deleted before, still wait to be deleted: "
    )
    platform.sql("UPDATE roomkeeper.pending_deletions SET attempts = 0, error = NULL, failing_since = NULL")
    assert "3 waiting (since " in on(platform, "retention", "receipt", "1").out

    outcome = on(platform, "retention", "restore", "1", "--reason", "a mistake")
    assert "3 objects still waited to be deleted, and stay." in outcome.out.splitlines()
    assert "cannot come back" not in outcome.out
    unmounted.rename(platform.store)
    assert platform.objects() == objects
    assert on(platform, "retention", "pending").out == "None.\n"
    (said,) = lines(on(platform, "retention", "receipt", "1"))["objects"]
    assert said == "3 kept: rows were restored"


def test_what_an_older_version_deleted_is_told(platform: Platform) -> None:
    """It wrote the receipt when the objects were deleted."""
    attachment(platform, message(platform, conversation(platform), LONG))
    ran(platform, "pern.messages")
    platform.sql("DELETE FROM roomkeeper.deletion_events")
    assert lines(on(platform, "retention", "receipt", "1"))["objects"] == ["1"]
    outcome = on(platform, "retention", "restore", "1", "--reason", "a mistake")
    assert "1 object that went with them cannot come back" in outcome.out


def test_rows_that_are_there_with_other_values_stay(platform: Platform) -> None:
    entries(platform, 2)
    taken = rows(platform, AuditLog)
    ran(platform)
    changed, back = sorted(taken)
    entries(platform, 1)
    platform.sql("UPDATE pern.audit_logs SET id = :id, action = 'other'", id=changed)
    outcome = on(platform, "retention", "restore", "1", "--reason", "x")
    assert outcome.out.splitlines()[:2] == [
        "pern.audit_logs: 1 row put back.",
        "1 row there with other values, or another is in the place: these stay as they are.",
    ]
    found = rows(platform, AuditLog)
    assert found[back] == taken[back]
    assert found[changed]["action"] == "other"


def test_what_cannot_be_put_back_is_a_sentence(platform: Platform, chain: list[str]) -> None:
    archives(platform)[0].unlink()
    ((number,),) = platform.sql(
        "SELECT number FROM roomkeeper.receipts WHERE content->'archives'->0->>'key' LIKE :name"
        " ORDER BY number LIMIT 1",
        name="%",
    )
    outcomes = [on(platform, "retention", "restore", str(n), "--reason", "x") for n in (1, 2, 3)]
    (failed,) = [outcome for outcome in outcomes if outcome.code]
    assert refused(failed).startswith("Nothing was put back: ")
    assert number == 1
    # What was put back is not there to be put back.
    assert refused(on(platform, "retention", "restore", "4", "--reason", "x")) == (
        "Receipt 4 is of rows that were restored: there is nothing to restore."
    )
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    assert refused(on(platform, "retention", "restore", "2", "--reason", "x")) == (
        "Receipt 2 names archives, and no place of archives is set up."
    )


# -- by hand ---------------------------------------------------------------------------------------------


def test_a_run_without_a_period_is_refused(platform: Platform) -> None:
    entries(platform, 1, "error")
    for dry in ((), ("--dry-run",)):
        assert refused(on(platform, "run", "pern.audit_error", *dry)) == (
            "pern.audit_error is off until it has a period: add pern.audit_error=DAYS to "
            "ROOMKEEPER_RETENTION_DAYS."
        )
    assert len(rows(platform, AuditLog)) == 1


def test_a_run_without_a_place_for_archives_is_refused(platform: Platform) -> None:
    entries(platform, 1)
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    sentence = refused(on(platform, "run", AUDIT))
    assert sentence.startswith(f"{AUDIT} archives its rows before they go, and there is no archive: set ")
    assert len(rows(platform, AuditLog)) == 1


def test_a_dry_run_counts(platform: Platform) -> None:
    entries(platform, 5)
    before = platform.everything()
    outcome = on(platform, "run", AUDIT, "--dry-run")
    assert outcome.out.startswith(f"{AUDIT}: 5 rows are due at ")
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
    assert outcome.out.startswith("1 receipt, 1 archive: all as written.\n")
    assert on(platform, "retention", "restore", "1", "--reason", "x").code == 0
    assert everything(platform) == before
    (key,) = [one["Key"] for one in seaweedfs.client.list_objects_v2(Bucket=bucket)["Contents"]]
    seaweedfs.client.put_object(Bucket=bucket, Key=key, Body=b"something else")
    assert on(platform, "retention", "verify", "--archives").code == 1
