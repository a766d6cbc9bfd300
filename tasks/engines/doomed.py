"""The objects of attachments whose rows go: noted first, deleted before the rows' transaction commits."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentJob as Job
from models.platform import DoomedObject
from tasks.apps import enabled
from tasks.attachments.draw import NAMES
from tasks.attachments.objects import picture_key
from tasks.engines.batch import Refused
from tasks.engines.families import Files
from tasks.engines.statements import any_of
from workers.settings import Settings
from workers.storage import ObjectMissing, ObjectStore, UnknownProvider, keys, store_for

_NOTED = ("store", "key", "quarantined", "small_key")


def mark(
    connection: Connection, files: Files, rows: Sequence[Any], policy: str, settings: Settings
) -> tuple[list[Any], str | None]:
    """Note the objects of the rows with these keys, and of what goes with them.

    Returns:
        the keys of the rows that may go: not those of whose attachments somebody works on one at the moment,
        nor those of which one is in a store that is not set up; and why that is so, if it is.
    """
    stay = set(connection.execute(files.busy, {"keys": rows}).scalars())
    found = connection.execute(files.found, {"keys": rows}).mappings().all()
    why = None
    for provider in {row["store"] for row in found}:
        try:
            store_for(provider, settings)
        except UnknownProvider as error:
            why = str(error)
            stay |= {row["root"] for row in found if row["store"] == provider}
    marks = [
        {"app": files.app, "policy": policy, **{name: row[name] for name in ("attachment_id", *_NOTED)}}
        for row in found
        if row["root"] not in stay
    ]
    if marks:
        marked = insert(DoomedObject)
        noted = {name: marked.excluded[name] for name in ("policy", *_NOTED)}
        connection.execute(
            marked.on_conflict_do_update(index_elements=["app", "attachment_id"], set_=noted), marks
        )
    return [key for key in rows if key not in stay], why


def delete_objects(connection: Connection, files: Files, ids: Sequence[UUID], settings: Settings) -> int:
    """Delete the objects of attachments that were deleted, but those that others name; return how many.

    Raises:
        Refused: one of the attachments was added after they were noted.
        StoreError: some may be gone, and the rows must stay.
    """
    if not ids:
        return 0
    theirs = (DoomedObject.app == files.app) & DoomedObject.attachment_id.in_(ids)
    doomed = connection.execute(select(DoomedObject.__table__).where(theirs)).all()
    if len(doomed) < len(ids):
        raise Refused("attachments were added meanwhile")
    by_store: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in doomed:
        by_store[row.store].append(row)
    number = 0
    for provider, rows in by_store.items():
        # Several rows may name one.
        both = {key for row in rows for key in (row.key, row.small_key) if key}
        originals = sorted(key for key in both if _original(key))
        named = _named(connection, provider, originals, settings)
        gone = [key for key in originals if key not in named]
        quarantined = [row.quarantined for row in rows if row.quarantined is not None]
        pictures = [picture_key(files.app, row.attachment_id, name) for row in rows for name in NAMES]
        store = store_for(provider, settings)
        _delete(store, [*gone, *pictures])
        store.discard(quarantined)
        number += len(gone)
    jobs = jobs_of(files, ids)
    connection.execute(delete(Job).where(jobs, Job.override.is_(None)))
    # What an operator has said of a file is not forgotten.
    kept = {"state": "parked", "lease_until": None, "outcome": None, "reason": "row_deleted"}
    connection.execute(update(Job).where(jobs).values(**kept, quarantine_key=None))
    connection.execute(delete(DoomedObject).where(theirs))
    return number


def jobs_of(files: Files, ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Return which jobs are those of these attachments: they go with them, or are as good as gone."""
    return (Job.app == files.app) & Job.attachment_id.in_(ids)


def _original(key: str) -> bool:
    """Return whether there can be an original under a key: a stranger may have written it."""
    try:
        keys.check_original(key)
    except ObjectMissing:
        return False
    # By another spelling of a key rows may name an object that goes, and stays, as another one.
    return key == "/".join(keys.parts(key))


def _delete(store: ObjectStore, found: Sequence[str]) -> None:
    try:
        store.delete_many(found)
    except ObjectMissing:
        # One of them leads to where no object of a row can be: the others are to go all the same.
        for key in found:
            with suppress(ObjectMissing):
                store.delete(key)


def _named(connection: Connection, provider: str, found: Sequence[str], settings: Settings) -> set[str]:
    """Return which of the keys rows name that stay: of any application, deleted softly or not."""
    spelt = {spelling: key for key in found for spelling in _spellings(key)}
    named: set[str] = set()
    for page in enabled(settings).values():
        table = page.attachments
        if table is None:
            continue
        for column in filter(None, (table.key, table.mirror.small_key)):
            here = select(column).where(column == any_of(column, "spelt"), table.store_name() == provider)
            rows = connection.execute(here, {"spelt": list(spelt)}).scalars()
            named.update(spelt[spelling] for spelling in rows)
    return named


def _spellings(key: str) -> set[str]:
    """Return the ways to write a key that a store may take for the same.

    Those that an index finds: a condition on all that can be written would read the whole table.
    """
    parts = key.split("/")
    doubled = {"/".join((*parts[:at], "", *parts[at:])) for at in range(len(parts) + 1)}
    return {key, key.replace("/", "//"), key.replace("/", "\\"), *doubled}
