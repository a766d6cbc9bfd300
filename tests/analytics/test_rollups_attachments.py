"""The statistics of attachments."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, update

from models.platform import AttachmentJob
from tasks.apps.platform import OWN_ROLLUPS
from tests.analytics import oracle_attachments as oracle
from tests.analytics.figuring import (
    LEAPS,
    Database,
    Place,
    Rows,
    agree,
    computed,
    flat,
    midnight,
    needed,
    rolled_back,
)
from tests.analytics.oracle_attachments import job
from tests.examples import examples
from tests.platform import Platform

(DAILY,) = OWN_ROLLUPS
DAY = LEAPS["UTC"]
NEXT = DAY + timedelta(days=1)
START = midnight(DAY)
NOON = START + timedelta(hours=12)
#: The first columns of the key.
HERE = (DAY, "openchat")


def found(platform: Database, zone: str = "UTC") -> dict[Place, Any]:
    """Compute all days that a test may touch; return all statistics."""
    day = LEAPS[zone]
    return computed(platform, DAILY, day - timedelta(days=2), day + timedelta(days=3), zone)


def test_the_figures_are_the_oracles(platform: Platform) -> None:
    @examples(16)
    @given(chance=st.randoms(use_true_random=True), zone=st.sampled_from(list(LEAPS)))
    def check(chance: random.Random, zone: str) -> None:
        rows = oracle.history(chance, zone)
        with rolled_back(platform) as connection:
            rows.write(connection)
            agree(found(connection, zone), flat(oracle.daily(rows, zone)))

    check()


def test_each_application_and_verdict_has_a_row(platform: Platform) -> None:
    rows = Rows()
    wanted: dict[Place, int] = {}
    for app in oracle.APPS:
        for count, verdict in enumerate(oracle.VERDICTS, start=len(wanted) + 1):
            for _ in range(count):
                job(rows, NOON, NOON, app=app, verdict=verdict, size_bytes=1000)
            wanted[DAY, app, verdict or "none"] = count
    rows.write(platform)
    metrics = found(platform)
    for name, times in (("attachments", 1), ("finished", 1), ("size_bytes", 1000)):
        assert {key[:3]: value for key, value in metrics.items() if key[3] == name} == {
            key: times * count for key, count in wanted.items()
        }


def test_processing_is_of_those_that_are_finished(platform: Platform) -> None:
    for count in (1, 2, 3, 20, 21, 22, 41):
        with rolled_back(platform) as connection:
            rows, chance = Rows(), random.Random(count)
            took = [timedelta(microseconds=chance.randrange(60_000_000)) for _ in range(count)]
            for length in took:
                job(rows, NOON, NOON + length)
            # Neither one that is processed again, nor one that has failed.
            for state in ("waiting", "failed"):
                job(rows, NOON, NOON + timedelta(hours=9), state=state)
            job(rows, NOON)
            rows.write(connection)
            metrics = found(connection)
            agree(metrics, flat(oracle.daily(rows, "UTC")))
            ordered = sorted(length.total_seconds() for length in took)
            middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
            assert metrics[(*HERE, "none", "processing_median_seconds")] == pytest.approx(middle)
            assert metrics[(*HERE, "none", "attachments")] == count + 3
            assert metrics[(*HERE, "none", "finished")] == count


def test_nothing_is_finished_before_it_was_taken_up(platform: Platform) -> None:
    rows = Rows()
    for length in (-3600, 0, 10):
        job(rows, NOON, NOON + timedelta(seconds=length))
    rows.write(platform)
    metrics = found(platform)
    assert metrics[(*HERE, "none", "processing_median_seconds")] == 0
    assert metrics[(*HERE, "none", "processing_p95_seconds")] == pytest.approx(9)


def test_a_size_that_is_not_known_counts_nothing(platform: Platform) -> None:
    rows = Rows()
    job(rows, NOON, verdict="clean")
    for size in (None, 0, 10**12):
        job(rows, NOON, verdict="infected", size_bytes=size)
    rows.write(platform)
    metrics = found(platform)
    assert metrics[(*HERE, "clean", "size_bytes")] == 0
    assert metrics[(*HERE, "infected", "size_bytes")] == 10**12


def test_a_verdict_that_changes_moves_its_file(platform: Platform) -> None:
    rows = Rows()
    first, _ = (job(rows, NOON, NOON, verdict="clean", size_bytes=5) for _ in range(2))
    rows.write(platform)
    assert found(platform)[(*HERE, "clean", "attachments")] == 2

    def after(statement: Any) -> dict[Place, Any]:
        with platform.engine.begin() as connection:
            connection.execute(statement)
        return {key[2:]: value for key, value in found(platform).items()}

    first_job = update(AttachmentJob).where(AttachmentJob.attachment_id == first)
    metrics = after(first_job.values(state="waiting", outcome=None, verdict=None))
    assert (metrics["clean", "attachments"], metrics["none", "finished"]) == (1, 0)
    later = NOON + timedelta(days=3)
    metrics = after(
        first_job.values(state="finished", outcome="quarantined", verdict="infected", finished_at=later)
    )
    assert metrics["infected", "processing_median_seconds"] == 3 * 86_400
    assert "none" not in {verdict for verdict, _ in metrics}
    metrics = after(delete(AttachmentJob).where(AttachmentJob.attachment_id == first))
    assert {verdict for verdict, _ in metrics} == {"clean"}
    assert after(delete(AttachmentJob)) == {}


def test_it_needs_what_it_names() -> None:
    columns = {"app", "state", "verdict", "size_bytes", "created_at", "finished_at"}
    assert needed(DAILY) == {
        "roomkeeper.attachment_jobs": (columns, {"SELECT"}),
        "roomkeeper.attachment_facts": ({"app", "verdict", "size_bytes", "seconds", "at"}, {"SELECT"}),
    }


def test_an_index_finds_the_jobs_of_a_day(platform: Platform) -> None:
    # So few rows are read faster as a whole.
    platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, created_at)"
        " SELECT 'pern', gen_random_uuid(), 'waiting', timestamptz '2026-01-01Z' + n * interval '1 hour'"
        " FROM generate_series(1, 5000) AS n"
    )
    platform.sql("ANALYZE roomkeeper.attachment_jobs")
    bucket = {"bucket_from": START, "bucket_to": midnight(NEXT), "bucket": DAY, "now": NOON}
    statement = DAILY.select
    with platform.engine.begin() as connection:
        compiled = statement.compile(connection)
        explained = connection.exec_driver_sql(
            f"EXPLAIN {compiled}", {name: bucket.get(name, value) for name, value in compiled.params.items()}
        )
        assert "attachment_jobs_created_at" in "\n".join(row[0] for row in explained)
