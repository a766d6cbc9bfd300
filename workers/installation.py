"""Which installation of Roomkeeper a broker belongs to: two on one broker would take each other's messages.

An installation is a database's schema `roomkeeper`; its identity is in the table `installation`. The first
worker or beat marks the broker with it. A process of another installation does not start.
"""

import os
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import OutOfMemoryError
from sqlalchemy import Connection, select

from models.platform import Installation
from workers.errors import OperatorError
from workers.inspection import Fault
from workers.settings import variable

if TYPE_CHECKING:
    from redis import Redis

log = structlog.get_logger(__name__)

#: The broker's key with the identity of its installation.
KEY = "roomkeeper:installation"

#: The installation of this process, if it is one that must not use the broker of another.
_own: str | None = None
#: Why this process ends.
_refusal: "ForeignBroker | None" = None


class ForeignBroker(OperatorError):
    """The broker belongs to another installation. The message says what to do."""


def read(connection: Connection) -> str:
    """Return the identity of the database's installation."""
    return str(connection.execute(select(Installation.id)).scalar_one())


def guard(own: str) -> None:
    """From now on `confirm` compares the broker's mark with this identity, in this process."""
    global _own
    _own = own


def holder(client: "Redis") -> str | None:
    """Return the identity that the broker is marked with, if it is marked."""
    found: object = client.get(KEY)
    if found is None:
        return None
    # It may not be text.
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def confirm(client: "Redis") -> None:
    """Mark a broker that is not marked; make sure that it is not another's.

    Raises:
        ForeignBroker: it belongs to another installation.
        RedisError: it does not answer.
    """
    if _own is None:
        return
    found = holder(client)
    if found is None:
        try:
            client.set(KEY, _own, nx=True)
        except OutOfMemoryError:
            # A full broker can still be emptied; the next connection marks it.
            return
        found = holder(client)
    if found not in (None, _own):
        fault = foreign(_own, found)
        log.error("broker.of_another_installation", own=_own, found=found)
        raise ForeignBroker(f"{fault.sentence} {fault.advice}")


def confirm_or_end(client: "Redis") -> None:
    """Do as `confirm` in a worker that runs, or has waited for its broker.

    Raises:
        WorkerShutdown: the broker belongs to another installation. A worker reconnects after any other error.
        RedisError: it does not answer.
    """
    try:
        confirm(client)
    except ForeignBroker as error:
        # Not before: other programs do without Celery.
        from celery.exceptions import WorkerShutdown

        global _refusal
        _refusal = error
        raise WorkerShutdown(1) from error


def raise_refusal() -> None:
    """Raise why this process had to end, if that was why: Celery's programs end with 0 nevertheless.

    Raises:
        ForeignBroker: the broker belongs to another installation.
    """
    if _refusal is not None:
        raise _refusal


def take_over(client: "Redis", own: str) -> str | None:
    """Mark the broker with this identity; return the one before."""
    before = holder(client)
    client.set(KEY, own)
    return before


def foreign(own: str, found: str | None) -> Fault:
    """Return the fault of a broker that belongs to another installation."""
    return Fault(
        f"The broker belongs to another installation of Roomkeeper ({found}), and not to this one ({own}): "
        "each would take messages of the other.",
        f"Name a broker of its own in {variable('broker_url')}, or another number of a database there, such "
        "as redis://host/1. If the other one is no longer used: roomkeeper broker take-over",
    )


def _forget() -> None:
    # The main process decides. A child that ended for this would be started again and again.
    global _own
    _own = None


os.register_at_fork(after_in_child=_forget)
