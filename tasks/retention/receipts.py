"""Receipts: what retention took and why, in a chain of hashes that tells if one was changed or is missing.

A receipt is written in the transaction that it tells of. Receipts are numbered without a gap, and each holds
the hash of the one before: changing one means changing all that follow. That is found out by
comparing with a later hash noted elsewhere: each is in the worker's log too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row, desc, func, insert, select

from models.platform import Receipt
from tasks.policies.columns import table_of

#: What stands before the first one.
GENESIS = "0" * 64
#: Receipts are read so many at a time.
_AT_ONCE = 1_000
#: Others only have to commit.
_PATIENCE = "30s"
_HASHED = ("number", "kind", "policy", "run", "written_at", "rows", "approval", "content", "previous")

log = structlog.get_logger(__name__)


def append(
    connection: Connection,
    *,
    kind: str,
    policy: str,
    run: UUID,
    rows: int,
    content: Mapping[str, Any],
    approval: int | None = None,
) -> int:
    """Write a receipt in this transaction, whose last act it should be; return its number.

    Until the transaction ends no other can write one.

    Args:
        kind: 'taken', 'restored', 'dropped' or 'reconciled'.
        policy: the policy, or the job.
        run: the same for all receipts of one run.
        content: what else is to be said, as JSON.
        approval: the operator's word that it goes by, if it took more than usual.
    """
    for limit in ("lock_timeout", "statement_timeout"):
        connection.execute(select(func.set_config(limit, _PATIENCE, True)))
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("roomkeeper:receipts", 0))))
    table = table_of(Receipt)
    # By a statement that begins when the lock is had.
    last = connection.execute(
        select(table.c.number, table.c.hash).order_by(desc(table.c.number)).limit(1)
    ).first()
    # By the clock that approvals go by.
    moment = connection.execute(select(func.clock_timestamp())).scalar_one()
    receipt: dict[str, Any] = {
        "number": last.number + 1 if last else 1,
        "kind": kind,
        "policy": policy,
        "run": run,
        "written_at": moment,
        "rows": rows,
        "approval": approval,
        # As the database gives it back: without what JSON does not know.
        "content": json.loads(json.dumps(content)),
        "previous": last.hash if last else GENESIS,
    }
    receipt["hash"] = digest(receipt)
    connection.execute(insert(table), receipt)
    number: int = receipt["number"]
    log.info("receipt.written", number=number, policy=policy, rows=rows, hash=receipt["hash"])
    return number


def digest(receipt: Mapping[str, Any]) -> str:
    """Return the hash of a receipt: SHA-256 of its other columns as JSON with sorted keys, in hexadecimal."""
    content = {name: receipt[name] for name in _HASHED}
    content["written_at"] = content["written_at"].astimezone(UTC).isoformat(timespec="microseconds")
    content["run"] = str(content["run"])
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(slots=True)
class Verified:
    """What a look at the chain found.

    Attributes:
        receipts: how many there are.
        faults: what is wrong, in sentences.
        last: the last one's hash.
        seen: whether the hash that was asked for is in the chain.
    """

    receipts: int = 0
    faults: list[str] = field(default_factory=list)
    last: str = GENESIS
    seen: bool = False


def verify(connection: Connection, *, expected: str | None = None) -> Verified:
    """Look through the whole chain, in constant memory."""
    found = Verified()
    number = 0
    for row in every(connection):
        found.receipts += 1
        number += 1
        if row.number != number:
            found.faults.append(f"Receipts {number} to {row.number - 1} are missing.")
            number = row.number
        elif row.previous != found.last:
            found.faults.append(f"Receipt {number} does not follow the one before: that one was changed.")
        if digest(dict(row._mapping)) != row.hash:
            found.faults.append(f"Receipt {number} is not what was written.")
        found.last = row.hash
        found.seen = found.seen or row.hash == expected
    if expected is not None and not found.seen:
        found.faults.append(f"No receipt has the hash {expected}: some are missing, or were written anew.")
    return found


def every(connection: Connection, *, policy: str | None = None) -> Iterator[Row[Any]]:
    """Yield the receipts in their order, of one policy if it is named."""
    table = table_of(Receipt)
    wanted = select(table).order_by(table.c.number)
    if policy is not None:
        wanted = wanted.where(table.c.policy == policy)
    number = 0
    while some := connection.execute(wanted.where(table.c.number > number).limit(_AT_ONCE)).all():
        yield from some
        number = some[-1].number


def one(connection: Connection, number: int) -> Row[Any] | None:
    """Return a receipt by its number; None if there is no such."""
    return connection.execute(select(table_of(Receipt)).where(Receipt.number == number)).one_or_none()
