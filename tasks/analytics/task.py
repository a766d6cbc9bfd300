"""Analytics: each rollup is a task of its own; `analytics.room` computes one room at once."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import func, select

from models.audiorooms import AudioRoom, RoomParticipant
from tasks import availability
from tasks.analytics.engine import RollupProgress, RollupRun
from tasks.analytics.payload import RecomputeRoom
from tasks.analytics.state import NewerDefinitionError, OtherZoneError
from tasks.apps import ROLLUPS, zone
from tasks.apps.audiorooms.rollups import LIST_OF_KEYS
from tasks.apps.audiorooms.stays import SKEW
from tasks.jobs import BY_HAND, periodic
from tasks.policies.rollup import CLOCKS_SET, Rollup
from workers import job_history
from workers.app import task
from workers.db import clock, transaction
from workers.queues import ANALYTICS, MAINTENANCE
from workers.settings import Settings, get_settings
from workers.task import PlatformTask

#: The statistics of a room of `audiorooms`.
AUDIOROOMS = "audiorooms"
ROOM_ANALYTICS = f"{AUDIOROOMS}.room_analytics"


class UnknownRoomError(Exception):
    """There is no such room."""


def run(
    rollup: Rollup,
    settings: Settings,
    *,
    slot: datetime | None = None,
    now: datetime | None = None,
    by_hand: bool = False,
    watch: Callable[[RollupProgress], None] = lambda _progress: None,
) -> RollupProgress | None:
    """Run `rollup` once; return what it did, or None where another run of it is under way.

    Args:
        slot, now, watch: as `tasks.sweeps.task.run` has them.
        by_hand: to the end, however long that takes.
    """
    # A bucket that has begun is ended: so a statement may take less than the task.
    longest = BY_HAND if by_hand else timedelta(seconds=settings.task_soft_limit_seconds)
    seconds = longest.total_seconds() if by_hand else settings.sweep_seconds
    longest_ms = int(settings.task_soft_limit_seconds / 4 * 1000)
    with job_history.run(rollup.name, slot=slot, longest=longest + timedelta(minutes=10)) as entry:
        if entry is None:
            return None
        rolling = RollupRun(
            rollup, now or entry.started_at, zone(rollup, settings), seconds, longest_ms, watch=watch
        )
        try:
            progress = rolling.go()
        finally:
            entry.rows, entry.batches = rolling.progress.rows, rolling.progress.buckets
        entry.outcome = "more" if progress.more else "done"
    return progress


def room(wanted: UUID | str, settings: Settings, now: datetime | None = None) -> int:
    """Compute a room's open days, and those closed ones that its stays may have changed; return how many rows
    changed.

    Args:
        wanted: the room's id, or its six-character code.

    Raises:
        UnknownRoomError: there is no such room.
        OtherZoneError, NewerDefinitionError: see `tasks.analytics.state.check`.
    """
    rollup = ROLLUPS[ROOM_ANALYTICS]
    moment = now or clock()
    column = AudioRoom.id if isinstance(wanted, UUID) else AudioRoom.code
    sane = RoomParticipant.joined_at.between(CLOCKS_SET, moment + SKEW)
    stays = (RoomParticipant.room_id == AudioRoom.id, sane)
    began = select(func.min(RoomParticipant.joined_at)).where(*stays).scalar_subquery()
    with transaction() as connection:
        found = connection.execute(select(AudioRoom.id, began).where(column == wanted)).one_or_none()
        if found is not None:
            connection.execute(LIST_OF_KEYS, {"keys": [found[0]]})
    if found is None:
        raise UnknownRoomError("there is no such room")
    key, since = found
    rolling = RollupRun(rollup, moment, zone(rollup, settings))
    state = rolling.begin()
    rolling.compute_keys({key: since or state.watermark})
    return rolling.progress.rows


@task(
    name="analytics.room",
    bind=True,
    queue=MAINTENANCE,
    pydantic=True,
    # An id comes as JSON text, which strict validation would refuse for a UUID.
    pydantic_strict=False,
)
def recompute_room(self: PlatformTask, request: RecomputeRoom) -> str:
    """Compute one room's statistics at once; say how many changed. Its recovery job is the rollup itself."""
    settings = get_settings()
    if AUDIOROOMS in availability.disabled(settings):
        return f"left to the rollup: {AUDIOROOMS} is switched off"
    try:
        return f"{room(request.room, settings)} changed"
    except (OtherZoneError, NewerDefinitionError) as error:
        return f"left to the rollup: {error}"
    except UnknownRoomError as error:
        self.not_there_yet(error)


for _rollup in ROLLUPS.values():
    periodic(_rollup.task, ANALYTICS, partial(run, _rollup))
