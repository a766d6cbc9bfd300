"""What the workers count, for Prometheus. All of it is labelled by what is few: never by an id or a name.

The processes of a worker write into files of one directory (`PROMETHEUS_MULTIPROC_DIR`, set by `roomkeeper
worker` before anybody imports this), and its main process serves their sum. What the database and the broker
know is told by `roomkeeper metrics`.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, multiprocess, start_http_server

#: From a tenth of a millisecond for a claim to minutes for a scan of the largest file.
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

ATTEMPTS = Counter(
    "roomkeeper_attachment_attempts",
    "Attempts at attachments, by how they ended: an outcome, 'waiting' or 'failed', and its reason.",
    ["app", "outcome", "verdict", "reason"],
)
BYTES = Counter("roomkeeper_attachment_bytes", "Bytes of attachments that were read.", ["app"])
PHASES = Histogram(
    "roomkeeper_attachment_phase_seconds", "How long each phase took.", ["phase"], buckets=_SECONDS
)
VERDICTS = Counter(
    "roomkeeper_scans",
    "Files judged, by verdict; `source` is 'scanner', or 'known' for content that was scanned before.",
    ["verdict", "source"],
)
PREVIEWS = Counter(
    "roomkeeper_previews",
    "Files of which previews were to be made, by kind; `reason` is why there are none, or empty.",
    ["kind", "reason"],
)
RESCANS = Counter("roomkeeper_rescans", "Served files looked at again with new signatures.", ["verdict"])

EVENTS_AHEAD = Counter(
    "roomkeeper_status_events_ahead",
    "Events of message statuses whose time was ahead of the database's clock: 'clamped' to their arrival, or "
    "'refused' as more than a day ahead.",
    ["app", "outcome"],
)
DRIFT = Counter(
    "roomkeeper_counter_drift",
    "Rows whose counters were wrong, and were mended; by the counter, 'conversation' for all of its own, or "
    "'status' for messages that became `read` because a member is gone.",
    ["app", "counter"],
)


def serve(address: str, port: int) -> None:
    """Serve the sum of all processes' counts over HTTP, from a thread of this process.

    Raises:
        OSError: the port is taken.
    """
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_http_server(port, address, registry)
