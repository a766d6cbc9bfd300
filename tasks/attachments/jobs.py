"""The state of each attachment: claimed, leased, waiting, finished or parked.

The holder of the latest claim alone may write: each write names its attempt and does nothing when another
has claimed the file since. Order of locks in every transaction: our row, then the application's.
"""

import random
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, delete, func, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentJob as Job
from tasks.apps.spec import AttachmentTable
from tasks.attachments import history, mirror
from workers.settings import Settings


class UnknownAttachmentError(Exception):
    """The application has no such row, or not yet."""


class LeaseLostError(Exception):
    """Another worker has claimed the file; whatever this one has is worth nothing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one attachment, and what its row said when it was claimed."""

    app: str
    table: AttachmentTable
    id: UUID
    attempt: int
    failures: int
    waits: int
    key: str
    provider: str
    name: str
    media_type: str
    size: int
    encrypted: bool
    sha256: str | None
    worker: str = ""
    override: str | None = None
    rewritten_sha256: str | None = None
    #: The claim that found the file dead too often: there is nothing to do but to clean up after it.
    parked: bool = False

    @property
    def lease(self) -> Any:
        """The condition under which this claim may write."""
        return (
            (Job.app == self.app)
            & (Job.attachment_id == self.id)
            & (Job.attempt == self.attempt)
            & (Job.state == "running")
        )


def claim(
    connection: Connection, app: str, table: AttachmentTable, row_id: UUID, worker: str, settings: Settings
) -> Claim | None:
    """Claim the attachment, or return None where there is nothing to do: done, parked, or in good hands.

    A claim whose lease ran out was held by a worker that died; after `attachment_attempts` of those the
    file is parked with the reason, and so says the claim.

    Raises:
        UnknownAttachmentError: the application has no such row.
    """
    row = connection.execute(
        select(
            table.key.label("key"),
            table.store_name().label("provider"),
            table.name.label("name"),
            table.media_type.label("media_type"),
            table.size.label("size"),
            (table.encrypted if table.encrypted is not None else literal(False)).label("encrypted"),
            (table.sha256 if table.sha256 is not None else null()).label("sha256"),
            table.live.label("live"),
        ).where(table.id == row_id)
    ).one_or_none()
    if row is None or not row.live:
        its = (Job.app == app) & (Job.attachment_id == row_id)
        if row is None and not connection.execute(select(Job.state).where(its)).all():
            raise UnknownAttachmentError(f"{app} has no attachment {row_id}")
        # Our row goes with the application's, or the twin would announce it for ever. A row that is
        # restored later is new to us.
        connection.execute(delete(Job).where(its, or_(Job.state == "waiting", due())))
        return None

    fresh = {
        "state": "running",
        "lease_until": func.now() + func.make_interval(0, 0, 0, 0, 0, 0, settings.attachment_lease_seconds),
        "worker": worker,
        "not_before": None,
        "enqueued_at": None,
        "updated_at": func.now(),
    }
    statement = insert(Job).values(app=app, attachment_id=row_id, attempt=1, phase="claimed", **fresh)
    held = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[Job.app, Job.attachment_id],
            set_=fresh
            | {
                "attempt": Job.attempt + 1,
                # A lease that ran out is a worker that died over the file.
                "failures": Job.failures + case((Job.state == "running", 1), else_=0),
            },
            where=due(),
        ).returning(
            Job.attempt,
            Job.failures,
            Job.waits,
            Job.phase,
            Job.override,
            Job.rewritten_sha256,
        )
    ).one_or_none()
    if held is None:
        return None

    mine = Claim(
        app=app,
        table=table,
        id=row_id,
        attempt=held.attempt,
        failures=held.failures,
        waits=held.waits,
        key=row.key,
        provider=row.provider,
        name=row.name,
        media_type=row.media_type,
        size=row.size,
        encrypted=row.encrypted,
        sha256=row.sha256,
        worker=worker,
        override=held.override,
        rewritten_sha256=held.rewritten_sha256,
    )
    if held.failures >= settings.attachment_attempts:
        detail = f"{held.failures} attempts failed or died, the last one at: {held.phase}"
        _park(connection, mine, "worker_lost", detail)
        history.note(connection, app, row_id, "parked", attempt=mine.attempt, why=f"worker_lost: {detail}")
        return replace(mine, parked=True)
    mirror.working(connection, table, row_id)
    left = {"failures": held.failures, "last_at": held.phase} if held.failures else {}
    history.note(connection, app, row_id, "claimed", attempt=mine.attempt, worker=worker, **left)
    return mine


def renew(connection: Connection, mine: Claim, settings: Settings, phase: str | None = None) -> None:
    """Extend the lease, and note the phase that begins.

    Raises:
        LeaseLostError: another holds the file by now.
    """
    lease = func.make_interval(0, 0, 0, 0, 0, 0, settings.attachment_lease_seconds)
    values: dict[str, Any] = {"lease_until": func.now() + lease}
    if phase:
        values["phase"] = phase
    _fenced(connection, mine, values)


def wait(
    connection: Connection, mine: Claim, reason: str, detail: str, settings: Settings, *, failed: bool
) -> str:
    """Give the file back to be tried again after a pause; return the state it is in then.

    A failure is counted, and the last one parks the file. What is nobody's fault (a scanner that is down)
    is not: the file waits for as long as it takes.
    """
    failures = mine.failures + failed
    if failures >= settings.attachment_attempts:
        _park(connection, mine, reason, detail, failures=failures)
        return "parked"
    pause = min(
        settings.attachment_retry_seconds * 2 ** min(mine.waits, 20), settings.attachment_retry_max_seconds
    )
    # Full jitter would let a file come back at once; half of it spreads a crowd well enough.
    pause *= random.uniform(0.5, 1)  # noqa: S311 - no secret
    _fenced(
        connection,
        mine,
        {
            "state": "waiting",
            "lease_until": None,
            "not_before": func.now() + func.make_interval(0, 0, 0, 0, 0, 0, pause),
            "failures": failures,
            "waits": Job.waits + 1,
            "reason": reason,
            "detail": detail,
        },
    )
    mirror.waiting(connection, mine.table, mine.id, f"{reason}: {detail}")
    return "waiting"


def finish(connection: Connection, mine: Claim, values: dict[str, Any], seen: "mirror.Seen") -> bool:
    """Write the outcome into our row and the application's.

    Return False when that row is gone or deleted by now: then ours goes too, as in `claim`.

    Raises:
        LeaseLostError: another holds the file by now; nothing is written.
    """
    final = {"state": "finished", "lease_until": None, "phase": "finished", "finished_at": func.now()}
    _fenced(connection, mine, final | values)
    there = mirror.finished(connection, mine.table, mine.id, seen)
    if not there:
        its = (Job.app == mine.app) & (Job.attachment_id == mine.id)
        connection.execute(delete(Job).where(its))
    return there


def rewrite(connection: Connection, mine: Claim, sha256: str) -> None:
    """Note what the original is about to become, before it does: a later attempt must know it again.

    Raises:
        LeaseLostError: another holds the file by now.
    """
    _fenced(connection, mine, {"rewritten_sha256": sha256})


def reopen(
    connection: Connection, app: str, table: AttachmentTable, row_id: UUID, why: str, **also: Any
) -> int | None:
    """Have the file go through the pipeline once more, its addresses withdrawn at once.

    Whoever works on it now loses the right to write. Return the attempt from which it was taken, or None
    where there is no such job.
    """
    statement = update(Job).where(Job.app == app, Job.attachment_id == row_id)
    attempt: int | None = connection.scalar(
        statement.values(
            state="waiting",
            outcome=None,
            # Also fences a worker that is at it.
            attempt=Job.attempt + 1,
            failures=0,
            waits=0,
            not_before=None,
            enqueued_at=None,
            lease_until=None,
            address_expires_at=None,
            updated_at=func.now(),
            **also,
        ).returning(Job.attempt)
    )
    if attempt is not None:
        mirror.waiting(connection, table, row_id, why)
    return attempt


def due() -> ColumnElement[bool]:
    """Return the condition on the jobs that may be claimed now: waited long enough, or left by the dead."""
    return or_(
        (Job.state == "waiting") & or_(Job.not_before.is_(None), Job.not_before <= func.now()),
        (Job.state == "running") & (Job.lease_until < func.now()),
    )


def _park(connection: Connection, mine: Claim, reason: str, detail: str, **also: Any) -> None:
    values = {"state": "parked", "lease_until": None, "reason": reason, "detail": detail}
    _fenced(connection, mine, values | also)
    mirror.failed(connection, mine.table, mine.id, f"{reason}: {detail}")


def _fenced(connection: Connection, mine: Claim, values: dict[str, Any]) -> None:
    done = connection.execute(update(Job).where(mine.lease).values(updated_at=func.now(), **values))
    if done.rowcount != 1:
        raise LeaseLostError(f"attempt {mine.attempt} on {mine.app} {mine.id} is no longer the latest")
