"""Legal holds: retention takes no rows of a user, a conversation or a room until the hold is lifted."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, update

from models.platform import Hold
from tasks.apps import APPS
from tasks.policies.columns import table_of
from tasks.retention.batch import HOLDS_LOCK, LONGEST_SECONDS
from tasks.sweeps.statements import key_of
from workers.db import transaction


class HoldError(Exception):
    """A hold cannot be placed or lifted. The message says why, and what is allowed."""


def place(app: str, entity: str, entity_id: UUID, *, reason: str, actor: str) -> int:
    """Place a hold; return its number. It waits for batches at work: when it returns, nothing more goes.

    Raises:
        HoldError: there is no such entity, or it is on hold already.
    """
    application = APPS.get(app)
    if application is None:
        raise HoldError(f"{app!r} is not an application: {', '.join(APPS)}.")
    if entity not in application.entities:
        raise HoldError(f"{app} has no {entity!r} to put on hold: {', '.join(application.entities)}.")
    model = application.entities[entity]
    with transaction() as connection:
        connection.execute(select(func.set_config("lock_timeout", f"{LONGEST_SECONDS}s", True)))
        connection.execute(select(func.set_config("statement_timeout", f"{LONGEST_SECONDS}s", True)))
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(HOLDS_LOCK, 0))))
        if model is not None:
            key = key_of(table_of(model))
            if connection.execute(select(key).where(key == entity_id)).first() is None:
                raise HoldError(f"{app} has no {entity} {entity_id}.")
        same = select(Hold.id).where(
            Hold.app == app, Hold.entity == entity, Hold.entity_id == entity_id, Hold.lifted_at.is_(None)
        )
        if (before := connection.scalar(same)) is not None:
            raise HoldError(f"{app} {entity} {entity_id} is on hold already, by hold {before}.")
        values = {"app": app, "entity": entity, "entity_id": entity_id, "reason": reason, "placed_by": actor}
        number: int = connection.execute(insert(Hold).values(values).returning(Hold.id)).scalar_one()
        return number


def lift(number: int, *, actor: str) -> None:
    """Lift a hold; what it has kept is due by its age again.

    Raises:
        HoldError: there is no such hold, or it is lifted already.
    """
    with transaction() as connection:
        lifted = connection.execute(
            update(Hold)
            .where(Hold.id == number, Hold.lifted_at.is_(None))
            .values(lifted_at=func.now(), lifted_by=actor)
        )
        if not lifted.rowcount:
            raise HoldError(f"There is no hold {number} in force; see: roomkeeper hold list")


def every(connection: Connection, *, lifted: bool = False) -> Sequence[Row[tuple[object, ...]]]:
    """Return the holds in force, and those that were lifted if they are wanted, in their order."""
    holds = select(Hold.__table__).order_by(Hold.id)
    return connection.execute(holds if lifted else holds.where(Hold.lifted_at.is_(None))).all()
