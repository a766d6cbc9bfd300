"""The safety limit of retention: how many rows a run may take without an operator's word, and with it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, select

from models.platform import Approval, Receipt
from tasks.apps import after
from tasks.policies.retention import Retention
from workers import advice
from workers.settings import Settings

#: What is usual is told by so many runs.
RUNS = 20
#: Of receipts, which only become more, so many are looked at for that.
LOOKED_AT = 1_000


class ApprovalRequired(Exception):
    """A run would take what it should not without an operator's word. The message says why."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many rows a run may take, and by which approval, if it is more than usual.

    Attributes:
        usual: what a run takes: the median of the latest that took anything.
    """

    rows: int
    usual: int
    approval: int | None = None


def allowance(connection: Connection, policy: Retention, settings: Settings) -> Allowance:
    """Return how many rows a run of the policy may take now.

    Raises:
        ApprovalRequired: rows of it were put back, and no operator has approved it since.
    """
    usual = _usual(connection, policy)
    limit = max(settings.retention_floor, int(settings.retention_factor * usual))
    period = after(policy, settings)
    seconds = None if period is None else period.total_seconds()
    # For the period that was looked at, and no other.
    this_period = (Approval.policy == policy.name) & Approval.period_seconds.is_not_distinct_from(seconds)
    approval = connection.execute(
        select(Approval.id, Approval.rows, Approval.approved_at)
        .where(this_period, Approval.expires_at > func.now())
        .order_by(Approval.id.desc())
        .limit(1)
    ).one_or_none()
    last = connection.scalar(select(func.max(Approval.approved_at)).where(this_period))
    restored = connection.execute(
        select(Receipt.number)
        # By whichever policy of the table they went.
        .where(Receipt.kind == "restored", Receipt.content["tables"].has_key(policy.table.fullname))
        .where(_since(last))
        .limit(1)
    ).one_or_none()
    if restored is not None:
        raise ApprovalRequired(
            f"Rows that {policy.name} would take were put back (receipt {restored.number}): place a hold on "
            f"whose they are, then say: {advice.approve(policy.name)}"
        )
    if approval is None:
        return Allowance(limit, usual)
    taken = connection.scalar(
        select(func.coalesce(func.sum(Receipt.rows), 0)).where(
            Receipt.policy == policy.name, Receipt.approval == approval.id
        )
    )
    left = approval.rows + limit - int(taken or 0)
    return Allowance(left, usual, approval.id) if left > 0 else Allowance(limit, usual)


def _since(moment: datetime | None) -> ColumnElement[bool]:
    return Receipt.written_at > moment if moment is not None else Receipt.number > 0


def _usual(connection: Connection, policy: Retention) -> int:
    """Return what a run usually takes, of those that went without an approval."""
    latest = (
        select(Receipt.number, Receipt.run, Receipt.rows)
        .where(Receipt.policy == policy.name, Receipt.kind == "taken", Receipt.approval.is_(None))
        .order_by(Receipt.number.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    runs = (
        select(func.sum(latest.c.rows).label("rows"))
        .group_by(latest.c.run)
        .order_by(func.max(latest.c.number).desc())
        .limit(RUNS)
        .subquery()
    )
    median = func.percentile_disc(0.5).within_group(runs.c.rows)
    return int(connection.scalar(select(median)) or 0)
