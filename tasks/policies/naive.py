"""The moments in columns without a time zone, where their defaults were written in another zone than UTC.

Such a column holds UTC if the application writes it, and the local time of the session if its default does.
Where sessions had another zone, `ROOMKEEPER_NAIVE_ZONES` names it (`workers/naive_zones.py`), and `moment_of`
translates. With nothing set, the server's planner reduces each expression here to the bare column.

A local time that comes twice, when summer time ends, counts as the later of the two; so does a value near the
end of the setting that may be of either zone. What ages is then up to an hour too young, never too old.
"""

from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Column as TableColumn
from sqlalchemy import ColumnElement, DateTime, Interval, Text, and_, bindparam, case, cast, func

from workers.naive_zones import NaiveZone
from workers.settings import SettingsError, get_settings

#: Local times are at most so far from UTC, 14 hours to the east and 12 to the west.
_MOST = timedelta(hours=15)
_NAIVE = DateTime(timezone=False)


def moment_of(column: Any, value: Any = None) -> ColumnElement[Any]:
    """Return the moment that a column holds, in UTC without a time zone; of another column, its value.

    Args:
        column: as the definition names it.
        value: the column of an alias or a subquery, or its minimum or maximum; the column itself by default.
    """
    own = column.property.columns[0] if hasattr(column, "property") else column
    value = column if value is None else value
    app = app_of_default(own)
    if app is None:
        return value  # type: ignore[no-any-return]
    written = value < _until(app)
    created = own.table.c.get("created_at")
    if own.name == "updated_at" and created is not None:
        # By the default only if it is as old as the row: the application writes UTC later.
        written = and_(written, value == _beside(value, own, created))
    there = func.timezone("UTC", func.timezone(_zone(app), value), type_=_NAIVE)
    return case((_zone(app) == "UTC", value), (written, there), else_=value)


def stored(column: Any, moment: Any) -> ColumnElement[Any]:
    """Return what a column's default has written at a moment in UTC: the inverse of `moment_of`."""
    app = app_of_default(column.property.columns[0])
    if app is None:
        return moment  # type: ignore[no-any-return]
    there = func.timezone(_zone(app), func.timezone("UTC", moment), type_=_NAIVE)
    return case((_zone(app) == "UTC", moment), (moment < _until(app), there), else_=moment)


def since(column: Any, low: Any, value: Any = None) -> ColumnElement[bool]:
    """Return whether a column's moment is `low` or later, with a bound on the bare column for an index."""
    value = column if value is None else value
    return and_(value >= low - _slack(column), moment_of(column, value) >= low)


def before(column: Any, high: Any, value: Any = None, *, inclusive: bool = False) -> ColumnElement[bool]:
    """Return whether a column's moment is before `high`, with a bound on the bare column for an index."""
    value = column if value is None else value
    bare, moment = high + _slack(column), moment_of(column, value)
    return and_(value <= bare, moment <= high) if inclusive else and_(value < bare, moment < high)


def moment_held(column: TableColumn[Any], value: datetime) -> datetime:
    """Return the moment in UTC that a value of a column holds, as `moment_of`; not for `updated_at`."""
    app = app_of_default(column)
    found = None if app is None or value.tzinfo is not None else _set(app)
    if found is None or (found.until is not None and value >= found.until.replace(tzinfo=None)):
        return value
    there = value.replace(tzinfo=ZoneInfo(found.zone))
    return max(there.replace(fold=fold).astimezone(UTC) for fold in (0, 1)).replace(tzinfo=None)


@cache
def app_of_default(column: Any) -> str | None:
    """Return the application of a column without a time zone that has a default; None for another column."""
    if not isinstance(column, TableColumn) or column.server_default is None:
        return None
    if not isinstance(column.type, DateTime) or column.type.timezone:
        return None
    # The one application with such columns has one schema, of its own name.
    return str(column.table.schema)


def _beside(value: Any, own: Any, created: Any) -> Any:
    """Return `created_at` of the row that `value` is `updated_at` of."""
    table = getattr(value, "table", own.table)
    return getattr(getattr(value, "class_", None), "created_at", None) or table.c.get("created_at", created)


def _set(app: str) -> NaiveZone | None:
    try:
        return get_settings().naive_zones.get(app)
    except SettingsError:
        # A process that was given an engine, and no settings.
        return None


def _zone_of(app: str) -> str:
    found = _set(app)
    return "UTC" if found is None else found.zone


def _until_of(app: str) -> str:
    found = _set(app)
    until = None if found is None else found.until
    return "infinity" if until is None else until.replace(tzinfo=None).isoformat()


def _slack_of(app: str) -> timedelta:
    return timedelta(0) if _zone_of(app) == "UTC" else _MOST


# Parameters, for statements are made once: their values are those of the settings at each execution.
@cache
def _zone(app: str) -> ColumnElement[Any]:
    return bindparam(f"naive_zone_{app}", callable_=partial(_zone_of, app), type_=Text())


@cache
def _until(app: str) -> ColumnElement[Any]:
    return cast(bindparam(f"naive_until_{app}", callable_=partial(_until_of, app), type_=Text()), _NAIVE)


def _slack(column: Any) -> ColumnElement[Any]:
    app = app_of_default(column.property.columns[0])
    assert app is not None
    return bindparam(f"naive_slack_{app}", callable_=partial(_slack_of, app), type_=Interval())
