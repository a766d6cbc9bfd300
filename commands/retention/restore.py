"""`roomkeeper retention restore`: rows that a receipt names are put back."""

from typing import Annotated

import typer

from commands import arguments, progress
from commands.formatting import quantity
from commands.policies import lacks_period, quiet, ready
from commands.retention.options import Number
from commands.retention.output import console
from commands.retention.receipts import no_receipt
from tasks.apps import POLICIES
from tasks.policies.retention import Retention
from workers import advice
from workers.db import transaction
from workers.settings import SettingsError, get_settings
from workers.storage import StoreError


def restore(
    number: Number,
    reason: Annotated[str, typer.Option("--reason", help="Why; the receipt of this says it.")],
    actor: arguments.Actor = "",
) -> None:
    """Put back the rows that a receipt says were taken, keys and all; deleted objects do not come back."""
    settings = get_settings()
    why, who = arguments.reason(reason), arguments.actor(actor)
    ready(settings)
    from tasks.retention import receipts
    from tasks.retention.restore import RestoreError
    from tasks.retention.restore import restore as put_back

    with transaction() as connection:
        receipt = receipts.one(connection, number)
    if receipt is None:
        raise no_receipt(number)
    so_far, total = 0, sum(one["rows"] for one in receipt.content.get("archives") or [])
    try:
        with quiet(), progress.watching(f"receipt {number}") as show:

            def watch(_table: str, rows: int) -> None:
                nonlocal so_far
                so_far += rows
                show(f"receipt {number}, row {so_far:,} of {total:,}", so_far, total)

            def waiting(seconds: float) -> None:
                show(f"receipt {number}: waiting for a deletion of its objects to end, {seconds:.0f} s")

            done = put_back(number, settings, operator=who, reason=why, watch=watch, waiting=waiting)
    except KeyboardInterrupt:
        typer.echo("Broken off: nothing was put back.", err=True)
        raise typer.Exit(130) from None
    except RestoreError as error:
        raise SettingsError(f"{str(error).rstrip('.')}.") from error
    except StoreError as error:
        raise SettingsError(f"Nothing was put back: {str(error).rstrip('.')}.") from error
    out = console()
    for table, rows in done.rows.items():
        if rows:
            out.print(f"{table}: {quantity(rows, 'row')} put back.")
    for rows, outcome in (
        (done.changed, "got back the values that they had before the others went"),
        (done.there, "there already, as archived"),
        (done.other, "there with other values, or another is in the place: these stay as they are"),
        (done.absent, "referred to these and has gone since: restore its own receipt, then this one again"),
    ):
        if rows:
            out.print(f"{quantity(rows, 'row')} {outcome}.")
    if done.objects_kept:
        objects = quantity(done.objects_kept, "object")
        out.print(f"{objects} still waited to be deleted, and stay.")
    if done.objects:
        objects = quantity(done.objects, "object")
        out.print(f"{objects} that went with them cannot come back: the rows name what is not there.")
    if done.receipt is None:
        out.print("Nothing was changed.")
        return
    stopping = [
        name
        for name, policy in POLICIES.items()
        if isinstance(policy, Retention) and policy.table.fullname in done.rows
        if not lacks_period(policy, settings)
    ]
    out.print(
        f"Receipt {done.receipt} says so. By their age they are due, so what would take them stops now: "
        "place a hold on whose they are (roomkeeper hold add), or give it a longer period; then:"
    )
    for name in stopping or [receipt.policy]:
        out.print(advice.approve(name))
