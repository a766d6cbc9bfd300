"""The state table: who may claim, who may write, when a file is tried again and when it is given up."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Row, text

from models import openchat, pern
from tasks.apps import APPS
from tasks.attachments import attachment_work
from tasks.attachments.app_columns import AppView
from tasks.attachments.lease import Lease
from tasks.policies.attachment import AttachmentTable
from tests.platform import Platform, environment, eventually
from workers.db import create

APP_NAMES = ("openchat", "pern")
MODELS: dict[str, type[Any]] = {"openchat": openchat.Attachment, "pern": pern.Attachment}
NOTHING_SEEN = AppView(served=True, scanned=True, verdict="clean", url="/files/x", small_key="small")
DONE = {"outcome": "accepted", "verdict": "clean"}


def table(app: str) -> AttachmentTable:
    found = APPS[app].attachments
    assert found is not None
    return found


def upload(platform: Platform, app: str) -> UUID:
    # Like no other: `pern` keeps the same file only once.
    content = uuid4().bytes
    return platform.openchat_attachment(content) if app == "openchat" else platform.pern_attachment(content)


def claim(platform: Platform, app: str, row_id: UUID, worker: str = "worker") -> attachment_work.Claim | None:
    with platform.engine.begin() as connection:
        return attachment_work.claim(connection, app, table(app), row_id, worker, platform.settings)


def claimed(platform: Platform, app: str, row_id: UUID, worker: str = "worker") -> attachment_work.Claim:
    own_claim = claim(platform, app, row_id, worker)
    assert own_claim is not None
    return own_claim


def wait(platform: Platform, own_claim: attachment_work.Claim, *, failed: bool) -> str:
    with platform.engine.begin() as connection:
        return attachment_work.wait(
            connection, own_claim, "because", "of this", platform.settings, failed=failed
        )


def finish(platform: Platform, own_claim: attachment_work.Claim) -> bool:
    with platform.engine.begin() as connection:
        return attachment_work.finish(connection, own_claim, DONE, NOTHING_SEEN)


def alter(platform: Platform, row_id: UUID, values: str) -> None:
    """Set columns of the job: `lease_until = now()`."""
    platform.sql(f"UPDATE roomkeeper.attachment_jobs SET {values} WHERE attachment_id = :id", id=row_id)


def expire(platform: Platform, row_id: UUID) -> None:
    alter(platform, row_id, "lease_until = now() - interval '1 microsecond'")


def come_due(platform: Platform, row_id: UUID) -> None:
    alter(platform, row_id, "not_before = now()")


def job(platform: Platform, row_id: UUID) -> Row[Any]:
    found = platform.job(row_id)
    assert found is not None
    return found


# -- Who may claim ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", APP_NAMES)
def test_a_fresh_row_is_claimed_and_says_what_it_is(platform: Platform, app: str) -> None:
    row_id = upload(platform, app)
    row = platform.row(MODELS[app], row_id)
    own_claim = claimed(platform, app, row_id, "here")
    assert (own_claim.app, own_claim.id) == (app, row_id)
    assert (own_claim.attempt, own_claim.failures, own_claim.waits) == (1, 0, 0)
    assert (own_claim.name, own_claim.media_type) == ("file.bin", "text/plain")
    assert (own_claim.size, own_claim.provider) == (16, "local")
    if app == "openchat":
        assert (own_claim.key, own_claim.encrypted, own_claim.sha256) == (row.storage_key, False, None)
    else:
        assert (own_claim.key, own_claim.encrypted, own_claim.sha256) == (row.file_path, True, row.file_hash)
    state = job(platform, row_id)
    assert (state.state, state.worker, state.phase) == ("running", "here", "claimed")
    assert state.lease_until - state.updated_at == timedelta(
        seconds=platform.settings.attachment_lease_seconds
    )


def test_an_unknown_row_is_an_error_and_leaves_nothing(platform: Platform) -> None:
    platform.openchat_attachment(b"x")
    before = platform.everything()
    for app in APP_NAMES:
        with pytest.raises(attachment_work.UnknownAttachmentError, match=app):
            claim(platform, app, uuid4())
    assert platform.everything() == before


def test_an_id_belongs_to_its_application(platform: Platform) -> None:
    row_id = upload(platform, "pern")
    with pytest.raises(attachment_work.UnknownAttachmentError):
        claim(platform, "openchat", row_id)


#: Columns of a job, and whether it may be claimed then.
STATES = (
    ("state = 'waiting', lease_until = NULL, not_before = NULL", True),
    ("state = 'waiting', lease_until = NULL, not_before = now() - interval '1 microsecond'", True),
    ("state = 'waiting', lease_until = NULL, not_before = now()", True),
    ("state = 'waiting', lease_until = NULL, not_before = now() + interval '1 microsecond'", False),
    ("lease_until = now() + interval '1 microsecond'", False),
    ("lease_until = now()", False),
    ("lease_until = now() - interval '1 microsecond'", True),
    ("state = 'finished', lease_until = NULL, outcome = 'accepted'", False),
    ("state = 'failed', lease_until = NULL", False),
)


@pytest.mark.parametrize("app", APP_NAMES)
def test_only_what_is_due_or_left_behind_is_claimed(platform: Platform, app: str) -> None:
    for state, free in STATES:
        row_id = upload(platform, app)
        claimed(platform, app, row_id)
        change = f"UPDATE roomkeeper.attachment_jobs SET {state}, failures = 1 WHERE attachment_id = :id"
        # In one transaction, in which `now()` stands still: exact to the microsecond.
        with platform.engine.begin() as connection:
            connection.execute(text(change), {"id": row_id})
            before = everything(connection)
            own_claim = attachment_work.claim(connection, app, table(app), row_id, "other", platform.settings)
            assert (own_claim is not None) == free, state
            assert free or everything(connection) == before, state
        if free:
            now = job(platform, row_id)
            assert (now.state, now.attempt, now.worker) == ("running", 2, "other"), state
            assert (now.not_before, now.enqueued_at) == (None, None), state
            # A lease that ran out is a failure; a wait that is over is none.
            assert now.failures == (2 if "lease_until = now" in state else 1), state


def everything(connection: Connection) -> list[Any]:
    return [
        connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).all()
        for name in ("roomkeeper.attachment_jobs", "openchat.attachment", "pern.attachments")
    ]


def test_a_deleted_row_is_not_worked_on(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"x", is_deleted=True)
    before = platform.everything()
    assert claim(platform, "openchat", row_id) is None
    assert platform.everything() == before


def test_a_row_that_says_nothing_of_deletion_is_worked_on(platform: Platform) -> None:
    assert claim(platform, "openchat", platform.openchat_attachment(b"x", is_deleted=None)) is not None


@pytest.mark.parametrize("deletion", ["UPDATE {} SET is_deleted = true", "DELETE FROM {}"])
def test_a_job_does_not_outlive_its_row_unless_it_tells_something(platform: Platform, deletion: str) -> None:
    platform.set(attachment_attempts=1)
    for state in ("waiting", "left behind", "leased by a live worker", "finished", "failed"):
        row_id = platform.openchat_attachment(b"x")
        own_claim = claimed(platform, "openchat", row_id)
        if state == "waiting":
            wait(platform, own_claim, failed=False)
        elif state == "left behind":
            expire(platform, row_id)
        elif state == "finished":
            finish(platform, own_claim)
        elif state == "failed":
            wait(platform, own_claim, failed=True)
        before = platform.job(row_id)
        platform.sql(deletion.format("openchat.attachment") + " WHERE id = :id", id=row_id)
        assert claim(platform, "openchat", row_id) is None
        deleted = state in {"waiting", "left behind"}
        assert platform.job(row_id) == (None if deleted else before), state


@pytest.mark.parametrize("app", APP_NAMES)
@pytest.mark.parametrize("left_behind", [False, True], ids=["fresh", "left behind"])
def test_of_twenty_claims_at_once_one_wins(platform: Platform, app: str, left_behind: bool) -> None:
    row_id = upload(platform, app)
    if left_behind:
        claimed(platform, app, row_id)
        expire(platform, row_id)
    start = threading.Barrier(20)
    won: list[attachment_work.Claim | None] = []

    def run(number: int) -> None:
        engine = create(platform.settings)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            connection.rollback()
            start.wait()
            with connection.begin():
                won.append(
                    attachment_work.claim(connection, app, table(app), row_id, str(number), platform.settings)
                )
        engine.dispose()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 20
    winners = [one for one in won if one]
    assert len(winners) == 1
    assert job(platform, row_id).attempt == winners[0].attempt == 1 + left_behind


# -- Who may write ------------------------------------------------------------------------------------------


def renew(connection: Connection, own_claim: attachment_work.Claim, platform: Platform) -> object:
    attachment_work.renew(connection, own_claim, platform.settings, "scan")
    return None


def put_off(connection: Connection, own_claim: attachment_work.Claim, platform: Platform) -> object:
    return attachment_work.wait(connection, own_claim, "reason", "detail", platform.settings, failed=False)


def fail(connection: Connection, own_claim: attachment_work.Claim, platform: Platform) -> object:
    return attachment_work.wait(connection, own_claim, "reason", "detail", platform.settings, failed=True)


def give_up(connection: Connection, own_claim: attachment_work.Claim, platform: Platform) -> object:
    return attachment_work.wait(
        connection, replace(own_claim, failures=99), "a", "b", platform.settings, failed=True
    )


def end(connection: Connection, own_claim: attachment_work.Claim, platform: Platform) -> object:
    return attachment_work.finish(connection, own_claim, DONE, NOTHING_SEEN)


WRITES: tuple[Callable[[Connection, attachment_work.Claim, Platform], object], ...] = (
    renew,
    put_off,
    fail,
    give_up,
    end,
)


@pytest.mark.parametrize("app", APP_NAMES)
def test_an_older_claim_may_write_nothing(platform: Platform, app: str) -> None:
    row_id = upload(platform, app)
    older = claimed(platform, app, row_id)
    expire(platform, row_id)
    newer = claimed(platform, app, row_id)
    for holder_ends in (False, True):
        if holder_ends:
            finish(platform, newer)
        before = platform.everything()
        for write in WRITES:
            # Committed all the same: it is not the rollback that keeps the rows as they were.
            with platform.engine.begin() as connection, pytest.raises(attachment_work.LeaseLostError):
                write(connection, older, platform)
            assert platform.everything() == before, write


def test_who_has_given_a_file_back_may_write_nothing(platform: Platform) -> None:
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    wait(platform, own_claim, failed=False)
    before = platform.everything()
    for write in WRITES:
        with platform.engine.begin() as connection, pytest.raises(attachment_work.LeaseLostError):
            write(connection, own_claim, platform)
        assert platform.everything() == before, write


def test_a_claim_whose_lease_ran_out_may_write_until_another_takes_over(platform: Platform) -> None:
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    expire(platform, row_id)
    assert finish(platform, own_claim)
    assert job(platform, row_id).state == "finished"


def test_finishing_is_told_of_a_row_that_is_gone(platform: Platform) -> None:
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    platform.sql("DELETE FROM openchat.attachment")
    with platform.engine.begin() as connection:
        values = DONE | {"small_key": "small", "large_key": "large"}
        assert not attachment_work.finish(connection, own_claim, values, NOTHING_SEEN)
    assert platform.job(row_id) is None


def test_a_failed_commit_leaves_both_rows_as_they_were(platform: Platform) -> None:
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    before = platform.everything()
    with suppress(ZeroDivisionError), platform.engine.begin() as connection:
        attachment_work.finish(connection, own_claim, DONE, NOTHING_SEEN)
        raise ZeroDivisionError
    assert platform.everything() == before


# -- When it is tried again, and when no more ---------------------------------------------------------------


@pytest.mark.parametrize("app", APP_NAMES)
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_file_that_fails_is_parked_after_exactly_so_many_attempts(
    platform: Platform, app: str, attempts: int
) -> None:
    platform.set(attachment_attempts=attempts)
    row_id = upload(platform, app)
    for number in range(1, attempts + 1):
        come_due(platform, row_id)
        state = wait(platform, claimed(platform, app, row_id), failed=True)
        assert state == ("failed" if number == attempts else "waiting")
        assert job(platform, row_id).failures == number
    failed = job(platform, row_id)
    assert (failed.state, failed.attempt, failed.reason) == ("failed", attempts, "because")
    assert (failed.outcome, failed.verdict, failed.lease_until) == (None, None, None)
    come_due(platform, row_id)
    assert claim(platform, app, row_id) is None
    if app == "openchat":
        row = platform.row(openchat.Attachment, row_id)
        assert (row.processing_status, row.processing_error) == ("failed", "because: of this")
        assert (row.storage_url, row.scan_result) == (None, None)


@pytest.mark.parametrize("app", APP_NAMES)
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_file_that_kills_its_workers_is_parked(platform: Platform, app: str, attempts: int) -> None:
    platform.set(attachment_attempts=attempts)
    row_id = upload(platform, app)
    for _ in range(attempts):
        own_claim = claimed(platform, app, row_id)
        with platform.engine.begin() as connection:
            attachment_work.renew(connection, own_claim, platform.settings, "draw")
        expire(platform, row_id)
    last = claim(platform, app, row_id)
    assert last is not None
    assert last.failed
    failed = job(platform, row_id)
    assert (failed.state, failed.failures, failed.reason) == ("failed", attempts, "worker_lost")
    assert failed.detail == f"{attempts} attempts failed or died, the last one at: draw"
    assert claim(platform, app, row_id) is None


def test_a_scanner_that_is_away_is_never_counted(platform: Platform) -> None:
    platform.set(attachment_attempts=1)
    row_id = upload(platform, "openchat")
    for number in range(1, 30):
        come_due(platform, row_id)
        assert wait(platform, claimed(platform, "openchat", row_id), failed=False) == "waiting"
        state = job(platform, row_id)
        assert (state.failures, state.waits, state.attempt) == (0, number, number)
    row = platform.row(openchat.Attachment, row_id)
    assert (row.processing_status, row.processing_error) == ("pending", "because: of this")


def test_failures_are_kept_through_an_outage(platform: Platform) -> None:
    platform.set(attachment_attempts=2)
    row_id = upload(platform, "pern")
    states = []
    for failed in (True, False, False, True):
        come_due(platform, row_id)
        states.append(wait(platform, claimed(platform, "pern", row_id), failed=failed))
    assert states == ["waiting", "waiting", "waiting", "failed"]


def test_pauses_double_up_to_the_longest_with_jitter(platform: Platform) -> None:
    platform.set(attachment_retry_seconds=10, attachment_retry_max_seconds=300)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    for waits, longest in ((0, 10), (1, 20), (2, 40), (4, 160), (5, 300), (6, 300), (10_000, 300)):
        pauses = set()
        for _ in range(20):
            with platform.engine.connect() as connection:
                attachment_work.wait(
                    connection, replace(own_claim, waits=waits), "a", "b", platform.settings, failed=False
                )
                times = "SELECT not_before - updated_at FROM roomkeeper.attachment_jobs"
                pauses.add(connection.execute(text(times)).scalar_one().total_seconds())
                connection.rollback()
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
        # Spread over the whole of it; twenty that all fall into a third of the range are one in millions.
        assert max(pauses) - min(pauses) > longest / 6


# -- Leases -------------------------------------------------------------------------------------------------


def lease_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_lease_is_renewed_while_its_file_is_worked_on(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=1)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    seen = {job(platform, row_id).lease_until}
    with Lease(own_claim, platform.settings) as lease:

        def renewed() -> bool:
            seen.add(job(platform, row_id).lease_until)
            # More than its whole length, by renewals alone.
            return len(seen) > 4

        eventually(renewed)
        lease.check()
        assert claim(platform, "openchat", row_id) is None
        assert len(lease_threads()) == 1
    assert not lease_threads()


def test_a_phase_is_noted_and_renews_the_lease(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=30)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    before = job(platform, row_id)
    with Lease(own_claim, platform.settings) as lease:
        lease.enter("scan")
        eventually(lambda: job(platform, row_id).phase == "scan")
        noted = job(platform, row_id)
        assert noted.lease_until > before.lease_until
        # One that publishes is noted, and the lease confirmed, before anything else is done.
        lease.confirm("store")
        after = job(platform, row_id)
    assert (before.phase, after.phase) == ("claimed", "store")
    assert after.lease_until > noted.lease_until


def test_a_phase_that_is_over_at_once_costs_no_update(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=30)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    before = job(platform, row_id)
    with Lease(own_claim, platform.settings) as lease:
        for phase in ("fetch", "identify", "scan"):
            lease.enter(phase)
    assert job(platform, row_id) == before


def lost(lease: Lease) -> bool:
    try:
        lease.check()
    except attachment_work.LeaseLostError:
        return True
    return False


def test_who_lost_the_lease_to_another_is_told(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=1)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    with Lease(own_claim, platform.settings) as lease:
        alter(platform, row_id, "attempt = attempt + 1")
        before = job(platform, row_id)
        with pytest.raises(attachment_work.LeaseLostError):
            lease.confirm("store")
        # By its thread, well within the lease.
        eventually(lambda: lost(lease), 0.9)
        assert job(platform, row_id) == before


def test_a_lease_that_cannot_be_renewed_is_lost(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=1, lock_timeout_ms=100)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    with (
        environment(platform.environment),
        platform.engine.connect() as blocker,
        Lease(own_claim, platform.settings) as lease,
    ):
        blocker.execute(text("LOCK TABLE roomkeeper.attachment_jobs IN ACCESS EXCLUSIVE MODE"))
        eventually(lambda: lost(lease), 10)
        blocker.rollback()


def test_a_lease_survives_a_database_that_is_back_in_time(platform: Platform) -> None:
    platform.set(attachment_lease_seconds=3, lock_timeout_ms=100)
    row_id = upload(platform, "openchat")
    own_claim = claimed(platform, "openchat", row_id)
    with environment(platform.environment), platform.engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE roomkeeper.attachment_jobs IN ACCESS EXCLUSIVE MODE"))
        with Lease(own_claim, platform.settings) as lease:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            with platform.engine.connect() as observer:

                def tried() -> int:
                    count: int = observer.execute(waiting).scalar_one()
                    return count

                eventually(tried)
                eventually(lambda: not tried())
            blocker.rollback()
            before = job(platform, row_id).lease_until
            eventually(lambda: job(platform, row_id).lease_until > before)
            lease.check()
