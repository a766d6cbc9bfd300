"""A row for each message and person who has read it (`connect`): when they did first."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Connection, DateTime, Select, Uuid, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from tasks.delivery.batch_table import batch_table, looked_up, not_before
from tasks.delivery.events import Event, Pair, fold
from tasks.policies.columns import table_of
from tasks.policies.status import ReadMarks


def merge(connection: Connection, table: ReadMarks, events: Sequence[Event]) -> set[Pair]:
    """Merge what was read in one statement; return the pairs whose message or person is not there (yet).

    No other status is kept, and none waits. A sender's own reading is no row: rows are counted as readers.
    """
    folded = fold([event for event in events if event.status == "read"], ("read",))
    if not folded:
        return set()
    batch = {
        "message_id": [message for message, _ in folded],
        "user_id": [user for _, user in folded],
        "read_at": [entry.read_at for entry in folded.values()],
    }
    return {(row.message_id, row.user_id) for row in connection.execute(_statement(table), batch)}


@cache
def _statement(table: ReadMarks) -> Select[tuple[object, object]]:
    """Return the statement that merges what is known, and returns what is not."""
    batch = batch_table(message_id=Uuid(), user_id=Uuid(), read_at=DateTime(timezone=True))
    known = looked_up(table, batch, table.sender, table.sent_at.label("sent_at"))
    target = table_of(table.model)
    message, user, read_at = (
        target.c[column.property.columns[0].name] for column in (table.message, table.user, table.read_at)
    )
    rows = (
        select(known.c.message_id, known.c.user_id, not_before(known.c.read_at, known.c.sent_at))
        .where(known.c.there, known.c[table.sender.key] != known.c.user_id)
        # As every writer does: two batches may wait for each other, but not for ever.
        .order_by(known.c.message_id, known.c.user_id)
    )
    statement = insert(target).from_select([message.name, user.name, read_at.name], rows)
    new = statement.excluded[read_at.name]
    written = statement.on_conflict_do_update(
        index_elements=[message, user],
        set_={read_at.name: func.least(read_at, new)},
        where=or_(read_at.is_(None), new < read_at),
    ).cte("written")
    return select(known.c.message_id, known.c.user_id).where(~known.c.there).add_cte(written)
