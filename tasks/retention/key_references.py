"""Which object keys rows name: rows of any application, enabled or not, deleted softly or not."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, Text, cast, select, union_all

from tasks.attachments.tables import askable
from tasks.sweeps.statements import any_of
from workers.settings import Settings


def named(connection: Connection, provider: str, keys: Iterable[str], settings: Settings) -> set[str]:
    """Return those of the keys that rows name in the store `provider`.

    One statement: without an index on the key columns it reads the tables, once each column.

    Raises:
        CannotAskError: a table of attachments cannot be read, wholly or in part.
    """
    by_spelling = {spelling: key for key in keys for spelling in _spellings(key)}
    if not by_spelling:
        return set()
    tables = askable(connection, settings).values()
    parts: list[Select[Any]] = []
    values: dict[str, list[str]] = {}
    for table in tables:
        for column in filter(None, (table.key, table.app_columns.small_key)):
            name = f"spellings_{len(parts)}"
            here = column == any_of(column, name), table.store_name() == provider
            parts.append(select(cast(column, Text)).where(*here))
            values[name] = list(by_spelling)
    if not parts:
        return set()
    return {by_spelling[spelling] for spelling in connection.execute(union_all(*parts), values).scalars()}


def _spellings(key: str) -> set[str]:
    """Return the ways to write a key that a store may take for the same.

    Those that an index finds: a condition on all that can be written would read the whole table.
    """
    parts = key.split("/")
    doubled = {"/".join((*parts[:at], "", *parts[at:])) for at in range(len(parts) + 1)}
    return {key, key.replace("/", "//"), key.replace("/", "\\"), *doubled}
