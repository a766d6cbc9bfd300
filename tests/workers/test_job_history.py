"""The job history: a row a run, one run of a job at a time; and what it tells of the jobs' health."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.platform import Platform
from workers import health, job_history
from workers.db import transaction
from workers.health import Health

JOB = "echoroom.typing"
EVERY = timedelta(minutes=10)
SECOND = timedelta(seconds=1)


def ran(platform: Platform, outcome: str = "done", *, ago: timedelta, job: str = JOB, **columns: Any) -> None:
    """Write a run that ended so long ago, a second after it began."""
    values = {"rows": 0, "remaining": 0, "error": None} | columns
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome, error, remaining)"
        " VALUES (:job, now() - :ago - interval '1 s', now() - :ago, :rows, :outcome, :error, :remaining)",
        job=job,
        ago=ago,
        outcome=outcome,
        **values,
    )


def asked(**periods: timedelta) -> health.JobHistory:
    with transaction() as connection:
        return health.ask(connection, periods or {JOB: EVERY})


def judged(job: str = JOB) -> Health:
    return asked().jobs[job]


def sentences() -> list[str]:
    return [fault.sentence for fault in health.faults(asked(), str)]


# -- the rows --------------------------------------------------------------------------------------------


def test_a_run_says_what_it_did(platform: Platform) -> None:
    slot = datetime(2026, 3, 1, tzinfo=UTC)
    with job_history.run(JOB, slot=slot) as run:
        assert run is not None
        run.rows, run.batches, run.remaining, run.error, run.outcome = 5, 2, 1, "held", "more"
    (row,) = platform.sql("SELECT * FROM roomkeeper.job_runs")
    assert (row.job, row.slot, row.rows, row.batches, row.remaining) == (JOB, slot, 5, 2, 1)
    assert (row.outcome, row.error) == ("more", "held")
    assert row.started_at < row.finished_at


def test_a_run_that_fails_keeps_what_it_did_before(platform: Platform) -> None:
    with pytest.raises(ZeroDivisionError), job_history.run(JOB) as run:
        assert run is not None
        run.rows, run.remaining = 5, 1
        raise ZeroDivisionError("by nothing")
    (row,) = platform.sql("SELECT * FROM roomkeeper.job_runs")
    assert (row.outcome, row.rows, row.remaining) == ("failed", 5, 1)
    assert row.error == "ZeroDivisionError: by nothing"


def test_a_second_run_at_the_same_time_is_skipped(platform: Platform) -> None:
    with (
        job_history.run(JOB) as first,
        job_history.run(JOB) as second,
        job_history.run("echoroom.voice") as other,
    ):
        assert first is not None
        assert second is None
        assert other is not None
    found = platform.sql("SELECT job, outcome FROM roomkeeper.job_runs ORDER BY job, outcome")
    assert [tuple(row) for row in found] == [
        (JOB, "done"),
        (JOB, "skipped"),
        ("echoroom.voice", "done"),
    ]


# -- health ----------------------------------------------------------------------------------------------


def test_an_empty_ledger_is_no_fault(platform: Platform) -> None:
    found = asked()
    assert found == health.JobHistory(True, {JOB: Health(None, None, False, False)})
    assert health.faults(found, str) == []


@pytest.mark.parametrize("outcome", ["done", "more"])
def test_a_job_is_overdue_after_three_of_its_periods(platform: Platform, outcome: str) -> None:
    ran(platform, outcome, ago=3 * EVERY + SECOND)
    assert judged().overdue
    assert sentences()[0].endswith(", for more than three of its periods.")
    ran(platform, outcome, ago=3 * EVERY - 5 * SECOND)
    assert not judged().overdue
    assert sentences() == []


def test_runs_that_fail_or_are_skipped_do_not_count(platform: Platform) -> None:
    ran(platform, ago=3 * EVERY + SECOND)
    ran(platform, "skipped", ago=SECOND)
    assert judged().overdue
    ran(platform, "failed", ago=2 * SECOND, error="OperationalError: gone.\nHINT: secret")
    assert judged().overdue
    (sentence,) = sentences()
    assert sentence.startswith(f"{JOB} fails, since ")
    assert sentence.endswith(" UTC: OperationalError: gone.")


def test_one_that_has_only_ever_failed_is_overdue_after_three_periods(platform: Platform) -> None:
    ran(platform, "failed", ago=3 * EVERY - 5 * SECOND, error="E: x")
    assert sentences() == []
    ran(platform, "failed", ago=3 * EVERY + SECOND, error="E: x")
    assert sentences() == [f"{JOB} fails, always: E: x."]


def test_one_that_never_ran_is_given_an_hour_more(platform: Platform) -> None:
    since = 3 * EVERY + timedelta(hours=1)
    ran(platform, ago=since - 5 * SECOND, job="another")
    assert sentences() == []
    ran(platform, ago=since + SECOND, job="another")
    assert sentences() == [f"{JOB} has never run."]


def test_one_that_is_new_with_others_is_given_its_time(platform: Platform) -> None:
    """As after an upgrade: the job history is old, and the policies in it are not."""
    ran(platform, ago=timedelta(days=3), job="another")
    ran(platform, ago=3 * SECOND, job="first")
    periods = {JOB: EVERY, "first": EVERY}
    assert [job for job, one in asked(**periods).jobs.items() if one.overdue] == []
    ran(platform, ago=3 * EVERY + timedelta(hours=1, seconds=1), job="first")
    assert [job for job, one in asked(**periods).jobs.items() if one.overdue] == [JOB]


def test_one_that_runs_is_not_overdue(platform: Platform) -> None:
    ran(platform, ago=10 * EVERY)
    with job_history.run("another"):
        assert judged().overdue
    with job_history.run(JOB):
        assert judged() == Health(judged().last, judged().ended_well_at, running=True, overdue=False)
    # That run has ended well.
    assert not judged().overdue


def test_one_that_was_stopped_waits_for_an_operator(platform: Platform) -> None:
    ran(platform, ago=9 * EVERY)
    assert not judged().stopped
    why = "x.y would take more than 1,000 rows. Look with: roomkeeper retention preview x.y"
    for seconds in (9, 6, 3):
        ran(platform, "stopped", ago=seconds * SECOND, error=why)
    found = judged()
    # It runs, as often as it should, and does what it should.
    assert (found.stopped, found.overdue, found.idle, found.refused, found.stuck_rows) == (
        True,
        False,
        False,
        False,
        0,
    )
    (fault,) = health.faults(asked(), str)
    assert fault.sentence == f"{JOB} has stopped: x.y would take more than 1,000 rows."
    assert f"roomkeeper retention approve {JOB} --reason" in fault.advice
    # One that is skipped says nothing.
    ran(platform, "skipped", ago=2 * SECOND)
    assert judged().stopped
    ran(platform, "more", ago=SECOND)
    assert not judged().stopped
    assert sentences() == []


def test_one_that_was_stopped_and_does_not_run_any_more_is_overdue(platform: Platform) -> None:
    ran(platform, "stopped", ago=3 * EVERY + SECOND, error="too many")
    assert (judged().stopped, judged().overdue) == (True, True)


def test_one_that_changes_nothing_of_what_it_sees_is_stuck(platform: Platform) -> None:
    for seconds in (6, 5):
        ran(platform, ago=seconds * SECOND, remaining=1)
        # Another transaction may hold a row for a moment.
        assert judged().stuck_rows == 0
    ran(platform, ago=3 * SECOND, remaining=1234, error="CheckViolation: no")
    assert judged().stuck_rows == 1234
    sentence = f"{JOB} did nothing in its last 3 runs, though 1,234 rows are due: CheckViolation: no."
    assert sentences() == [sentence]
    # What is skipped because of another run says nothing.
    ran(platform, "skipped", ago=2 * SECOND)
    assert judged().stuck_rows == 1234
    # One that gets on is not stuck, whatever it leaves behind.
    ran(platform, ago=SECOND, rows=1, remaining=1234)
    assert judged().stuck_rows == 0
    assert sentences() == []


def test_a_row_that_is_refused_again_and_again_is_told_whatever_becomes_of_others(platform: Platform) -> None:
    for seconds in (4, 3):
        ran(platform, ago=seconds * SECOND, rows=5, remaining=1, error="CheckViolation: no")
        assert judged().stuck_rows == 0
    ran(platform, ago=2 * SECOND, rows=5, remaining=1, error="CheckViolation: no")
    assert sentences() == [
        f"{JOB} left some undone in its last 3 runs, though a row is due: CheckViolation: no."
    ]


def test_many_that_are_overdue_are_one_sentence(platform: Platform) -> None:
    periods = dict.fromkeys("abcdefg", EVERY)
    for name in "abcd":
        ran(platform, ago=4 * EVERY, job=name)
    for name in "efg":
        ran(platform, "failed", ago=4 * EVERY, job=name, error=f"E: {name}")
    found = [fault.sentence for fault in health.faults(asked(**periods), str)]
    assert found == [
        "3 jobs fail: e, f, g; the first, always: E: e.",
        "4 jobs have not run for three of their periods: a, b, c and 1 more.",
    ]


def test_of_a_long_ledger_little_is_read(platform: Platform) -> None:
    # One is not in it at all: to find that out must not take reading it from its end to its beginning.
    periods = dict.fromkeys(["seldom", *(f"job.{number}" for number in range(10))], EVERY)
    # All of another have failed for hours: there is no end that was well to be found.
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " SELECT 'job.' || n % 10, now() - n * interval '1 s', now() - n * interval '1 s', 0,"
        " CASE WHEN n % 10 = 7 THEN 'failed' ELSE 'done' END FROM generate_series(1, 50000) AS n"
    )
    platform.sql("ANALYZE roomkeeper.job_runs")
    with transaction() as connection:
        found = health.ask(connection, periods)
        read = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'job_runs'"
        rows = connection.execute(text(read)).scalar_one()
    assert [job for job, one in found.jobs.items() if one.overdue] == ["seldom", "job.7"]
    assert health.LOOKED_BACK < rows < health.LOOKED_BACK + 8 * len(periods)
