"""The way in for Python services: hand work over to Roomkeeper's workers.

`roomkeeper.sql` does it in the caller's own transaction and loses nothing; it needs the standard library
only. `Producer` publishes to the broker and needs Celery. Neither needs anything else of Roomkeeper's.
"""

from typing import TYPE_CHECKING

from roomkeeper.payloads import InvalidPayload, Status

if TYPE_CHECKING:
    from roomkeeper.producer import Producer, PublishFailed

__all__ = ["InvalidPayload", "Producer", "PublishFailed", "Status"]


def __getattr__(name: str) -> object:
    # Not before they are asked for: who hands work over in SQL may have no Celery.
    if name in {"Producer", "PublishFailed"}:
        from roomkeeper import producer

        return getattr(producer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
