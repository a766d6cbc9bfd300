"""What the stores hold against what the rows name, on real stores."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import insert

from models.platform import AttachmentJob, PendingDeletion
from tasks.attachments.objects import picture_key
from tasks.reconcile import (
    CannotAskError,
    ListingLostError,
    Result,
    WrongPrefixError,
    listing,
    missing_objects,
    orphans,
)
from tasks.reconcile import reconcile as compare
from tasks.retention import receipts
from tests.attachments.context import AppContext
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import Platform, environment, eventually
from tests.servers import SeaweedFSServer
from workers import job_history
from workers.db import transaction
from workers.settings import MIB
from workers.storage import StoreError, UnknownProvider, store_for
from workers.storage.base import Stored

GRACE = timedelta(days=7)
INSTANT = timedelta(microseconds=1)
#: Keys that are one and the same object to some stores.
STRANGE = ("ü/ñ 日本 🙂.png", "a+b&c=d%20?#;,%.txt", "Bild\u202fvon heute.png", "under_score/x\\y'z\"")


@dataclass
class Side:
    """One store of a platform, as these tests see it."""

    platform: Platform
    name: str

    def put(self, *keys: str) -> None:
        for key in keys:
            self.platform.put(b"1", key, self.name)

    def keys(self) -> set[str]:
        return set(self.platform.objects(self.name))

    def attachment(self, key: str, *, state: str | None = "accepted", **columns: Any) -> UUID:
        """Insert a row of `openchat` that names the object, and the job that says what became of it."""
        named = {"storage_key": key, "storage_provider": self.name}
        row_id = self.platform.openchat_attachment(None, **named | columns)
        if state is not None:
            self.job("openchat", row_id, state)
        return row_id

    def job(self, app: str, row_id: UUID, state: str = "accepted", **columns: Any) -> None:
        ended = {"state": "finished", "outcome": state, "finished_at": datetime.now(UTC)}
        values = ended if state in {"accepted", "refused", "quarantined"} else {"state": state}
        with self.platform.engine.begin() as connection:
            statement = insert(AttachmentJob)
            connection.execute(statement.values(app=app, attachment_id=row_id, attempt=1, **values | columns))

    def run(self, *, later: timedelta = GRACE + timedelta(minutes=1), **options: Any) -> Result:
        """Reconcile this store, so much later than it is."""
        given: dict[str, Any] = {"store": self.name, "now": datetime.now(UTC) + later}
        found = compare(self.platform.settings, **given | options)
        assert found is not None
        (one,) = found
        assert self.platform.sql("SELECT * FROM roomkeeper.listed_objects") == []
        return one

    def apply(self, **options: Any) -> Result:
        given: dict[str, Any] = {"apply": True, "actor": "ada", "reason": "monthly"}
        return self.run(**given | options)


def _side(platform: Platform, request: pytest.FixtureRequest, name: str) -> Side:
    platform.set(reconcile_prefixes="derived/,uploads/")
    if name == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    return Side(platform, name)


@pytest.fixture(params=["local", "s3"])
def side(platform: Platform, request: pytest.FixtureRequest) -> Side:
    return _side(platform, request, request.param)


@pytest.fixture
def local(platform: Platform, request: pytest.FixtureRequest) -> Side:
    return _side(platform, request, "local")


@pytest.fixture
def s3(platform: Platform, request: pytest.FixtureRequest) -> Side:
    return _side(platform, request, "s3")


@pytest.fixture
def proxied(s3: Side, seaweedfs: SeaweedFSServer, bucket: str) -> Iterator[FaultProxy]:
    """The store behind a proxy; the tests' own client reaches it directly."""
    proxy = FaultProxy(seaweedfs.server.ports["s3"])
    s3.platform.use_s3(seaweedfs, bucket, proxy.address)
    yield proxy
    proxy.close()


def run_rows(platform: Platform) -> list[tuple[Any, ...]]:
    found = platform.sql(
        "SELECT outcome, rows, remaining FROM roomkeeper.job_runs WHERE job = 'storage.reconcile' ORDER BY id"
    )
    return [tuple(row) for row in found]


def rest(platform: Platform) -> dict[str, Any]:
    return {name: rows for name, rows in platform.everything().items() if name != "roomkeeper.job_runs"}


# -- orphans ------------------------------------------------------------------------------------------------


def test_what_no_row_names_is_found_and_removed_only_if_that_is_asked_for(side: Side) -> None:
    side.put("uploads/named", "uploads/1", "uploads/2")
    side.attachment("uploads/named")
    before = rest(side.platform)
    found = side.run()
    assert (found.listed, found.listed_bytes, found.named, found.young, found.foreign) == (3, 3, 1, 0, 0)
    assert (found.orphans, found.orphan_bytes, sorted(found.keys)) == (2, 2, ["uploads/1", "uploads/2"])
    assert found.oldest is not None
    assert abs(found.oldest - datetime.now(UTC)) < timedelta(minutes=1)
    assert (found.rows, found.missing, found.deleted, found.stopped) == (1, 0, 0, None)
    assert rest(side.platform) == before
    assert len(side.keys()) == 3
    found = side.apply()
    assert (found.orphans, found.deleted, found.spared, found.kept) == (2, 2, 0, 0)
    assert side.keys() == {"uploads/named"}
    found = side.apply()
    assert (found.listed, found.orphans, found.deleted) == (1, 0, 0)
    assert run_rows(side.platform) == [("done", 0, 2), ("done", 2, 0), ("done", 0, 0)]


@pytest.mark.parametrize(("more", "orphans"), [(timedelta(0), 0), (INSTANT, 1)])
def test_an_object_is_an_orphan_once_it_is_older_than_the_grace(
    side: Side, more: timedelta, orphans: int
) -> None:
    side.put("uploads/1")
    (one,) = store_for(side.name, side.platform.settings).list("uploads/")
    found = side.apply(now=one.modified + GRACE + more)
    assert (found.orphans, found.young, found.deleted) == (orphans, 1 - orphans, orphans)
    assert len(side.keys()) == 1 - orphans


def test_by_the_clock_what_is_new_is_no_orphan(side: Side) -> None:
    side.put("uploads/1")
    assert side.apply(now=None).young == 1
    side.platform.set(reconcile_grace_hours=1e-9)
    eventually(lambda: side.apply(now=None).deleted == 1)


def test_what_a_row_names_stays_whatever_the_row_says_else(side: Side) -> None:
    keys = {f"uploads/{state}" for state in ("waiting", "running", "refused", "failed", "deleted", "None")}
    side.put(*keys, "uploads/orphan")
    for state in ("waiting", "refused", "failed"):
        side.attachment(f"uploads/{state}", state=state)
    side.attachment("uploads/deleted", is_deleted=True)
    side.attachment("uploads/None", state=None)
    side.job(
        "openchat", side.attachment("uploads/running", state=None), "running", lease_until=datetime.now(UTC)
    )
    assert side.apply().keys == ["uploads/orphan"]
    assert side.keys() == keys


def test_a_row_names_an_object_of_its_own_store_only(local: Side, request: pytest.FixtureRequest) -> None:
    s3 = _side(local.platform, request, "s3")
    for side in (local, s3):
        side.put("uploads/local", "uploads/s3")
    local.attachment("uploads/local")
    s3.attachment("uploads/s3")
    for side in (local, s3):
        assert side.apply().deleted == 1
        assert side.keys() == {f"uploads/{side.name}"}


def test_all_stores_that_are_set_up_are_looked_at(local: Side, request: pytest.FixtureRequest) -> None:
    settings = local.platform.settings
    assert [found.store for found in compare(settings) or []] == ["local"]
    _side(local.platform, request, "s3")
    assert [found.store for found in compare(local.platform.settings) or []] == ["local", "s3"]
    with pytest.raises(UnknownProvider):
        compare(settings, store="s3")


def test_an_application_that_has_only_the_local_store_names_objects_there(local: Side) -> None:
    row_id = local.platform.pern_attachment(b"1", thumbnail_path="uploads/own-thumbnail")
    local.put("uploads/own-thumbnail", "uploads/orphan")
    found = local.apply()
    assert found.keys == ["uploads/orphan"]
    assert len(local.keys()) == 2
    local.platform.sql("UPDATE pern.attachments SET thumbnail_path = NULL WHERE id = :id", id=row_id)
    assert local.apply().keys == ["uploads/own-thumbnail"]


def test_pictures_of_rows_that_are_there_stay(side: Side) -> None:
    live, deleted, gone_id = side.attachment("x"), side.attachment("x", is_deleted=True), uuid4()
    pictures = [
        picture_key("openchat", row_id, name) for row_id in (live, deleted) for name in ("small", "large")
    ]
    others = [
        picture_key("openchat", gone_id, "small"),
        picture_key("openchat", live, "huge"),
        picture_key("pern", live, "small"),
        f"derived/openchat/{live}x",
        "derived/openchat/x/small.webp",
    ]
    side.put(*pictures, *others)
    assert sorted(side.apply().keys) == sorted(others)
    assert side.keys() == set(pictures)


def test_what_retention_is_about_to_remove_is_its_own_matter(side: Side) -> None:
    row_id = uuid4()
    keys = {"uploads/going", "uploads/small", picture_key("openchat", row_id, "large")}
    side.put(*keys, "uploads/orphan")
    with side.platform.engine.begin() as connection:
        pending = {"app": "openchat", "attachment_id": row_id, "policy": "x"}
        named = {"store": side.name, "key": "uploads/going", "small_key": "uploads/small"}
        connection.execute(insert(PendingDeletion).values(**pending, **named))
    assert side.apply().keys == ["uploads/orphan"]
    side.platform.sql("UPDATE roomkeeper.pending_deletions SET store = 'other'")
    assert set(side.apply().keys) == keys


def test_nothing_but_the_prefixes_is_looked_at(side: Side) -> None:
    side.put("uploads/1", "upload/2", "elsewhere/3", "uploads.txt", "derived2/4")
    found = side.apply()
    assert (found.listed, found.deleted) == (1, 1)
    assert side.keys() == {"upload/2", "elsewhere/3", "uploads.txt", "derived2/4"}


def test_prefixes_may_overlap(side: Side) -> None:
    side.platform.set(reconcile_prefixes="uploads/,uploads/a,up")
    side.put("uploads/a/1", "uploads/b")
    found = side.apply()
    assert (found.listed, found.listed_bytes, found.deleted) == (2, 2, 2)


def test_a_prefix_that_leads_nowhere_is_refused(s3: Side) -> None:
    s3.put("uploads/1")
    for prefix in ("..", "a/../b", "/.", "quarantine/", "\\quarantine"):
        s3.platform.set(reconcile_prefixes=f"uploads/,{prefix}")
        with pytest.raises(WrongPrefixError, match=re.escape(repr(prefix))):
            s3.apply()
    assert s3.keys() == {"uploads/1"}


def test_a_strange_key_is_known_again(side: Side) -> None:
    for key in STRANGE:
        side.put(f"uploads/{key}", f"uploads/orphan {key}")
        side.attachment(f"uploads/{key}")
    found = side.apply()
    assert (found.named, found.deleted, found.missing, found.rows) == (4, 4, 0, 4)
    kept = side.keys()
    # The one server takes a backslash for a slash.
    assert {key.replace("\\", "/") for key in kept} == {
        f"uploads/{key}".replace("\\", "/") for key in STRANGE
    }


def test_a_row_may_spell_a_key_in_a_way_that_some_stores_take_for_another(side: Side) -> None:
    spelled = (
        "uploads//0//b",
        "uploads/1//b",
        "/uploads/2/b",
        "uploads/3/b/",
        "uploads/4\\b",
        "\\uploads/5/b",
    )
    for number, key in enumerate(spelled):
        side.put(f"uploads/{number}/b")
        side.attachment(key)
    side.put("uploads/orphan")
    found = side.apply()
    assert (found.keys, found.missing) == (["uploads/orphan"], 0)
    assert len(side.keys()) == len(spelled)


def test_an_orphan_with_such_a_key_is_removed(s3: Side) -> None:
    """The server may keep it under another than it was given."""
    s3.put("uploads//a//b")
    assert s3.apply().deleted == 1
    assert s3.keys() == set()


def test_one_application_s_pictures_alone_are_looked_at(side: Side) -> None:
    orphans = {app: picture_key(app, uuid4(), "small") for app in ("openchat", "pern")}
    side.put(*orphans.values(), "uploads/1")
    side.platform.pern_attachment(None)
    missing = side.attachment("uploads/gone")
    found = side.run(app="pern")
    assert (found.listed, found.keys, found.rows) == (1, [orphans["pern"]], 0)
    found = side.apply(app="openchat")
    assert (found.listed, found.keys, found.ids) == (1, [orphans["openchat"]], [f"openchat {missing}"])
    assert side.keys() == {orphans["pern"], "uploads/1"}


# -- who can be asked -----------------------------------------------------------------------------------


def test_an_application_that_is_not_enabled_keeps_its_files(local: Side) -> None:
    local.platform.set(apps="openchat")
    row_id = local.platform.pern_attachment(None, file_path="uploads/1")
    picture = picture_key("pern", row_id, "small")
    local.put("uploads/1", picture, "uploads/2")
    local.job("pern", row_id)
    local.platform.pern_attachment(None, file_path="uploads/gone")
    found = local.apply()
    # No worker would process its rows.
    assert (found.keys, found.rows, found.missing) == (["uploads/2"], 0, 0)
    assert local.keys() == {"uploads/1", picture}


def test_pictures_of_an_application_that_is_not_in_this_database_are_nobody_s_orphans(local: Side) -> None:
    local.platform.set(apps="openchat")
    local.platform.sql("DROP SCHEMA pern CASCADE")
    kept = picture_key("pern", uuid4(), "small"), "derived/others/x"
    local.put(*kept, picture_key("openchat", uuid4(), "small"))
    found = local.apply()
    assert (found.foreign, found.deleted, found.named) == (2, 1, 0)
    assert local.keys() == set(kept)


def _refused(side: Side) -> list[str]:
    side.put("uploads/1")
    with pytest.raises(CannotAskError) as caught:
        side.apply()
    assert side.keys() == {"uploads/1"}
    ((outcome, rows, _),) = run_rows(side.platform)
    assert (outcome, rows) == ("failed", 0)
    return [fault.sentence for fault in caught.value.faults]


def test_a_table_of_an_enabled_application_must_be_there(local: Side) -> None:
    local.platform.sql("DROP SCHEMA pern CASCADE")
    (sentence,) = _refused(local)
    assert "pern" in sentence


@pytest.mark.parametrize("apps", ["openchat", "openchat,pern"])
def test_a_table_that_lacks_a_column_cannot_be_asked(local: Side, apps: str) -> None:
    local.platform.set(apps=apps)
    local.platform.sql("ALTER TABLE pern.attachments RENAME COLUMN file_path TO path")
    (sentence,) = _refused(local)
    assert "file_path" in sentence


def test_a_table_in_a_schema_that_nobody_named_stops_everything(local: Side) -> None:
    local.platform.set(apps="openchat")
    local.platform.sql("ALTER SCHEMA pern RENAME TO chat")
    with pytest.raises(CannotAskError) as caught:
        local.run()
    (fault,) = caught.value.faults
    assert fault.sentence.startswith("chat.attachments looks like the table of pern")
    assert fault.advice == "If it is, say so: ROOMKEEPER_SCHEMAS=pern=chat"
    local.platform.set(schemas="pern=chat")
    with environment(local.platform.environment):
        assert local.run().orphans == 0


@pytest.fixture
def poor(local: Side) -> Iterator[Side]:
    """A role that may do what it was granted, and does not bypass row level security."""
    url = local.platform.environment["DATABASE_URL"]
    name = f"poor_{uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        for schema in ("roomkeeper", "openchat", "pern"):
            connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
            connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {name}")
        yield Side(local.platform, name)
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("apps", ["openchat", "openchat,pern"])
@pytest.mark.parametrize(
    "statement",
    [
        "REVOKE SELECT ON pern.attachments FROM {role}",
        "REVOKE USAGE ON SCHEMA pern FROM {role}",
        "ALTER TABLE pern.attachments ENABLE ROW LEVEL SECURITY",
    ],
)
def test_a_table_that_hides_rows_cannot_be_asked(local: Side, poor: Side, apps: str, statement: str) -> None:
    url = local.platform.environment["DATABASE_URL"].replace("roomkeeper@", f"{poor.name}@")
    local.platform.environment["DATABASE_URL"] = url
    local.platform.set(apps=apps)
    local.platform.sql(statement.format(role=poor.name))
    local.put("uploads/1")
    with environment(local.platform.environment), pytest.raises(CannotAskError, match="pern"):
        compare(local.platform.settings, apply=True, now=datetime.now(UTC) + 2 * GRACE)
    assert local.keys() == {"uploads/1"}


# -- rows whose object is gone ----------------------------------------------------------------------------


def test_a_row_whose_object_is_gone_is_parked_by_the_pipeline(side: Side) -> None:
    context = AppContext(side.platform, "openchat")
    kept, lost = (context.upload(b"Milk\n", storage_provider=side.name) for _ in range(2))
    for row_id in (kept, lost):
        assert context.work(row_id) == "accepted"
        assert context.row(row_id).storage_url
    store = store_for(side.name, side.platform.settings)
    store.delete(context.key(lost))
    before = rest(side.platform)
    found = side.run()
    assert (found.rows, found.missing, found.ids, found.reopened) == (2, 1, [f"openchat {lost}"], 0)
    assert rest(side.platform) == before
    assert side.apply().reopened == 1
    # At once.
    assert context.row(lost).storage_url is None
    assert context.row(lost).processing_error == "object_missing"
    assert context.job(lost).state == "waiting"
    (event,) = side.platform.sql("SELECT * FROM roomkeeper.attachment_events WHERE actor IS NOT NULL")
    assert (event.event, event.actor, event.reason) == ("object_missing", "ada", "monthly")
    side.platform.set(attachment_missing_seconds=0)
    for _ in range(side.platform.settings.attachment_attempts):
        outcome = context.again(lost)
    assert outcome == "failed (object_missing)"
    assert context.row(kept).storage_url
    assert side.apply().missing == 0
    assert run_rows(side.platform)[1][:2] == ("done", 1)


def test_an_encrypted_file_that_is_gone_is_reopened_too(local: Side) -> None:
    row_id = local.platform.pern_attachment(None)
    local.job("pern", row_id)
    local.put("uploads/other")
    assert local.apply().reopened == 1
    found = local.platform.job(row_id)
    assert found is not None
    assert (found.state, found.attempt) == ("waiting", 2)


@pytest.mark.parametrize("state", ["waiting", "refused", "quarantined", "failed", None])
def test_a_row_that_is_not_served_is_not_looked_at(local: Side, state: str | None) -> None:
    local.attachment("uploads/gone", state=state)
    assert local.run().rows == 0


@pytest.mark.parametrize(
    ("key", "columns"),
    [("elsewhere/1", {}), ("uploads/1", {"is_deleted": True}), ("uploads/1", {"storage_provider": "gcs"})],
)
def test_a_row_of_no_object_below_the_prefixes_is_not_looked_at(
    local: Side, key: str, columns: dict[str, Any]
) -> None:
    local.attachment(key, **columns)
    assert local.run().rows == 0


def test_a_file_that_was_served_since_the_listing_began_is_not_looked_at(local: Side) -> None:
    row_id = local.attachment("uploads/1", state=None)
    local.job("openchat", row_id, finished_at=datetime.now(UTC) + timedelta(minutes=1))
    assert local.run().rows == 0


def test_an_object_in_quarantine_is_not_gone(side: Side) -> None:
    side.put("uploads/1")
    row_id = side.attachment("uploads/1")
    store_for(side.name, side.platform.settings).quarantine("uploads/1", f"openchat/{row_id}")
    found = side.apply()
    assert (found.rows, found.missing, found.reopened) == (1, 0, 0)


def test_an_object_that_was_only_not_listed_is_not_gone(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.put("uploads/1", "uploads/empty", "uploads/other")
    side.platform.put(b"", "uploads/empty", side.name)
    for key in ("uploads/1", "uploads/empty"):
        side.attachment(key)
    store = type(store_for(side.name, side.platform.settings))
    found = Stored("uploads/other", 1, datetime.now(UTC))
    monkeypatch.setattr(store, "list", lambda _self, _prefix: iter([found]))
    seen = side.run()
    assert (seen.listed, seen.rows, seen.missing) == (1, 2, 0)


def test_a_row_that_was_worked_on_meanwhile_is_left_alone(
    local: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put("uploads/1")
    row_id = local.attachment("uploads/gone")
    real = missing_objects.reopen

    def reopen(*args: Any) -> None:
        missing = missing_objects.Look.missing

        def slow(self: missing_objects.Look, app: str, store: str) -> Iterator[missing_objects.MissingObject]:
            for one in missing(self, app, store):
                local.platform.sql("UPDATE roomkeeper.attachment_jobs SET attempt = 2")
                yield one

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(missing_objects.Look, "missing", slow)
            real(*args)

    monkeypatch.setattr(missing_objects, "reopen", reopen)
    found = local.apply()
    assert (found.missing, found.reopened) == (1, 0)
    job = local.platform.job(row_id)
    assert job is not None
    assert (job.state, job.attempt) == ("finished", 2)


# -- too much -------------------------------------------------------------------------------------------


def _named(side: Side, count: int) -> None:
    for number in range(count):
        side.put(f"uploads/named-{number}")
        side.attachment(f"uploads/named-{number}")


@pytest.mark.parametrize(("named", "orphans", "stops"), [(0, 20, False), (21, 21, False), (20, 21, True)])
def test_orphans_beyond_a_share_stop_it(local: Side, named: int, orphans: int, stops: bool) -> None:
    local.platform.set(reconcile_share=0.5)
    _named(local, named)
    local.put(*(f"uploads/{number}" for number in range(orphans)))
    lost = local.attachment("uploads/gone")
    for apply in (False, True):
        before = rest(local.platform)
        found = local.apply(apply=apply)
        assert found.orphans == orphans
        if stops:
            assert found.stopped == ("local: 21 of 41 objects are named by no row, more than 0.5 of them")
            assert rest(local.platform) == before
        else:
            assert found.stopped is None
    assert len(local.keys()) == named + (orphans if stops else 0)
    job = local.platform.job(lost)
    assert job is not None
    assert job.state == ("finished" if stops else "waiting")
    assert run_rows(local.platform)[-1] == (("stopped", 0, 22) if stops else ("done", orphans + 1, 0))
    if stops:
        ((error,),) = local.platform.sql("SELECT DISTINCT error FROM roomkeeper.job_runs")
        assert error == found.stopped


@pytest.mark.parametrize(("there", "lost", "stops"), [(1, 20, False), (21, 21, False), (20, 21, True)])
def test_lost_objects_beyond_a_share_stop_it(local: Side, there: int, lost: int, stops: bool) -> None:
    local.platform.set(reconcile_share=0.5)
    _named(local, there)
    for number in range(lost):
        local.attachment(f"uploads/gone-{number}")
    local.put("uploads/orphan")
    found = local.apply()
    assert (found.rows, found.missing) == (there + lost, lost)
    assert (found.stopped is not None, found.reopened, found.deleted) == (
        (True, 0, 0) if stops else (False, lost, 1)
    )
    if stops:
        assert found.stopped == (
            "local: the objects of 21 or more of 41 rows are gone, more than 0.5 of them"
        )


def test_a_listing_of_nothing_stops_it(side: Side) -> None:
    side.attachment("uploads/gone")
    found = side.apply()
    assert (found.stopped, found.missing) == (
        f"{side.name}: nothing is listed, although rows name objects there",
        1,
    )
    side.put("uploads/other")
    assert side.apply().reopened == 1


def test_a_listing_without_any_of_the_pictures_stops_it(local: Side) -> None:
    local.platform.set(reconcile_prefixes="derived/")
    row_id = local.attachment("uploads/1", state=None)
    local.put("uploads/1")
    assert local.apply().stopped is None
    local.job("openchat", row_id, small_key=picture_key("openchat", row_id, "small"))
    assert local.apply().stopped is not None


def test_who_allows_everything_is_not_stopped(local: Side) -> None:
    local.platform.set(reconcile_share=1)
    for number in range(21):
        local.attachment(f"uploads/gone-{number}")
    assert local.apply().reopened == 21
    local.platform.sql("DELETE FROM openchat.attachment")
    local.put(*(f"uploads/{number}" for number in range(21)))
    assert local.apply().deleted == 21


def test_nothing_is_stopped_where_there_is_nothing(local: Side) -> None:
    found = local.apply()
    assert (found.listed, found.rows, found.stopped) == (0, 0, None)


def test_one_store_that_is_stopped_stops_the_other(local: Side, request: pytest.FixtureRequest) -> None:
    s3 = _side(local.platform, request, "s3")
    local.put("uploads/1")
    s3.attachment("uploads/gone")
    found = compare(local.platform.settings, apply=True, now=datetime.now(UTC) + 2 * GRACE)
    assert found is not None
    assert [(one.orphans, one.deleted, one.stopped is None) for one in found] == [
        (1, 0, True),
        (0, 0, False),
    ]
    assert local.keys() == {"uploads/1"}


def test_rows_that_vanish_after_they_were_counted_take_no_objects_along(
    local: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is emptied to be restored, say."""
    _named(local, 21)
    local.put("uploads/orphan")
    real = orphans.delete

    def delete(*args: Any) -> None:
        local.platform.sql("DELETE FROM openchat.attachment")
        real(*args)

    monkeypatch.setattr(orphans, "delete", delete)
    monkeypatch.setattr(orphans, "BATCH", 6)
    found = local.apply()
    assert (found.deleted, found.stopped) == (
        18,
        "local: more than 20 objects are named by no row by now",
    )
    assert run_rows(local.platform) == [("stopped", 18, 0)]


def test_objects_that_vanish_after_they_were_counted_reopen_no_crowd(
    local: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    _named(local, 22)
    local.put("uploads/other")
    real = missing_objects.reopen

    def reopen(*args: Any) -> None:
        local.platform.sql("UPDATE openchat.attachment SET storage_key = 'uploads/gone' || id")
        real(*args)

    monkeypatch.setattr(missing_objects, "reopen", reopen)
    found = local.apply()
    assert (found.reopened, found.stopped) == (20, "local: the objects of more than 20 rows are gone by now")


# -- batches, crashes, others -------------------------------------------------------------------------------


def test_an_orphan_that_a_row_comes_to_name_is_spared(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    row_ids = [uuid4() for _ in range(2)]
    keys = {f"uploads//{number}" for number in range(4)}
    pictures = {picture_key("openchat", row_id, "large") for row_id in row_ids}
    side.put(*(key.replace("//", "/") for key in keys), *pictures)

    def adopt(message: str) -> None:
        if "removed" in message and not side.platform.sql("SELECT FROM openchat.attachment"):
            for row_id in row_ids:
                side.attachment("x", id=row_id)
            for key in keys:
                side.attachment(key)

    found = side.apply(watch=adopt)
    assert (found.orphans, found.deleted, found.spared) == (6, 2, 4)
    assert len(side.keys()) == 4
    assert receipts_of(side.platform) == [2]


def receipts_of(platform: Platform) -> list[int]:
    with transaction() as connection:
        found = list(receipts.every(connection, policy="storage.reconcile"))
        assert receipts.verify(connection).faults == []
    assert len({one.run for one in found}) <= 1
    return [one.rows for one in found]


def test_each_batch_has_a_receipt(local: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    keys = sorted(f"uploads/{number}" for number in range(3))
    local.put(*keys)
    now = datetime.now(UTC) + 2 * GRACE
    local.apply(now=now)
    assert receipts_of(local.platform) == [2, 1]
    local.put("uploads/b", "uploads/a")
    with transaction() as connection:
        number = len(list(receipts.every(connection)))
    local.apply(now=now)
    with transaction() as connection:
        row = receipts.one(connection, number + 1)
    assert row is not None
    assert (row.kind, row.rows) == ("reconciled", 2)
    assert row.content == {
        "store": "local",
        "actor": "ada",
        "reason": "monthly",
        "before": (now - GRACE).isoformat(),
        "bytes": 2,
        "keys_sha256": hashlib.sha256(b"uploads/a\nuploads/b").hexdigest(),
    }


def test_what_a_store_refuses_does_not_hold_up_the_others(
    local: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    local.put(*(f"uploads/{number}" for number in range(5)))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "2":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    found = local.apply()
    assert (found.deleted, found.kept) == (4, 1)
    assert found.error is not None
    assert found.error.endswith("Operation not permitted")
    assert local.keys() == {"uploads/2"}
    ((error,),) = local.platform.sql("SELECT error FROM roomkeeper.job_runs")
    assert (error, run_rows(local.platform)) == (found.error, [("done", 4, 1)])


def test_a_store_that_breaks_off_while_it_is_listed_changes_nothing(s3: Side, proxied: FaultProxy) -> None:
    s3.put("uploads/1")
    s3.attachment("uploads/gone")
    before = rest(s3.platform)
    with proxied.doing(Fault(containing="list-type", after=1, status=503)), pytest.raises(StoreError):
        s3.apply()
    assert rest(s3.platform) == before
    assert s3.keys() == {"uploads/1"}
    assert run_rows(s3.platform) == [("failed", 0, 0)]


def test_a_store_that_breaks_off_while_orphans_are_removed(
    s3: Side, proxied: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    s3.put(*(f"uploads/{number}" for number in range(5)))
    with proxied.doing(Fault(methods=("POST",), after=1, status=503)), pytest.raises(StoreError):
        s3.apply()
    assert len(s3.keys()) == 3
    assert run_rows(s3.platform) == [("failed", 2, 0)]
    assert s3.platform.sql("SELECT FROM roomkeeper.listed_objects") == []
    assert s3.apply().deleted == 3
    assert s3.keys() == set()


def test_a_store_that_does_not_answer_is_no_store_without_objects(s3: Side, proxied: FaultProxy) -> None:
    s3.put("uploads/other")
    row_id = s3.attachment("uploads/gone")
    with proxied.doing(Fault(containing="gone", status=503)), pytest.raises(StoreError):
        s3.apply()
    job = s3.platform.job(row_id)
    assert job is not None
    assert job.state == "finished"


@dataclass
class _Door:
    """Holds one request until the test is over."""

    reached: threading.Event
    over: threading.Event

    def __call__(self) -> None:
        self.reached.set()
        self.over.wait(60)
        raise ConnectionAbortedError


def test_a_run_that_is_killed_between_batches_is_ended_by_the_next(s3: Side, proxied: FaultProxy) -> None:
    client, bucket = s3.platform.client, str(s3.platform.settings.s3_bucket)
    assert client is not None
    keys = {f"uploads/{number}" for number in range(1100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    s3.put("uploads/named")
    s3.attachment("uploads/named")
    s3.platform.set(reconcile_share=1, reconcile_grace_hours=1e-9)
    door = _Door(threading.Event(), threading.Event())
    arguments = ("reconcile", "--store", "s3", "--apply", "--reason", "monthly")
    try:
        # The first request passes.
        with proxied.doing(Fault(methods=("POST",), after=1, before=door)):
            program = s3.platform.start(*arguments)
            eventually(door.reached.is_set, what=program.output())
            program.kill()
    finally:
        door.over.set()

    def left() -> int:
        return sum(1 for _ in store_for("s3", s3.platform.settings).list("uploads/"))

    assert left() == 101
    # Two receipts: of what went, and of what was about to go.
    assert receipts_of(s3.platform) == [1000, 100]
    assert s3.platform.sql("SELECT count(*) FROM roomkeeper.listed_objects")[0][0] > 0

    def again() -> bool:
        # The database may not have noticed yet that the first one is dead.
        done = s3.platform.start(*arguments)
        return done.process.wait(60) == 0

    eventually(again)
    assert left() == 1
    assert s3.platform.sql("SELECT FROM roomkeeper.listed_objects") == []


def test_one_run_at_a_time(local: Side) -> None:
    local.put("uploads/1")
    with job_history.run("storage.reconcile"):
        assert compare(local.platform.settings, apply=True, now=datetime.now(UTC) + 2 * GRACE) is None
    assert local.keys() == {"uploads/1"}


def test_what_a_killed_run_has_listed_is_forgotten(local: Side) -> None:
    local.platform.sql(
        "INSERT INTO roomkeeper.listed_objects VALUES ('local', 'uploads/old', 1, '2000-01-01'),"
        " ('s3', 'uploads/old', 1, '2000-01-01')"
    )
    found = local.apply()
    assert (found.listed, found.orphans) == (0, 0)


def _losing(platform: Platform) -> Callable[[str], None]:
    def lose(message: str) -> None:
        if "listed" in message:
            platform.sql("DELETE FROM roomkeeper.listed_objects")

    return lose


def test_a_listing_that_the_database_forgets_is_no_listing(
    local: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash of it: the table is not logged."""
    monkeypatch.setattr(listing, "BATCH", 1)
    local.put("uploads/1", "uploads/2")
    with pytest.raises(ListingLostError):
        local.apply(watch=_losing(local.platform))
    assert local.keys() == {"uploads/1", "uploads/2"}


def test_a_long_comparison_may_take_its_time(local: Side) -> None:
    """Longer than statements may run elsewhere."""
    local.platform.set(statement_timeout_ms=1)
    with transaction() as connection:
        listing.unhurried(connection)
        names = ("statement_timeout", "enable_nestloop")
        seen = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
    assert seen == ["20min", "off"]
    with transaction() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "30s"


def test_large_objects_are_asked_for_without_their_bytes(s3: Side, proxied: FaultProxy) -> None:
    s3.platform.put(bytes(8 * MIB), "uploads/large", "s3")
    s3.put("uploads/other")
    s3.attachment("uploads/large")
    with pytest.MonkeyPatch.context() as patch:
        store = type(store_for("s3", s3.platform.settings))
        other = Stored("uploads/other", 1, datetime.now(UTC))
        patch.setattr(store, "list", lambda _self, _prefix: iter([other]))
        with proxied.doing(Fault(containing="large", pause_seconds=1)):
            began = datetime.now(UTC)
            assert s3.run().missing == 0
    # 128 pieces.
    assert datetime.now(UTC) - began < timedelta(seconds=30)
