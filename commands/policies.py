"""`roomkeeper policies`: what cleans up and what makes statistics, and how it gets on."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import structlog
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, event
from sqlalchemy import Table as DataTable
from sqlalchemy.exc import DBAPIError

from commands import checks, formatting, rollup_status
from commands.formatting import did_you_mean, duration, quantity, rough_duration, short_duration, timestamp
from tasks.apps import APPS, POLICIES, ROLLUPS, after, enabled, every, policies, rollups, zone
from tasks.apps.platform import OWN, OWN_ROLLUPS
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Sweep
from tasks.sweeps.eligible_rows import eligible
from workers import health
from workers.database_errors import ErrorKind, kind_of
from workers.db import clock, get_engine, transaction
from workers.settings import Settings, SettingsError, get_settings, variable

J = TypeVar("J")

#: The page of the platform's own policies and rollups.
PLATFORM = "roomkeeper"
#: So many due rows are counted at most, for so long at most.
COUNTED = 10_000
COUNT_MS = 2_000
#: From this width on, in characters, there is room for a column each.
WIDE = 150

# -- what there is ---------------------------------------------------------------------------------------


def list_policies(
    app: Annotated[str, typer.Argument(help="Only this application's, or `roomkeeper`'s own.")] = "",
) -> None:
    """Print every policy and rollup: what it does, how often, its last run, and what is due or closed."""
    of: dict[str, tuple[Sweep | Rollup, ...]] = {
        **{name: (*found.policies, *found.rollups) for name, found in APPS.items()},
        PLATFORM: (*OWN, *OWN_ROLLUPS),
    }
    if app and app not in of:
        likely = did_you_mean(app, list(of))
        raise SettingsError(f"{app!r} is not an application: {', '.join(of)}.{likely}")
    settings = get_settings()
    running = {*policies(settings), *rollups(settings)}
    ready(settings)
    shown = {name: jobs for name, jobs in of.items() if jobs and app in {"", name}}
    with transaction() as connection:
        periods = {job.name: every(job, settings) for jobs in shown.values() for job in jobs}
        history = health.ask(connection, periods).jobs
        standings = rollup_status.read(connection, [ROLLUPS[name] for name in periods if name in ROLLUPS])
    console = Console(highlight=False, markup=False)
    make = _wide if console.width >= WIDE else _narrow
    now = clock()
    with hurried():
        for name, jobs in shown.items():
            on = name in {*settings.apps, PLATFORM}
            about = APPS[name].about if name in APPS else "the platform's own"
            missing = "" if on else f"; not in {variable('apps')}, so none of these runs"
            swept = [
                _swept(job, history[job.name], settings, now, on=job.name in running, needed=on)
                for job in jobs
                if isinstance(job, Sweep)
            ]
            rolled_up = [
                _rolled(standings[job.name], history[job.name], settings, on=job.name in running)
                for job in jobs
                if isinstance(job, Rollup)
            ]
            if swept:
                console.print(make(f"{name}: {about}{missing}", ("policy", "due now"), swept))
            if rolled_up:
                console.print(make(f"{name}: statistics{missing}", ("rollup", "closed up to"), rolled_up))
    if app and app not in shown:
        console.print(f"{app} has no policies and no rollups.")


@dataclass(frozen=True, slots=True)
class _Row:
    """A policy or a rollup as it is shown.

    Attributes:
        state: what is due, or closed.
        wrong: whether that is a fault, which is to be seen at once.
    """

    name: str
    table: str
    rule: str
    schedule: str
    last: str
    state: str
    on: bool
    wrong: bool

    @property
    def style(self) -> str:
        return "red" if self.on and self.wrong else "" if self.on else "dim"


def _swept(
    policy: Sweep, found: health.Health, settings: Settings, now: datetime, *, on: bool, needed: bool
) -> _Row:
    return _Row(
        policy.name,
        real(policy.table, settings),
        rule(policy, settings),
        _schedule(policy, settings, on=on),
        _last(found, on=on),
        due(policy, settings, now) if needed else "–",
        on,
        bool(found.overdue or found.stuck_rows or found.stopped),
    )


def _rolled(
    standing: rollup_status.RollupStatus, found: health.Health, settings: Settings, *, on: bool
) -> _Row:
    rollup = standing.rollup
    days_of = zone(rollup, settings)
    return _Row(
        rollup.name,
        real(rollup.table, settings),
        rollup.rule if days_of == "UTC" else f"{rollup.rule} (days of {days_of})",
        _schedule(rollup, settings, on=on),
        _last(found, on=on),
        _closed(standing),
        on,
        found.overdue or standing.late,
    )


def _schedule(job: Sweep | Rollup, settings: Settings, *, on: bool) -> str:
    return f"every {short_duration(every(job, settings))}" if on else "off"


def _closed(standing: rollup_status.RollupStatus) -> str:
    """Return the last bucket that is closed, and how late the next one is if that is a fault."""
    last = standing.closed
    closed = "–" if last is None else formatting.bucket(last.label)
    if not standing.late:
        return closed
    assert standing.lag is not None
    return f"{closed}, {rough_duration(standing.lag)} late"


def _wide(title: str, names: tuple[str, str], rows: Sequence[_Row]) -> Table:
    kind, state = names
    table = Table(title=title, title_justify="left", expand=True)
    for name in (kind, "table"):
        table.add_column(name, no_wrap=True)
    table.add_column("rule", ratio=2)
    table.add_column("runs", no_wrap=True)
    table.add_column("last run (UTC)", ratio=1)
    table.add_column(state, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.table, row.rule, row.schedule, row.last, row.state, style=row.style)
    return table


def _narrow(title: str, names: tuple[str, str], rows: Sequence[_Row]) -> Table:
    table = Table(title=title, title_justify="left", expand=True, show_header=False, show_lines=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(
            Group(
                Text(f"{row.name} ({row.table})", style="bold"),
                Text(row.rule),
                Text(f"{row.schedule}; last run: {row.last}; {names[1]}: {row.state}"),
            ),
            style=row.style,
        )
    return table


def rule(policy: Sweep, settings: Settings) -> str:
    """Return what a policy does to which rows, with the period that is set, or how to set one."""
    period = after(policy, settings)
    if policy.off_until_set and period is None:
        return f"{policy.rule.replace('{after}', 'a time that is not set')}; {how_to_set(policy, settings)}"
    text = policy.rule if period is None else policy.rule.replace("{after}", duration(period))
    return text if policy.ahead is None else f"{text} (times ahead count from when they are first seen)"


def lacks_period(policy: Sweep, settings: Settings) -> str | None:
    """Return why a policy that is off until its period is set does not run; None if the period is set."""
    if not policy.off_until_set or after(policy, settings) is not None:
        return None
    return f"{policy.name} is off until it has a period: {how_to_set(policy, settings)}"


def how_to_set(policy: Sweep, settings: Settings) -> str:
    """Return what to do so that a policy has a period."""
    name = variable("retention_days")
    if settings.retention_days:
        return f"add {policy.name}=DAYS to {name}"
    return f"set {name}={policy.name}=DAYS"


def _last(found: health.Health, *, on: bool) -> str:
    last = found.last
    if last is None:
        text = "never"
    else:
        rows = quantity(last.rows, "row")
        left = f", {last.remaining:,} remain" if last.remaining else ""
        error = f": {last.error.splitlines()[0][: health.ERROR_CHARS]}" if last.error else ""
        text = f"{timestamp(last.started_at)}, {rows}{left}, {last.outcome}{error}"
    if found.running:
        return f"{text}; running now"
    return f"{text}; overdue" if on and found.overdue else text


def due(policy: Sweep, settings: Settings, now: datetime | None = None) -> str:
    """Return how many rows are due, counted up to a limit and for a moment only: `12`, `10,000+`, `?`."""
    if lacks_period(policy, settings):
        return "–"
    try:
        found = eligible(policy, settings, COUNTED + 1, now)
    except DBAPIError as error:
        # It takes too long, or another session alters the table. Or a table, a column or a right is missing;
        # `roomkeeper check` says which.
        if kind_of(error) in {ErrorKind.CONTENTION, ErrorKind.BUG}:
            return "?"
        raise
    return f"{COUNTED:,}+" if found > COUNTED else f"{found:,}"


@contextmanager
def hurried() -> Iterator[None]:
    """Give every statement of this process only so long."""

    def hurry(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT set_config('statement_timeout', %s, true)", (str(COUNT_MS),))

    engine = get_engine()
    event.listen(engine, "begin", hurry)
    try:
        yield
    finally:
        event.remove(engine, "begin", hurry)


# -- what other commands share ---------------------------------------------------------------------------


def ready(settings: Settings, job: Sweep | Rollup | None = None) -> None:
    """See whether the database is as it must be, for one job if it is given; end if it is not."""
    checks.require_database(settings, job.needs() if job else [])


def chosen(name: str, settings: Settings) -> Sweep:
    """Return the policy of an enabled application that is called so."""
    return named("a policy", name, POLICIES, settings)


def named(kind: str, name: str, known: Mapping[str, J], settings: Settings) -> J:
    """Return what an enabled application has of that kind under that name."""
    if name not in known:
        raise SettingsError(
            f"{name!r} is not {kind}; `roomkeeper policies` lists them.{did_you_mean(name, list(known))}"
        )
    # Says also what else is wrong with the settings' names.
    enabled(settings)
    app = name.partition(".")[0]
    if app not in {*settings.apps, PLATFORM}:
        raise SettingsError(
            f"{app} is not enabled: {variable('apps')} names {', '.join(settings.apps) or 'nothing'}."
        )
    return known[name]


def parsed(given: str) -> datetime:
    """Return the moment that --now gives."""
    try:
        moment = datetime.fromisoformat(given.strip())
    except ValueError:
        raise SettingsError(
            f"--now must be a time like 2026-03-01T10:00:00Z or 2026-03-01T11:00:00+01:00 (got {given!r})."
        ) from None
    if moment.tzinfo is None:
        raise SettingsError(
            f"--now {given} does not say in which zone: write {moment.isoformat()}Z if it is UTC, or with "
            f"its offset, {moment.isoformat()}+01:00."
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise SettingsError(f"--now {given} is beyond what a date can be.") from None


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Keep what workers write into their log, below a level, out of what a command tells."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        yield
    finally:
        structlog.configure(**before)


def real(table: DataTable, settings: Settings) -> str:
    """Return the name of a table, as this database has it."""
    schema = table.schema or ""
    return f"{settings.schemas.get(schema, schema)}.{table.name}"
