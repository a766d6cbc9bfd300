"""`roomkeeper rollup`: how far statistics have come, computing days anew, and proving that they are right."""

import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Row

from commands import formatting, progress, rollup_status, rollup_zone
from commands.formatting import did_you_mean, quantity, rough_duration, timestamp
from commands.policies import PLATFORM, named, ready
from tasks.analytics.backfill import Backfill, BackfillProgress
from tasks.analytics.calendar import Bucket, bucket_at, buckets, day_of
from tasks.analytics.engine import differences
from tasks.analytics.state import OtherZoneError, State, frozen, state_of
from tasks.apps import APPS, ROLLUPS, rollups, zone
from tasks.policies.rollup import Rollup
from workers.db import get_engine, transaction
from workers.settings import Settings, SettingsError, get_settings

app = typer.Typer(help="Statistics by the day and the hour.", no_args_is_help=True)
app.command("zone")(rollup_zone.zone)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, from `roomkeeper rollup list`.")]

#: Before that no clock was right: statistics begin here at the earliest.
FIRST = date(2000, 1, 1)
#: From this width on, in characters, there is room for a column each.
WIDE = 130
#: How many rows that drifted are shown of each bucket.
SHOWN = 20
#: The connections that a process has.
MOST_JOBS = 4


# -- how far they have come ------------------------------------------------------------------------------


@app.command("list")
def list_rollups(
    only: Annotated[
        str, typer.Argument(metavar="[APP]", help="Only this application's, or `roomkeeper`'s own.")
    ] = "",
) -> None:
    """Print how far every rollup has come: since when it counts, what is closed, late, frozen."""
    pages = [*APPS, PLATFORM]
    if only and only not in pages:
        raise SettingsError(f"{only!r} is not an application: {', '.join(pages)}.{did_you_mean(only, pages)}")
    settings = get_settings()
    running = rollups(settings)
    ready(settings)
    wanted = [rollup for rollup in ROLLUPS.values() if only in {"", rollup.app}]
    if not wanted:
        Console(highlight=False, markup=False).print(f"{only} has no rollups.")
        return
    with transaction() as connection:
        standings = rollup_status.read(connection, wanted)
    console = Console(highlight=False, markup=False)
    names = ("rollup", "days of", "counted from", "closed up to", "late by", "frozen up to", "next revisit")
    wide = console.width >= WIDE
    table = Table(expand=True, show_header=wide, show_lines=not wide)
    for name in names if wide else names[:1]:
        table.add_column(name, ratio=2 if name == names[0] else 1)
    for name, standing in standings.items():
        cells = (name, *_cells(standing, settings))
        style = "dim" if name not in running else "red" if standing.late else ""
        if wide:
            table.add_row(*cells, style=style)
        else:
            facts = [f"{title}: {cell}" for title, cell in zip(names[1:], cells[1:], strict=True)]
            table.add_row(Group(Text(name, style="bold"), Text("; ".join(facts))), style=style)
    console.print(table)


def _cells(standing: rollup_status.RollupStatus, settings: Settings) -> tuple[str, ...]:
    rollup, state = standing.rollup, standing.state
    if state is None:
        return (zone(rollup, settings), *("–" for _ in range(5)))
    first = bucket_at(state.covered_from, rollup.grain, state.zone, state.seam)
    return (
        state.zone,
        formatting.bucket(first.label),
        "–" if standing.closed is None else formatting.bucket(standing.closed.label),
        rough_duration(standing.lag) if standing.lag else "–",
        "–" if state.frozen_to is None else timestamp(state.frozen_to),
        _next_revisit(rollup, state),
    )


def _next_revisit(rollup: Rollup, state: State) -> str:
    if rollup.recompute_for is None:
        return "never"
    if state.recompute_at is None:
        return "–"
    return formatting.bucket(bucket_at(state.recompute_at, rollup.grain, state.zone, state.seam).label)


# -- anew ------------------------------------------------------------------------------------------------


@app.command()
def backfill(
    name: Name,
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="The first day, as 2026-03-01.")],
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="The last day.")],
    jobs: Annotated[
        int, typer.Option(min=1, max=MOST_JOBS, help="How many days at once, each on its own connection.")
    ] = 1,
) -> None:
    """Compute the statistics of some days anew, the last one first; beat's runs go on beside it."""
    settings = get_settings()
    rollup = named("a rollup", name, ROLLUPS, settings)
    days = _parsed("--from", first), _parsed("--to", last)
    standing, state = _standing(rollup, settings)
    wanted = _between(rollup, state, *days, until=standing.now)
    if not wanted:
        raise SettingsError(f"--from {days[0]} is still to come: it is {timestamp(standing.now)} UTC.")
    began = monotonic()
    with _backfilling(rollup) as watch:
        run = Backfill(rollup, standing.now, state.zone, watch=watch)
        try:
            done = run.compute_all(wanted, jobs)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"{rollup.name}: broken off; {run.progress.buckets:,} of "
                f"{quantity(len(wanted), rollup.grain)} computed, {quantity(run.progress.rows, 'row')} of "
                "statistics changed."
            )
            raise typer.Exit(130) from None
        except OtherZoneError as error:
            raise SettingsError(f"{error}") from error
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{rollup.name}: {quantity(done.buckets, rollup.grain)} computed, {quantity(done.rows, 'row')} of "
        f"statistics changed, {monotonic() - began:.1f} s."
    )
    with transaction() as connection:
        now_state = state_of(connection, rollup)
    for remark in _remarks(rollup, now_state or state, wanted, done):
        console.print(remark)


@contextmanager
def _backfilling(rollup: Rollup) -> Iterator[Callable[[BackfillProgress], None]]:
    """Yield what shows how far a backfill is, and how fast."""
    began = monotonic()
    with progress.watching(rollup.name) as show:

        def watch(done: BackfillProgress) -> None:
            over = done.buckets + done.frozen
            rate = done.buckets / max(monotonic() - began, 0.001)
            show(
                f"{rollup.name}: {over:,} of {quantity(done.todo, rollup.grain)}, {rate:.1f} a second",
                over,
                done.todo,
            )

        yield watch


def _remarks(rollup: Rollup, state: State, wanted: Sequence[Bucket], done: BackfillProgress) -> Iterator[str]:
    """Yield what else is to be known of a backfill."""
    unit = rollup.grain
    if done.frozen:
        left = "is frozen, and stays as it is" if done.frozen == 1 else "are frozen, and stay as they are"
        yield f"{quantity(done.frozen, unit)} {left}: {_why_frozen(state)}."
    if unclosed := [bucket for bucket in wanted if bucket.end > state.watermark]:
        are, it = ("is", "it was") if len(unclosed) == 1 else ("are", "they were")
        which = formatting.buckets(unclosed[0].label, unclosed[-1].label)
        yield f"{which} {are} not closed yet: {it} computed up to now."
    if wanted[-1].end < state.covered_from:
        begins = bucket_at(state.covered_from, unit, state.zone, state.seam)
        gap = buckets(wanted[-1].end, state.covered_from, unit, state.zone, state.seam)
        yield (
            f"Statistics are kept right from {formatting.bucket(begins.label)} on; of "
            f"{formatting.buckets(gap[0].label, gap[-1].label)} there are none. To have all: --to "
            f"{_day_before(begins)}"
        )


def _day_before(bucket: Bucket) -> date:
    label = bucket.label.date() if isinstance(bucket.label, datetime) else bucket.label
    return label - timedelta(days=1)


def _why_frozen(state: State) -> str:
    if state.frozen_to is None:
        return "cleanup deletes its rows soon after they are counted"
    return f"rows up to {timestamp(state.frozen_to)} UTC are gone"


def _standing(rollup: Rollup, settings: Settings) -> tuple[rollup_status.RollupStatus, State]:
    """Return how far a rollup has come that has run and counts the days that are set."""
    ready(settings, rollup)
    with transaction() as connection:
        standing = rollup_status.read(connection, [rollup])[rollup.name]
    state = standing.state
    if state is None:
        raise SettingsError(f"{rollup.name} has never run; see to that first: roomkeeper run {rollup.name}")
    rollup_status.require_same(standing, settings)
    return standing, state


def _parsed(option: str, given: str) -> date:
    try:
        day = date.fromisoformat(given.strip())
    except ValueError:
        raise SettingsError(f"{option} must be a day like 2026-03-01 (got {given!r}).") from None
    if not FIRST <= day < date.max - timedelta(days=2):
        raise SettingsError(f"{option} {day} is no day of statistics: they begin in {FIRST.year}.")
    return day


def _between(rollup: Rollup, state: State, first: date, last: date, *, until: datetime) -> list[Bucket]:
    """Return the buckets of some days, those that have not begun left out."""
    if first > last:
        raise SettingsError(f"--from {first} is after --to {last}.")
    start, end = (day_of(day, state.zone, state.seam) for day in (first, last))
    return buckets(start.start, min(end.end, until), rollup.grain, state.zone, state.seam)


# -- proved ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What an audit found.

    Attributes:
        drifted: buckets with rows that are not what they should be.
        frozen: buckets whose source rows are deleted, so that they cannot be computed again.
    """

    drifted: list[Bucket]
    rows: int = 0
    audited: int = 0
    frozen: int = 0


@app.command()
def audit(
    name: Name,
    sample: Annotated[int, typer.Option(min=1, help="How many closed days or hours are computed.")] = 5,
    every: Annotated[bool, typer.Option("--all", help="All that are closed.")] = False,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="None before this day, as 2026-03-01.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="None after this day.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Choose as the audit did that said this number.")
    ] = None,
) -> None:
    """Compute some closed days from the rows again, and say where statistics differ; nothing is changed."""
    settings = get_settings()
    rollup = named("a rollup", name, ROLLUPS, settings)
    days = (
        FIRST if first is None else _parsed("--from", first),
        date.max - timedelta(days=3) if last is None else _parsed("--to", last),
    )
    standing, state = _standing(rollup, settings)
    closed = _closed(rollup, state, *days)
    sound = [bucket for bucket in closed if not frozen(rollup, state, bucket)]
    chance = secrets.randbelow(10**6) if seed is None else seed
    chosen = sound
    if not every and sample < len(sound):
        chosen = sorted(random.Random(chance).sample(sound, sample))  # noqa: S311 - no secret
    console = Console(highlight=False, markup=False, soft_wrap=True)
    found = _Found([], frozen=len(closed) - len(sound))
    began = monotonic()
    try:
        with progress.watching(rollup.name) as show:
            for number, bucket in enumerate(chosen, 1):
                _audit(rollup, bucket, standing.now, found, console)
                show(
                    f"{rollup.name}: {number:,} of {quantity(len(chosen), rollup.grain)} computed",
                    number,
                    len(chosen),
                )
    except KeyboardInterrupt:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"{rollup.name}: broken off.")
        raise typer.Exit(130) from None
    chosen_by = f" (--seed {chance})" if len(chosen) < len(sound) else ""
    console.print(
        f"{rollup.name}: {found.audited:,} of {quantity(len(closed), rollup.grain)} that are closed computed "
        f"again{chosen_by}, {monotonic() - began:.1f} s."
    )
    if found.frozen:
        are = "is" if found.frozen == 1 else "are"
        console.print(f"{quantity(found.frozen, rollup.grain)} {are} frozen: {_why_frozen(state)}.")
    _conclude(rollup, standing.now, found, console)


def _closed(rollup: Rollup, state: State, first: date, last: date) -> list[Bucket]:
    start = max(state.covered_from, day_of(first, state.zone, state.seam).start)
    end = min(state.watermark, day_of(last, state.zone, state.seam).end)
    if first > last:
        raise SettingsError(f"--from {first} is after --to {last}.")
    return buckets(start, end, rollup.grain, state.zone, state.seam)


@contextmanager
def _snapshot() -> Iterator[Connection]:
    """Open a transaction all of whose statements see the same moment."""
    with get_engine().connect() as connection:
        at_once = connection.execution_options(isolation_level="REPEATABLE READ")
        with at_once.begin():
            yield at_once


def _audit(rollup: Rollup, bucket: Bucket, now: datetime, found: _Found, console: Console) -> None:
    with _snapshot() as connection:
        # Retention freezes the bucket in the transaction that takes its rows.
        state = state_of(connection, rollup)
        if state is None or frozen(rollup, state, bucket):
            found.frozen += 1
            return
        rows = differences(connection, rollup, bucket, now)
    found.audited += 1
    if not rows:
        return
    found.drifted.append(bucket)
    found.rows += len(rows)
    for row in rows[:SHOWN]:
        console.print(f"✗ {formatting.bucket(bucket.label)}{_drift(rollup, row)}", style="red")
    if len(rows) > SHOWN:
        more = quantity(len(rows) - SHOWN, "row")
        console.print(f"  and {more} more of {formatting.bucket(bucket.label)}")


def _drift(rollup: Rollup, row: Row[Any]) -> str:
    """Return what is wrong with a row of statistics: its key, and each value that is not as it should be."""
    of = row._mapping
    keys = [column.property.columns[0].name for column in rollup.key]
    key = "".join(f" {name}={of[name]}" for name in keys)
    if of["there"] and not of["computed"]:
        return f"{key}: is there, and nothing was counted"
    if not of["there"]:
        should = ", ".join(f"{name} {of[f'{name}_computed']}" for name in rollup.metrics)
        return f"{key}: is missing: {should}"
    changed = [
        f"{name} {of[f'{name}_there']} → {of[f'{name}_computed']}"
        for name in rollup.metrics
        if of[f"{name}_there"] != of[f"{name}_computed"]
    ]
    return f"{key}: {', '.join(changed)}"


def _conclude(rollup: Rollup, now: datetime, found: _Found, console: Console) -> None:
    if not found.drifted:
        if found.audited:
            console.print("All of it is as the rows say.", style="green")
        else:
            console.print("There was nothing to compute.")
        return
    first, last = found.drifted[0], found.drifted[-1]
    days = [f"{bucket.label:%Y-%m-%d}" for bucket in (first, last)]
    are = "is" if found.rows == 1 else "are"
    console.print(
        f"{quantity(found.rows, 'row')} of {quantity(len(found.drifted), rollup.grain)} {are} not as the "
        "rows say, there → computed."
    )
    console.print(f"Mend it: roomkeeper rollup backfill {rollup.name} --from {days[0]} --to {days[1]}")
    if rollup.recompute_for is not None and last.end > now - rollup.recompute_for:
        console.print(
            f"What came in late is put right within a day by itself, for {rollup.recompute_for.days} days."
        )
    raise typer.Exit(1)
