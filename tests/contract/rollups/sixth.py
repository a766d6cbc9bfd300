"""A made-up sixth application: two tables, one rollup, its example, and rollups that break a rule each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    ForeignKey,
    Select,
    and_,
    cast,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models.base import Aware, GeneratedId, TextStr
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of
from tests.analytics.figuring import Rows
from tests.contract.rollup_example import Example, Source
from workers.db import get_engine

SCHEMA = "sixth"


class SixthBase(DeclarativeBase):
    """Apart from the real applications' tables, of which others ask for all."""


class Place(SixthBase):
    """Somewhere to be."""

    __tablename__ = "place"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[GeneratedId]
    name: Mapped[TextStr]


class Visit(SixthBase):
    """A user's visit to a place."""

    __tablename__ = "visit"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[GeneratedId]
    place_id: Mapped[UUID | None] = mapped_column(ForeignKey(Place.id, ondelete="CASCADE"))
    kind: Mapped[TextStr | None]
    came_at: Mapped[Aware | None]
    left_at: Mapped[Aware | None]


class VisitsDaily(SixthBase):
    """Per day: who came, and who left."""

    __tablename__ = "visits_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[date] = mapped_column(primary_key=True)
    came: Mapped[int]
    left: Mapped[int]
    changed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def _in_bucket(at: Any) -> ColumnElement[bool]:
    return and_(at >= FROM, at < TO)


def _daily(
    in_bucket: Callable[[Any], ColumnElement[bool]] = _in_bucket,
    *conditions: ColumnElement[bool],
    changed_at: Any = None,
) -> Select[Any]:
    came, left = in_bucket(Visit.came_at), in_bucket(Visit.left_at)
    return (
        select(
            bucket_of(VisitsDaily.day),
            func.count().filter(came).label("came"),
            func.count().filter(left).label("left"),
            cast(changed_at, DateTime(timezone=True)).label("changed_at"),
        )
        .join(Place, Place.id == Visit.place_id)
        .where(or_(came, left), *conditions)
        .having(func.count() > 0)
    )


ROLLUP = Rollup(
    name="sixth.visits_daily",
    model=VisitsDaily,
    rule="visits that began that day, and visits that ended that day",
    why="How many people come (sixth.md, Visits).",
    grain=DAY,
    bucket=VisitsDaily.day,
    select=_daily(),
    source_tables=(SourceTable(Visit, (Visit.came_at, Visit.left_at)),),
)


def _came(rows: Rows, at: datetime) -> UUID:
    return rows.add(Visit, place_id=rows.add(Place, name="Tea"), kind="tea", came_at=at)


def _left(rows: Rows, at: datetime) -> UUID:
    return rows.add(Visit, place_id=rows.add(Place, name="Tea"), kind="tea", left_at=at)


def example(rollup: Rollup) -> Example:
    """Return the example of the rollup, or of one that is to count the same."""
    return Example(
        rollup=rollup,
        sources=(
            Source(at=(Visit.came_at,), counts=(VisitsDaily.came,), add=_came, needs=(Visit.place_id,)),
            Source(at=(Visit.left_at,), counts=(VisitsDaily.left,), add=_left, needs=(Visit.place_id,)),
        ),
    )


EXAMPLES = (example(ROLLUP),)


@contextmanager
def tables() -> Iterator[None]:
    """Make its tables, and drop them."""
    engine = get_engine()
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        SixthBase.metadata.create_all(connection)
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))


@dataclass(frozen=True)
class Wrong:
    """A rollup that breaks a rule.

    Attributes:
        what: is wrong with it.
        breaks: a part of the sentence by which the contract says so.
    """

    what: str
    rollup: Rollup
    breaks: str


def _day_of_utc(at: Any) -> ColumnElement[bool]:
    day: ColumnElement[Any] = func.date(func.timezone("UTC", at))
    return day.in_([bucket_of(VisitsDaily.day).element])


def _after_from(at: Any) -> ColumnElement[bool]:
    return and_(at > FROM, at < TO)


def _up_to_to(at: Any) -> ColumnElement[bool]:
    return and_(at >= FROM, at <= TO)


def _with(**changes: Any) -> Rollup:
    return replace(ROLLUP, **changes)


_BY_DAY = "a row counts in the bucket of its moment, to the microsecond"

WRONG = (
    Wrong("the zone is ignored", _with(select=_daily(_day_of_utc)), f"{_BY_DAY}, in Europe/Berlin"),
    Wrong("the end of a day is in it", _with(select=_daily(_up_to_to)), _BY_DAY),
    Wrong(
        "the beginning of a day is left out",
        _with(select=_daily(_after_from)),
        _BY_DAY,
    ),
    Wrong("rows without a kind are left out", _with(select=_daily(_in_bucket, Visit.kind != "x")), _BY_DAY),
    Wrong(
        "it is written anew at each run",
        _with(select=_daily(changed_at=func.clock_timestamp())),
        "a second run writes nothing",
    ),
    Wrong(
        "it writes to a table of the application",
        _with(snapshot=(update(Visit).values(kind="seen").where(Visit.kind == "tea"),)),
        "a run leaves other tables alone; it wrote to sixth.visit",
    ),
    Wrong(
        "retention does not learn of every moment",
        _with(source_tables=(SourceTable(Visit, (Visit.came_at,)),)),
        "rows of sixth.visit count by came_at, left_at, and its `source_tables` names came_at",
    ),
    Wrong(
        "closed days are not computed again", _with(recompute_for=None), "closed buckets are to be computed"
    ),
)
