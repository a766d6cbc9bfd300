"""`roomkeeper attachments reconsider`: refused files are examined again by the rules of now."""

import threading
from typing import Any
from uuid import UUID

import pytest
from syrupy.assertion import SnapshotAssertion

from stack.demo.samples import program
from tasks.attachments import attachment_work, operator_actions, reconsider
from tests.attachments.context import AppContext
from tests.attachments.shelf import Shelf
from tests.commands.cli import Outcome, on, refused, stable
from tests.platform import Platform, eventually
from workers.known_bad import EICAR

WHY = ("--reason", "the limit is higher")
LARGE = b"x" * 1001


@pytest.fixture
def context(platform: Platform) -> AppContext:
    platform.set(max_file_bytes=1000)
    return AppContext(platform, "openchat")


def run(context: AppContext, *options: str) -> Outcome:
    return on(context.platform, "attachments", "reconsider", *options)


def large(context: AppContext, count: int = 1) -> list[UUID]:
    """Upload files that are too large; the limit is raised afterwards."""
    context.platform.set(max_file_bytes=1000)
    rows = [context.upload(LARGE) for _ in range(count)]
    for row_id in rows:
        assert context.work(row_id) == "refused (too_large)"
    context.platform.set(max_file_bytes=100_000)
    return rows


def reconsidered(context: AppContext) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in context.platform.sql(
            "SELECT attachment_id, actor, reason, detail->>'refused_for' FROM roomkeeper.attachment_events"
            " WHERE event = 'reconsidered' ORDER BY id"
        )
    ]


def test_it_shows_what_it_would_do_and_changes_nothing(
    context: AppContext, snapshot: SnapshotAssertion
) -> None:
    assert run(context).out == "None.\n"
    rows = large(context, 5)
    for row_id, age in zip(rows, ("0", "1 day", "7 days", "30 days", "400 days"), strict=True):
        context.platform.sql(
            "UPDATE roomkeeper.attachment_jobs SET finished_at = now() - CAST(:age AS interval)"
            " WHERE attachment_id = :id",
            age=age,
            id=row_id,
        )
    context.work(context.upload(program(), "a.png", "image/png"))
    other = AppContext(context.platform, "pern")
    other.work(other.upload(b"", is_encrypted=True))
    context.work(context.upload(EICAR))
    before = context.platform.everything()
    outcome = run(context)
    assert (outcome.code, outcome.err) == (0, "")
    assert stable(outcome) == snapshot(name="all")
    for options in (
        ("--app", "pern"),
        ("--refused-for", "too_large"),
        ("--limit", "2", "--at-once", "5"),
    ):
        assert stable(run(context, *options)) == snapshot(name=" ".join(options))
    assert context.platform.everything() == before


def test_it_has_files_examined_again_and_keeps_who_and_why(
    context: AppContext, snapshot: SnapshotAssertion
) -> None:
    (row_id,) = large(context)
    unlike = context.upload(program(), "a.png", "image/png")
    context.work(unlike)
    outcome = run(context, "--apply", *WHY, "--actor", "ada", "--refused-for", "too_large")
    assert (outcome.code, outcome.err) == (0, "")
    assert stable(outcome) == snapshot
    assert reconsidered(context) == [(row_id, "ada", "the limit is higher", "too_large")]
    job, row = context.job(row_id), context.row(row_id)
    assert (job.state, job.outcome, job.enqueued_at, job.failures) == ("waiting", None, None, 0)
    assert (row.processing_status, row.processing_error) == ("pending", "reconsidered: too_large")
    assert context.job(unlike).reason == "type_mismatch"
    assert context.work(row_id) == "accepted"
    listed = on(context.platform, "attachments", "list", "--event", "reconsidered").out
    assert f"openchat {row_id} " in listed
    assert listed.rstrip().endswith("accepted, clean")
    shown = on(context.platform, "attachments", "show", "openchat", str(row_id)).out
    assert "ada: the limit is higher; refused_for too_large" in shown


def test_a_second_run_goes_on_and_does_nothing_twice(context: AppContext) -> None:
    rows = large(context, 3)
    assert run(context, "--apply", *WHY, "--limit", "2").code == 0
    done = [row[0] for row in reconsidered(context)]
    assert len(done) == 2
    # They are refused again: the rules are not so different.
    context.platform.set(max_file_bytes=1000)
    for row_id in done:
        assert context.work(row_id) == "refused (too_large)"
    assert run(context, "--apply", *WHY).code == 0
    assert sorted(row[0] for row in reconsidered(context)) == sorted(rows)
    assert run(context, "--apply", *WHY).out == "Nothing was changed.\n"
    # For another reason they are examined once more.
    assert run(context, "--apply", "--reason", "higher again").code == 0
    assert len(reconsidered(context)) == 5


def test_malware_and_what_operators_quarantined_are_never_touched(
    context: AppContext, snapshot: SnapshotAssertion
) -> None:
    malware, reported = context.upload(EICAR), context.upload(b"text")
    context.work(malware)
    operator_actions.act("quarantine", "openchat", reported, actor="Ada", reason="reported")
    context.work(reported)
    (known_bad,) = large(context)
    context.platform.sql(
        "UPDATE roomkeeper.attachment_jobs SET verdict = 'infected' WHERE attachment_id = :id", id=known_bad
    )
    before = context.platform.everything()
    assert run(context, "--apply", *WHY).out == "Nothing was changed.\n"
    for name in ("malware", "operator"):
        assert refused(run(context, "--refused-for", name), name) == snapshot(name=name)
    assert context.platform.everything() == before


def test_one_that_an_operator_acts_on_meanwhile_is_left_to_them(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row_id,) = large(context)
    real = reconsider._is_there

    def is_there(*arguments: Any) -> bool:
        operator_actions.act("quarantine", "openchat", row_id, actor="Ada", reason="reported")
        assert context.work(row_id) == "quarantined (operator)"
        return real(*arguments)

    monkeypatch.setattr(reconsider, "_is_there", is_there)
    assert run(context, "--apply", *WHY).code == 0
    assert reconsidered(context) == []
    assert context.job(row_id).outcome == "quarantined"


@pytest.mark.parametrize("provider", ["local", "s3"])
def test_objects_may_be_in_quarantine_in_place_or_missing(
    platform: Platform, provider: str, request: pytest.FixtureRequest
) -> None:
    if provider == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    shelf = Shelf(platform, "openchat", provider)
    held = shelf.upload(EICAR, "a.txt", file_size=1)
    assert shelf.work(held) == "quarantined (malware)"
    # Newer signatures know better, but its size is not what the row says.
    platform.sql("UPDATE roomkeeper.scan_verdicts SET verdict = 'clean', signature = NULL")
    operator_actions.act("retry", "openchat", held, actor="Ada", reason="a false alarm")
    assert shelf.work(held) == "refused (size_mismatch)"
    placed, missing = (shelf.upload(b"Milk\n", file_size=1) for _ in range(2))
    for row_id in (placed, missing):
        assert shelf.work(row_id) == "refused (size_mismatch)"
    shelf.platform.sql("UPDATE openchat.attachment SET storage_key = 'uploads/x' WHERE id = :id", id=missing)
    for row_id, size in ((held, len(EICAR)), (placed, 5)):
        platform.sql("UPDATE openchat.attachment SET file_size = :n WHERE id = :id", n=size, id=row_id)
    outcome = run(shelf, "--apply", *WHY)
    assert outcome.out.count("2 files to be examined again;") == 1
    assert " 1 file left as before: the object is missing." in outcome.out
    assert shelf.job(missing).reason == "size_mismatch"
    for row_id in (held, placed):
        assert shelf.work(row_id) == "accepted"
    assert shelf.quarantined(held) is None


def test_it_pauses_while_the_queue_is_long(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconsider, "PAUSE_SECONDS", 0.02)
    rows = large(context, 3)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(context, "--apply", *WHY, "--at-once", "1")))
    thread.start()
    for number in range(len(rows)):
        found = eventually(lambda: reconsidered(context)[number:])  # noqa: B023 - waited for at once
        row_id = found[0][0]
        # No other is added until this one is done.
        assert sum(context.job(one).state == "waiting" for one in rows) == 1
        assert context.work(row_id) == "accepted"
    thread.join(60)
    assert outcomes[0].code == 0


def test_it_may_be_broken_off(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    rows = large(context, 3)
    real = attachment_work.reopen

    def reopen(*arguments: Any, **options: Any) -> Any:
        if reconsidered(context):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(attachment_work, "reopen", reopen)
        outcome = run(context, "--apply", *WHY)
    assert outcome.code == 130
    assert stable(outcome) == snapshot
    assert len(reconsidered(context)) == 1
    assert run(context, "--apply", *WHY).code == 0
    assert sorted(row[0] for row in reconsidered(context)) == sorted(rows)


def test_a_store_that_is_away_ends_it(context: AppContext, snapshot: SnapshotAssertion) -> None:
    large(context, 1)
    context.platform.store.rename(context.platform.store.with_name("away"))
    outcome = run(context, "--apply", *WHY)
    assert outcome.code == 1
    assert stable(outcome) == snapshot
    assert reconsidered(context) == []


def test_what_is_wrong_is_a_sentence(context: AppContext, snapshot: SnapshotAssertion) -> None:
    large(context)
    assert refused(run(context, "--app", "echoroom"), "--app") == snapshot(name="app")
    assert refused(run(context, "--apply"), "--reason") == snapshot(name="no reason")
    sentence = refused(run(context, "--apply", "--reason", "too_large"), "--refused-for too_large")
    assert sentence == snapshot(name="the other option")
    context.platform.set(apps="pern")
    assert refused(run(context, "--app", "openchat"), "openchat") == snapshot(name="not enabled")
    assert reconsidered(context) == []
