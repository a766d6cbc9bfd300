"""A room of `audiorooms` that closes, and its statistics: what each way of enqueueing has computed."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import insert, select

from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from tests.platform import Platform, eventually
from workers.queues import PERIODIC

CODE = "ABC123"
Statistics = dict[datetime.date, tuple[int | None, int | None, int | None]]


@dataclass(frozen=True)
class Studio:
    """A room whose broadcast was yesterday at noon, and that is not closed yet."""

    platform: Platform
    id: UUID
    noon: datetime.datetime

    @property
    def expected(self) -> Statistics:
        """By day: the most listeners at once, their minutes, how many they were."""
        return {self.noon.date(): (2, 25, 2)}

    def close(self, then: Callable[["psycopg.Cursor[tuple[object, ...]]"], object] | None = None) -> None:
        """Close it as its service does; `then` is of the same transaction."""
        with (
            psycopg.connect(self.platform.environment["DATABASE_URL"]) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("UPDATE audiorooms.audio_rooms SET active = false WHERE id = %s", (self.id,))
            cursor.execute(
                "UPDATE audiorooms.room_participants SET left_at = %s WHERE room_id = %s AND left_at IS NULL",
                (self.noon + timedelta(minutes=15), self.id),
            )
            if then is not None:
                then(cursor)

    def enqueue(self, cursor: "psycopg.Cursor[tuple[object, ...]]") -> None:
        """Call the function that every language can call."""
        payload = Jsonb({"app": "audiorooms", "room": CODE})
        cursor.execute("SELECT roomkeeper.enqueue('analytics.room', %s)", (payload,))

    def statistics(self) -> Statistics:
        """Return what is there."""
        table = RoomAnalytics
        query = select(
            table.date, table.peak_listeners, table.total_listen_minutes, table.total_listeners
        ).where(table.room_id == self.id)
        with self.platform.engine.begin() as connection:
            return {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query)}

    def are_right(self) -> None:
        """Wait until the statistics are there; nothing else than the message has them computed."""
        eventually(self.statistics, what=f"statistics; {self.platform.dead_letters()}")
        assert self.statistics() == self.expected
        assert self.platform.dead_letters() == []


def studio(platform: Platform, code: str = CODE) -> Studio:
    """Open a room with two listeners: one has left it, one has not."""
    room = uuid4()
    noon = datetime.datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
    stays = [(noon, noon + timedelta(minutes=10)), (noon, None)]
    with platform.engine.begin() as connection:
        connection.execute(insert(AudioRoom).values(id=room, code=code, password_hash="x"))
        for joined, left in stays:
            values = {"client_id": uuid4().hex, "joined_at": joined, "left_at": left}
            connection.execute(insert(RoomParticipant).values(room_id=room, **values))
    return Studio(platform, room, noon)


def relaying(platform: Platform) -> None:
    """Have a worker publish what was enqueued in SQL, as beat would each second."""
    platform.worker("delivery")
    platform.send("outbox.relay", queue=PERIODIC)
