"""Statuses in a row for each message and person (`pern`): the strongest status, the earliest times."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Connection, DateTime, Select, Text, Uuid, case, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from tasks.delivery.batch_table import batch_table, looked_up, not_before
from tasks.delivery.events import Event, Pair, fold
from tasks.policies.columns import table_of
from tasks.policies.status import StatusRows


def merge(connection: Connection, table: StatusRows, events: Sequence[Event]) -> set[Pair]:
    """Merge the events in one statement; return the pairs whose message or person is not there (yet)."""
    folded = fold(events, table.order)
    batch = {
        "message_id": [message for message, _ in folded],
        "user_id": [user for _, user in folded],
        "status": [entry.status for entry in folded.values()],
        "delivered_at": [entry.delivered_at for entry in folded.values()],
        "read_at": [entry.read_at for entry in folded.values()],
    }
    return {(row.message_id, row.user_id) for row in connection.execute(_statement(table), batch)}


@cache
def _statement(table: StatusRows) -> Select[tuple[object, object]]:
    """Return the statement that merges what is known, and returns what is not."""
    moment = DateTime(timezone=True)
    batch = batch_table(message_id=Uuid(), user_id=Uuid(), status=Text(), delivered_at=moment, read_at=moment)
    known = looked_up(table, batch, table.sent_at.label("sent_at"))
    target = table_of(table.model)
    name = {field: getattr(table, field).property.columns[0].name for field in _WRITTEN}
    fresh = {
        name["message"]: known.c.message_id,
        name["user"]: known.c.user_id,
        name["status"]: cast(known.c.status, table.status.type),
        name["delivered_at"]: not_before(known.c.delivered_at, known.c.sent_at),
        name["read_at"]: not_before(known.c.read_at, known.c.sent_at),
        name["created_at"]: func.now(),
        name["updated_at"]: func.now(),
    }
    if table.id is not None:
        fresh[table.id.property.columns[0].name] = func.gen_random_uuid()
    # In the order of the key, as every writer does: two batches may wait for each other, but not for ever.
    rows = select(*fresh.values()).where(known.c.there).order_by(known.c.message_id, known.c.user_id)
    statement = insert(target).from_select(list(fresh), rows)

    new, held = statement.excluded, target.c
    order = cast(literal(list(table.order), ARRAY(Text)), ARRAY(Text))
    stronger = func.array_position(order, cast(new[name["status"]], Text)) > func.array_position(
        order, cast(held[name["status"]], Text)
    )
    # What was read was delivered, whichever service wrote that it was read.
    delivered = func.least(held[name["delivered_at"]], new[name["delivered_at"]], held[name["read_at"]])
    read = func.least(held[name["read_at"]], new[name["read_at"]])
    written = statement.on_conflict_do_update(
        index_elements=[held[name["message"]], held[name["user"]]],
        set_={
            name["status"]: case((stronger, new[name["status"]]), else_=held[name["status"]]),
            name["delivered_at"]: delivered,
            name["read_at"]: read,
            name["updated_at"]: func.now(),
        },
        # What says nothing new is not written: no new version of the row, no new entries in its indexes.
        where=or_(
            stronger,
            held[name["delivered_at"]].is_distinct_from(delivered),
            held[name["read_at"]].is_distinct_from(read),
        ),
    ).cte("written")
    return select(known.c.message_id, known.c.user_id).where(~known.c.there).add_cte(written)


_WRITTEN = ("message", "user", "status", "delivered_at", "read_at", "created_at", "updated_at")
