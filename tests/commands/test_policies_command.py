"""`roomkeeper policies` shows what there is and how it gets on; `roomkeeper run` runs one by hand."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from syrupy.assertion import SnapshotAssertion

from commands import policies as command
from models.echoroom import ChatSession, TypingIndicator, User
from models.pern import AuditLog
from tasks.analytics import task as analytics
from tasks.analytics.engine import RollupProgress
from tasks.apps import APPS, POLICIES, ROLLUPS
from tasks.apps.platform import OWN
from tasks.policies.columns import table_of
from tasks.policies.sweep import Sweep
from tasks.sweeps import task as cleanup
from tests.commands.cli import Outcome, on, refused, stable, timeless
from tests.platform import Platform
from tests.sweeps.sweeping import add, rows
from workers.settings import load

TYPING = POLICIES["echoroom.typing"]
PAST = datetime(2026, 1, 1, tzinfo=UTC)

#: Days are counted back from today.
pytestmark = pytest.mark.usefixtures("same_day")


def typing(platform: Platform, expires_at: datetime = PAST) -> UUID:
    """Insert a user who types until then."""
    room = add(platform, ChatSession, category="Calm")
    here = {"session_id": room, "user_id": add(platform, User, username="Ada")}
    return add(platform, TypingIndicator, username="Ada", expires_at=expires_at, **here)


def words(outcome: Outcome) -> str:
    """Return what was printed, as one line without the tables' frames."""
    return " ".join(re.sub("[│─-╿]", " ", outcome.out).split())


def wide(platform: Platform, *arguments: str, columns: int = 200) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        return on(platform, *arguments)


def line(outcome: Outcome, policy: str) -> list[str]:
    """Return a policy's cells, of a wide table."""
    lines = [
        [cell.strip() for cell in line[1:-1].split("│")]
        for line in outcome.out.splitlines()
        if line.startswith("│")
    ]
    (first,) = [number for number, cells in enumerate(lines) if cells[0] == policy]
    last = next((n for n in range(first + 1, len(lines)) if lines[n][0]), len(lines))
    return [" ".join(filter(None, cells)) for cells in zip(*lines[first:last], strict=True)]


@contextmanager
def under_way(platform: Platform, name: str = TYPING.name) -> Iterator[None]:
    """Hold what a run of the policy holds."""
    with platform.engine.begin() as connection:
        key = {"key": f"roomkeeper:{name}"}
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        yield


# -- policies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 149, 150, 250])
def test_every_policy_is_shown_with_its_rule_and_period(platform: Platform, columns: int) -> None:
    outcome = wide(platform, "policies", columns=columns)
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= columns
    assert "{" not in outcome.out
    for name in (*POLICIES, *ROLLUPS):
        assert name in outcome.out
    if columns == 80:
        shown = words(outcome)
        for policy in POLICIES.values():
            assert f"{policy.name} ({policy.table.fullname})" in shown
        # One of each kind of period.
        assert " 30 minutes " in shown
        assert " 365 days " in shown
        for rollup in ROLLUPS.values():
            assert f"{rollup.name} ({rollup.table.fullname}) {rollup.rule}" in shown


@pytest.mark.parametrize("columns", [80, 200])
def test_one_application_is_shown(platform: Platform, columns: int, snapshot: SnapshotAssertion) -> None:
    outcome = wide(platform, "policies", "echoroom", columns=columns)
    for name in POLICIES:
        assert (name in outcome.out) is name.startswith("echoroom.")
    assert outcome.out == snapshot(name="application")
    assert "roomkeeper.runs" in wide(platform, "policies", "roomkeeper").out
    wrong = on(platform, "policies", "echorom")
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err == snapshot(name="wrong name")


def test_last_run_and_due_rows_are_shown(platform: Platform) -> None:
    typing(platform)
    typing(platform)
    shown = line(wide(platform, "policies", "echoroom"), TYPING.name)
    assert shown[1:2] + shown[3:] == ["echoroom.typing_indicators", "every 5 s", "never", "2"]
    done = cleanup.run(TYPING, platform.settings)
    assert done is not None and done.rows == 2
    typing(platform)
    shown = line(wide(platform, "policies", "echoroom"), TYPING.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, 2 rows, done", shown[4])
    assert shown[5] == "1"
    with under_way(platform):
        assert line(wide(platform, "policies", "echoroom"), TYPING.name)[4].endswith("; running now")


def test_what_is_wrong_is_shown(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome, remaining, error)"
        " VALUES ('echoroom.typing', '2026-01-01Z', '2026-01-01Z', 0, 'failed', 7, :error)",
        error="Refused: [red]no\nnever",
    )
    shown = line(wide(platform, "policies", "echoroom", columns=300), TYPING.name)
    assert "Refused: [red]no;" in shown[4]
    assert shown[4] == snapshot


def test_settings_are_shown(platform: Platform) -> None:
    platform.set(
        sweep_every="echoroom.counts=90,echoroom.voice=7200",
        sweep_after="echoroom.ghosts=86400",
        sweep_off="echoroom.typing",
    )
    typing(platform)
    outcome = wide(platform, "policies", "echoroom")
    assert line(outcome, "echoroom.counts")[3] == "every 90 s"
    assert line(outcome, "echoroom.voice")[3] == "every 2 h"
    # What is off is never overdue, and what is due is seen all the same.
    assert line(outcome, TYPING.name)[3:] == ["off", "never", "1"]
    ghosts = POLICIES["echoroom.ghosts"]
    assert line(outcome, ghosts.name)[2].startswith(ghosts.rule.replace("{after}", "1 day"))


def test_applications_that_are_not_enabled_are_shown_as_off(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.sql("DROP SCHEMA echoroom CASCADE")
    platform.set(apps="openchat")
    outcome = wide(platform, "policies")
    assert (outcome.code, outcome.err) == (0, "")
    assert line(outcome, TYPING.name)[3:] == ["off", "never", "–"]
    assert [one.strip() for one in outcome.out.splitlines() if "ROOMKEEPER_APPS" in one] == snapshot
    assert line(outcome, "roomkeeper.runs")[3] == "every 1 h"
    # One that should be there.
    platform.set(apps="echoroom")
    assert line(wide(platform, "policies", "echoroom"), TYPING.name)[5] == "?"


def test_counting_ends_at_a_limit(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "COUNTED", 2)
    for shown in ("1", "2", "2+", "2+"):
        typing(platform)
        assert line(wide(platform, "policies", "echoroom"), TYPING.name)[5] == shown


def slow(platform: Platform) -> None:
    """Make it take five seconds to read who types, as of a huge table."""
    platform.sql("ALTER TABLE echoroom.typing_indicators RENAME TO those")
    platform.sql("CREATE VIEW echoroom.typing_indicators AS SELECT those.* FROM echoroom.those, pg_sleep(5)")


def test_counting_does_not_take_long(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(platform)
    monkeypatch.setattr(command, "COUNT_MS", 300)
    outcome = wide(platform, "policies", "echoroom")
    assert (outcome.code, outcome.err) == (0, "")
    assert line(outcome, TYPING.name)[5] == "?"
    assert line(outcome, "echoroom.voice")[5] == "0"


def test_a_dry_run_that_takes_too_long_is_a_sentence(platform: Platform, snapshot: SnapshotAssertion) -> None:
    # It may take as long as any statement, and no longer.
    slow(platform)
    platform.set(statement_timeout_ms=2500)
    outcome = on(platform, "run", TYPING.name, "--dry-run")
    assert refused(outcome, "ROOMKEEPER_STATEMENT_TIMEOUT_MS", " 2,500 ms") == snapshot


def test_a_table_that_is_being_altered_is_not_waited_for(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.set(lock_timeout_ms=300)
    with platform.engine.begin() as blocker:
        blocker.exec_driver_sql("LOCK TABLE echoroom.typing_indicators")
        outcome = wide(platform, "policies", "echoroom")
        dry = on(platform, "run", TYPING.name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert line(outcome, TYPING.name)[5] == "?"
    assert (dry.code, dry.out) == (1, "")
    assert len(dry.faults) == 1
    assert dry.err == snapshot


@pytest.mark.parametrize("arguments", [("policies",), ("run", "echoroom.typing")])
def test_a_database_that_will_not_do_is_a_sentence(platform: Platform, arguments: tuple[str, ...]) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    outcome = on(platform, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    ((_, advice),) = outcome.faults
    assert "roomkeeper db upgrade" in advice
    platform.environment["DATABASE_URL"] = "postgresql://ada:geheim@127.0.0.1:1/chat"
    outcome = on(platform, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    ((_, advice),) = outcome.faults
    assert "DATABASE_URL" in advice
    assert "geheim" not in outcome.err


def test_every_rule_says_its_period_or_how_to_set_it() -> None:
    settings = load({"DATABASE_URL": "postgresql://h/d"})
    for policy in POLICIES.values():
        rule = command.rule(policy, settings)
        assert "{" not in rule
        assert rule.endswith(f" ROOMKEEPER_RETENTION_DAYS={policy.name}=DAYS") is policy.off_until_set


def test_retention_is_off_until_its_period_is_set(platform: Platform, snapshot: SnapshotAssertion) -> None:
    shown = line(wide(platform, "policies", "pern"), "pern.messages")
    assert shown[2].endswith(" ROOMKEEPER_RETENTION_DAYS=pern.messages=DAYS")
    assert shown[2] == snapshot(name="off")
    assert shown[3:] == ["off", "never", "–"]
    platform.set(retention_days="pern.messages=30")
    shown = line(wide(platform, "policies", "pern"), "pern.messages")
    assert " 30 days " in shown[2]
    assert shown[2] == snapshot(name="set")
    assert shown[3:] == ["every 1 h", "never", "0"]
    # Its rows say it themselves.
    assert line(wide(platform, "policies", "pern"), "pern.messages_by_conversation")[3] == "every 1 h"
    audit = line(wide(platform, "policies", "pern"), "pern.audit_info")
    assert "pern.audit_info=DAYS" in audit[2]


def test_a_run_that_was_stopped_is_shown(platform: Platform) -> None:
    platform.set(retention_days="pern.messages=30")
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome, error)"
        " VALUES ('pern.messages', now(), now(), 0, 'stopped', 'far too many')"
    )
    shown = line(wide(platform, "policies", "pern"), "pern.messages")
    assert shown[4].endswith(", 0 rows, stopped: far too many")


# -- rollups ---------------------------------------------------------------------------------------------

EVENTS = ROLLUPS["pern.security_daily"]


def log(platform: Platform, *moments: datetime) -> None:
    what = {"action": "x", "resource_type": "user", "ip_address": "10.0.0.1", "user_agent": "x"}
    for moment in moments:
        add(platform, AuditLog, created_at=moment, **what)


def behind(platform: Platform, watermark: datetime) -> None:
    """Have a rollup run, and then be no further than that."""
    assert analytics.run(EVENTS, platform.settings) is not None
    platform.sql(
        "UPDATE roomkeeper.rollups SET watermark = :at WHERE name = :name", at=watermark, name=EVENTS.name
    )


def midnight(back: int) -> datetime:
    """Return the beginning of the day so many days ago."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=back)


def test_a_rollup_is_shown_with_its_application(platform: Platform) -> None:
    outcome = wide(platform, "policies", "pern", columns=250)
    assert line(outcome, EVENTS.name) == [
        EVENTS.name,
        "roomkeeper.pern_security_daily",
        EVENTS.rule,
        "every 15 min",
        "never",
        "–",
    ]
    log(platform, midnight(3))
    behind(platform, midnight(0))
    shown = line(wide(platform, "policies", "pern", columns=250), EVENTS.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, 1 row, done", shown[4])
    assert shown[5] == f"{midnight(1):%Y-%m-%d}"
    platform.set(sweep_off=EVENTS.name, rollup_zones=f"{EVENTS.name}=Asia/Tokyo", sweep_every="pern.daily=60")
    outcome = wide(platform, "policies", "pern", columns=250)
    rule, runs = line(outcome, EVENTS.name)[2:4]
    assert (rule.startswith(EVENTS.rule), "Asia/Tokyo" in rule, runs) == (True, True, "off")
    assert line(outcome, "pern.daily")[3] == "every 1 min"


def test_the_last_hour_is_told(platform: Platform) -> None:
    hourly = ROLLUPS["echoroom.hourly"]
    assert analytics.run(hourly, platform.settings, by_hand=True) is not None
    ((watermark,),) = platform.sql("SELECT watermark FROM roomkeeper.rollups")
    shown = line(wide(platform, "policies", "echoroom", columns=250), hourly.name)
    assert shown[5] == f"{watermark - timedelta(hours=1):%Y-%m-%d %H:%M}"


def test_a_rollup_that_is_late_is_red(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for days_ago, red in ((0, False), (9, True)):
        behind(platform, midnight(days_ago))
        out = wide(platform, "policies", "pern", columns=250).out
        (shown,) = [found for found in out.splitlines() if EVENTS.name in found]
        assert ("\x1b[31m" in shown) is red
        assert ("days late" in shown) is red


# -- run -------------------------------------------------------------------------------------------------


def test_a_policy_is_run_by_hand(platform: Platform, snapshot: SnapshotAssertion) -> None:
    for _ in range(3):
        typing(platform)
    stays = typing(platform, datetime.now(UTC) + timedelta(hours=1))
    # What beat leaves alone an operator may run.
    platform.set(sweep_off=TYPING.name)
    outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.err) == (0, "")
    assert stable(outcome) == snapshot(name="three rows")
    assert set(rows(platform, TypingIndicator)) == {stays}
    ((slot, recorded_outcome, number),) = platform.sql("SELECT slot, outcome, rows FROM roomkeeper.job_runs")
    assert (slot, recorded_outcome, number) == (None, "done", 3)
    assert stable(on(platform, "run", TYPING.name)) == snapshot(name="none")


def test_it_goes_on_to_the_end(platform: Platform) -> None:
    room = add(platform, ChatSession, category="Calm")
    platform.sql(
        "WITH people AS (INSERT INTO echoroom.users (username)"
        " SELECT 'Ada' FROM generate_series(1, 1200) RETURNING id)"
        " INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)"
        " SELECT :room, id, 'Ada', '2026-01-01Z' FROM people",
        room=room,
    )
    # A run of beat's would be over after the first batch.
    platform.set(sweep_seconds=0.000001)
    outcome = on(platform, "run", TYPING.name)
    assert outcome.out.startswith("echoroom.typing: 1,200 rows ")
    assert rows(platform, TypingIndicator) == {}


def test_rows_that_are_updated_are_changed(platform: Platform, snapshot: SnapshotAssertion) -> None:
    room = add(platform, ChatSession, category="Calm", current_participants=7)
    assert stable(on(platform, "run", "echoroom.counts")) == snapshot
    assert rows(platform, ChatSession)[room]["current_participants"] == 0


def test_a_dry_run_counts_and_changes_nothing(platform: Platform, snapshot: SnapshotAssertion) -> None:
    ids = {str(typing(platform)) for _ in range(7)}
    before = platform.everything()
    outcome = on(platform, "run", TYPING.name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    first, *samples, _ = outcome.out.splitlines()
    assert first.startswith("echoroom.typing: 7 rows ")
    assert len(samples) == 5 and {sample.strip() for sample in samples} <= ids
    assert timeless(stable(outcome)) == snapshot
    assert platform.everything() == before
    assert before["roomkeeper.job_runs"] == []


def test_a_dry_run_of_nothing(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "run", TYPING.name, "--dry-run", "--now", "2026-03-01T11:30:00+01:00")
    assert " 0 rows " in outcome.out
    assert " 2026-03-01 10:30:00 UTC" in outcome.out
    assert outcome.out == snapshot


def test_it_goes_by_the_time_that_is_given(platform: Platform) -> None:
    old = typing(platform, datetime(2026, 3, 1, 9, 59, 59, tzinfo=UTC))
    young = typing(platform, datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC))
    outcome = on(platform, "run", TYPING.name, "--now", "2026-03-01T10:00:00Z")
    assert outcome.out.startswith("echoroom.typing: 1 row ")
    assert set(rows(platform, TypingIndicator)) == {young} != {old}


def test_a_time_to_come_is_for_dry_runs_only(platform: Platform, snapshot: SnapshotAssertion) -> None:
    typing(platform, datetime.now(UTC) + timedelta(hours=1))
    soon = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    before = platform.everything()
    outcome = on(platform, "run", TYPING.name, "--now", soon)
    assert "--dry-run" in refused(outcome)
    assert timeless(stable(outcome, soon=soon)) == snapshot
    assert platform.everything() == before
    dry = on(platform, "run", TYPING.name, "--now", soon, "--dry-run")
    assert dry.out.startswith("echoroom.typing: 1 row ")


@pytest.mark.parametrize(
    "given", ["2026-03-01T10:00:00", "2026-03-01", "yesterday", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_that_is_none_is_a_sentence(
    platform: Platform, given: str, snapshot: SnapshotAssertion
) -> None:
    for dry in ((), ("--dry-run",)):
        outcome = on(platform, "run", TYPING.name, "--now", given, *dry)
        assert refused(outcome, "--now ", given) == snapshot(name="either")


def test_a_policy_that_there_is_not(platform: Platform, snapshot: SnapshotAssertion) -> None:
    assert refused(on(platform, "run", "echoroom.typng"), "'echoroom.typing'?") == snapshot


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry"])
def test_a_policy_of_an_application_that_is_not_enabled(
    platform: Platform, dry: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    platform.set(apps="pern,connect")
    assert refused(on(platform, "run", TYPING.name, *dry), "ROOMKEEPER_APPS") == snapshot
    # The platform's own always is.
    assert on(platform, "run", "roomkeeper.runs", *dry).code == 0


def test_a_table_that_is_missing_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP TABLE echoroom.typing_indicators")
    # Those of others are none of its business.
    platform.sql("DROP SCHEMA openchat CASCADE")
    outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, _),) = outcome.faults
    assert "echoroom.typing_indicators" in sentence


def test_two_runs_at_once_are_one_too_many(platform: Platform, snapshot: SnapshotAssertion) -> None:
    key = typing(platform)
    with under_way(platform):
        outcome = on(platform, "run", TYPING.name)
    assert refused(outcome, TYPING.name) == snapshot
    assert set(rows(platform, TypingIndicator)) == {key}


def test_what_is_left_is_said_with_the_reason(platform: Platform, snapshot: SnapshotAssertion) -> None:
    key = typing(platform)
    with platform.engine.begin() as blocker:
        table = table_of(TypingIndicator)
        blocker.execute(select(table).where(table.c.id == key).with_for_update())
        held = on(platform, "run", TYPING.name)
    assert held.code == 0
    assert stable(held) == snapshot(name="held")
    platform.sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''not today''; END' LANGUAGE plpgsql"
    )
    platform.sql(
        "CREATE TRIGGER refuse BEFORE DELETE ON echoroom.typing_indicators"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    last = on(platform, "run", TYPING.name).out.splitlines()[-1]
    assert "RaiseException: raised by PL/pgSQL function refuse() line 1 at RAISE" in last
    assert "not today" not in last
    assert last == snapshot(name="refused")


def test_long_work_is_told_in_lines_where_nobody_looks(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    add(platform, ChatSession, category="Calm", current_participants=7)
    outcome = on(platform, "run", "echoroom.counts")
    assert outcome.err == snapshot
    assert outcome.out.startswith("echoroom.counts: 1 row ")


def test_at_a_terminal_a_bar_comes_and_goes(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    typing(platform)
    outcome = on(platform, "run", TYPING.name)
    assert "echoroom.typing: 1 row" in outcome.err
    # What it drew is taken away, and what it did is in the output.
    assert "\x1b[2K" in outcome.err
    assert "echoroom.typing: 1 row " in outcome.out


def test_one_that_is_broken_off_says_what_is_done(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    real: Any = cleanup.run

    def impatient(*arguments: Any, watch: Any, **options: Any) -> Any:
        def stop(done: Any) -> None:
            watch(done)
            raise KeyboardInterrupt

        return real(*arguments, watch=stop, **options)

    typing(platform)
    monkeypatch.setattr(cleanup, "run", impatient)
    outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == snapshot
    assert rows(platform, TypingIndicator) == {}


def test_a_rollup_is_run_by_hand(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    log(platform, midnight(40), midnight(3), datetime.now(UTC))
    behind(platform, midnight(3))
    platform.sql("UPDATE roomkeeper.pern_security_daily SET events = 7")
    # Today as well.
    platform.sql("UPDATE roomkeeper.rollups SET probe = NULL")
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    outcome = on(platform, "run", EVENTS.name)
    assert outcome.code == 0
    ((watermark,),) = platform.sql("SELECT watermark FROM roomkeeper.rollups")
    closed = (watermark - midnight(3)).days
    assert closed in {2, 3}
    counts = dict.fromkeys(
        tuple(map(int, re.findall(r"\d+", progress.removeprefix(EVENTS.name))))
        for progress in outcome.err.splitlines()
    )
    wanted = [(number, closed) for number in range(closed + 1)]
    assert list(counts) in (wanted, wanted[1:])
    last = outcome.err.splitlines()[-1].replace(str(closed), "<closed>")
    assert [last, stable(outcome.out.replace(f" {closed} ", " <closed> ", 1))] == snapshot
    runs = platform.sql("SELECT job, outcome, rows FROM roomkeeper.job_runs ORDER BY id")
    assert runs[-1] == (EVENTS.name, "done", 2)


def test_the_first_run_of_a_rollup_by_hand(platform: Platform) -> None:
    log(platform, midnight(40))
    outcome = on(platform, "run", EVENTS.name)
    assert re.match(r"pern\.security_daily: (39|40) .* 1 row ", outcome.out)


def test_a_dry_run_of_a_rollup_says_what_is_to_be_closed(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    assert on(platform, "run", EVENTS.name, "--dry-run").out == snapshot(name="never run")
    behind(platform, datetime(2026, 3, 1, tzinfo=UTC))
    before = platform.everything()

    def dry(now: str) -> Outcome:
        outcome = on(platform, "run", EVENTS.name, "--dry-run", "--now", now)
        assert (outcome.code, outcome.err) == (0, "")
        return outcome

    for now, count in (
        ("2026-03-02T01:59:59Z", 0),
        ("2026-03-02T02:00:00Z", 1),
        ("2026-03-11T02:00:00Z", 10),
    ):
        outcome = dry(now)
        assert outcome.out.startswith(f"{EVENTS.name}: {count} day")
        assert outcome.out == snapshot(name=now)
    assert platform.everything() == before
    platform.sql("UPDATE roomkeeper.rollups SET definition = 0")
    ((covered,),) = platform.sql("SELECT covered_from FROM roomkeeper.rollups")
    outcome = dry("2026-03-11T02:00:00Z")
    assert f" {covered:%Y-%m-%d} " in outcome.out
    assert stable(outcome, covered=f"{covered:%Y-%m-%d}") == snapshot(name="another definition")


def test_a_run_with_another_zone_than_counts_computes_nothing(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    behind(platform, datetime(2026, 3, 1, tzinfo=UTC))
    platform.set(rollup_zones=f"{EVENTS.name}=Asia/Tokyo")
    before = platform.everything()
    for options in ((), ("--dry-run",)):
        outcome = on(platform, "run", EVENTS.name, *options)
        assert refused(outcome, "UTC", f"roomkeeper rollup zone {EVENTS.name} Asia/Tokyo") == snapshot(
            name="both"
        )
    assert platform.everything() == before


def test_a_rollup_goes_by_the_clock(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "run", EVENTS.name, "--now", "2026-03-11T02:00:00Z")
    assert refused(outcome, EVENTS.name) == snapshot
    assert platform.sql("SELECT * FROM roomkeeper.rollups") == []


def test_two_runs_of_a_rollup_at_once_are_one_too_many(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    with under_way(platform, EVENTS.name):
        outcome = on(platform, "run", EVENTS.name)
    assert refused(outcome, EVENTS.name) == snapshot


def test_a_rollup_that_is_broken_off(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    behind(platform, midnight(9))

    def impatient(*_: Any, watch: Any, **__: Any) -> None:
        watch(RollupProgress(closed=2))
        raise KeyboardInterrupt

    monkeypatch.setattr(analytics, "run", impatient)
    outcome = on(platform, "run", EVENTS.name)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == snapshot


def test_every_page_has_its_policies_shown(platform: Platform) -> None:
    outcome = wide(platform, "policies")
    for app in APPS.values():
        assert (f"{app.name}: {app.about}" in outcome.out) is bool(app.policies)


@pytest.mark.parametrize("policy", OWN, ids=lambda policy: policy.name)
def test_each_of_our_own_policies_can_be_asked(platform: Platform, policy: Sweep) -> None:
    """Whatever the key of its table is called."""
    platform.set(retention_days=f"{policy.name}=400" if policy.off_until_set else "")
    outcome = on(platform, "run", policy.name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{policy.name}: 0 rows ")
