"""Served files are looked at again when signatures are new, on a real scanner that gets new ones."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from models.platform import AttachmentJob
from stack.demo.samples import drawing
from stack.servers import signatures
from stack.servers.clamd import Clamd
from tasks.attachments import duplicates, operator_actions, popularity, rescan, verdicts
from tasks.attachments.rescan import JOB
from tasks.attachments.scan import Verdict
from tests.attachments.carriers import letter
from tests.attachments.context import BOTH, AppContext, at_scan, stored
from tests.attachments.locked import locked
from tests.platform import Platform, environment, eventually
from tests.servers import ClamdServer
from workers.db import transaction
from workers.known_bad import EICAR
from workers.scanner import Answer, Scanner, Version

LIMIT = 104_857_600
#: What no signature knows at first.
LATE = b"LATE-DISCOVERED-MALWARE"
LATE_NAME = "Late.Discovered.UNOFFICIAL"


class RenewedClamd(ClamdServer):
    """A scanner whose signatures can be renewed."""

    def renew(self, number: int, texts: dict[str, bytes], released: datetime | None = None) -> None:
        """Give it signatures with this number; return when it uses them."""
        directory = self.server.signatures.directory
        signatures.write(directory, texts, number=number, released=released)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.server.socket))
            client.sendall(b"zRELOAD\0")
            client.recv(64)
        scanner = Scanner(self.address, 10)
        eventually(lambda: scanner.versions().signatures == str(number), what="new signatures")


BASE = {signatures.EICAR_NAME: EICAR}
NEW = BASE | {LATE_NAME: LATE}


@pytest.fixture(scope="module")
def _scanner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenewedClamd]:
    directory = tmp_path_factory.mktemp("renewed-clamd")
    own = signatures.choose(directory / "signatures", own_only=True)
    server = RenewedClamd(Clamd(directory, own, LIMIT))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def scanner(_scanner: RenewedClamd, platform: Platform) -> Iterator[RenewedClamd]:
    """A scanner with signatures number 1, which the platform uses."""
    _scanner.start()
    _scanner.renew(1, BASE)
    # The whole of the time: what is tested is not the budget, mostly.
    platform.set(clamd=_scanner.address, rescan_share=1, rescan_every_seconds=60)
    values = {k: v for k, v in platform.environment.items() if k.startswith(("ROOMKEEPER_", "DATABASE_URL"))}
    with environment(values):
        yield _scanner


@pytest.fixture
def context(platform: Platform, scanner: RenewedClamd, app: str) -> AppContext:
    return AppContext(platform, app)


@pytest.fixture
def openchat_context(platform: Platform, scanner: RenewedClamd) -> AppContext:
    return AppContext(platform, "openchat")


def run(context: AppContext, rescans: int = 1) -> None:
    for _ in range(rescans):
        with environment(dict(context.platform.environment)):
            rescan.rescan()


def act(context: AppContext, name: str, row_id: UUID) -> None:
    operator_actions.act(name, context.app, row_id, actor="Ada", reason="because")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the contents that are handed to the scanner from now on, in this order."""
    contents: list[bytes] = []
    real = Scanner.scan_file

    def scan_file(self: Scanner, path: Path) -> Answer:
        if path.name == "content":
            contents.append(path.read_bytes())
        return real(self, path)

    monkeypatch.setattr(Scanner, "scan_file", scan_file)
    return contents


@BOTH
def test_a_clean_file_notices_nothing(context: AppContext, scanner: RenewedClamd) -> None:
    row_id = context.upload(drawing("PNG"), "a.png", "image/png")
    assert context.work(row_id) == "accepted"
    row, before = context.row(row_id), context.job(row_id)
    objects = stored(context.platform.store)
    scanner.renew(2, NEW)
    run(context)
    job = context.job(row_id)
    assert (before.signature_version, job.signature_version) == ("1", "2")
    assert job.rescanned_at is not None
    changed = {"signature_version", "rescanned_at"}
    assert {k for k in job._mapping if job._mapping[k] != before._mapping[k]} == changed
    assert context.row(row_id) == row
    assert stored(context.platform.store) == objects


def test_a_workbook_that_excel_opens_is_scanned_again_by_what_is_in_it(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    clean, late = locked(letter()), locked(letter({"word/a.bin": LATE}))
    rows = [openchat_context.upload(content, "a.docx", "") for content in (clean, late)]
    assert [openchat_context.work(row_id) for row_id in rows] == ["accepted", "accepted"]
    before = openchat_context.row(rows[0])
    scanner.renew(2, NEW)
    run(openchat_context)
    assert openchat_context.job(rows[0]).signature_version == "2"
    assert openchat_context.row(rows[0]) == before
    assert openchat_context.row(rows[1]).storage_url is None
    assert openchat_context.again(rows[1]) == "quarantined (malware)"


@BOTH
def test_a_late_detection_withdraws_every_copy_and_quarantines_it(
    context: AppContext, scanner: RenewedClamd
) -> None:
    content = drawing("PNG") + LATE
    first = context.upload(content, "a.png", "image/png")
    # pern's hashes are unique; its copies lie elsewhere.
    copy = AppContext(context.platform, "openchat").upload(content, "b.png", "image/png")
    other = context.upload(drawing("GIF"), "b.gif", "image/gif")
    contexts = {first: context, copy: AppContext(context.platform, "openchat"), other: context}
    for row_id, owner in contexts.items():
        assert owner.work(row_id) == "accepted"
    scanner.renew(2, NEW)
    bystander = context.row(other)
    run(context)
    for row_id in (first, copy):
        # At once, before anybody has moved anything.
        owner = contexts[row_id]
        assert owner.job(row_id).state == "waiting"
        row = owner.row(row_id)
        if owner.app == "openchat":
            assert (row.storage_url, row.thumbnail_url, row.preview_url) == (None, None, None)
            assert row.processing_error == f"late_detection: infected with {LATE_NAME}"
        else:
            assert row.thumbnail_path is None
        assert owner.work(row_id) == "quarantined (malware)"
        owner.assert_unserved(row_id)
        assert owner.quarantined(row_id) == content
        assert owner.job(row_id).signature == LATE_NAME
        events = context.platform.sql(
            "SELECT detail FROM roomkeeper.attachment_events WHERE attachment_id = :id"
            " AND event = 'late_detection'",
            id=row_id,
        )
        assert [event.detail["why"] for event in events] == [f"infected with {LATE_NAME}"]
    assert context.row(other) == bystander
    assert context.job(other).outcome == "accepted"
    assert not any(LATE in content for content in stored(context.platform.store).values())


def test_the_same_bytes_are_scanned_once_for_each_version(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = counted(monkeypatch)
    rows = [openchat_context.upload(b"the same bytes") for _ in range(3)]
    for row_id in rows:
        assert openchat_context.work(row_id) == "accepted"
    assert scanned == [b"the same bytes"]
    scanner.renew(2, NEW)
    run(openchat_context)
    assert scanned == [b"the same bytes"] * 2
    assert {openchat_context.job(row_id).signature_version for row_id in rows} == {"2"}
    run(openchat_context)
    assert len(scanned) == 2


def test_a_known_verdict_is_told_as_if_it_were_new(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (openchat_context.upload(EICAR) for _ in range(2))
    scanned = counted(monkeypatch)
    assert openchat_context.work(first) == openchat_context.work(second) == "quarantined (malware)"
    assert scanned == [EICAR]
    one, two = openchat_context.job(first), openchat_context.job(second)
    for column in ("verdict", "reason", "signature", "signature_version", "engine_version", "detail"):
        assert getattr(one, column) == getattr(two, column)
    assert openchat_context.quarantined(second) == EICAR


def test_signatures_without_a_version_are_never_believed_twice(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scanner, "versions", lambda self: Version("1.4.6", "local"))
    scanned = counted(monkeypatch)
    rows = [openchat_context.upload(b"the same bytes") for _ in range(2)]
    for row_id in rows:
        openchat_context.work(row_id)
    assert len(scanned) == 2
    run(openchat_context)
    assert len(scanned) == 2
    assert openchat_context.platform.sql("SELECT * FROM roomkeeper.scan_verdicts") == []


def test_the_riskiest_come_first(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = (b"often", b"risky", b"young", b"old")
    rows: dict[bytes, UUID] = {}
    for content in reversed(order):
        rows[content] = openchat_context.upload(content)
        openchat_context.work(rows[content])
    sql = openchat_context.platform.sql
    sql(
        "UPDATE openchat.attachment SET download_count = CASE id WHEN :id THEN 100 ELSE 9 END",
        id=rows[b"often"],
    )
    sql("UPDATE roomkeeper.attachment_jobs SET risk = 1 WHERE attachment_id = :id", id=rows[b"risky"])
    sql(
        "UPDATE roomkeeper.attachment_jobs SET finished_at = now() - interval '1 day'"
        " WHERE attachment_id = :id",
        id=rows[b"old"],
    )
    scanner.renew(2, NEW)
    scanned = counted(monkeypatch)
    run(openchat_context)
    assert scanned == list(order)
    assert openchat_context.job(rows[b"often"]).popularity == 2


@pytest.mark.parametrize(("downloads", "popularity"), [(None, 0), (0, 0), (9, 0), (10, 1), (99, 1), (100, 2)])
def test_what_is_often_downloaded_is_popular(
    openchat_context: AppContext, downloads: int | None, popularity: int
) -> None:
    row_id = openchat_context.upload(b"x", download_count=downloads)
    openchat_context.work(row_id)
    run(openchat_context)
    assert openchat_context.job(row_id).popularity == popularity


def test_popularity_is_noted_a_stretch_at_a_time(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(popularity, "STRETCH", 2)
    rows = sorted(openchat_context.upload(bytes([65 + n]), download_count=50) for n in range(5))
    for row_id in rows:
        openchat_context.work(row_id)
    seen = []
    for _ in range(4):
        run(openchat_context)
        seen.append([openchat_context.job(row_id).popularity for row_id in rows])
    assert seen[0] == [1, 1, 0, 0, 0]
    assert seen[1] == [1, 1, 1, 1, 0]
    assert seen[2] == [1, 1, 1, 1, 1]
    # And from the beginning again.
    openchat_context.platform.sql("UPDATE openchat.attachment SET download_count = 0")
    run(openchat_context)
    assert sum(openchat_context.job(row_id).popularity for row_id in rows) < 5


def test_a_run_ends_with_its_budget_and_the_next_goes_on(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [openchat_context.upload(bytes([65 + n])) for n in range(3)]
    for row_id in rows:
        openchat_context.work(row_id)
    scanner.renew(2, NEW)
    # A budget that is spent by the first file, whatever it is.
    openchat_context.platform.set(rescan_share=1, rescan_every_seconds=0.000_001)
    done = []
    for _ in rows:
        run(openchat_context)
        # Nothing is owed: a run of some milliseconds is over before the next.
        done.append(sum(openchat_context.job(row_id).signature_version == "2" for row_id in rows))
        outcome = openchat_context.platform.sql(
            f"SELECT outcome FROM roomkeeper.job_runs WHERE job = '{JOB}' ORDER BY id DESC LIMIT 1"
        )
        assert outcome[0].outcome == "more"
    assert done == [1, 2, 3]


def test_what_a_long_run_took_too_much_is_paid_back(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    row_id = openchat_context.upload(b"x")
    openchat_context.work(row_id)
    scanner.renew(2, NEW)
    openchat_context.platform.set(rescan_share=0.1)
    insert_run = (
        f"INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome) VALUES ('{JOB}',"
        " now() - make_interval(secs => :ago), now() - make_interval(secs => :ago) + interval '10 s', 1,"
        " 'more')"
    )
    # 10 s at a tenth of the time: for 100 s, less the tenth that runs are early or late, nothing.
    openchat_context.platform.sql(insert_run, ago=85)
    run(openchat_context)
    assert openchat_context.job(row_id).signature_version == "1"
    openchat_context.platform.sql(
        "UPDATE roomkeeper.job_runs SET started_at = started_at - interval '10 s',"
        " finished_at = finished_at - interval '10 s'"
    )
    run(openchat_context)
    assert openchat_context.job(row_id).signature_version == "2"


def test_a_share_of_nothing_is_no_rescans(openchat_context: AppContext, scanner: RenewedClamd) -> None:
    row_id = openchat_context.upload(LATE)
    openchat_context.work(row_id)
    scanner.renew(2, NEW)
    openchat_context.platform.set(rescan_share=0)
    run(openchat_context)
    assert openchat_context.job(row_id).signature_version == "1"


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_an_object_that_is_another_by_now_is_not_served_any_more(
    openchat_context: AppContext, scanner: RenewedClamd, change: str
) -> None:
    row_id = openchat_context.upload(b"what was scanned")
    assert openchat_context.work(row_id) == "accepted"
    path = openchat_context.platform.store / openchat_context.key(row_id)
    path.write_bytes(b"what was swapped") if change == "replaced" else path.unlink()
    scanner.renew(2, NEW)
    # What it was before is known to be clean: that must not speak for what it is now.
    run(openchat_context)
    openchat_context.assert_unserved(row_id)
    assert openchat_context.job(row_id).state == "waiting"


def test_a_scanner_that_is_away_changes_nothing(openchat_context: AppContext, scanner: RenewedClamd) -> None:
    row_id = openchat_context.upload(LATE)
    assert openchat_context.work(row_id) == "accepted"
    scanner.renew(2, NEW)
    scanner.stop()
    row, job = openchat_context.row(row_id), openchat_context.job(row_id)
    run(openchat_context)
    assert (openchat_context.row(row_id), openchat_context.job(row_id)) == (row, job)
    scanner.start()
    run(openchat_context)
    assert openchat_context.work(row_id) == "quarantined (malware)"


def test_a_store_that_is_away_changes_nothing(openchat_context: AppContext, scanner: RenewedClamd) -> None:
    row_id = openchat_context.upload(LATE)
    openchat_context.work(row_id)
    scanner.renew(2, NEW)
    row, job = openchat_context.row(row_id), openchat_context.job(row_id)
    openchat_context.platform.store.rename(away := openchat_context.platform.store.with_name("away"))
    run(openchat_context)
    assert (openchat_context.row(row_id), openchat_context.job(row_id)) == (row, job)
    away.rename(openchat_context.platform.store)
    run(openchat_context)
    assert openchat_context.job(row_id).state == "waiting"


def test_a_file_that_cannot_be_had_does_not_keep_the_others_waiting(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    lost, other = openchat_context.upload(b"in a store that is gone"), openchat_context.upload(b"here")
    for row_id in (lost, other):
        openchat_context.work(row_id)
    # It would be the first.
    openchat_context.platform.sql(
        "UPDATE roomkeeper.attachment_jobs SET risk = 3 WHERE attachment_id = :id", id=lost
    )
    openchat_context.platform.sql(
        "UPDATE openchat.attachment SET storage_provider = 'gcs' WHERE id = :id", id=lost
    )
    scanner.renew(2, NEW)
    run(openchat_context)
    assert openchat_context.job(other).signature_version == "2"
    assert openchat_context.job(lost).signature_version == "1"
    assert openchat_context.job(lost).outcome == "accepted"


def test_who_is_at_a_file_is_not_disturbed(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that went through the pipeline again while it was being rescanned keeps that outcome."""
    row_id = openchat_context.upload(b"x")
    openchat_context.work(row_id)
    scanner.renew(2, NEW)

    def meanwhile() -> None:
        openchat_context.platform.sql(
            "UPDATE roomkeeper.attachment_jobs SET attempt = attempt + 1, signature_version = '2', risk = 3"
        )

    at_scan(monkeypatch, meanwhile)
    run(openchat_context)
    job = openchat_context.job(row_id)
    assert (job.signature_version, job.rescanned_at, job.risk) == ("2", None, 3)


def test_a_crash_between_the_verdict_and_its_copies_is_made_good(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = openchat_context.upload(LATE)
    openchat_context.work(first)
    scanner.renew(2, NEW)
    second = openchat_context.upload(LATE)

    def crash(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(duplicates, "withdraw", crash)
        with pytest.raises(KeyboardInterrupt):
            openchat_context.work(second)
    assert openchat_context.job(first).outcome == "accepted"
    run(openchat_context)
    assert openchat_context.job(first).state == "waiting"
    openchat_context.assert_unserved(first)


def test_a_new_upload_of_what_is_bad_withdraws_the_older_copies(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    first = openchat_context.upload(LATE)
    assert openchat_context.work(first) == "accepted"
    scanner.renew(2, NEW)
    assert openchat_context.work(openchat_context.upload(LATE)) == "quarantined (malware)"
    assert openchat_context.job(first).state == "waiting"
    openchat_context.assert_unserved(first)


def test_many_copies_are_withdrawn_in_batches(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "BATCH", 2)
    for count in (0, 1, 2, 3, 4, 5):
        content = bytes([65 + count])
        rows = [openchat_context.upload(content) for _ in range(count)]
        for row_id in rows:
            openchat_context.work(row_id)
        assert duplicates.withdraw(sha256(content).hexdigest(), "test") == count
        assert {openchat_context.job(row_id).state for row_id in rows} <= {"waiting"}


def test_the_old_versions_are_found(openchat_context: AppContext) -> None:
    """Each version is found once, however many files have it, and not the current one."""
    with openchat_context.platform.engine.begin() as connection:
        rows = [
            {
                "app": "openchat",
                "attachment_id": uuid4(),
                "state": "finished",
                "outcome": "accepted",
                "verdict": "clean",
                "signature_version": str(100 + n % 3),
                "sha256": str(n),
                "finished_at": datetime.now(UTC) - timedelta(seconds=n),
            }
            for n in range(3000)
        ]
        connection.execute(insert(AttachmentJob), rows)
        assert sorted(rescan._old_versions(connection, Version("1", "101"))) == ["100", "102"]
        assert sorted(rescan._old_versions(connection, Version("1", "new"))) == ["100", "101", "102"]


def test_known_malware_that_calls_itself_encrypted_is_quarantined(
    platform: Platform, scanner: RenewedClamd
) -> None:
    """`pern`'s encrypted files cannot be looked into; but the same bytes were, elsewhere."""
    hidden, seen = AppContext(platform, "pern"), AppContext(platform, "openchat")
    private = hidden.upload(EICAR, is_encrypted=True)
    assert hidden.work(private) == "accepted"
    assert seen.work(seen.upload(EICAR)) == "quarantined (malware)"
    assert hidden.job(private).state == "waiting"
    assert hidden.work(private) == "quarantined (malware)"
    attempt = hidden.job(private).attempt
    run(hidden, 2)
    assert hidden.job(private).attempt == attempt
    assert EICAR not in stored(platform.store).values()


def test_what_an_operator_released_for_another_reason_is_withdrawn(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    row_id = openchat_context.upload(drawing("PNG") + LATE, "a.html", "text/html")
    assert openchat_context.work(row_id).startswith("refused")
    act(openchat_context, "release", row_id)
    assert openchat_context.work(row_id) == "accepted"
    scanner.renew(2, NEW)
    run(openchat_context)
    assert openchat_context.row(row_id).storage_url is None
    assert openchat_context.work(row_id) == "quarantined (malware)"


def test_what_an_operator_released_as_infected_stays(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    row_id = openchat_context.upload(EICAR)
    openchat_context.work(row_id)
    act(openchat_context, "release", row_id)
    assert openchat_context.work(row_id) == "accepted"
    # A copy brings it to light once more.
    assert openchat_context.work(openchat_context.upload(EICAR)) == "quarantined (malware)"
    scanner.renew(2, NEW)
    run(openchat_context)
    assert openchat_context.job(row_id).outcome == "accepted"


def test_a_deleted_file_is_looked_at_too_for_it_may_be_restored(
    openchat_context: AppContext, scanner: RenewedClamd
) -> None:
    row_id = openchat_context.upload(b"x" + LATE)
    assert openchat_context.work(row_id) == "accepted"
    openchat_context.platform.sql(
        "UPDATE openchat.attachment SET is_deleted = true WHERE id = :id", id=row_id
    )
    scanner.renew(2, NEW)
    run(openchat_context)
    openchat_context.platform.sql(
        "UPDATE openchat.attachment SET is_deleted = false WHERE id = :id", id=row_id
    )
    assert openchat_context.row(row_id).storage_url is None
    assert openchat_context.work(row_id) == "quarantined (malware)"


def test_copies_that_a_crash_left_are_withdrawn_without_any_budget(
    openchat_context: AppContext, scanner: RenewedClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = openchat_context.upload(b"x" + LATE)
    assert openchat_context.work(served) == "accepted"
    scanner.renew(2, NEW)
    with monkeypatch.context() as crash:
        crash.setattr(duplicates, "withdraw", lambda *_: 0)
        assert openchat_context.work(openchat_context.upload(b"x" + LATE)) == "quarantined (malware)"
    assert openchat_context.job(served).outcome == "accepted"
    openchat_context.platform.set(rescan_share=0)
    run(openchat_context)
    assert openchat_context.row(served).storage_url is None


@pytest.mark.parametrize(("number", "stays"), [("9", True), ("10", True), ("100", False), ("11", False)])
def test_older_signatures_do_not_call_clean_what_newer_ones_know(
    openchat_context: AppContext, number: str, stays: bool
) -> None:
    """Two scanners, one of which is late with its updates. The numbers are no text: 9 is before 10."""
    with transaction() as connection:
        verdicts.keep(connection, "ab", Version("1.4", "10"), Verdict("infected", "malware", "X"))
        verdicts.keep(connection, "ab", Version("1.4", number), Verdict("clean"))
        assert (verdicts.infected(connection, "ab") is not None) is (stays and number != "10")
        verdicts.keep(connection, "ab", Version("1.4", "8"), Verdict("infected", "malware", "Y"))
        assert verdicts.infected(connection, "ab") is not None
