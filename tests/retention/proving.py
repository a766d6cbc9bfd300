"""What a run of retention must take, to the row, and what it must be able to give back."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from models.platform import Hold, Receipt
from tasks.policies.columns import table_of
from tasks.retention.restore import restore
from tasks.sweeps.engine import SweepProgress
from tasks.sweeps.statements import key_of
from tests.platform import Platform
from tests.retention.retaining import everything, policy, retain


def by_key(platform: Platform, model: Any) -> dict[Any, dict[str, Any]]:
    """Return the whole table by its key."""
    table = table_of(model)
    with platform.engine.begin() as connection:
        found = connection.execute(select(table)).mappings().all()
    return {row[key_of(table).name]: dict(row) for row in found}


def receipts(platform: Platform) -> list[int]:
    """Return the numbers of the receipts of what was taken, the latest first."""
    taken = select(Receipt.number).where(Receipt.kind == "taken").order_by(Receipt.number.desc())
    with platform.engine.begin() as connection:
        return list(connection.execute(taken).scalars())


def add_hold(platform: Platform, app: str, entity: str, key: UUID) -> None:
    """Place a hold, whether there is such an entity or not."""
    values = {"app": app, "entity": entity, "entity_id": key, "reason": "a case", "placed_by": "ada"}
    with platform.engine.begin() as connection:
        connection.execute(insert(Hold).values(values))


def proven(
    platform: Platform,
    name: str,
    *,
    deleted: Mapping[Any, Iterable[Any]],
    changed: Mapping[Any, Mapping[Any, Mapping[str, Any]]] | None = None,
    by_hand: bool = True,
    restored: bool = True,
) -> SweepProgress:
    """Run a policy: exactly that goes and changes, in the whole database; a second run changes nothing.

    Then, if wanted, what its receipts name is restored, twice: everything is as it was before.

    Args:
        gone: by model, the keys of the rows that go; the policy's own among them.
        changed: by model and key, the values that rows get which stay.
    """
    before, changes, earlier = everything(platform), changed or {}, receipts(platform)
    touched = {*deleted, *changes}
    tables = {model: by_key(platform, model) for model in touched}
    done = retain(platform, name, by_hand=by_hand)
    for model, table in tables.items():
        left, new = set(deleted.get(model, ())), changes.get(model, {})
        assert left | set(new) <= set(table)
        assert by_key(platform, model) == {
            key: {**row, **new.get(key, {})} for key, row in table.items() if key not in left
        }
    after, names = everything(platform), {table_of(model).fullname for model in touched}
    assert {one: rows for one, rows in after.items() if one not in names} == {
        one: rows for one, rows in before.items() if one not in names
    }
    assert (done.rows, done.remaining, done.error) == (len(set(deleted[policy(name).model])), 0, None)
    again = retain(platform, name, by_hand=by_hand)
    assert (again.rows, again.remaining) == (0, 0)
    assert everything(platform) == after
    if restored and policy(name).archive:
        written = [number for number in receipts(platform) if number not in earlier]
        for _ in range(2):
            for number in written:
                restore(number, platform.settings, operator="ada", reason="a test")
            assert everything(platform) == before
    return done
