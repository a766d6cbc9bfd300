"""No row leaves before the buckets that need it are closed; what has left freezes them."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from models.connect import InteractionLog, User
from models.openchat import Message as OpenchatMessage
from models.pern import AuditLog, AuthSession, Message, MessageStatus
from models.platform import AttachmentJob
from tasks.analytics import rollup_guard
from tasks.analytics.backfill import Backfill, FrozenError
from tasks.analytics.engine import RollupRun
from tasks.apps import POLICIES, ROLLUPS
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.policies.sweep import NOW as MOMENT
from tasks.policies.sweep import Delete, Sweep
from tasks.retention import preview as previews
from tasks.retention.batch import PACE, RetentionBatches
from tasks.retention.restore import restore
from tasks.sweeps import eligible_rows
from tasks.sweeps.batch import Batches
from tests.platform import Platform, eventually
from tests.retention.dying import kill_at
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.retaining import days, policy, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, naive, rolled_up, rows, sweep
from workers.db import transaction

MESSAGES, AUDIT, DELETED = "pern.messages", "pern.audit_info", "openchat.deleted_messages"
STAYS, ROOM_ANALYTICS = "audiorooms.participants", "audiorooms.room_analytics"
DAY = timedelta(days=1)
#: The end of the last closed bucket, where a test does not say otherwise.
CLOSED = datetime(2026, 1, 10, tzinfo=UTC)
COVERED = CLOSED - 60 * DAY
Y2000 = datetime(2000, 1, 1, tzinfo=UTC)
_codes = count()


def frozen_to(platform: Platform, name: str) -> datetime | None:
    (row,) = platform.sql("SELECT frozen_to FROM roomkeeper.rollups WHERE name = :name", name=name)
    found: datetime | None = row.frozen_to
    return found


def log(platform: Platform, at: datetime, **values: Any) -> UUID:
    given = {"action": "a", "resource_type": "b", "ip_address": "::1", "user_agent": "x", "severity": "info"}
    return add(platform, AuditLog, created_at=at, **{**given, **values})


def deleted(platform: Platform, at: datetime) -> UUID:
    """Add a message of `openchat` that was sent then, and deleted long ago."""
    row = platform.openchat_attachment(b"x")
    (found,) = platform.sql("SELECT message_id FROM openchat.attachment WHERE id = :row", row=row)
    platform.sql("DELETE FROM openchat.attachment WHERE id = :row", row=row)
    platform.sql(
        "UPDATE openchat.message SET is_deleted = true, deleted_at = :old, created_at = :at WHERE id = :id",
        old=naive(ago(days=4000)),
        at=naive(at),
        id=found.message_id,
    )
    key: UUID = found.message_id
    return key


def job(platform: Platform, app: str, of: UUID, at: datetime, **values: Any) -> None:
    given = {"app": app, "attachment_id": of, "state": "waiting", "created_at": at, "updated_at": at}
    with platform.engine.begin() as connection:
        connection.execute(table_of(AttachmentJob).insert().values({**given, **values}))


def call(platform: Platform, at: datetime) -> UUID:
    names = {"username": uuid4().hex, "email": f"{uuid4()}@x.org", "password_hash": "x"}
    one = add(platform, User, role="female", **names)
    return add(
        platform,
        InteractionLog,
        user1_id=one,
        user2_id=one,
        room_id="x",
        started_at=at,
        ended_at=at,
        outcome="timeout",
    )


#: A policy whose period is long past for all rows; its rollups; how one of its rows is made, by its moment.
KINDS: dict[str, tuple[list[str], Callable[[Platform, datetime], UUID], Any]] = {
    AUDIT: (["pern.security_daily"], log, AuditLog),
    DELETED: (["openchat.daily", "openchat.messages_daily"], deleted, OpenchatMessage),
    "connect.logs": (["connect.calls_daily", "connect.daily"], call, InteractionLog),
}


# -- what stays, and what goes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_a_row_goes_if_its_bucket_is_closed_and_was_ever_computed(
    platform: Platform, name: str, by_hand: bool
) -> None:
    rollups, make, model = KINDS[name]
    days(platform, **{name: 1})
    for rollup in rollups:
        rolled_up(platform, rollup, watermark=CLOSED, covered_from=COVERED)
    expired = {
        make(platform, CLOSED - INSTANT),
        make(platform, COVERED),
        # A clock that was never set is in no statistics.
        make(platform, Y2000 - INSTANT),
        make(platform, datetime(1970, 1, 1, tzinfo=UTC)),
    }
    stay = {
        make(platform, at) for at in (CLOSED, CLOSED + INSTANT, COVERED - INSTANT, Y2000, CLOSED - 400 * DAY)
    }
    found = previews.preview(policy(name), platform.settings, now=NOW)
    assert (found.rows, found.not_closed, found.held) == (4, 5, 0)
    assert eligible_rows.eligible(policy(name), platform.settings, 100, NOW) == 4
    assert set(eligible_rows.samples(policy(name), platform.settings, 100, NOW)) == expired
    done = retain(platform, name, by_hand=by_hand)
    assert (done.rows, done.remaining, done.error) == (4, 0, None)
    assert set(rows(platform, model)) == stay
    # Exactly up to the latest that went.
    assert [frozen_to(platform, rollup) for rollup in rollups] == [CLOSED - INSTANT for _ in rollups]
    assert {one for one in ROLLUPS if frozen_to(platform, one)} == set(rollups)


@pytest.mark.parametrize("behind", ["openchat.daily", "openchat.messages_daily"])
def test_of_two_rollups_the_one_that_is_behind_counts(platform: Platform, behind: str) -> None:
    days(platform, **{DELETED: 1})
    for name in ("openchat.daily", "openchat.messages_daily"):
        rolled_up(platform, name, watermark=CLOSED - DAY if name == behind else CLOSED)
    stay, expired = deleted(platform, CLOSED - DAY), deleted(platform, CLOSED - DAY - INSTANT)
    assert retain(platform, DELETED).rows == 1
    assert set(rows(platform, OpenchatMessage)) == {stay}
    assert expired
    # The one keeps what the other has never computed, too.
    rolled_up(platform, behind, watermark=CLOSED, covered_from=CLOSED - DAY + INSTANT)
    assert retain(platform, DELETED).rows == 0
    rolled_up(platform, behind, covered_from=CLOSED - DAY)
    assert retain(platform, DELETED).rows == 1
    assert frozen_to(platform, "openchat.daily") == frozen_to(platform, "openchat.messages_daily")
    assert frozen_to(platform, behind) == CLOSED - DAY


def test_what_lags_behind_keeps_what_has_had_its_time_long_ago(platform: Platform) -> None:
    days(platform)
    rolled_up(platform, "connect.calls_daily", watermark=ago(days=405))
    stay = {call(platform, ago(days=age)) for age in (366, 370, 405)}
    expired = {call(platform, ago(days=405) - INSTANT), call(platform, ago(days=500))}
    assert retain(platform, "connect.logs").rows == len(expired)
    assert set(rows(platform, InteractionLog)) == stay
    rolled_up(platform, "connect.calls_daily", watermark=ago(days=1))
    assert retain(platform, "connect.logs").rows == len(stay)


def test_a_rollup_that_never_ran_keeps_all_and_one_that_is_off_keeps_nothing(platform: Platform) -> None:
    days(platform, **{AUDIT: 1})
    log(platform, ago(days=4000))
    platform.set(sweep_off="")

    def run() -> int:
        return previews.preview(policy(AUDIT), platform.settings, now=NOW).rows

    platform.sql("DELETE FROM roomkeeper.rollups WHERE name = 'pern.security_daily'")
    assert run() == 0
    platform.set(sweep_off="pern.security_daily")
    assert run() == 1
    platform.set(sweep_off="")
    assert run() == 0
    platform.set(apps="connect")
    assert run() == 1


def test_what_leaves_while_a_rollup_is_off_freezes_its_buckets_up_to_now(platform: Platform) -> None:
    days(platform, **{DELETED: 1})
    platform.set(sweep_off="openchat.daily,openchat.messages_daily")
    rolled_up(platform, "openchat.daily", watermark=COVERED)
    rolled_up(platform, "openchat.messages_daily", watermark=COVERED, frozen_to=NOW)
    for at in (CLOSED, CLOSED - DAY, NOW + INSTANT, datetime(3000, 1, 1, tzinfo=UTC)):
        deleted(platform, at)
    assert retain(platform, DELETED).rows == 4
    assert frozen_to(platform, "openchat.daily") == CLOSED
    # It never goes back.
    assert frozen_to(platform, "openchat.messages_daily") == NOW


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4713-01-01 BC", "0001-01-01"])
def test_no_time_is_so_odd_that_rows_stay_or_all_is_frozen(platform: Platform, moment: str) -> None:
    days(platform, **{MESSAGES: 30})
    rolled_up(platform, "pern.daily", watermark=CLOSED, covered_from=COVERED)
    kept = message(platform, conversation(platform), NOW - CLOSED + DAY)
    odd = status(platform, kept, delivered_at=CLOSED - 2 * DAY)
    platform.sql(
        "UPDATE pern.message_statuses SET read_at = CAST(:at AS timestamptz) WHERE id = :id",
        at=moment,
        id=odd,
    )
    done = retain(platform, MESSAGES)
    assert (done.rows, done.error) == (1, None)
    assert frozen_to(platform, "pern.daily") == CLOSED - DAY


# -- what goes along ------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["delivered_at", "read_at"])
def test_a_message_stays_for_a_status_that_is_not_in_the_figures(platform: Platform, column: str) -> None:
    days(platform, **{MESSAGES: 30})
    rolled_up(platform, "pern.daily", watermark=CLOSED, covered_from=COVERED)
    room = conversation(platform)
    old = NOW - CLOSED + 10 * DAY
    kept, never, expired, none = (message(platform, room, old) for _ in range(4))
    status(platform, kept, **{column: CLOSED})
    status(platform, kept, **{column: CLOSED - DAY})
    status(platform, never, **{column: COVERED - INSTANT})
    status(platform, expired, **{column: CLOSED - INSTANT})
    status(platform, none)
    found = previews.preview(policy(MESSAGES), platform.settings, now=NOW)
    assert (found.rows, found.not_closed, found.held) == (2, 2, 0)
    assert retain(platform, MESSAGES).rows == 2
    assert set(rows(platform, Message)) == {kept, never}
    assert len(rows(platform, MessageStatus)) == 3
    # It goes on to where the latest of all was.
    assert frozen_to(platform, "pern.daily") == CLOSED - INSTANT


@pytest.mark.parametrize("override", [None, "release"])
def test_files_stay_for_their_job(platform: Platform, override: str | None) -> None:
    """Theirs is a rollup of the platform's own; a job that an operator has a word on is as good as gone."""
    days(platform, **{MESSAGES: 30})
    rolled_up(platform, "roomkeeper.attachments_daily", watermark=CLOSED)
    room = conversation(platform)
    old = NOW - CLOSED + 10 * DAY
    kept, expired = message(platform, room, old), message(platform, room, old)
    for one, at in ((kept, CLOSED), (expired, CLOSED - INSTANT)):
        job(platform, "pern", attachment(platform, one), at, override=override)
    # Of another application.
    job(platform, "openchat", uuid4(), CLOSED)
    assert retain(platform, MESSAGES).rows == 1
    assert set(rows(platform, Message)) == {kept}
    assert frozen_to(platform, "roomkeeper.attachments_daily") == CLOSED - INSTANT
    assert frozen_to(platform, "pern.daily") == NOW - old


def test_a_deleted_file_stays_for_its_job(platform: Platform) -> None:
    name = "openchat.deleted_attachments"
    days(platform, **{name: 30})
    rolled_up(platform, "roomkeeper.attachments_daily", watermark=CLOSED)
    files = [platform.openchat_attachment(b"x", is_deleted=True, deleted_at=naive(COVERED)) for _ in range(2)]
    for file, at in zip(files, (CLOSED, CLOSED - INSTANT), strict=True):
        job(platform, "openchat", file, at)
    assert retain(platform, name).rows == 1
    assert [row.id for row in platform.sql("SELECT id FROM openchat.attachment")] == files[:1]
    assert frozen_to(platform, "roomkeeper.attachments_daily") == CLOSED - INSTANT
    assert frozen_to(platform, "openchat.daily") is None


@pytest.mark.parametrize("what", ["a status", "the watermark"])
def test_what_changes_while_a_batch_is_at_work_keeps_its_rows(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Rows are judged, then what goes along is locked: in between it may come to be of an open bucket."""
    days(platform, **{MESSAGES: 30})
    rolled_up(platform, "pern.daily", watermark=CLOSED)
    kept = message(platform, conversation(platform), NOW - CLOSED + 10 * DAY)
    status_id = status(platform, kept, delivered_at=CLOSED - DAY)
    attachment(platform, kept)
    refers = RetentionBatches._refers
    done: list[str] = []

    def late(self: RetentionBatches, *given: Any) -> None:
        if self._archiving.reading:
            refers(self, *given)
            return
        if not done and what == "a status":
            platform.sql(
                "UPDATE pern.message_statuses SET read_at = :at WHERE id = :id", at=NOW, id=status_id
            )
        elif not done:
            # Another zone was set: all is computed anew.
            rolled_up(platform, "pern.daily", watermark=CLOSED - 10 * DAY)
        done.append(what)
        refers(self, *given)

    monkeypatch.setattr(RetentionBatches, "_refers", late)
    found = retain(platform, MESSAGES)
    assert (found.rows, found.remaining) == (0, 1)
    # A changed status is not what was archived, either.
    assert ("were changed" if what == "a status" else "is not closed") in str(found.error)
    assert kept in rows(platform, Message)
    assert len(platform.objects()) == 1
    assert frozen_to(platform, "pern.daily") is None


# -- cleanup --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_sessions_stay_until_the_day_on_which_they_began_is_closed(platform: Platform, by_hand: bool) -> None:
    rolled_up(platform, "pern.sessions_daily", watermark=CLOSED, covered_from=COVERED)
    user = person(platform)

    def session(at: datetime) -> UUID:
        token = {"refresh_token_hash": uuid4().hex, "device_info": "x", "ip_address": "::1"}
        times = {"expires_at": ago(days=1), "created_at": at, "updated_at": at}
        return add(platform, AuthSession, user_id=user, **token, **times)

    expired = {session(at) for at in (CLOSED - INSTANT, COVERED, Y2000 - INSTANT)}
    stay = {session(at) for at in (CLOSED, COVERED - INSTANT)}
    assert sweep(platform, "pern.sessions", by_hand=by_hand).rows == len(expired)
    assert set(rows(platform, AuthSession)) == stay
    # Never computed again; and not after the rollup was off for a while, or got another zone, either.
    assert frozen_to(platform, "pern.sessions_daily") == CLOSED - INSTANT


@pytest.mark.parametrize("way", ["by index", "by pages", "by keys"])
def test_what_cleanup_deletes_freezes_buckets_too(platform: Platform, way: str) -> None:
    one = Sweep(
        name="pern.audit",
        model=AuditLog,
        rule="for a test alone",
        why="for a test alone",
        due=AuditLog.created_at < MOMENT,
        action=Delete(),
        every=DAY,
    )
    rolled_up(platform, "pern.security_daily", watermark=CLOSED)
    stay = log(platform, CLOSED)
    for at in (CLOSED - DAY, CLOSED - INSTANT, CLOSED - 2 * DAY):
        log(platform, at)
    log(platform, Y2000)
    platform.sql("UPDATE pern.audit_logs SET created_at = '-infinity' WHERE created_at < '2001-01-01'")
    with transaction() as connection:
        rolled = rollup_guard.ask(connection, [one], platform.settings, NOW)
    batches = Batches(one, NOW, None, closed=rolled)
    if way == "by index":
        taken = batches.by_index(10)
    elif way == "by pages":
        taken = batches.on_pages(0, 10)
    else:
        taken = batches.take(batches.look(10)[0])
    assert (taken.rows, taken.event_rows) == (4, [])
    assert set(rows(platform, AuditLog)) == {stay}
    assert frozen_to(platform, "pern.security_daily") == CLOSED - INSTANT


def test_nothing_that_figures_need_goes_where_nobody_looks() -> None:
    """Rows that go along with those of a sweep, or by a foreign key, are none that a rollup counts."""
    fed = {feed.table for rollup in ROLLUPS.values() for feed in rollup.source_tables}
    for one in POLICIES.values():
        if isinstance(one, Retention):
            continue
        along = {table_of(each.model) for each in one.related if isinstance(each.action, Delete)}
        cascades = {
            other
            for other in one.table.metadata.tables.values()
            for key in other.foreign_keys
            if key.column.table is one.table and isinstance(one.action, Delete)
        }
        assert not (along | cascades) & fed, one.name


# -- what is frozen stays as it is ----------------------------------------------------------------------


def room(platform: Platform) -> UUID:
    """Return a room that has closed long ago."""
    values = {"code": f"{next(_codes):06}", "password_hash": "x", "active": False}
    return add(platform, AudioRoom, **values, created_at=ago(days=200), updated_at=ago(days=40))


def stay(platform: Platform, place: UUID, joined: datetime, hours: float) -> UUID:
    left = joined + timedelta(hours=hours)
    values = {"client_id": uuid4().hex, "role": "listener", "joined_at": joined, "left_at": left}
    return add(platform, RoomParticipant, room_id=place, **values)


def rolling(now: datetime = NOW) -> RollupRun:
    return RollupRun(ROLLUPS[ROOM_ANALYTICS], now, "UTC")


def statistics(platform: Platform) -> dict[Any, dict[str, Any]]:
    return {(row["room_id"], row["date"]): row for row in rows(platform, RoomAnalytics).values()}


def recompute(platform: Platform, places: Iterable[UUID], start: datetime, end: datetime) -> int:
    """Compute all that the engine lets one compute; return how many days it refused."""
    refused = 0
    run = rolling(NOW + DAY)
    for bucket in run._buckets(start, end):
        try:
            Backfill(run.rollup, run.now, run.zone).compute(bucket)
        except FrozenError:
            refused += 1
    run.compute_keys(dict.fromkeys(places, start))
    for later in range(3):
        rolling(NOW + 2 * DAY * later).go()
    return refused


@pytest.fixture
def listened(platform: Platform) -> list[UUID]:
    """Rooms in which people were between 50 and 40 days ago; the statistics say so."""
    places = [room(platform) for _ in range(3)]
    for number, place in enumerate(places):
        for day in range(40, 51, 2):
            stay(platform, place, ago(days=day), hours=1)
            stay(platform, place, ago(days=day), hours=30 if number else 2)
    rolling().go()
    platform.sql("UPDATE roomkeeper.rollups SET frozen_to = NULL")
    days(platform, **{STAYS: 44})
    return places


def test_figures_outlive_their_rows(platform: Platform, listened: list[UUID]) -> None:
    before = statistics(platform)
    assert len(before) > 20
    done = retain(platform, STAYS)
    assert done.rows == 18
    assert statistics(platform) == before
    # The latest that went, of a day that others are of still.
    frozen = frozen_to(platform, ROOM_ANALYTICS)
    assert frozen is not None
    assert ago(days=45) < frozen < ago(days=44)
    refused = recompute(platform, listened, ago(days=50), NOW)
    assert refused == (frozen.date() - ago(days=50).date()).days + 1
    assert statistics(platform) == before
    # What came back does not thaw them.
    for (number,) in platform.sql("SELECT number FROM roomkeeper.receipts"):
        restore(number, platform.settings, operator="ada", reason="a test")
    stay(platform, listened[0], ago(days=48), hours=1)
    recompute(platform, listened, ago(days=50), NOW)
    assert statistics(platform) == before
    # Without that they would have become less: the test would see it.
    platform.sql("DELETE FROM audiorooms.room_participants")
    platform.sql("UPDATE roomkeeper.rollups SET frozen_to = NULL")
    recompute(platform, listened, ago(days=50), NOW)
    assert statistics(platform) != before


@pytest.mark.parametrize(
    "step",
    [
        "tasks.analytics.rollup_guard.freeze:before:1",
        "tasks.analytics.rollup_guard.freeze:after:1",
        "tasks.retention.receipts.append:after:1",
    ],
)
def test_a_run_that_is_killed_freezes_nothing(platform: Platform, listened: list[UUID], step: str) -> None:
    stays, before = rows(platform, RoomParticipant), statistics(platform)
    kill_at(step, STAYS, platform.environment)
    assert rows(platform, RoomParticipant) == stays
    assert frozen_to(platform, ROOM_ANALYTICS) is None
    assert recompute(platform, listened, ago(days=50), NOW) == 0
    assert statistics(platform) == before


def test_a_rollup_that_computes_for_long_is_not_waited_for_for_ever(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half done then; a rollup that is frozen far enough already is not waited for."""
    monkeypatch.setattr(rollup_guard, "_PATIENCE", text("SELECT set_config('lock_timeout', '50', true)"))
    days(platform, **{MESSAGES: 30})
    rolled_up(platform, "pern.daily", watermark=CLOSED)
    kept = message(platform, conversation(platform), NOW - CLOSED + 10 * DAY)
    attachment(platform, kept)
    before = platform.objects()
    computing = text("SELECT FROM roomkeeper.rollups WHERE name = 'pern.daily' FOR UPDATE")
    with platform.engine.begin() as connection:
        connection.execute(computing)
        done = retain(platform, MESSAGES)
    assert (done.rows, done.remaining) == (0, 1)
    assert "lock timeout" in str(done.error)
    assert kept in rows(platform, Message)
    assert platform.objects() == before
    assert frozen_to(platform, "pern.daily") is None
    assert platform.sql("SELECT FROM roomkeeper.receipts") == []
    rolled_up(platform, "pern.daily", frozen_to=CLOSED - 10 * DAY)
    with platform.engine.begin() as connection:
        connection.execute(computing)
        assert retain(platform, MESSAGES).rows == 1


def test_figures_never_become_less_whoever_computes_meanwhile(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, listened: list[UUID]
) -> None:
    before = statistics(platform)
    monkeypatch.setattr("tasks.retention.task.PACE", replace(PACE, keys=1, most_keys=2))
    over = threading.Event()
    computed: list[int] = []
    errors: list[BaseException] = []

    def compute() -> None:
        try:
            while not over.is_set():
                run = rolling(NOW + DAY)
                for bucket in run._buckets(ago(days=50), ago(days=38)):
                    with suppress(FrozenError):
                        Backfill(run.rollup, run.now, run.zone).compute(bucket)
                        computed.append(1)
                    # A process has few connections: the other one is to get its turn.
                    over.wait(0.001)
                run.compute_keys(dict.fromkeys(listened, ago(days=50)))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        eventually(lambda: computed or errors)
        first = retain(platform, STAYS)
        again = retain(platform, STAYS)
    finally:
        over.set()
        thread.join()
    assert not errors, errors
    assert first.rows + again.rows == 18
    assert statistics(platform) == before
    assert frozen_to(platform, ROOM_ANALYTICS) is not None
