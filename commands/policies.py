"""`roomkeeper policies` and `roomkeeper run`: what cleans up, how it gets on, and one of them by hand."""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from psycopg.errors import LockNotAvailable, QueryCanceled
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, event, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from commands import arguments, checks
from tasks.apps import APPS, POLICIES, after, every, policies
from tasks.apps.platform import OWN
from tasks.apps.retentions import Retention
from tasks.apps.sweeps import Delete, Sweep
from tasks.brake import Stopped
from tasks.engines.reach import UnknownReferenceError
from workers import health
from workers.db import get_engine, transaction
from workers.settings import Settings, SettingsError, get_settings, variable
from workers.storage import StoreError

if TYPE_CHECKING:
    from tasks.engines.sweep import Progress as Done

#: The page of the platform's own policies.
OURS = "roomkeeper"
#: So many due rows are counted at most, for so long at most.
COUNTED = 10_000
COUNT_MS = 2_000
#: From this width on, in characters, there is room for a column each.
WIDE = 150
SAMPLED = 5
#: Where nobody looks at a bar: a line every so many seconds.
LINE_SECONDS = 5.0
#: More rows than there are.
_ALL = 2**62

#: Longest first, with the names that people use, and short ones.
_UNITS = (
    (timedelta(days=1), "day", "d"),
    (timedelta(hours=1), "hour", "h"),
    (timedelta(minutes=1), "minute", "min"),
    (timedelta(seconds=1), "second", "s"),
)


# -- what there is ---------------------------------------------------------------------------------------


def list_policies(
    app: Annotated[str, typer.Argument(help="Only this application's, or `roomkeeper`'s own.")] = "",
) -> None:
    """Print every policy: what it does to which rows, how often, its last run, and what is due now."""
    pages = {**{name: page.policies for name, page in APPS.items()}, OURS: OWN}
    if app and app not in pages:
        raise SettingsError(f"{app!r} is not an application: {', '.join(pages)}.{likely(app, list(pages))}")
    settings = get_settings()
    running = policies(settings)
    ready(settings)
    shown = {name: page for name, page in pages.items() if page and app in {"", name}}
    with transaction() as connection:
        jobs = {policy.name: every(policy, settings) for page in shown.values() for policy in page}
        ledger = health.ask(connection, jobs).jobs
    console = Console(highlight=False, markup=False)
    make = _wide if console.width >= WIDE else _narrow
    with hurried():
        for name, page in shown.items():
            on = name in {*settings.apps, OURS}
            rows = [
                _Row(policy, ledger[policy.name], settings, on=policy.name in running, needed=on)
                for policy in page
            ]
            about = APPS[name].about if name in APPS else "the platform's own"
            missing = "" if on else f"; not in {variable('apps')}, so none of these runs"
            console.print(make(f"{name}: {about}{missing}", rows))
    if app and app not in shown:
        console.print(f"{app} has no policies.")


class _Row:
    """A policy as it is shown."""

    def __init__(
        self, policy: Sweep, found: health.Health, settings: Settings, *, on: bool, needed: bool
    ) -> None:
        self.name = policy.name
        self.table = _real(policy, settings)
        self.rule = rule(policy, settings)
        self.schedule = f"every {short(every(policy, settings))}" if on else "off"
        self.last = _last(found, on=on)
        self.due = due(policy, settings) if needed else "–"
        # A fault is to be seen at once.
        wrong = on and (found.overdue or found.stuck_rows or found.stopped)
        self.style = "red" if wrong else "" if on else "dim"


def _wide(title: str, rows: Sequence[_Row]) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    for name in ("policy", "table"):
        table.add_column(name, no_wrap=True)
    table.add_column("rule", ratio=2)
    table.add_column("runs", no_wrap=True)
    table.add_column("last run (UTC)", ratio=1)
    table.add_column("due now", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.table, row.rule, row.schedule, row.last, row.due, style=row.style)
    return table


def _narrow(title: str, rows: Sequence[_Row]) -> Table:
    table = Table(title=title, title_justify="left", expand=True, show_header=False, show_lines=True)
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(
            Group(
                Text(f"{row.name} ({row.table})", style="bold"),
                Text(row.rule),
                Text(f"{row.schedule}; last run: {row.last}; due now: {row.due}"),
            ),
            style=row.style,
        )
    return table


def rule(policy: Sweep, settings: Settings) -> str:
    """Return what a policy does to which rows, with the period that is set, or how to set one."""
    period = after(policy, settings)
    if policy.off_until_set and period is None:
        return f"{policy.rule.replace('{after}', 'a time that is not set')}; {how_to_set(policy, settings)}"
    return policy.rule if period is None else policy.rule.replace("{after}", spell(period))


def lacks_period(policy: Sweep, settings: Settings) -> str | None:
    """Return why a policy does not run that has no period until somebody sets one; None if it has one."""
    if not policy.off_until_set or after(policy, settings) is not None:
        return None
    return f"{policy.name} is off until it has a period: {how_to_set(policy, settings)}"


def how_to_set(policy: Sweep, settings: Settings) -> str:
    """Return what to do so that a policy has a period."""
    name = variable("retention_days")
    if settings.retention_days:
        return f"add {policy.name}=DAYS to {name}"
    return f"set {name}={policy.name}=DAYS"


def spell(period: timedelta) -> str:
    """Return a period as people say it: `30 minutes`, `1 day`, `1.5 seconds`."""
    number, name, _ = _in_units(period)
    return f"{number} {name}" if number == "1" else f"{number} {name}s"


def short(period: timedelta) -> str:
    """Return a period in short: `5 s`, `1 min`, `12 h`."""
    number, _, name = _in_units(period)
    return f"{number} {name}"


def _in_units(period: timedelta) -> tuple[str, str, str]:
    """Return a period in the longest unit that makes it a whole number, and that unit's names."""
    for unit, name, brief in _UNITS:
        if period % unit == timedelta(0):
            return f"{period // unit:,}", name, brief
    return f"{period.total_seconds():,g}", "second", "s"


def _last(found: health.Health, *, on: bool) -> str:
    last = found.last
    if last is None:
        told = "never"
    else:
        rows = counted(last.rows)
        left = f", {last.remaining:,} remain" if last.remaining else ""
        error = f": {last.error.splitlines()[0][: health.ERROR_CHARS]}" if last.error else ""
        told = f"{told_time(last.started_at)}, {rows}{left}, {last.outcome}{error}"
    if found.running:
        return f"{told}; running now"
    return f"{told}; overdue" if on and found.overdue else told


def due(policy: Sweep, settings: Settings) -> str:
    """Return how many rows are due, as it is told: counted up to a limit, and for a moment only."""
    from tasks import cleanup

    if lacks_period(policy, settings):
        return "–"
    try:
        found = cleanup.eligible(policy, settings, COUNTED + 1)
    except OperationalError as error:
        # It takes too long, or somebody is altering the table.
        if isinstance(error.orig, QueryCanceled | LockNotAvailable):
            return "?"
        raise
    except ProgrammingError:
        # A table or a column that is missing, or a right: `roomkeeper check` says which.
        return "?"
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


# -- one of them by hand ---------------------------------------------------------------------------------


def run(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Its name, from `roomkeeper policies`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what is due, and name some; change nothing.")
    ] = False,
    now: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Go by this time, as 2026-03-01T10:00:00Z; by the clock if not given."
        ),
    ] = None,
) -> None:
    """Run one policy now, to its end, through its whole table; beat's runs of it are skipped meanwhile."""
    settings = get_settings()
    wanted = chosen(policy, settings)
    moment = None if now is None else parsed(now)
    if off := lacks_period(wanted, settings):
        raise SettingsError(f"{off}.")
    ready(settings, wanted)
    from tasks import cleanup

    clock = cleanup.clock()
    if dry_run:
        _tell_what_is_due(wanted, settings, moment or clock)
    elif moment is not None and moment > clock:
        raise SettingsError(
            f"{told_time(moment)} UTC is still to come: what is alive now would be swept. Say --dry-run as "
            "well to see what would be due then."
        )
    else:
        _sweep(wanted, settings, moment)


def chosen(name: str, settings: Settings) -> Sweep:
    """Return the policy of an enabled application that is called so."""
    if name not in POLICIES:
        raise SettingsError(
            f"{name!r} is not a policy; `roomkeeper policies` lists them.{likely(name, list(POLICIES))}"
        )
    # Says also what else is wrong with the settings' names.
    policies(settings)
    app = name.partition(".")[0]
    if app not in {*settings.apps, OURS}:
        raise SettingsError(
            f"{app} is not enabled: {variable('apps')} names {', '.join(settings.apps) or 'nothing'}."
        )
    return POLICIES[name]


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


def _tell_what_is_due(policy: Sweep, settings: Settings, moment: datetime) -> None:
    from tasks import cleanup

    (key,) = policy.table.primary_key.columns
    values = {"now": moment, "after": after(policy, settings)}
    try:
        found = cleanup.eligible(policy, settings, _ALL, moment)
        with transaction() as connection:
            samples = connection.scalars(select(key).where(policy.due).limit(SAMPLED), values).all()
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise SettingsError(
                f"Counting what is due takes longer than {variable('statement_timeout_ms')} allows, "
                f"{settings.statement_timeout_ms:,} ms; give it more for this command."
            ) from error
        raise
    console = Console(highlight=False, markup=False, soft_wrap=True)
    example = ", for example:" if samples else "."
    is_due = "1 row is" if found == 1 else f"{found:,} rows are"
    console.print(f"{policy.name}: {is_due} due at {told_time(moment)} UTC{example}")
    for sample in samples:
        console.print(f"  {sample}")
    console.print("Nothing was changed.")


def _run(
    policy: Sweep, settings: Settings, moment: datetime | None, watch: Callable[["Done"], None]
) -> "Done | None":
    """Run it; what keeps retention from running is a sentence."""
    from tasks import cleanup, retention

    if not isinstance(policy, Retention):
        return cleanup.run(policy, settings, now=moment, by_hand=True, watch=watch)
    try:
        with quiet():
            return retention.run(
                policy, settings, now=moment, by_hand=True, operator=arguments.myself(), watch=watch
            )
    except (Stopped, UnknownReferenceError) as reason:
        raise SettingsError(f"{reason}.") from reason
    except StoreError as error:
        raise SettingsError(f"{str(error).rstrip('.')}.") from error


def _sweep(policy: Sweep, settings: Settings, moment: datetime | None) -> None:
    began = monotonic()
    so_far = 0
    with _watching(policy) as show:

        def watch(done: "Done") -> None:
            nonlocal so_far
            so_far = done.rows
            show(done)

        try:
            done = _run(policy, settings, moment, watch)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False).print(
                f"{policy.name}: broken off; {counted(so_far)} {_what(policy)}."
            )
            raise typer.Exit(130) from None
    if done is None:
        raise SettingsError(
            f"Another run of {policy.name} is under way: nothing was done here; see: roomkeeper policies"
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    batches = "1 batch" if done.batches == 1 else f"{done.batches:,} batches"
    console.print(
        f"{policy.name}: {counted(done.rows)} {_what(policy)} in {batches}, {monotonic() - began:.1f} s."
    )
    if done.remaining:
        is_due = "1 row is" if done.remaining == 1 else f"{done.remaining:,} rows are"
        why = f"the database says {done.error}" if done.error else "somebody holds them, or changes them"
        console.print(f"{is_due} due still: {why}.")
    if isinstance(policy, Retention):
        if done.rows:
            console.print(f"What went, and where it is archived: roomkeeper retention receipts {policy.name}")
        if done.more:
            console.print(
                f"There is more than it may take at once: roomkeeper retention preview {policy.name}"
            )
    elif done.more:
        console.print("There is more: its time was over. Run it again.")


@contextmanager
def _watching(policy: Sweep) -> Iterator[Callable[["Done"], None]]:
    """Yield what shows how far a run is: as a bar that goes when it ends, or in lines where nobody looks."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        last = monotonic()

        def line(done: "Done") -> None:
            nonlocal last
            if monotonic() - last >= LINE_SECONDS:
                last = monotonic()
                console.print(f"{policy.name}: {_so_far(done)}")

        yield line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(policy.name, total=None)

        def show(done: "Done") -> None:
            progress.update(
                bar,
                description=f"{policy.name}: {_so_far(done)}",
                completed=done.page,
                total=done.pages or None,
            )

        yield show


def _so_far(done: "Done") -> str:
    pages = f", page {done.page:,} of {done.pages:,}" if done.pages else ""
    return f"{counted(done.rows)}{pages}"


# -- both ------------------------------------------------------------------------------------------------


def ready(settings: Settings, policy: Sweep | None = None) -> None:
    """See whether the database is as it must be, for one policy if it is given; end if it is not."""
    faults = checks.database(settings, policy.needs() if policy else [])
    if faults:
        checks.tell(faults, Console(stderr=True))
        raise typer.Exit(1)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what workers write into their log, batch by batch, out of what a command tells."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)


def likely(name: str, known: Sequence[str]) -> str:
    """Return a question that names what was meant, if something is much like it."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _real(policy: Sweep, settings: Settings) -> str:
    """Return the name of its table, as this database has it."""
    schema = policy.table.schema or ""
    return f"{settings.schemas.get(schema, schema)}.{policy.table.name}"


def _what(policy: Sweep) -> str:
    return "deleted" if isinstance(policy.then, Delete) else "changed"


def counted(number: int) -> str:
    """Return a number of rows as it is told."""
    return "1 row" if number == 1 else f"{number:,} rows"


def told_time(at: datetime) -> str:
    """Return a moment as it is told, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
