"""What the application sees: no address before a clean verdict, its own columns only, others' JSON kept."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from models import openchat, pern
from tasks.apps import APPS
from tasks.attachments import app_columns
from tasks.attachments.app_columns import AppView, merged
from tasks.policies.attachment import AttachmentTable
from tests.examples import examples
from tests.platform import Platform, eventually

OWN_METADATA = {"width": 4, "height": 3, "placeholder": "data:…"}
MODELS: dict[str, type[Any]] = {"openchat": openchat.Attachment, "pern": pern.Attachment}
CLEAN = AppView(
    served=True,
    scanned=True,
    verdict="clean",
    details={"engine": "ClamAV"},
    metadata=OWN_METADATA,
    url="/files/a",
    small_url="/files/small",
    large_url="/files/large",
    small_key="derived/small",
)
NOT_SERVED = replace(CLEAN, served=False, verdict="infected", error="malware: X")

Write = Callable[[Connection, AttachmentTable, UUID], object]

WRITES: dict[str, Write] = {
    "working": app_columns.working,
    "waiting": lambda c, t, i: app_columns.waiting(c, t, i, "scanner_unavailable: away"),
    "failed": lambda c, t, i: app_columns.failed(c, t, i, "worker_lost: thrice"),
    "refused": lambda c, t, i: app_columns.finished(c, t, i, NOT_SERVED),
    "served": lambda c, t, i: app_columns.finished(c, t, i, CLEAN),
}
#: What each write says in `openchat`: status, error, scanned, verdict.
EXPECTED = {
    "working": ("processing", None, False, None),
    "waiting": ("pending", "scanner_unavailable: away", False, None),
    "failed": ("failed", "worker_lost: thrice", False, None),
    "refused": ("failed", "malware: X", True, "infected"),
    "served": ("completed", None, True, "clean"),
}


def table(app: str) -> AttachmentTable:
    found = APPS[app].attachments
    assert found is not None
    return found


def do(platform: Platform, app: str, row_id: UUID, write: Write) -> object:
    with platform.engine.begin() as connection:
        return write(connection, table(app), row_id)


def others(platform: Platform, row_id: UUID) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table but the attachment's own."""
    return {
        name: [row for row in rows if not (name.endswith(("attachment", "attachments")) and row[0] == row_id)]
        for name, rows in platform.everything().items()
    }


# -- JSON that others write too -----------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text() | st.sampled_from(sorted(OWN_METADATA)), VALUES, max_size=6)
relaxed = examples(25)
NO_OBJECTS = VALUES.filter(lambda value: not isinstance(value, dict))


def present(own: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be there; what is None is to be removed."""
    return {key: value for key, value in own.items() if value is not None}


@relaxed
@given(existing=OBJECTS, own=OBJECTS)
def test_our_keys_are_set_and_everybody_elses_kept(existing: dict[str, Any], own: dict[str, Any]) -> None:
    after = json.loads(merged(json.dumps(existing), own))
    assert {key: after[key] for key in own if key in after} == present(own)
    assert {key: after[key] for key in after if key not in own} == {
        key: existing[key] for key in existing if key not in own
    }


@relaxed
@given(own=OBJECTS, blank=st.none() | st.text(" \t\r\n"))
def test_nothing_becomes_ours(own: dict[str, Any], blank: str | None) -> None:
    assert json.loads(merged(blank, own)) == present(own)


@relaxed
@given(value=NO_OBJECTS)
def test_json_that_is_no_object_is_kept(value: Any) -> None:
    content = json.dumps(value)
    assert json.loads(merged(content, OWN_METADATA)) == {"unparsed": content} | OWN_METADATA


@relaxed
@given(content=st.text(min_size=1).filter(str.strip))
def test_what_is_no_json_is_kept(content: str) -> None:
    try:
        expected = json.loads(content)
    except ValueError:
        expected = None
    if not isinstance(expected, dict):
        expected = {"unparsed": content}
    assert json.loads(merged(content, OWN_METADATA)) == expected | OWN_METADATA


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{'a': 1}",
        "undefined",
        "[object Object]",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        "\ufeff{}",
    ],
    ids=lambda content: content[:20],
)
def test_hostile_json_is_kept(content: str) -> None:
    assert json.loads(merged(content, OWN_METADATA)) == {"unparsed": content} | OWN_METADATA


@relaxed
@given(before=st.none() | st.text() | VALUES.map(json.dumps), own=OBJECTS)
def test_merging_twice_is_merging_once(before: str | None, own: dict[str, Any]) -> None:
    once = merged(before, own)
    assert merged(once, own) == once


# -- Rows ---------------------------------------------------------------------------------------------------


def test_openchat_sees_each_state_and_no_address_before_a_clean_verdict(platform: Platform) -> None:
    platform.pern_attachment(b"another")
    platform.openchat_attachment(b"another", metadata_="{}", thumbnail_url="/files/t")
    for name, write in WRITES.items():
        row_id = platform.openchat_attachment(
            b"x", thumbnail_url="/files/old-t", preview_url="/files/old-p", metadata_='{"caption": "hi"}'
        )
        before = platform.row(openchat.Attachment, row_id)._asdict()
        elsewhere = others(platform, row_id)
        assert do(platform, "openchat", row_id, write) is (True if name in {"refused", "served"} else None)
        assert others(platform, row_id) == elsewhere, name
        after = platform.row(openchat.Attachment, row_id)._asdict()
        status, error, scanned, verdict = EXPECTED[name]
        wanted = before | {
            "processing_status": status,
            "processing_error": error,
            "is_scanned": scanned,
            "scan_result": verdict,
            "storage_url": "/files/a" if name == "served" else None,
            "thumbnail_url": "/files/small" if name == "served" else None,
            "preview_url": "/files/large" if name == "served" else None,
            "updated_at": after["updated_at"],
        }
        if name in {"refused", "served"}:
            assert json.loads(after["metadata"]) == {"caption": "hi"} | OWN_METADATA
            wanted |= {"metadata": after["metadata"], "scan_details": '{"engine": "ClamAV"}'}
        assert after == wanted, name
        assert after["updated_at"] > before["updated_at"], name


def test_pern_sees_a_picture_of_what_is_served_and_nothing_else(platform: Platform) -> None:
    platform.pern_attachment(b"another", thumbnail_path="other")
    platform.openchat_attachment(b"another")
    for name, write in WRITES.items():
        row_id = platform.pern_attachment(name.encode(), thumbnail_path="old")
        before = platform.row(pern.Attachment, row_id)._asdict()
        elsewhere = others(platform, row_id)
        do(platform, "pern", row_id, write)
        assert others(platform, row_id) == elsewhere, name
        after = platform.row(pern.Attachment, row_id)._asdict()
        wanted = {
            "thumbnail_path": "derived/small" if name == "served" else None,
            "updated_at": after["updated_at"],
        }
        assert after == before | wanted, name
        assert after["updated_at"] > before["updated_at"], name


@pytest.mark.parametrize("app", MODELS)
def test_a_type_is_changed_only_where_it_is_corrected(platform: Platform, app: str) -> None:
    row_id = platform.openchat_attachment(b"x") if app == "openchat" else platform.pern_attachment(b"x")
    for corrected, wanted in ((None, "text/plain"), ("image/png", "image/png"), (None, "image/png")):
        seen = replace(CLEAN, media_type=corrected)
        do(platform, app, row_id, lambda c, t, i, seen=seen: app_columns.finished(c, t, i, seen))  # type: ignore[misc]
        assert platform.row(MODELS[app], row_id).mime_type == wanted


def test_nothing_of_ours_leaves_metadata_alone(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"x", metadata_="whatever they like")
    seen = replace(CLEAN, metadata={})
    do(platform, "openchat", row_id, lambda c, t, i: app_columns.finished(c, t, i, seen))
    assert platform.row(openchat.Attachment, row_id).metadata == "whatever they like"


def test_a_row_that_is_gone_is_told(platform: Platform) -> None:
    before = platform.everything()
    bare = replace(CLEAN, metadata={})
    for app in MODELS:
        assert do(platform, app, uuid4(), WRITES["served"]) is False
        assert do(platform, app, uuid4(), lambda c, t, i: app_columns.finished(c, t, i, bare)) is False
    assert platform.everything() == before


def test_what_another_writes_into_the_same_json_meanwhile_is_kept(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"x", metadata_="{}")
    change = text('UPDATE openchat.attachment SET metadata = \'{"caption": "hi"}\' WHERE id = :id')
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    thread = threading.Thread(target=do, args=(platform, "openchat", row_id, WRITES["served"]))
    with platform.engine.connect() as other_connection:
        other_connection.execute(change, {"id": row_id})
        thread.start()
        eventually(lambda: platform.sql(waiting)[0][0])
        other_connection.commit()
    thread.join()
    after = json.loads(platform.row(openchat.Attachment, row_id).metadata)
    assert after == {"caption": "hi"} | OWN_METADATA


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_naive_timestamps_are_utc_whatever_the_database_prefers(platform: Platform, zone: str) -> None:
    [(database, role)] = platform.sql("SELECT current_database(), current_user")
    platform.sql(f"ALTER DATABASE \"{database}\" SET timezone = '{zone}'")
    platform.sql(f'ALTER ROLE "{role}" IN DATABASE "{database}" SET timezone = \'{zone}\'')
    # The settings are those of new connections.
    platform.engine.dispose()
    row_id = platform.openchat_attachment(b"x")
    for write in WRITES.values():
        do(platform, "openchat", row_id, write)
        row = platform.row(openchat.Attachment, row_id)
        now = datetime.now(UTC).replace(tzinfo=None)
        assert abs(row.updated_at - now) < timedelta(minutes=1)
        assert abs(row.created_at - now) < timedelta(minutes=1)
