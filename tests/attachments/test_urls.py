"""Signed addresses in rows are renewed before they expire, on a real S3 server; others are left alone."""

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog
from botocore.credentials import RefreshableCredentials

from stack.demo.samples import drawing
from tasks.attachments import urls
from tasks.attachments.urls import JOB, renew_urls
from tests.attachments.context import AppContext
from tests.platform import Platform, environment
from tests.servers import SeaweedFSServer
from workers.storage.s3_client import client_for

DAY = 86_400


@pytest.fixture
def context(platform: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> Iterator[AppContext]:
    """openchat, with files in S3 whose addresses hold for three days."""
    platform.use_s3(seaweedfs, bucket)
    platform.set(s3_url_seconds=3 * DAY)
    values = {k: v for k, v in platform.environment.items() if k.startswith(("ROOMKEEPER_", "DATABASE_URL"))}
    with environment(values):
        yield AppContext(platform, "openchat")


def upload(context: AppContext, content: bytes, *declared: str) -> UUID:
    return context.upload(content, *declared, storage_provider="s3")


def urls_of(row: Any) -> tuple[str | None, ...]:
    return row.storage_url, row.thumbnail_url, row.preview_url


def expire(context: AppContext, row_id: UUID, seconds: float) -> None:
    context.platform.sql(
        "UPDATE roomkeeper.attachment_jobs SET url_expires_at = now() + make_interval(secs => :left)"
        " WHERE attachment_id = :id",
        left=seconds,
        id=row_id,
    )


def test_addresses_with_a_third_of_their_time_left_are_renewed(context: AppContext) -> None:
    rows = [upload(context, drawing("PNG"), "a.png", "image/png") for _ in range(2)]
    for row_id in rows:
        assert context.work(row_id) == "accepted"
        left = context.job(row_id).url_expires_at - datetime.now(UTC)
        assert timedelta(days=2.9) < left <= timedelta(days=3)
    due, fine = rows
    # A day is the third.
    expire(context, due, DAY - 60)
    expire(context, fine, DAY + 60)
    before = {row_id: urls_of(context.row(row_id)) for row_id in rows}
    context.platform.sql("UPDATE openchat.attachment SET storage_url = 'old', thumbnail_url = 'old'")
    renew_urls.run()
    assert context.row(fine).storage_url == "old"
    after = urls_of(context.row(due))
    assert all(url and url != "old" for url in after)
    for url, earlier in zip(after, before[due], strict=True):
        assert url and earlier
        # The same objects.
        assert url.partition("?")[0] == earlier.partition("?")[0]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read()
    assert context.job(due).url_expires_at > datetime.now(UTC) + timedelta(days=2.9)
    runs = context.platform.sql("SELECT rows, outcome FROM roomkeeper.job_runs WHERE job = :job", job=JOB)
    assert [tuple(run) for run in runs] == [(1, "done")]


def test_a_renewed_address_of_a_text_with_tags_still_saves_mere_bytes(context: AppContext) -> None:
    row_id = upload(context, b"<html><body>hello</body></html>", "mail.txt", "text/plain")
    assert context.work(row_id) == "accepted"
    expire(context, row_id, DAY - 60)
    context.platform.sql("UPDATE openchat.attachment SET storage_url = 'old'")
    renew_urls.run()
    row = context.row(row_id)
    assert row.mime_type == "text/plain"
    with urllib.request.urlopen(str(row.storage_url), timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")


def test_all_that_are_due_are_renewed_in_batches(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "BATCH", 2)
    rows = [upload(context, bytes([65 + n])) for n in range(5)]
    for row_id in rows:
        context.work(row_id)
        expire(context, row_id, 60)
    monkeypatch.setattr(urls, "BATCHES", 1)
    renew_urls.run()
    renewed = sum(
        context.job(row_id).url_expires_at > datetime.now(UTC) + timedelta(days=2) for row_id in rows
    )
    assert renewed == 2
    monkeypatch.setattr(urls, "BATCHES", 50)
    renew_urls.run()
    assert all(context.job(row_id).url_expires_at > datetime.now(UTC) + timedelta(days=2) for row_id in rows)


def test_what_is_not_served_gets_no_address(context: AppContext) -> None:
    withdrawn, deleted = (upload(context, bytes([65 + n])) for n in range(2))
    for row_id in (withdrawn, deleted):
        context.work(row_id)
        expire(context, row_id, 60)
    sql = context.platform.sql
    sql("UPDATE openchat.attachment SET storage_url = NULL")
    sql("UPDATE openchat.attachment SET is_deleted = true WHERE id = :id", id=deleted)
    sql(
        "UPDATE roomkeeper.attachment_jobs SET state = 'waiting', outcome = NULL WHERE attachment_id = :id",
        id=withdrawn,
    )
    renew_urls.run()
    assert context.row(withdrawn).storage_url is None
    assert context.row(deleted).storage_url is None
    # And a second run does not ask again for what is deleted.
    renew_urls.run()
    runs = sql("SELECT rows FROM roomkeeper.job_runs WHERE job = :job ORDER BY id", job=JOB)
    assert [run.rows for run in runs] == [1, 0]


def failing(context: AppContext, **columns: object) -> UUID:
    """Return a file that is served, and whose row then comes to say something else."""
    row_id = upload(context, str(columns).encode())
    context.work(row_id)
    for column, value in columns.items():
        context.platform.sql(
            f"UPDATE openchat.attachment SET {column} = :value WHERE id = :id", value=value, id=row_id
        )
    return row_id


@pytest.mark.parametrize("columns", [{"storage_provider": "gcs"}, {"storage_key": "../out"}], ids=str)
def test_one_that_cannot_be_signed_stops_nobody(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str]
) -> None:
    # A run for one row: what stays at the front would be all that is ever tried.
    monkeypatch.setattr(urls, "BATCH", 1)
    monkeypatch.setattr(urls, "BATCHES", 1)
    bad, good = failing(context, **columns), upload(context, b"text")
    context.work(good)
    expire(context, bad, 60)
    expire(context, good, 120)
    before = context.row(bad)
    with structlog.testing.capture_logs() as logs:
        renew_urls.run()
    (event,) = [line for line in logs if line["event"] == "urls.postponed"]
    assert (event["app"], event["rows"], event["log_level"]) == ("openchat", 1, "warning")
    assert event["why"]
    renew_urls.run()
    assert context.job(good).url_expires_at > datetime.now(UTC) + timedelta(days=2.9)
    assert context.row(bad) == before
    # It is tried again as soon as no other is due.
    context.platform.sql(
        "UPDATE openchat.attachment SET storage_provider = 's3', storage_key = :key WHERE id = :id",
        key=context.row(good).storage_key,
        id=bad,
    )
    renew_urls.run()
    assert context.job(bad).url_expires_at > datetime.now(UTC) + timedelta(days=2.9)
    runs = context.platform.sql("SELECT rows FROM roomkeeper.job_runs WHERE job = :job ORDER BY id", job=JOB)
    assert [run.rows for run in runs] == [0, 1, 1]


def test_one_among_others_in_its_batch_stops_nobody(context: AppContext) -> None:
    first, bad, last = (
        upload(context, b"one"),
        failing(context, storage_provider="gcs"),
        upload(context, b"two"),
    )
    for seconds, row_id in enumerate((first, bad, last)):
        context.work(row_id)
        expire(context, row_id, 60 + seconds)
    renew_urls.run()
    for row_id in (first, last):
        assert context.job(row_id).url_expires_at > datetime.now(UTC) + timedelta(days=2.9)


def test_where_credentials_end_soon_a_run_renews_each_once(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "BATCH", 2)
    rows = [upload(context, bytes([65 + n])) for n in range(5)]
    for row_id in rows:
        context.work(row_id)
        expire(context, row_id, 60)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=6)
    client: Any = client_for(context.platform.settings)
    monkeypatch.setattr(
        client._request_signer,
        "_credentials",
        RefreshableCredentials("role", "secret", "token", end, lambda: {}, "sts"),
    )
    for _ in range(2):
        # However much is due at once, and is due again as soon as it is done.
        renew_urls.run()
        assert {context.job(row_id).url_expires_at for row_id in rows} == {end}
    runs = context.platform.sql("SELECT rows, outcome FROM roomkeeper.job_runs WHERE job = :job", job=JOB)
    assert [tuple(run) for run in runs] == [(5, "done"), (5, "done")]


def test_addresses_that_do_not_expire_are_left_alone(platform: Platform) -> None:
    context = AppContext(platform, "openchat")
    row_id = context.upload(b"text")
    context.work(row_id)
    before = context.row(row_id)
    renew_urls.run()
    assert context.row(row_id) == before
    assert context.job(row_id).url_expires_at is None
