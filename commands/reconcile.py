"""`roomkeeper reconcile`: what the stores hold against what the rows name."""

from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from commands import arguments, checks, progress
from commands.formatting import alternatives, printable, quantity, timestamp
from tasks.apps import enabled
from tasks.attachments.operator_actions import WITH_ATTACHMENTS
from tasks.reconcile import CannotAskError, ListingLostError, Result, WrongPrefixError
from tasks.reconcile import reconcile as compare
from workers.settings import Settings, SettingsError, get_settings, variable
from workers.storage import StoreError

STORES = ("local", "s3")


def reconcile(
    app: Annotated[
        str | None,
        typer.Option("--app", help=f"{alternatives(WITH_ATTACHMENTS)}: only its pictures, and its rows."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", help=f"{alternatives(STORES)}; all that are set up if not given."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Mend what is found; without it nothing is changed.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with what --apply does.")] = "",
    actor: arguments.Actor = "",
) -> None:
    """Find objects that no row names, and rows whose object is gone; with --apply, mend both."""
    settings = get_settings()
    why, who = printable(reason).strip(), arguments.actor(actor)
    _ready(settings, app, store)
    if apply and not why:
        raise SettingsError("--apply needs --reason: why, in a few words.")
    began = monotonic()
    try:
        with progress.watching("listing", bar=False) as watch:
            found = compare(settings, app=app, store=store, apply=apply, actor=who, reason=why, watch=watch)
    except KeyboardInterrupt:
        typer.echo("Broken off; what was mended before is.", err=True)
        raise typer.Exit(130) from None
    except CannotAskError as error:
        checks.print_faults(error.faults, Console(stderr=True))
        typer.echo("Nothing was changed: files that its rows name would be taken for orphans.", err=True)
        raise typer.Exit(1) from None
    except WrongPrefixError as error:
        raise SettingsError(f"{variable('reconcile_prefixes')} names {error}.") from error
    except (StoreError, ListingLostError) as error:
        raise SettingsError(f"{str(error).rstrip('.')}.") from error
    if found is None:
        raise SettingsError("Another reconciliation is under way: nothing was done here.")
    _tell(found, settings, apply, monotonic() - began)


def _ready(settings: Settings, app: str | None, store: str | None) -> None:
    arguments.known("--app", app, WITH_ATTACHMENTS)
    arguments.known("--store", store, STORES)
    on = enabled(settings)
    if app is not None and app not in on:
        raise SettingsError(f"{app} is not enabled: {variable('apps')} names {', '.join(on) or 'nothing'}.")
    if not settings.reconcile_prefixes:
        raise SettingsError(f"{variable('reconcile_prefixes')} is empty: there is nothing to look at.")
    checks.require_database(settings, [])


def _tell(stores: list[Result], settings: Settings, apply: bool, seconds: float) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for found in stores:
        _tell_of(found, console)
    stopped = [found.stopped for found in stores if found.stopped]
    mended = sum(found.deleted + found.reopened for found in stores)
    kept = [found.error for found in stores if found.error]
    if apply and (mended or not stopped):
        for found in stores:
            console.print(_mended(found))
    if not mended:
        console.print(f"Nothing was changed. {seconds:.1f} s.")
    else:
        console.print(f"{seconds:.1f} s.")
    if stopped or kept:
        complaints = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        for sentence in (*stopped, *kept):
            complaints.print(f"✗ {sentence}.", style="red")
        if stopped:
            complaints.print(
                f"  Is it the right store and the right database ({variable('database_url')}, "
                f"{variable('schemas')}, {variable('storage_root')}, {variable('s3_bucket')})? Are the "
                f"applications' tables as they should be, and do {variable('reconcile_prefixes')} "
                f"({', '.join(settings.reconcile_prefixes)}) hold nothing but attachments? If all that is "
                f"so, raise {variable('reconcile_share')} for this once."
            )
        raise typer.Exit(1)


def _tell_of(found: Result, console: Console) -> None:
    console.print(f"{found.store}: {quantity(found.listed, 'object')}, {decimal(found.listed_bytes)}")
    console.print(f"  named by rows: {found.named:,}")
    for number, what in (
        (found.young, "named by no row, too young to be orphans"),
        (found.foreign, "of applications that are not in this database"),
    ):
        if number:
            console.print(f"  {what}: {number:,}")
    oldest = f", the oldest of {timestamp(found.oldest)} UTC" if found.oldest else ""
    console.print(f"  orphans: {found.orphans:,}, {decimal(found.orphan_bytes)}{oldest}")
    for key in found.keys:
        console.print(f"    {printable(key)}")
    console.print(f"  rows looked at: {found.rows:,}; their object is gone: {found.missing:,}")
    for row in found.ids:
        console.print(f"    {row}")


def _mended(found: Result) -> str:
    spared = f"; {found.spared:,} that rows name by now were spared" if found.spared else ""
    return (
        f"{found.store}: {quantity(found.deleted, 'orphan')} removed, {quantity(found.reopened, 'row')} "
        f"given back to the pipeline{spared}."
    )
