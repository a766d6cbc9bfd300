"""How a message is packed that waits in the quarantine: as it was in its list, with the reason.

The main process of a worker never waits for the database: one that does not answer would hold up its
acknowledgements and its end. What is to become a dead letter is pushed into the quarantine, which
`workers.quarantine` collects.
"""

import json

_REASON, _MESSAGE = "reason", "message"


def packed(item: bytes, reason: str) -> bytes:
    """Return `item`, which may be any bytes, with the reason why it is in the quarantine."""
    text = item.decode(errors="surrogateescape")
    return json.dumps({_REASON: reason, _MESSAGE: text}).encode()


def unpacked(packet: bytes) -> tuple[bytes, str | None]:
    """Return a message and its reason; None for one that has none, which an earlier version has left."""
    try:
        found = json.loads(packet)
    except (ValueError, RecursionError):
        return packet, None
    if not (isinstance(found, dict) and found.keys() == {_REASON, _MESSAGE}):
        return packet, None
    reason, text = found[_REASON], found[_MESSAGE]
    if not (isinstance(reason, str) and isinstance(text, str)):
        return packet, None
    try:
        return text.encode(errors="surrogateescape"), reason
    except UnicodeEncodeError:
        # Not ours: half characters that stand for no byte.
        return packet, None
