"""`roomkeeper policies` shows what there is and how it gets on; `roomkeeper run` runs one by hand."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from commands import policies as command
from models.echoroom import ChatSession, TypingIndicator, User
from models.pern import AuditLog
from tasks.analytics import task as analytics
from tasks.analytics.engine import Progress
from tasks.apps import APPS, POLICIES, ROLLUPS
from tasks.apps.platform import OWN
from tasks.policies.columns import table_of
from tasks.policies.sweep import Sweep
from tasks.sweeps import task as cleanup
from tests.commands.cli import Outcome, on
from tests.platform import Platform
from tests.sweeps.sweeping import add, rows
from workers.settings import load

TYPING = POLICIES["echoroom.typing"]
PAST = datetime(2026, 1, 1, tzinfo=UTC)

#: Days are counted back from today.
pytestmark = pytest.mark.usefixtures("same_day")


def typing(platform: Platform, expires_at: datetime = PAST) -> UUID:
    """Insert somebody who types until then."""
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
        assert "participants without any sign of life for 30 minutes leave, with their voice status" in shown
        assert "every 5 s; last run: never; due now: 0" in shown
        assert "calls that began more than 365 days ago and ended" in shown
        for rollup in ROLLUPS.values():
            assert f"{rollup.name} ({rollup.table.fullname}) {rollup.rule}" in shown
        assert "every 5 min; last run: never; closed up to: –" in shown


def test_one_application_is_shown(platform: Platform) -> None:
    outcome = wide(platform, "policies", "echoroom")
    for name in POLICIES:
        assert (name in outcome.out) is name.startswith("echoroom.")
    assert "roomkeeper.runs" in wide(platform, "policies", "roomkeeper").out
    assert on(platform, "policies", "echorom").err == (
        "'echorom' is not an application: echoroom, openchat, connect, pern, audiorooms, roomkeeper. "
        "Did you mean 'echoroom'?\n"
    )


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


def test_what_is_wrong_is_shown(platform: Platform) -> None:
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome, remaining, error)"
        " VALUES ('echoroom.typing', '2026-01-01Z', '2026-01-01Z', 0, 'failed', 7, :error)",
        error="Refused: [red]no\nnever",
    )
    shown = line(wide(platform, "policies", "echoroom", columns=300), TYPING.name)
    assert shown[4] == "2026-01-01 00:00:00, 0 rows, 7 remain, failed: Refused: [red]no; overdue"


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
    assert "without any sign of life for 1 day leave" in words(outcome)


def test_applications_that_are_not_enabled_are_shown_as_off(platform: Platform) -> None:
    platform.sql("DROP SCHEMA echoroom CASCADE")
    platform.set(apps="openchat")
    outcome = wide(platform, "policies")
    assert (outcome.code, outcome.err) == (0, "")
    assert line(outcome, TYPING.name)[3:] == ["off", "never", "–"]
    assert "echoroom: mood-based voice rooms; not in ROOMKEEPER_APPS, so none of these runs" in words(outcome)
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


def test_a_dry_run_that_takes_too_long_is_a_sentence(platform: Platform) -> None:
    # It may take as long as any statement, and no longer.
    slow(platform)
    platform.set(statement_timeout_ms=2500)
    outcome = on(platform, "run", TYPING.name, "--dry-run")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "Counting what is due takes longer than ROOMKEEPER_STATEMENT_TIMEOUT_MS allows, 2,500 ms; give it "
        "more for this command.\n"
    )


def test_a_table_that_is_being_altered_is_not_waited_for(platform: Platform) -> None:
    platform.set(lock_timeout_ms=300)
    with platform.engine.begin() as somebody:
        somebody.exec_driver_sql("LOCK TABLE echoroom.typing_indicators")
        outcome = wide(platform, "policies", "echoroom")
        dry = on(platform, "run", TYPING.name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert line(outcome, TYPING.name)[5] == "?"
    assert (dry.code, dry.out) == (1, "")
    assert dry.faults == [
        (
            "The database refuses: canceling statement due to lock timeout.",
            "Another transaction holds a row or a table that is needed, such as a migration or an open "
            "session of psql: see pg_stat_activity, and try again when it has ended.",
        )
    ]


@pytest.mark.parametrize("arguments", [("policies",), ("run", "echoroom.typing")])
def test_a_database_that_will_not_do_is_a_sentence(platform: Platform, arguments: tuple[str, ...]) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    outcome = on(platform, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, advice),) = outcome.faults
    assert sentence.startswith("The schema roomkeeper is absent")
    assert advice == "Run: roomkeeper db upgrade"
    platform.environment["DATABASE_URL"] = "postgresql://ada:geheim@127.0.0.1:1/chat"
    outcome = on(platform, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, _),) = outcome.faults
    assert sentence.startswith("The database does not answer: ")
    assert "geheim" not in outcome.err


def test_every_rule_says_its_period_or_how_to_set_it() -> None:
    settings = load({"DATABASE_URL": "postgresql://h/d"})
    for policy in POLICIES.values():
        said = command.rule(policy, settings)
        assert "{" not in said
        assert ("a time that is not set" in said) is policy.off_until_set
        assert said.endswith(f"; set ROOMKEEPER_RETENTION_DAYS={policy.name}=DAYS") is policy.off_until_set


def test_retention_is_off_until_its_period_is_set(platform: Platform) -> None:
    shown = line(wide(platform, "policies", "pern"), "pern.messages")
    assert shown[2].startswith("messages older than a time that is not set in conversations without ")
    assert shown[2].endswith("; set ROOMKEEPER_RETENTION_DAYS=pern.messages=DAYS")
    assert shown[3:] == ["off", "never", "–"]
    platform.set(retention_days="pern.messages=30")
    shown = line(wide(platform, "policies", "pern"), "pern.messages")
    assert shown[2].startswith("messages older than 30 days in conversations without ")
    assert shown[3:] == ["every 1 h", "never", "0"]
    # Its rows say it themselves.
    assert line(wide(platform, "policies", "pern"), "pern.messages_by_conversation")[3] == "every 1 h"
    audit = line(wide(platform, "policies", "pern"), "pern.audit_info")
    assert audit[2].endswith("; add pern.audit_info=DAYS to ROOMKEEPER_RETENTION_DAYS")


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
    assert line(outcome, EVENTS.name)[2:4] == [f"{EVENTS.rule} (days of Asia/Tokyo)", "off"]
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


def test_a_policy_is_run_by_hand(platform: Platform) -> None:
    for _ in range(3):
        typing(platform)
    stays = typing(platform, datetime.now(UTC) + timedelta(hours=1))
    # What beat leaves alone an operator may run.
    platform.set(sweep_off=TYPING.name)
    outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"echoroom\.typing: 3 rows deleted in 1 batch, \d+\.\d s\.\n", outcome.out)
    assert set(rows(platform, TypingIndicator)) == {stays}
    ((slot, outcome_told, number),) = platform.sql("SELECT slot, outcome, rows FROM roomkeeper.job_runs")
    assert (slot, outcome_told, number) == (None, "done", 3)
    again = on(platform, "run", TYPING.name)
    assert again.out.startswith("echoroom.typing: 0 rows deleted in 0 batches, ")


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
    assert re.match(r"echoroom\.typing: 1,200 rows deleted in \d+ batches, ", outcome.out)
    assert rows(platform, TypingIndicator) == {}


def test_rows_that_are_updated_are_changed(platform: Platform) -> None:
    room = add(platform, ChatSession, category="Calm", current_participants=7)
    assert on(platform, "run", "echoroom.counts").out.startswith(
        "echoroom.counts: 1 row changed in 1 batch, "
    )
    assert rows(platform, ChatSession)[room]["current_participants"] == 0


def test_a_dry_run_counts_and_changes_nothing(platform: Platform) -> None:
    ids = {str(typing(platform)) for _ in range(7)}
    before = platform.everything()
    outcome = on(platform, "run", TYPING.name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    told, *samples, nothing = outcome.out.splitlines()
    assert re.fullmatch(
        r"echoroom\.typing: 7 rows are due at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, for example:", told
    )
    assert len(samples) == 5 and {sample.strip() for sample in samples} <= ids
    assert nothing == "Nothing was changed."
    assert platform.everything() == before
    assert before["roomkeeper.job_runs"] == []


def test_a_dry_run_of_nothing(platform: Platform) -> None:
    outcome = on(platform, "run", TYPING.name, "--dry-run", "--now", "2026-03-01T11:30:00+01:00")
    assert outcome.out == (
        "echoroom.typing: 0 rows are due at 2026-03-01 10:30:00 UTC.\nNothing was changed.\n"
    )


def test_it_goes_by_the_time_that_is_given(platform: Platform) -> None:
    old = typing(platform, datetime(2026, 3, 1, 9, 59, 59, tzinfo=UTC))
    young = typing(platform, datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC))
    outcome = on(platform, "run", TYPING.name, "--now", "2026-03-01T10:00:00Z")
    assert outcome.out.startswith("echoroom.typing: 1 row deleted in 1 batch, ")
    assert set(rows(platform, TypingIndicator)) == {young} != {old}


def test_a_time_to_come_is_for_dry_runs_only(platform: Platform) -> None:
    typing(platform, datetime.now(UTC) + timedelta(hours=1))
    soon = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    before = platform.everything()
    outcome = on(platform, "run", TYPING.name, "--now", soon)
    assert (outcome.code, outcome.out) == (1, "")
    assert "is still to come: what is alive now would be swept. Say --dry-run as well" in outcome.err
    assert platform.everything() == before
    assert (
        "echoroom.typing: 1 row is due at "
        in on(platform, "run", TYPING.name, "--now", soon, "--dry-run").out
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "2026-03-01T10:00:00",
            "--now 2026-03-01T10:00:00 does not say in which zone: write 2026-03-01T10:00:00Z if it is UTC, "
            "or with its offset, 2026-03-01T10:00:00+01:00.",
        ),
        (
            "2026-03-01",
            "--now 2026-03-01 does not say in which zone: write 2026-03-01T00:00:00Z if it is UTC, or with "
            "its offset, 2026-03-01T00:00:00+01:00.",
        ),
        (
            "yesterday",
            "--now must be a time like 2026-03-01T10:00:00Z or 2026-03-01T11:00:00+01:00 (got 'yesterday').",
        ),
        ("0001-01-01T00:00:00+14:00", "--now 0001-01-01T00:00:00+14:00 is beyond what a date can be."),
    ],
)
def test_a_time_that_is_none_is_a_sentence(platform: Platform, given: str, sentence: str) -> None:
    for dry in ((), ("--dry-run",)):
        outcome = on(platform, "run", TYPING.name, "--now", given, *dry)
        assert (outcome.code, outcome.out, outcome.err) == (1, "", f"{sentence}\n")


def test_a_policy_that_there_is_not(platform: Platform) -> None:
    outcome = on(platform, "run", "echoroom.typng")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "'echoroom.typng' is not a policy or a rollup; `roomkeeper policies` lists them. "
        "Did you mean 'echoroom.typing'?\n"
    )


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_policy_of_an_application_that_is_not_enabled(platform: Platform, dry: tuple[str, ...]) -> None:
    platform.set(apps="pern,connect")
    outcome = on(platform, "run", TYPING.name, *dry)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "echoroom is not enabled: ROOMKEEPER_APPS names pern, connect.\n"
    # The platform's own always is.
    assert on(platform, "run", "roomkeeper.runs", *dry).code == 0


def test_a_table_that_is_missing_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP TABLE echoroom.typing_indicators")
    # Those of others are none of its business.
    platform.sql("DROP SCHEMA openchat CASCADE")
    outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.out) == (1, "")
    assert [sentence for sentence, _ in outcome.faults] == [
        "The table echoroom.typing_indicators does not exist."
    ]


def test_two_runs_at_once_are_one_too_many(platform: Platform) -> None:
    key = typing(platform)
    with under_way(platform):
        outcome = on(platform, "run", TYPING.name)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "Another run of echoroom.typing is under way: nothing was done here; see: roomkeeper policies\n"
    )
    assert set(rows(platform, TypingIndicator)) == {key}


def test_what_is_left_is_said_with_the_reason(platform: Platform) -> None:
    key = typing(platform)
    with platform.engine.begin() as somebody:
        table = table_of(TypingIndicator)
        somebody.execute(select(table).where(table.c.id == key).with_for_update())
        held = on(platform, "run", TYPING.name)
    assert held.code == 0
    assert held.out.splitlines()[1] == "1 row is due still: somebody holds them, or changes them."
    platform.sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''not today''; END' LANGUAGE plpgsql"
    )
    platform.sql(
        "CREATE TRIGGER refuse BEFORE DELETE ON echoroom.typing_indicators"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    refused = on(platform, "run", TYPING.name)
    assert refused.out.splitlines()[-1] == "1 row is due still: the database says RaiseException: not today."


def test_long_work_is_told_in_lines_where_nobody_looks(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.progress.LINE_SECONDS", 0)
    add(platform, ChatSession, category="Calm", current_participants=7)
    outcome = on(platform, "run", "echoroom.counts")
    assert outcome.err == "echoroom.counts: 1 row, page 0 of 1\n"
    assert outcome.out.startswith("echoroom.counts: 1 row changed")


def test_at_a_terminal_a_bar_comes_and_goes(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    typing(platform)
    outcome = on(platform, "run", TYPING.name)
    assert "echoroom.typing: 1 row" in outcome.err
    # What it drew is taken away, and what it did is in the output.
    assert "\x1b[2K" in outcome.err
    assert "1 row deleted in 1 batch" in outcome.out


def test_one_that_is_broken_off_says_what_is_done(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
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
    assert outcome.err == "echoroom.typing: broken off; 1 row deleted.\n"
    assert rows(platform, TypingIndicator) == {}


def test_a_rollup_is_run_by_hand(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
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
    lines = dict.fromkeys(outcome.err.splitlines())
    wanted = [f"{EVENTS.name}: {number} of {closed} days closed" for number in range(closed + 1)]
    assert list(lines) in (wanted, wanted[1:])
    assert re.fullmatch(
        rf"pern\.security_daily: {closed} days closed, 2 rows of figures changed, \d+\.\d s\.\n", outcome.out
    )
    runs = platform.sql("SELECT job, outcome, rows FROM roomkeeper.job_runs ORDER BY id")
    assert runs[-1] == (EVENTS.name, "done", 2)


def test_the_first_run_of_a_rollup_by_hand(platform: Platform) -> None:
    log(platform, midnight(40))
    outcome = on(platform, "run", EVENTS.name)
    assert re.match(r"pern\.security_daily: (39|40) days closed, 1 row of figures changed, ", outcome.out)


def test_a_dry_run_of_a_rollup_says_what_is_to_be_closed(platform: Platform) -> None:
    assert on(platform, "run", EVENTS.name, "--dry-run").out == (
        f"{EVENTS.name} has never run: its first run begins with the day of the earliest row that it "
        "counts.\n"
        "Nothing was changed.\n"
    )
    behind(platform, datetime(2026, 3, 1, tzinfo=UTC))
    before = platform.everything()

    def dry(now: str) -> str:
        outcome = on(platform, "run", EVENTS.name, "--dry-run", "--now", now)
        assert (outcome.code, outcome.err) == (0, "")
        said, nothing = outcome.out.splitlines()
        assert nothing == "Nothing was changed."
        return said.removeprefix(f"{EVENTS.name}: ")

    for now, said in (
        ("2026-03-02T01:59:59Z", "0 days are to be closed at 2026-03-02 01:59:59 UTC."),
        ("2026-03-02T02:00:00Z", "1 day is to be closed at 2026-03-02 02:00:00 UTC: 2026-03-01."),
        (
            "2026-03-11T02:00:00Z",
            "10 days are to be closed at 2026-03-11 02:00:00 UTC: 2026-03-01 to 2026-03-10.",
        ),
    ):
        assert dry(now) == said
    platform.set(rollup_zones=f"{EVENTS.name}=Asia/Tokyo")
    ((covered,),) = platform.sql("SELECT covered_from FROM roomkeeper.rollups")
    assert dry("2026-03-11T02:00:00Z") == (
        f"{EVENTS.name} has counted days of UTC: its next run computes all since {covered:%Y-%m-%d} anew, as "
        "days of Asia/Tokyo."
    )
    assert platform.everything() == before


def test_a_rollup_goes_by_the_clock(platform: Platform) -> None:
    outcome = on(platform, "run", EVENTS.name, "--now", "2026-03-11T02:00:00Z")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"{EVENTS.name} goes by the clock, ")
    assert platform.sql("SELECT * FROM roomkeeper.rollups") == []


def test_two_runs_of_a_rollup_at_once_are_one_too_many(platform: Platform) -> None:
    with under_way(platform, EVENTS.name):
        outcome = on(platform, "run", EVENTS.name)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        f"Another run of {EVENTS.name} is under way: nothing was done here; see: roomkeeper policies\n"
    )


def test_a_rollup_that_is_broken_off(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(platform, midnight(9))

    def impatient(*_: Any, watch: Any, **__: Any) -> None:
        watch(Progress(closed=2))
        raise KeyboardInterrupt

    monkeypatch.setattr(analytics, "run", impatient)
    outcome = on(platform, "run", EVENTS.name)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == f"{EVENTS.name}: broken off; 2 days closed.\n"


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
    assert "0 rows are due" in outcome.out
