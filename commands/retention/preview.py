"""`roomkeeper retention preview`: what a run would take, what goes along with it, and what stays."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from psycopg.errors import QueryCanceled
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from sqlalchemy.exc import OperationalError

from commands.formatting import duration, quantity, timestamp
from commands.policies import due, how_to_set, hurried, lacks_period, parsed, ready
from commands.retention.options import retention_policy
from commands.retention.output import bar, console, line
from tasks.apps import POLICIES, after
from tasks.policies.retention import Cascade, Retention, SetValues
from tasks.policies.sweep import Delete
from workers import advice
from workers.db import transaction
from workers.settings import LEAST_DAYS, MAX_DAYS, Settings, SettingsError, get_settings, variable

if TYPE_CHECKING:
    from tasks.retention.preview import Preview, Referring

Now = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Go by this time, as 2026-03-01T10:00:00Z; by the clock if not given."),
]


def preview(
    policy: Annotated[
        str, typer.Argument(metavar="[POLICY]", help="All, counted roughly, if none is named.")
    ] = "",
    now: Now = None,
    days: Annotated[
        float | None,
        typer.Option(min=LEAST_DAYS, max=MAX_DAYS, help="As if this were the policy's period."),
    ] = None,
) -> None:
    """Show what a run would take, what goes along with it and what stays, and why; nothing changes."""
    settings = get_settings()
    moment = None if now is None else parsed(now)
    if policy:
        print_preview(previewed(retention_policy(policy, settings), settings, moment, days))
        console().print("Nothing was changed.")
    elif moment is not None or days is not None:
        raise SettingsError("--now and --days are for one policy: name it.")
    else:
        _print_all(settings)


def _print_all(settings: Settings) -> None:
    ready(settings)
    # Not before: importing tasks makes the Celery application, which not all commands here need.
    from tasks.retention.safety_limit import ApprovalRequired, allowance

    table = Table(expand=True)
    table.add_column("policy", no_wrap=True)
    table.add_column("takes what is older than", ratio=1)
    table.add_column("due now", justify="right", no_wrap=True)
    table.add_column("a run may take", justify="right")
    table.add_column("archive", ratio=1, overflow="fold")
    with hurried():
        for name, policy in POLICIES.items():
            if not isinstance(policy, Retention) or policy.app not in {*settings.apps, "roomkeeper"}:
                continue
            if lacks_period(policy, settings):
                table.add_row(name, f"off: {how_to_set(policy, settings)}", "–", "–", "–", style="dim")
                continue
            try:
                with transaction() as connection:
                    may = f"{allowance(connection, policy, settings).rows:,}"
            except ApprovalRequired:
                may = "nothing: rows were put back"
            off = "; off: " + variable("sweep_off") if name in settings.sweep_off else ""
            period = after(policy, settings)
            age = "what each row says" if period is None else duration(period)
            table.add_row(name, age + off, due(policy, settings), may, _place(policy, settings, ""))
    out = Console(highlight=False, markup=False)
    out.print(table)
    out.print("All there is about one: roomkeeper retention preview POLICY. Nothing was changed.")


def previewed(
    policy: Retention, settings: Settings, moment: datetime | None, days: float | None = None
) -> "Preview":
    """Count what a run would take.

    Args:
        moment: the time to go by; the clock if None.
        days: as if this were the policy's period.

    Raises:
        SettingsError: the policy has no period, or counting takes too long.
    """
    from tasks.retention import preview

    if days is not None:
        if after(policy, settings) is None and not policy.off_until_set:
            raise SettingsError(f"{policy.name} has no period: its rows say themselves when they are old.")
        settings = settings.model_copy(
            update={"retention_days": {**settings.retention_days, policy.name: days}}
        )
    elif off := lacks_period(policy, settings):
        raise SettingsError(f"{off}. To see what a period would take, say --days.")
    ready(settings, policy)
    try:
        with bar(f"{policy.name}: counting", "page") as watch:
            return preview.preview(policy, settings, now=moment, watch=watch)
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise SettingsError(
                f"{policy.name}: counting takes too long; what refers to its rows has no index by its key."
            ) from error
        raise


def print_preview(found: "Preview") -> None:
    """Print what a run would take."""
    policy, settings = found.policy, get_settings()
    out = console()
    out.print(policy.rule if found.period is None else policy.rule.replace("{after}", duration(found.period)))
    what = "go" if isinstance(policy.action, Delete) else "be changed"
    cutoff = f", what is older than {timestamp(found.cutoff)}" if found.cutoff else ""
    line(out, "moment", f"{timestamp(found.now)} UTC{cutoff}")
    size = f", {decimal(found.size)} without indexes" if found.rows else ""
    line(out, f"would {what}", f"{quantity(found.rows, 'row')} of {policy.table.fullname}{size}")
    if found.oldest and found.newest:
        for name, moment in (("oldest", found.oldest), ("newest", found.newest)):
            line(out, name, f"{timestamp(moment)}, {(found.now - moment).days:,} days")
    for number, sample in enumerate(found.samples):
        line(out, "" if number else "for example", sample)
    for one in found.referring:
        line(out, *_referring(one))
    if found.files:
        files = quantity(found.files, "file")
        line(out, "objects", f"{files}, {decimal(found.file_bytes)} as their rows say; and their pictures")
    if found.held:
        held = quantity(found.held, "row")
        line(out, "on hold", f"{held}, though old enough; see: roomkeeper hold list")
    if found.not_closed:
        waits = quantity(found.not_closed, "row")
        line(out, "waits for statistics", f"{waits}; see: roomkeeper rollup list")
    line(out, "archive", _place(policy, settings, f"{policy.name}/"))
    line(out, "a run", _verdict(found))


def _referring(one: "Referring") -> tuple[str, str]:
    column = f"{one.table.fullname}.{one.one.by.property.columns[0].name}"
    if isinstance(one.one, Cascade):
        size = f", {decimal(one.size)}" if one.rows else ""
        return "goes along", f"{quantity(one.rows, 'row')} by {column}{size}"
    if isinstance(one.one, SetValues):
        names = ", ".join(to.property.columns[0].name for to in one.one.changes())
        return "stays, changed", f"{quantity(one.rows, 'row')} by {column}, at most: {names}"
    return "kept alive", f"{quantity(one.rows, 'row')}, though old enough, by {column}"


def _verdict(found: "Preview") -> str:
    policy = found.policy
    if found.allowed is None:
        return f"would stop. {found.stopped}"
    usual = f"usually {found.allowed.usual:,}"
    if found.too_many:
        return (
            f"would stop: it may take {found.allowed.rows:,} rows, {usual}. If all of this may go: "
            f"{advice.approve(policy.name)}"
        )
    by = f" by approval {found.allowed.approval}" if found.allowed.approval else ""
    return f"may take {found.allowed.rows:,} rows{by}, {usual}"


def _place(policy: Retention, settings: Settings, below: str) -> str:
    """Return where the policy's rows are archived, down to `below`."""
    if not policy.archive:
        return "none"
    if policy.name in settings.archive_off:
        return f"none: {variable('archive_off')}"
    if settings.archive_root is not None:
        return f"{settings.archive_root}/{below}"
    if settings.archive_bucket is not None:
        return f"s3://{settings.archive_bucket}/{below}"
    return f"missing, so it does not run: set {variable('archive_root')} or {variable('archive_bucket')}"
