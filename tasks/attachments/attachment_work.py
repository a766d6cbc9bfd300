"""The state of each attachment: claimed, leased, waiting, finished or failed.

The holder of the latest claim alone may write: each write names its attempt and does nothing when another
has claimed the file since. Order of locks in every transaction: our row, then the application's.

Statements are made once and given their values when they are executed: making them anew was a third of what
a small file cost.
"""

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    Update,
    bindparam,
    case,
    delete,
    extract,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentEvent as Event
from models.platform import AttachmentJob as Job
from tasks.attachments import app_columns, history
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
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
    #: How long the platform has known the file, in seconds by the database's clock.
    known_seconds: float = 0.0
    worker: str = ""
    override: str | None = None
    #: The content and the reason of refusal that a release was given for.
    override_sha256: str | None = None
    override_reason: str | None = None
    rewritten_sha256: str | None = None
    #: The claim that found the file dead too often: there is nothing to do but to clean up after it.
    failed: bool = False


def claim(
    connection: Connection, app: str, table: AttachmentTable, row_id: UUID, worker: str, settings: Settings
) -> Claim | None:
    """Claim the attachment; None where it is finished, has failed, or is leased by a live worker.

    A claim whose lease ran out was held by a worker that died; after `attachment_attempts` of those the
    file has failed, with the reason, and so says the claim.

    Raises:
        UnknownAttachmentError: the application has no such row.
    """
    row = connection.execute(_described(table), {"row_id": row_id}).one_or_none()
    if row is None or not row.live:
        this_job = (Job.app == app) & (Job.attachment_id == row_id)
        if row is None and not _was_known(connection, app, row_id):
            raise UnknownAttachmentError(f"{app} has no attachment {row_id}")
        # Our row goes with the application's, or the recovery job would announce it for ever. A row that is
        # restored later is new to us; but what an operator has said of it is not forgotten.
        idle = or_(Job.state == "waiting", due())
        removed = connection.execute(delete(Job).where(this_job, idle, Job.override.is_(None))).rowcount
        if row is None and removed:
            # Another message of the file, which finds neither row nor job, is none of an unknown file.
            history.note(connection, app, row_id, "row_deleted")
        connection.execute(
            update(Job).where(this_job, idle).values(state="failed", lease_until=None, reason="row_deleted")
        )
        return None

    held = connection.execute(
        _CLAIM,
        {
            "app": app,
            "attachment_id": row_id,
            "worker": worker,
            "lease_seconds": settings.attachment_lease_seconds,
        },
    ).one_or_none()
    if held is None:
        return None

    claimed = Claim(
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
        known_seconds=float(held.known_seconds),
        worker=worker,
        override=held.override,
        override_sha256=held.override_sha256,
        override_reason=held.override_reason,
        rewritten_sha256=held.rewritten_sha256,
    )
    if held.failures >= settings.attachment_attempts:
        detail = f"{held.failures} attempts failed or died, the last one at: {held.phase}"
        _park(connection, claimed, "worker_lost", detail)
        history.note(
            connection, app, row_id, "given_up", attempt=claimed.attempt, why=f"worker_lost: {detail}"
        )
        return replace(claimed, failed=True)
    app_columns.working(connection, table, row_id)
    left = {"failures": held.failures, "last_at": held.phase} if held.failures else {}
    history.note(connection, app, row_id, "claimed", attempt=claimed.attempt, worker=worker, **left)
    return claimed


def _was_known(connection: Connection, app: str, row_id: UUID) -> bool:
    """Return whether the platform has ever seen the row: a job or an event of it is left."""
    job = select(Job.state).where(Job.app == app, Job.attachment_id == row_id)
    event = select(Event.id).where(Event.app == app, Event.attachment_id == row_id)
    return bool(connection.scalar(select(or_(job.exists(), event.exists()))))


def renew(connection: Connection, claim: Claim, settings: Settings, phase: str | None = None) -> None:
    """Extend the lease, and note the phase that begins.

    Raises:
        LeaseLostError: another holds the file by now.
    """
    noted = {"phase": phase} if phase else {}
    _fenced(connection, claim, _RENEWED, lease_seconds=settings.attachment_lease_seconds, **noted)


def wait(
    connection: Connection,
    claim: Claim,
    reason: str,
    detail: str,
    settings: Settings,
    *,
    failed: bool,
    given_up: bool = False,
    within: float | None = None,
    judged_object: str | None = None,
) -> str:
    """Give the file back to be tried again after a pause; return the state it is in then.

    A failure is counted, and after the last one the file has failed for good; so it has at once if it is
    `given_up`. What is not the file's fault (a scanner that is down) is not counted: the file waits for as
    long as it takes. The pause is no longer than `within` seconds. `judged_object` is what a file that has
    failed was judged by.
    """
    failures = claim.failures + failed
    if given_up or failures >= settings.attachment_attempts:
        _park(connection, claim, reason, detail, failures=failures, judged_object=judged_object)
        return "failed"
    pause = min(
        settings.attachment_retry_seconds * 2 ** min(claim.waits, 20), settings.attachment_retry_max_seconds
    )
    # Full jitter would let a file come back at once; half of it spreads a crowd well enough.
    pause *= random.uniform(0.5, 1)  # noqa: S311 - no secret
    if within is not None:
        pause = min(pause, within)
    _fenced(connection, claim, _WAITING, pause_seconds=pause, failures=failures, reason=reason, detail=detail)
    app_columns.waiting(connection, claim.table, claim.id, f"{reason}: {detail}")
    return "waiting"


def hold(connection: Connection, claim: Claim) -> None:
    """Keep any other attempt from the file's objects until the transaction ends. The application's row stays
    free: a store may take long.

    Raises:
        LeaseLostError: another holds the file by now.
    """
    _fenced(connection, claim, _HELD)


def note_object(connection: Connection, claim: Claim, judged_object: str | None) -> None:
    """Note which object there is of a file that has failed, where no attempt could."""
    this_job = (Job.app == claim.app) & (Job.attachment_id == claim.id) & (Job.attempt == claim.attempt)
    connection.execute(update(Job).where(this_job).values(judged_object=judged_object))


def has_failed(connection: Connection, claim: Claim) -> bool:
    """Return whether the file has failed in this attempt, and has not been reopened; `hold` it if so."""
    row = connection.execute(
        select(Job.attempt)
        .where(
            Job.app == claim.app,
            Job.attachment_id == claim.id,
            Job.attempt == claim.attempt,
            Job.state == "failed",
        )
        .with_for_update()
    ).one_or_none()
    return row is not None


def finish(connection: Connection, claim: Claim, values: dict[str, Any], seen: "app_columns.AppView") -> bool:
    """Write the outcome into our row and the application's.

    Return False when that row is gone or deleted by now: then ours goes too, as in `claim`, unless an
    operator has said something of it.

    Raises:
        LeaseLostError: another holds the file by now; nothing is written.
    """
    _fenced(connection, claim, _FINISHED, **values)
    there = app_columns.finished(connection, claim.table, claim.id, seen)
    if not there and claim.override is None:
        this_job = (Job.app == claim.app) & (Job.attachment_id == claim.id)
        connection.execute(delete(Job).where(this_job))
    return there


def rewrite(connection: Connection, claim: Claim, sha256: str) -> None:
    """Note what the original is about to become, before it does: a later attempt must know it again.

    Raises:
        LeaseLostError: another holds the file by now.
    """
    _fenced(connection, claim, _HELD, rewritten_sha256=sha256)


def reopen(
    connection: Connection, app: str, table: AttachmentTable, row_id: UUID, why: str, **also: Any
) -> int | None:
    """Have the file go through the pipeline once more, its URLs withdrawn at once.

    A worker that processes it now loses the right to write. Return the attempt from which it was taken, or
    None where there is no such job.
    """
    statement = update(Job).where(Job.app == app, Job.attachment_id == row_id)
    attempt: int | None = connection.scalar(
        statement.values(
            state="waiting",
            outcome=None,
            # What was true of it then.
            verdict=None,
            reason=None,
            detail=None,
            signature=None,
            # Also fences a worker that is at it.
            attempt=Job.attempt + 1,
            failures=0,
            waits=0,
            not_before=None,
            enqueued_at=None,
            lease_until=None,
            url_expires_at=None,
            updated_at=func.now(),
            **also,
        ).returning(Job.attempt)
    )
    if attempt is not None:
        app_columns.waiting(connection, table, row_id, why)
    return attempt


def end(connection: Connection, claim: Claim) -> tuple[str | None, str | None]:
    """Return the state and outcome of a file that this claim has lost, once no transaction writes them."""
    row = connection.execute(
        select(Job.state, Job.outcome)
        .where(Job.app == claim.app, Job.attachment_id == claim.id)
        .with_for_update()
    ).one_or_none()
    return (row.state, row.outcome) if row else (None, None)


def due() -> ColumnElement[bool]:
    """Return the condition on the jobs that may be claimed now: waited long enough, or left by the dead."""
    return or_(
        (Job.state == "waiting") & or_(Job.not_before.is_(None), Job.not_before <= func.now()),
        (Job.state == "running") & (Job.lease_until < func.now()),
    )


def _park(connection: Connection, claim: Claim, reason: str, detail: str, **also: Any) -> None:
    _fenced(connection, claim, _FAILED, reason=reason, detail=detail, **also)
    app_columns.failed(connection, claim.table, claim.id, f"{reason}: {detail}")


def _fenced(connection: Connection, claim: Claim, statement: Update, **values: Any) -> None:
    key = {"its_app": claim.app, "its_id": claim.id, "its_attempt": claim.attempt}
    if connection.execute(statement, key | values).rowcount != 1:
        raise LeaseLostError(f"attempt {claim.attempt} on {claim.app} {claim.id} is no longer the latest")


def _in_seconds(parameter: str) -> ColumnElement[Any]:
    """Return the time so many seconds from now."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam(parameter, type_=Float))


@cache
def _described(table: AttachmentTable) -> Select[Any]:
    """Return the query for what the application says of one attachment."""
    return select(
        table.key.label("key"),
        table.store_name().label("provider"),
        table.name.label("name"),
        table.media_type.label("media_type"),
        table.size.label("size"),
        (table.encrypted if table.encrypted is not None else literal(False)).label("encrypted"),
        (table.sha256 if table.sha256 is not None else null()).label("sha256"),
        table.live.label("live"),
    ).where(table.id == bindparam("row_id"))


def _claiming() -> Any:
    fresh = {
        "state": "running",
        "lease_until": _in_seconds("lease_seconds"),
        "not_before": None,
        "enqueued_at": None,
        "updated_at": func.now(),
    }
    statement = insert(_JOBS).values(
        app=bindparam("app"),
        attachment_id=bindparam("attachment_id"),
        worker=bindparam("worker"),
        attempt=1,
        phase="claimed",
        **fresh,
    )
    return statement.on_conflict_do_update(
        index_elements=[_JOBS.c.app, _JOBS.c.attachment_id],
        set_=fresh
        | {
            "worker": statement.excluded.worker,
            "attempt": _JOBS.c.attempt + 1,
            # A lease that ran out is a worker that died over the file.
            "failures": _JOBS.c.failures + case((_JOBS.c.state == "running", 1), else_=0),
        },
        where=due(),
    ).returning(
        *(_JOBS.c[name] for name in ("attempt", "failures", "waits", "phase")),
        extract("epoch", func.now() - _JOBS.c.created_at).label("known_seconds"),
        *(_JOBS.c[name] for name in ("override", "override_sha256", "override_reason", "rewritten_sha256")),
    )


_JOBS = table_of(Job)
_CLAIM = _claiming()
#: What only the holder of a claim may write. Further columns come as parameters.
_HELD = (
    update(_JOBS)
    .where(
        _JOBS.c.app == bindparam("its_app"),
        _JOBS.c.attachment_id == bindparam("its_id"),
        _JOBS.c.attempt == bindparam("its_attempt"),
        _JOBS.c.state == "running",
    )
    .values(updated_at=func.now())
)
_RENEWED = _HELD.values(lease_until=_in_seconds("lease_seconds"))
_WAITING = _HELD.values(
    state="waiting", lease_until=None, not_before=_in_seconds("pause_seconds"), waits=_JOBS.c.waits + 1
)
_FINISHED = _HELD.values(state="finished", lease_until=None, phase="finished", finished_at=func.now())
_FAILED = _HELD.values(state="failed", lease_until=None)
