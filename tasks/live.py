"""What sweeps change, people see: told to Socket.IO clients over the Redis of the API services' adapter."""

from collections.abc import Sequence
from typing import Any

from tasks.apps.sweeps import Sweep
from workers.settings import Settings


def wanted(policy: Sweep, settings: Settings) -> bool:
    """Say whether what the policy changes is told to anybody."""
    return policy.event is not None and settings.socketio_url is not None


def tell(policy: Sweep, rows: Sequence[Sequence[Any]], settings: Settings) -> None:
    """Publish the policy's event for each row, whose values are those of the event's columns, in order."""
    raise NotImplementedError
