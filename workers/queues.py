"""The queues, one per kind of work, and what each one's workers are like."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """One kind of worker process: `roomkeeper worker NAME`.

    Attributes:
        queues: the queues that it consumes.
        work: what it does, in a phrase.
        memory_mib: a child that has grown beyond this is replaced after its task.
    """

    name: str
    queues: tuple[str, ...]
    work: str
    memory_mib: int


#: The kind of the scheduler, which reads no queue.
BEAT = "beat"

ATTACHMENTS = "attachments"
DELIVERY = "delivery"
#: The outbox's and the inbox's turns, each second: behind a long queue of statuses they would come too late.
PERIODIC = "delivery-periodic"
MAINTENANCE = "maintenance"
#: Runs of retention policies, and of rollups. A worker takes one message from each of its queues in turn, so
#: a long queue of one kind of work leaves the other kinds their share.
RETENTION = "retention"
ANALYTICS = "analytics"
#: Sweeps: a typing indicator is not to wait behind an audit.
CLEANUP = "cleanup"
#: Where a message goes that names no queue, as those of foreign clients may.
UNNAMED = "celery"
#: The list of messages that are to become dead letters: they cannot be read, or their task failed for good
#: where the database must not be asked.
QUARANTINE = "roomkeeper.quarantine"
#: The list of those whose dead letters the database refuses.
REFUSED = "roomkeeper.quarantine.refused"
#: The list of messages whose task no worker knew that took them: a newer version may. They are offered again.
UNKNOWN = "roomkeeper.unknown_tasks"

KINDS = {
    kind.name: kind
    for kind in (
        WorkerKind("attachments", (ATTACHMENTS,), "scans and draws files: CPU and bytes", memory_mib=400),
        WorkerKind(
            "delivery",
            (PERIODIC, DELIVERY),
            "merges message statuses and publishes the outbox: small, many, and in a hurry",
            memory_mib=250,
        ),
        WorkerKind(
            "maintenance",
            (CLEANUP, MAINTENANCE, RETENTION, ANALYTICS, UNNAMED),
            "sweeps, other periodic jobs, and what was sent without naming a queue",
            memory_mib=250,
        ),
    )
}
#: Every kind of program that leaves a heartbeat.
PROGRAMS = (*KINDS, BEAT)


def kind_of_queue(queue: str) -> str | None:
    """Return the kind of worker that reads a queue; None for a queue that no kind reads."""
    return next((kind.name for kind in KINDS.values() if queue in kind.queues), None)
