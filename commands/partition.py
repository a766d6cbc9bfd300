"""`roomkeeper partition`: can a table be partitioned by month, and the partitions of one that is."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Shown

from commands import arguments, checks
from commands.formatting import quantity
from workers.db import clock, transaction
from workers.settings import Settings, SettingsError, get_settings
from workers.storage import StoreError

if TYPE_CHECKING:
    from tasks.retention.partitions import Dropped, Plan
    from tasks.retention.partitions.catalog import Found

app = typer.Typer(help="Tables that are partitioned by month.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="APP.TABLE", help="As pern.audit_logs.")]


@app.command("plan")
def plan(
    table: Name,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="The column that tells a row's age; if not given its policy's, or created_at.",
        ),
    ] = None,
) -> None:
    """Explain whether a table can be partitioned by month, and how; or how its partitions stand."""
    from tasks.retention import partitions

    settings = get_settings()
    found = _find(settings, table, by)
    now = clock()
    with transaction() as connection:
        made = partitions.plan(connection, found, settings, now)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{made.table} by month of {made.age}: {_estimated(made)}, {decimal(made.bytes)}.")
    if made.partitions is not None:
        _tell_partitions(made, console, table)
    elif made.conversion is None:
        console.print("It cannot be partitioned:")
        for reason in made.reasons:
            console.print(f"  - {reason}")
    else:
        _tell_switch(made, console)


def _estimated(made: "Plan") -> str:
    return "rows never estimated (ANALYZE does)" if made.rows is None else f"about {made.rows:,} rows"


def _tell_partitions(made: "Plan", console: Console, table: str) -> None:
    over = {one.name for one in made.past}
    shown = Shown(expand=False)
    for name in ("partition", "from", "to"):
        shown.add_column(name, no_wrap=True)
    for name in ("rows", "size"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    for one in made.partitions or []:
        begins, ends = ("default", "") if one.default else (_day(one.begins, "–"), _day(one.ends, "–"))
        state = "over" if one.name in over else "" if one.plain or one.default else "not ours"
        shown.add_row(
            one.name, begins, ends, "?" if one.rows is None else f"{one.rows:,}", decimal(one.bytes), state
        )
    console.print(shown)
    for note in made.notes:
        console.print(note)
    for sentence, advice in made.warnings:
        console.print(f"! {sentence}\n  {advice}")
    for absent in made.coming:
        console.print(f"Missing: {absent:%Y-%m}.")
    if made.coming or over:
        console.print(f"Make what is missing, and drop what is over: roomkeeper partition run {table}")
    else:
        console.print("Nothing is missing, and nothing is over.")


def _tell_switch(made: "Plan", console: Console) -> None:
    assert made.conversion is not None
    console.print("It can be partitioned. Know this:")
    for note in made.notes:
        console.print(f"  - {note}")
    console.print(
        f"The application's own migration would run what follows, both parts before "
        f"{made.conversion.until:%Y-%m-%d} (UTC); Roomkeeper does not."
    )
    console.print("\n-- While it works; in no transaction.")
    for statement in made.conversion.before:
        console.print(f"{statement};")
    console.print("\n-- Then at once: it takes moments, and no row is copied.\nBEGIN;")
    for statement in made.conversion.at_once:
        console.print(f"{statement};")
    console.print("COMMIT;")


@app.command("run")
def run(
    table: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made and dropped; change nothing.")
    ] = False,
    actor: arguments.Actor = "",
) -> None:
    """Make the partitions of this month and three ahead, and drop those past retention, archived before."""
    from tasks.retention import partitions
    from tasks.retention.safety_limit import ApprovalRequired

    settings = get_settings()
    found = _find(settings, table, None)
    if not found.partitioned:
        raise SettingsError(
            f"{table} is not partitioned by {found.age}; see: roomkeeper partition plan {table}"
        )
    now = clock()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        if dry_run:
            with transaction() as connection:
                coming = partitions.missing_months(partitions.partitions(connection, found), now)
            made = [f"{begins:%Y-%m}" for begins in coming]
        else:
            made = partitions.create_upcoming(found, now)
        for name in made:
            console.print(f"{name}: {'would be made' if dry_run else 'made'}.")
        done = partitions.drop_past(
            found.table,
            settings,
            now,
            operator=arguments.actor(actor),
            dry_run=dry_run,
            watch=lambda name, rows: progress.print(f"{name}: {rows:,} rows archived"),
        )
    except (partitions.PartitionError, ApprovalRequired, StoreError) as error:
        raise SettingsError(str(error)) from error
    _tell_dropped(done, console, dry_run=dry_run)
    if not made and not done.results:
        console.print("Nothing is missing, and nothing is over.")
    if dry_run:
        console.print("Nothing was changed.")


def _tell_dropped(done: "Dropped", console: Console, *, dry_run: bool) -> None:
    if done.busy:
        raise SettingsError("Another run drops partitions of this table: it was left alone.")
    for result in done.results:
        rows = quantity(result.rows, "row")
        if result.kept is not None:
            console.print(f"{result.name}: stays: {result.kept}.")
        elif dry_run:
            console.print(f"{result.name}: would be dropped, {rows}.")
        else:
            numbers = ", ".join(str(number) for number in result.receipts)
            which = "receipt" if len(result.receipts) == 1 else "receipts"
            console.print(f"{result.name}: dropped, {rows}; {which} {numbers}.")


def _find(settings: Settings, name: str, by: str | None) -> "Found":
    from tasks.retention import partitions

    checks.require_database(settings, [])
    try:
        table = partitions.named(name)
        with transaction() as connection:
            return partitions.find(connection, table, partitions.age_of(table, by))
    except partitions.PartitionError as error:
        raise SettingsError(str(error)) from error


def _day(moment: datetime | None, if_open: str) -> str:
    return if_open if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d}"
