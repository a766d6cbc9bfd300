"""`roomkeeper rollup` says how far statistics have come, computes days anew, and proves them right."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, select, text, update
from syrupy.assertion import SnapshotAssertion

from commands import rollup as command
from models.analytics import PernSecurityDaily, RollupState
from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from models.base import Base
from models.echoroom import ChatMessage, ChatSession, User
from models.pern import AuditLog
from models.platform import SCHEMA
from tasks.analytics import backfill as backfilling
from tasks.analytics import engine
from tasks.analytics import task as analytics
from tasks.analytics.backfill import Backfill, BackfillProgress
from tasks.analytics.calendar import day_of
from tasks.analytics.engine import RollupProgress, replace_bucket
from tasks.analytics.state import OtherZoneError, State, state_of
from tasks.apps import ROLLUPS
from tasks.policies.columns import table_of
from tests.commands.cli import Outcome, on, refused, relative, stable
from tests.platform import Platform, environment, eventually
from tests.sweeps.sweeping import add
from workers import state_metrics

EVENTS = ROLLUPS["pern.security_daily"]
ROOMS = ROLLUPS["audiorooms.room_analytics"]
SESSIONS = ROLLUPS["pern.sessions_daily"]
HOURLY = ROLLUPS["echoroom.hourly"]
NAME = EVENTS.name


#: Commands go by the database's clock.
pytestmark = pytest.mark.usefixtures("same_day")


def day(back: int) -> date:
    """Return the day so many days ago."""
    return datetime.now(UTC).date() - timedelta(days=back)


def at(back: int, hour: int = 12) -> datetime:
    """Return a moment of the day so many days ago."""
    return datetime.combine(day(back), time(hour), UTC)


def log(platform: Platform, *backs: int, severity: str = "info") -> None:
    """Write an entry of the audit log on each of these days."""
    what = {"action": "x", "resource_type": "user", "ip_address": "10.0.0.1", "user_agent": "x"}
    for back in backs:
        add(platform, AuditLog, severity=severity, created_at=at(back), **what)


def ran(platform: Platform, name: str = NAME, **settings: Any) -> RollupProgress:
    """Run a rollup now."""
    done = analytics.run(ROLLUPS[name], platform.settings, by_hand=True, **settings)
    assert done is not None
    return done


def events(platform: Platform) -> dict[int, int]:
    """Return the whole table: how many days ago, and how many entries."""
    with platform.engine.begin() as connection:
        rows = connection.execute(select(PernSecurityDaily.day, PernSecurityDaily.events)).all()
    return {(day(0) - row[0]).days: row[1] for row in rows}


def state(platform: Platform, name: str = NAME) -> State:
    with platform.engine.begin() as connection:
        found = state_of(connection, ROLLUPS[name])
    assert found is not None
    return found


def put(platform: Platform, name: str = NAME, **values: Any) -> None:
    """Change a rollup's state."""
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).where(RollupState.name == name).values(**values))


def all_of(closed: int, text: str) -> str:
    """Return what was said of so many days of so many."""
    return re.sub(rf"\b{closed}( \w+ ){closed}\b", r"<closed>\1<closed>", text)


def spoil(platform: Platform, back: int, number: int = 99) -> None:
    """Write a figure that is wrong."""
    with platform.engine.begin() as connection:
        condition = PernSecurityDaily.day == day(back)
        connection.execute(update(PernSecurityDaily).where(condition).values(events=number))


def backfill(platform: Platform, first: int, last: int, *options: str, name: str = NAME) -> Outcome:
    return on(
        platform, "rollup", "backfill", name, "--from", f"{day(first)}", "--to", f"{day(last)}", *options
    )


def audit(platform: Platform, *options: str, name: str = NAME) -> Outcome:
    return on(platform, "rollup", "audit", name, *options)


def normalised(outcome: Outcome) -> str:
    """Return what was printed, days by their distance from today."""
    assert outcome.err == ""
    return relative(stable(outcome))


# -- list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 129, 130, 250])
def test_every_rollup_is_listed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, columns: int, snapshot: SnapshotAssertion
) -> None:
    log(platform, 3)
    ran(platform)
    monkeypatch.setenv("COLUMNS", str(columns))
    outcome = on(platform, "rollup", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= columns
    if columns != 130:
        for name in ROLLUPS:
            assert name in outcome.out
    if columns == 80:
        (line,) = re.findall(rf"{NAME} .*?├", outcome.out, re.DOTALL)
        # Yesterday is open until its rows have settled.
        closed = state(platform).watermark.date() - timedelta(days=1)
        words = " ".join(re.sub("[│─├]", " ", line).split())
        for number in (f"{day(35)}", f"{closed}", f"{day(34)}"):
            assert number in words
        assert relative(words.replace(f" {closed};", " <closed>;")) == snapshot


def test_how_far_each_has_come(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    log(platform, 60)
    ran(platform)
    put(platform, frozen_to=at(50), recompute_at=at(20), watermark=at(4, 0))
    ran(platform, SESSIONS.name)
    outcome = on(platform, "rollup", "list", "pern")
    lines = {
        cells[0]: cells[1:]
        for line in outcome.out.splitlines()
        if line.startswith("│")
        for cells in [[cell.strip() for cell in line[1:-1].split("│")]]
    }
    assert set(lines) == {name for name in ROLLUPS if name.startswith("pern.")}
    late = lines[NAME].pop(3)
    assert re.fullmatch(r"[23] days|\d\d hours", late)
    assert lines[NAME] == ["UTC", f"{day(60)}", f"{day(5)}", f"{day(50)} 12:00:00", f"{day(20)}"]
    assert lines[SESSIONS.name] == ["UTC", f"{day(0)}", "–", "–", "–", "never"]
    assert lines["pern.daily"] == ["UTC", "–", "–", "–", "–", "–"]


def test_an_application_that_there_is_not(platform: Platform, snapshot: SnapshotAssertion) -> None:
    assert refused(on(platform, "rollup", "list", "audioroom"), "'audiorooms'?") == snapshot


# -- backfill --------------------------------------------------------------------------------------------


def test_days_are_computed_anew(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 3, 4, 5)
    ran(platform)
    for back in (3, 4, 5):
        spoil(platform, back)
    outcome = backfill(platform, 5, 4)
    assert outcome.code == 0
    assert normalised(outcome) == snapshot(name="computed")
    assert events(platform) == {3: 99, 4: 1, 5: 1}
    # Once more, nothing is to be done.
    assert normalised(backfill(platform, 5, 4)) == snapshot(name="again")


def test_hours_are_given_as_days(platform: Platform, snapshot: SnapshotAssertion) -> None:
    room = add(platform, ChatSession, category="Calm")
    author = add(platform, User, username="Ada")
    for hour in (0, 23):
        here = {"session_id": room, "user_id": author, "created_at": at(2, hour)}
        add(platform, ChatMessage, sender_name="Ada", content="x", **here)
    ran(platform, HOURLY.name)
    count = "SELECT count(*) FROM roomkeeper.echoroom_hourly"
    ((there,),) = platform.sql(count)
    platform.sql("DELETE FROM roomkeeper.echoroom_hourly")
    outcome = backfill(platform, 2, 2, name=HOURLY.name)
    assert f" {there} rows " in outcome.out
    assert normalised(outcome).replace(f" {there} rows ", " <there> rows ") == snapshot
    assert platform.sql(count) == [(there,)]
    assert there >= 2


def test_today_is_computed_up_to_now(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 1)
    ran(platform)
    # Before two o'clock yesterday is not closed yet.
    put(platform, watermark=at(0, 0))
    platform.sql("UPDATE pern.audit_logs SET created_at = now()")
    outcome = backfill(platform, 1, -7)
    assert outcome.code == 0
    assert f"{day(0)} " in outcome.out
    assert normalised(outcome) == snapshot
    assert events(platform) == {0: 1}


def test_days_to_come_are_refused(platform: Platform, snapshot: SnapshotAssertion) -> None:
    ran(platform)
    sentence = relative(refused(backfill(platform, -1, -2), f"--from {day(-1)} ", f" {day(0)} "))
    assert re.sub(r"\d\d:\d\d:\d\d UTC", "<time> UTC", sentence) == snapshot


def test_what_is_frozen_stays(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, *range(3, 9))
    ran(platform)
    for back in range(3, 9):
        spoil(platform, back)
    put(platform, frozen_to=at(5))
    outcome = backfill(platform, 8, 4)
    assert outcome.code == 0
    assert f" {day(5)} 12:00:00 UTC" in outcome.out
    assert normalised(outcome) == snapshot
    assert events(platform) == {3: 99, 4: 1} | dict.fromkeys(range(5, 9), 99)


def test_what_cleanup_takes_is_never_computed_again(platform: Platform, snapshot: SnapshotAssertion) -> None:
    ran(platform, SESSIONS.name)
    put(platform, SESSIONS.name, covered_from=at(9, 0))
    outcome = backfill(platform, 3, 3, name=SESSIONS.name)
    assert outcome.out.startswith(f"{SESSIONS.name}: 0 ")
    assert normalised(outcome) == snapshot


def test_what_was_not_covered_is(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 3)
    ran(platform)
    assert state(platform).covered_from == at(35, 0)
    # What retention took since is no reason: it leaves what was never counted.
    put(platform, frozen_to=at(30))
    log(platform, 36, 40, 41)
    outcome = backfill(platform, 41, 38)
    assert f"--to {day(36)}\n" in outcome.out
    assert normalised(outcome) == snapshot(name="with a gap")
    assert state(platform).covered_from == at(35, 0)
    assert normalised(backfill(platform, 41, 36)) == snapshot(name="without")
    assert state(platform).covered_from == at(41, 0)
    assert events(platform) == {3: 1, 36: 1, 40: 1, 41: 1}


@pytest.mark.parametrize("jobs", ["1", "2", "4"])
def test_several_days_at_once_give_the_same(platform: Platform, jobs: str) -> None:
    log(platform, 3)
    ran(platform)
    backs = [36, 38, 38, 39, 41, 41, 41, 44]
    log(platform, *backs)
    outcome = backfill(platform, 45, 2, "--jobs", jobs)
    assert outcome.code == 0
    assert re.findall(r"\d+", normalised(outcome)) == ["44", "5"]
    assert events(platform) == {3: 1} | {back: backs.count(back) for back in backs}
    assert state(platform).covered_from == at(45, 0)


def test_how_far_it_is_is_told(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    ran(platform)
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    outcome = backfill(platform, 4, 2)
    assert outcome.code == 0
    assert re.sub(r"\d+\.\d a second", "<number> a second", outcome.err) == snapshot


def test_it_is_broken_off_between_two_days(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    log(platform, 3)
    ran(platform)
    log(platform, *range(36, 46))
    real = Backfill.compute_all

    def impatient(run: Backfill, *arguments: Any) -> Any:
        watch = run.watch

        def stop(done: BackfillProgress) -> None:
            watch(done)
            if done.buckets >= 3:
                raise KeyboardInterrupt

        run.watch = stop
        return real(run, *arguments)

    monkeypatch.setattr(Backfill, "compute_all", impatient)
    outcome = backfill(platform, 45, 36)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == snapshot
    assert events(platform) == {3: 1, 36: 1, 37: 1, 38: 1}
    # What is done is done: the rest is what is left.
    assert state(platform).covered_from == at(38, 0)


def test_another_zone_is_not_mixed_in(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    log(platform, 3)
    ran(platform)
    platform.set(rollup_zones=f"{NAME}=Europe/Berlin")
    before = platform.everything()
    for arguments in (("backfill", NAME, "--from", f"{day(3)}", "--to", f"{day(3)}"), ("audit", NAME)):
        assert refused(on(platform, "rollup", *arguments), "UTC", "Europe/Berlin") == snapshot(name="both")
    assert platform.everything() == before
    assert on(platform, "rollup", "zone", NAME, "Europe/Berlin").code == 0
    assert backfill(platform, 3, 3).code == 0
    # Nor by one that has begun before.
    with pytest.raises(OtherZoneError, match="Europe/Berlin"):
        Backfill(EVENTS, datetime.now(UTC), "UTC").compute(day_of(day(3), "UTC"))


@pytest.mark.parametrize(
    "words",
    [("backfill", NAME, "--from", "2026-01-01", "--to", "2026-01-02"), ("audit", NAME)],
    ids=["backfill", "audit"],
)
def test_one_that_has_never_run(
    platform: Platform, words: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    assert refused(on(platform, "rollup", *words), f"roomkeeper run {NAME}") == snapshot


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-02-30", "2026-03-01"),
        ("2026-03-01", "today"),
        ("2026-03-02", "2026-03-01"),
        ("1999-12-31", "2026-03-01"),
        ("2026-03-01", "9999-12-31"),
    ],
)
def test_days_that_are_none(platform: Platform, first: str, last: str, snapshot: SnapshotAssertion) -> None:
    ran(platform)
    backfilled = on(platform, "rollup", "backfill", NAME, "--from", first, "--to", last)
    assert refused(backfilled) == snapshot(name="both")
    assert refused(audit(platform, "--from", first, "--to", last)) == snapshot(name="both")


def test_a_rollup_that_there_is_not(platform: Platform, snapshot: SnapshotAssertion) -> None:
    assert refused(audit(platform, name="pern.security"), f"'{NAME}'?") == snapshot(name="name")
    platform.set(apps="connect")
    assert refused(audit(platform), "ROOMKEEPER_APPS") == snapshot(name="application")


# -- beside others ---------------------------------------------------------------------------------------


@contextmanager
def sharing(platform: Platform) -> Iterator[None]:
    """Be a backfill that is computing some other day."""
    with platform.engine.begin() as connection:
        state_of(connection, EVENTS, share=True)
        yield


@contextmanager
def inside(platform: Platform) -> Iterator[None]:
    """Have the settings of the platform in this process."""
    names = ("DATABASE_URL", "ROOMKEEPER_")
    with environment({k: v for k, v in platform.environment.items() if k.startswith(names)}):
        yield


def waiting(platform: Platform) -> int:
    """Return how many transactions wait for a lock."""
    ((count,),) = platform.sql(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(count)


def test_two_days_are_computed_at_once(platform: Platform) -> None:
    log(platform, 3)
    ran(platform)
    spoil(platform, 3)
    run = Backfill(EVENTS, datetime.now(UTC), "UTC")
    with inside(platform), sharing(platform):
        assert run._compute(day_of(day(3), "UTC"))
    assert events(platform) == {3: 1}


def test_one_day_is_computed_by_one_at_a_time(platform: Platform) -> None:
    log(platform, 3)
    ran(platform)
    run = Backfill(EVENTS, datetime.now(UTC), "UTC")
    with inside(platform):
        thread = threading.Thread(target=run._compute, args=(day_of(day(3), "UTC"),))
        with platform.engine.begin() as other:
            other.execute(backfilling._ALONE, {"key": f"roomkeeper:{NAME}:{day(3)}"})
            thread.start()
            eventually(lambda: waiting(platform) == 1)
            # Other days go on, also those of the same name in other rollups.
            assert run._compute(day_of(day(4), "UTC"))
            log(platform, 3)
        thread.join(30)
    # It has seen what was committed while it waited.
    assert events(platform) == {3: 2}


def test_whoever_freezes_waits_for_the_day_and_is_then_heeded(platform: Platform) -> None:
    log(platform, 3)
    ran(platform)
    with platform.engine.begin() as retention:
        condition = RollupState.name == NAME
        retention.execute(update(RollupState).where(condition).values(frozen_to=at(3)))
        retention.execute(delete(AuditLog))
        with inside(platform):
            run = Backfill(EVENTS, datetime.now(UTC), "UTC")
            found: list[bool] = []
            thread = threading.Thread(target=lambda: found.append(run._compute(day_of(day(3), "UTC"))))
            thread.start()
            eventually(lambda: waiting(platform) == 1)
            retention.commit()
            thread.join(30)
    assert found == [False]
    assert events(platform) == {3: 1}


def test_who_waits_has_his_turn_between_two_rounds(platform: Platform) -> None:
    """A shared lock passes by those who wait: without a turn of theirs a tick would wait for the end."""
    log(platform, 3)
    ran(platform)
    events: list[str] = []
    with inside(platform):

        def tick() -> None:
            with platform.engine.begin() as connection:
                state_of(connection, EVENTS, lock=True)
                events.append("tick")

        thread = threading.Thread(target=tick)
        # Both threads of the first round pass by here, maybe at once: one of them starts it.
        starts = iter([thread.start])

        def watch(done: BackfillProgress) -> None:
            events.append(f"day {done.buckets}")

        real = replace_bucket

        def slow(*arguments: Any) -> int:
            for start in starts:
                start()
                eventually(lambda: waiting(platform) == 1)
            return real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backfilling, "replace_bucket", slow)
            run = Backfill(EVENTS, datetime.now(UTC), "UTC", watch=watch)
            run.compute_all([day_of(day(back), "UTC") for back in range(2, 12)], 2)
        thread.join(30)
    assert events.index("tick") <= 2
    assert events[-1] == "day 10"


def test_it_goes_on_beside_a_run(platform: Platform) -> None:
    log(platform, 3)
    ran(platform)
    with platform.engine.begin() as connection:
        key = {"key": f"roomkeeper:{NAME}"}
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        assert backfill(platform, 3, 3).code == 0


# -- audit -----------------------------------------------------------------------------------------------


def test_what_is_right_is_said_to_be(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 3, 4)
    ran(platform)
    before = platform.everything()
    outcome = audit(platform, "--all")
    assert outcome.code == 0
    closed = (state(platform).watermark - at(35, 0)).days
    assert all_of(closed, normalised(outcome)) == snapshot
    assert platform.everything() == before


def test_drift_is_told_row_by_row(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 3, 40)
    log(platform, 4, severity="critical")
    ran(platform)
    spoil(platform, 40, 7)
    platform.sql("DELETE FROM roomkeeper.pern_security_daily WHERE severity = 'critical'")
    platform.sql("DELETE FROM pern.audit_logs WHERE created_at = :at", at=at(3))
    before = platform.everything()
    outcome = audit(platform, "--all")
    assert outcome.code == 1
    assert (outcome.out.count("✗"), outcome.out.count(": events 7 → 1\n")) == (3, 1)
    closed = (state(platform).watermark - at(40, 0)).days
    assert f"roomkeeper rollup backfill {NAME} --from {day(40)} --to {day(3)}\n" in outcome.out
    assert all_of(closed, normalised(outcome)) == snapshot
    assert platform.everything() == before
    # And it does.
    assert backfill(platform, 40, 3).code == 0
    assert audit(platform, "--all").code == 0


def test_old_drift_does_not_mend_itself(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 40)
    ran(platform)
    spoil(platform, 40)
    outcome = audit(platform, "--from", f"{day(41)}", "--to", f"{day(39)}", "--all")
    assert outcome.code == 1
    assert normalised(outcome) == snapshot


def test_a_row_of_zeros_says_as_much_as_none(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        room = uuid4()
        connection.execute(insert(AudioRoom).values(id=room, code="ROOM01", password_hash="x"))
        stay = {"room_id": room, "client_id": "a", "joined_at": at(3), "left_at": at(3, 13)}
        connection.execute(insert(RoomParticipant).values(id=uuid4(), **stay))
    ran(platform, ROOMS.name)
    with platform.engine.begin() as connection:
        zero = {"peak_listeners": 0, "total_listen_minutes": 0, "total_listeners": 0}
        connection.execute(insert(RoomAnalytics).values(id=uuid4(), room_id=room, date=day(5), **zero))
        connection.execute(update(RoomAnalytics).where(RoomAnalytics.date == day(3)).values(peak_listeners=2))
    outcome = audit(platform, "--all", name=ROOMS.name)
    assert outcome.code == 1
    assert outcome.out.splitlines()[0] == f"✗ {day(3)} room_id={room}: peak_listeners 2 → 1"
    assert outcome.out.count("✗") == 1


def test_many_rows_are_not_all_shown(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr(command, "SHOWN", 1)
    for severity in ("info", "warning", "critical"):
        log(platform, 3, severity=severity)
    ran(platform)
    spoil(platform, 3)
    first, *others = normalised(audit(platform, "--from", f"{day(3)}", "--to", f"{day(3)}")).splitlines()
    assert first.startswith("✗ <today - 3> severity=")
    assert others == snapshot


def test_a_sample_is_chosen_at_random_and_again_by_its_seed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(platform)
    asked: list[date] = []
    real = engine.differences

    def differences(connection: Any, rollup: Any, bucket: Any, now: Any) -> Any:
        asked.append(bucket.label)
        return real(connection, rollup, bucket, now)

    monkeypatch.setattr(command, "differences", differences)
    outcome = audit(platform)
    (seed,) = re.findall(r"\(--seed (\d+)\)", outcome.out)
    first, asked[:] = list(asked), []
    assert len(set(first)) == 5
    audit(platform, "--seed", seed)
    assert (asked, first) == (first, sorted(first))
    chosen = set()
    for number in range(10):
        asked[:] = []
        audit(platform, "--seed", str(number), "--sample", "2")
        chosen.add(tuple(asked))
    assert len(chosen) > 5
    assert all(len(one) == 2 for one in chosen)


def test_frozen_days_are_counted_and_left_alone(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, 3, 5)
    ran(platform)
    spoil(platform, 5)
    put(platform, frozen_to=at(5))
    outcome = audit(platform, "--all", "--from", f"{day(7)}", "--to", f"{day(3)}")
    assert outcome.code == 0
    assert normalised(outcome) == snapshot


def test_what_is_frozen_meanwhile_has_not_drifted(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """Retention takes the rows of a day while the audit is at it."""
    log(platform, 3)
    ran(platform)
    real = state_of

    def retention(connection: Any, rollup: Any) -> Any:
        found = real(connection, rollup)
        put(platform, frozen_to=at(3))
        platform.sql("DELETE FROM pern.audit_logs")
        return found

    monkeypatch.setattr(command, "state_of", retention)
    only = ("--from", f"{day(3)}", "--to", f"{day(3)}")
    outcome = audit(platform, *only)
    assert (outcome.code, "✗" in outcome.out) == (0, False)
    assert normalised(outcome) == snapshot(name="meanwhile")
    monkeypatch.undo()
    outcome = audit(platform, *only)
    assert (outcome.code, "✗" in outcome.out) == (0, False)
    assert normalised(outcome) == snapshot(name="before")


def test_open_days_are_not_audited(platform: Platform) -> None:
    log(platform, 1)
    ran(platform)
    put(platform, watermark=at(3, 0))
    spoil(platform, 1)
    closed = (at(3, 0) - at(35, 0)).days
    outcome = audit(platform, "--all")
    assert outcome.code == 0
    assert re.findall(r"\d+", outcome.out)[:2] == [str(closed)] * 2


# -- the rest --------------------------------------------------------------------------------------------


def test_a_database_that_will_not_do_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP TABLE pern.audit_logs")
    outcome = audit(platform)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, _),) = outcome.faults
    assert "pern.audit_logs" in sentence


# -- the documentation -----------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "analytics.md").read_text()


def documented() -> dict[str, list[str]]:
    """Return the columns that are explained, by rollup."""
    sections = re.split(r"^### `([a-z_.]+)`$", DOCUMENT, flags=re.MULTILINE)[1:]
    return {
        name: [
            column
            for line in re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
            if line.startswith("| `")
            for column in re.findall(r"`(\w+)`", line.split("|")[1])
        ]
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def test_every_column_is_explained() -> None:
    tables = {
        name: [column.name for column in rollup.table.c if column.name != "computed_at"]
        if rollup.table.schema == SCHEMA
        else [rollup.key[0].key, rollup.bucket.key, *rollup.metrics]
        for name, rollup in ROLLUPS.items()
    }
    assert {name: sorted(columns) for name, columns in documented().items()} == {
        name: sorted(columns) for name, columns in tables.items()
    }
    assert "`computed_at`" in DOCUMENT
    with_statistics = {table for table in Base.metadata.tables.values() if "computed_at" in table.c}
    assert with_statistics == {rollup.table for rollup in ROLLUPS.values()} - {table_of(RoomAnalytics)}


def test_every_table_and_metric_is_named() -> None:
    for rollup in ROLLUPS.values():
        assert f"In `{rollup.table.fullname}`, per " in DOCUMENT
    for metric in re.findall(r'"(roomkeeper_rollup_\w+)"', Path(state_metrics.__file__).read_text()):
        assert f"`{metric}{{rollup}}`" in DOCUMENT
