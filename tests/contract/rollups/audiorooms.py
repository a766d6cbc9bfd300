"""Examples of the rollups of `audiorooms`."""

from datetime import datetime
from uuid import UUID

from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from tasks.apps import APPS
from tests.analytics.figuring import Rows
from tests.contract.rollup_example import Example, Source

(ROOM_ANALYTICS,) = APPS["audiorooms"].rollups


def _stay(rows: Rows, at: datetime) -> UUID:
    """Add a stay that ended when it began: one listener, in the day of that moment alone."""
    room = rows.add(AudioRoom, code=f"R{len(rows.of(AudioRoom)):05}", password_hash="x")
    return rows.add(RoomParticipant, room_id=room, client_id="phone", joined_at=at, left_at=at)


EXAMPLES = (
    Example(
        rollup=ROOM_ANALYTICS,
        sources=(
            Source(
                at=(RoomParticipant.joined_at, RoomParticipant.left_at),
                counts=(RoomAnalytics.total_listeners,),
                add=_stay,
                needs=(RoomParticipant.room_id,),
            ),
        ),
    ),
)
