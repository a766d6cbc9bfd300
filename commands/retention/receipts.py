"""`roomkeeper retention receipts` and `receipt`: what was taken when, and what was put back."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from sqlalchemy import select

from commands.formatting import did_you_mean, duration, quantity, timestamp
from commands.policies import ready
from commands.retention.options import Limit, Number
from commands.retention.output import console, line
from commands.retention.pending import waits
from models.platform import Receipt
from tasks.apps import POLICIES
from workers.db import transaction
from workers.settings import SettingsError, get_settings

if TYPE_CHECKING:
    from tasks.retention.object_deletions import Outcome


def list_receipts(
    policy: Annotated[str, typer.Argument(metavar="[POLICY]", help="Only this policy's.")] = "",
    limit: Limit = 20,
) -> None:
    """List receipts, the latest first: what was taken when, and what was put back."""
    settings = get_settings()
    ready(settings)
    wanted = select(*Receipt.__table__.columns).order_by(Receipt.number.desc()).limit(limit)
    with transaction() as connection:
        if policy:
            wanted = wanted.where(Receipt.policy == policy)
        found = connection.execute(wanted).all()
    if policy and not found and policy not in POLICIES:
        raise SettingsError(f"{policy!r} is not a policy.{did_you_mean(policy, list(POLICIES))}")
    out = console()
    for row in found:
        tables = ", ".join(
            f"{name} {number:,}" for name, number in (row.content.get("tables") or {}).items() if number
        )
        objects = row.content.get("objects")
        more = [tables, quantity(objects, "object") if objects else "", row.content.get("operator") or ""]
        detail = "; ".join(filter(None, more))
        out.print(
            f"{row.number}  {timestamp(row.written_at)}  {row.policy}: {quantity(row.rows, 'row')} {row.kind}"
            + (f" ({detail})" if detail else "")
        )
    if not found:
        out.print("None.")


def show_receipt(number: Number) -> None:
    """Tell all that a receipt says."""
    ready(get_settings())
    from tasks.retention import object_deletions, receipts

    with transaction() as connection:
        row = receipts.one(connection, number)
        outcome = object_deletions.of_receipt(connection, number)
    if row is None:
        raise no_receipt(number)
    out = console()
    for name in ("number", "kind", "policy", "rows", "approval", "run"):
        _field(out, name, getattr(row, name))
    _field(out, "written at", f"{timestamp(row.written_at)} UTC")
    archives = row.content.get("archives") or []
    seconds = row.content.get("period_seconds")
    for name, value in row.content.items():
        if name == "rule" and seconds is not None:
            _field(out, name, value.replace("{after}", duration(timedelta(seconds=seconds))))
        elif name == "objects" and outcome is not None:
            _field(out, name, _of_objects(outcome))
        elif name not in {"archives", "period_seconds"}:
            _field(out, name.replace("_", " "), value)
    for one in archives:
        changed = ", values before and after a change" if one["changed"] else ""
        _field(out, "archive", f"{one['key']}: {quantity(one['rows'], 'row')} of {one['table']}{changed}")
        _field(out, "sha256", f"{one['sha256']}, {decimal(one['size'])}")
    _field(out, "previous", row.previous)
    _field(out, "hash", row.hash)
    if receipts.digest(dict(row._mapping)) != row.hash:
        raise SettingsError(f"Receipt {number} is not what was written: see roomkeeper retention verify")


def _of_objects(outcome: "Outcome") -> str:
    """Say what became of the objects that a receipt names."""
    names = {"deleted": "deleted", "kept": "kept: rows name them", "cancelled": "kept: rows were restored"}
    parts = [
        f"{outcome.outcomes[name]:,} {text}" for name, text in names.items() if outcome.outcomes.get(name)
    ]
    if outcome.waiting is not None:
        parts.append(f"{outcome.waiting.objects:,} waiting ({waits(outcome.waiting)})")
    return ", ".join(parts)


def _field(console: Console, name: str, value: Any) -> None:
    if value in (None, "", [], {}):
        return
    if isinstance(value, dict):
        value = ", ".join(
            f"{key}: {one:,}" if isinstance(one, int) else f"{key}: {one}" for key, one in value.items()
        )
    elif isinstance(value, list):
        value = " to ".join(map(str, value))
    line(console, name, str(value))


def no_receipt(number: int) -> SettingsError:
    """Return the error of a number that no receipt has."""
    return SettingsError(f"There is no receipt {number}; see: roomkeeper retention receipts")
