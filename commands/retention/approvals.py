"""`roomkeeper retention approve` and `approvals`: a policy may take more than usual, once."""

from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy import func, insert, select

from commands import arguments
from commands.formatting import quantity, short_duration, timestamp
from commands.policies import ready
from commands.retention.options import Limit, Policy, retention_policy
from commands.retention.output import console
from commands.retention.preview import previewed, print_preview
from models.platform import Approval, Receipt
from workers.db import transaction
from workers.settings import SettingsError, get_settings


def approve(
    policy: Policy,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept.")],
    actor: arguments.Actor = "",
) -> None:
    """Let a policy take all that is due now, though it is far more than usual, or was put back."""
    settings = get_settings()
    why, who = arguments.reason(reason), arguments.actor(actor)
    wanted = retention_policy(policy, settings)
    found = previewed(wanted, settings, None)
    print_preview(found)
    if found.allowed is not None and found.rows <= found.allowed.rows:
        raise SettingsError(
            f"{wanted.name} needs no approval: {quantity(found.rows, 'row')} would go, and a run may take "
            f"{found.allowed.rows:,}."
        )
    seconds = None if found.period is None else found.period.total_seconds()
    values = {
        "policy": wanted.name,
        "period_seconds": seconds,
        "rows": found.rows,
        "reason": why,
        "approved_by": who,
        "expires_at": func.now() + timedelta(hours=settings.approval_hours),
    }
    with transaction() as connection:
        made = connection.execute(
            insert(Approval).values(values).returning(Approval.id, Approval.expires_at)
        ).one()
    out = console()
    may = f"may take these {quantity(found.rows, 'row')}" if found.rows else "runs again; nothing is due now"
    out.print(
        f"Approval {made.id}: {wanted.name} {may}. It holds until {timestamp(made.expires_at)} UTC, for the "
        f"period that the policy has now. Its next run goes by it, or: roomkeeper run {wanted.name}"
    )


def list_approvals(limit: Limit = 20) -> None:
    """List approvals, the latest first: who let which policy take how much, and until when."""
    taken = (
        select(func.coalesce(func.sum(Receipt.rows), 0))
        .where(Receipt.policy == Approval.policy, Receipt.approval == Approval.id)
        .scalar_subquery()
    )
    ready(get_settings())
    with transaction() as connection:
        found = connection.execute(
            select(*Approval.__table__.columns, taken.label("taken"), func.now().label("now"))
            .order_by(Approval.id.desc())
            .limit(limit)
        ).all()
    out = console()
    for row in found:
        period = (
            ""
            if row.period_seconds is None
            else f" older than {short_duration(timedelta(seconds=row.period_seconds))}"
        )
        state = "until" if row.expires_at > row.now else "expired"
        out.print(
            f"{row.id}  {timestamp(row.approved_at)}  {row.policy}: {quantity(row.rows, 'row')}{period}, "
            f"{row.taken:,} taken, {state} {timestamp(row.expires_at)}; {row.approved_by}: {row.reason}"
        )
    if not found:
        out.print("None.")
