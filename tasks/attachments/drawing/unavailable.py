"""Why a file has no preview: a closed list, for the row's metadata, the metrics and the event log."""

from typing import Any

#: Reason → what it means.
REASONS = {
    "undecodable": "the content is broken, or of a variety that the decoder does not know",
    "unsupported": "there is no decoder for this format",
    "encrypted": "the document needs a password",
    "over_budget": "decoding would take more memory than ROOMKEEPER_DRAW_DECODED_BYTES allows",
    "crashed": "the decoder crashed or raised an exception",
    "timed_out": "decoding took longer than ROOMKEEPER_DRAW_TIMEOUT_SECONDS",
    "out_of_memory": "decoding needed more memory than ROOMKEEPER_DRAW_MEMORY_BYTES",
}


def unavailable(reason: str, detail: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer of a drawing function that made no pictures.

    Args:
        reason: one of `REASONS`.
        detail: for people.
        metadata: what is known of the file nevertheless.
    """
    assert reason in REASONS
    return {"unavailable": reason, "detail": detail[:200], "metadata": metadata or {}}
