"""Traffic of all five applications in rounds, by services that try again when a server refuses them.

What counts as sent is what was committed: the services know no more either.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from models import connect, openchat, pern
from stack.demo.rollups import RollupDemo
from stack.demo.rows import Feed, a_connection, bea, clock, dan
from stack.demo.samples import SAMPLES, Sample
from stack.demo.stale_rows import Ephemera
from stack.demo.uploads import Services
from workers.settings import Settings

REFUSED = (SQLAlchemyError, BrokerError, RedisError, BotoCoreError, ClientError, OSError)
_RECORD = text("SELECT roomkeeper.record_status(:app, CAST(:events AS jsonb))")
#: Of each message, how many readers report it, and how often each report is repeated at most.
READERS, REPEATS = 3, 3
#: Every so many rounds the rows of all policies are left behind, and things happen that rollups count.
STALE_EVERY = 4


def small(number: int) -> Sample:
    """Return a small text that is accepted, each another one."""
    content = f"Milk, bread, {number} eggs\n".encode()
    says = "a note"
    return Sample("openchat", "note.txt", "text/plain", lambda: content, says, "accepted", "clean")


class Traffic:
    """The services of all five applications.

    Attributes:
        sent: by kind, how many things were committed.
        refused: how often a server refused a service, by the name of the error.
        reads: of each status that was committed in SQL, application, message, reader and moment.
        ephemera: what was left behind for the policies, round by round.
    """

    def __init__(self, apis: Services, settings: Settings, rollups: RollupDemo, seed: int) -> None:
        self._apis = apis
        self._settings = settings
        self._rollups = rollups
        self._random = Random(seed)  # noqa: S311 - no secret
        self._round = 0
        self.sent = {"files": 0, "statuses": 0, "calls": 0, "policies": 0, "rollups": 0}
        self.refused: Counter[str] = Counter()
        self.reads: list[tuple[str, UUID, UUID, datetime]] = []
        self.ephemera: list[Ephemera] = []

    def round(self) -> None:
        """Send one round; what a server refuses is not sent."""
        self._round += 1
        samples = [*(small(self._random.randrange(10**9)) for _ in range(10)), self._random.choice(SAMPLES)]
        for sample in samples:
            with self._refusals():
                self._apis.feed((sample,))
                self.sent["files"] += 1
        for app in (self._pern, self._connect, self._openchat):
            with self._refusals():
                self._statuses(app)
        if self._round % STALE_EVERY == 1:
            with self._refusals():
                one = Ephemera(self._apis.engine, self._settings)
                self.ephemera.append(one)
                self.sent["policies"] += one.feed()
            with self._refusals():
                self.sent["rollups"] += self._rollups.feed(self._apis.engine, self._settings)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except REFUSED as error:
            self.refused[type(error).__name__] += 1

    def _statuses(self, message: Callable[[Feed], tuple[str, UUID, list[UUID]]]) -> None:
        """Have a message read by its readers, who report in any order, some twice."""
        engine = self._apis.engine
        with engine.begin() as connection:
            now = clock(connection)
            app, message_id, readers = message(Feed(connection, now, timedelta(0)))
        events = [
            (reader, status, now + timedelta(milliseconds=number))
            for number, reader in enumerate(readers)
            for status in ("delivered", "read")
            for _ in range(self._random.randint(1, REPEATS))
        ]
        self._random.shuffle(events)
        with engine.begin() as connection:
            self._record(connection, app, message_id, events)
        self.sent["statuses"] += len(events)
        self.sent["calls"] += 1
        reads = {(reader, at) for reader, status, at in events if status == "read"}
        self.reads += [(app, message_id, reader, at) for reader, at in reads]

    def _record(
        self, connection: Connection, app: str, message: UUID, events: list[tuple[UUID, str, datetime]]
    ) -> None:
        payload: list[dict[str, Any]] = [
            {"message_id": str(message), "user_id": str(reader), "status": status, "at": at.isoformat()}
            for reader, status, at in events
            if app != "connect" or status == "read"
        ]
        connection.execute(_RECORD, {"app": app, "events": json.dumps(payload)})

    def _pern(self, feed: Feed) -> tuple[str, UUID, list[UUID]]:
        stamps = {"created_at": feed.now, "updated_at": feed.now}
        author = dan(feed)
        talk = feed.add(pern.Conversation, created_by=author, settings={}, **stamps)
        message = feed.add(
            pern.Message, conversation_id=talk, sender_id=author, content_encrypted="…", **stamps
        )
        return "pern", message, [dan(feed) for _ in range(READERS)]

    def _connect(self, feed: Feed) -> tuple[str, UUID, list[UUID]]:
        key, she, he = a_connection(feed)
        room = feed.add(connect.ChatRoom, connection_id=key, room_name="Tea")
        message = feed.add(connect.Message, chat_room_id=room, sender_user_id=she, content="Hi")
        return "connect", message, [he]

    def _openchat(self, feed: Feed) -> tuple[str, UUID, list[UUID]]:
        author, *readers = (bea(feed) for _ in range(1 + READERS))
        talk = feed.add(openchat.Conversation, created_by=author, participant_count=1 + READERS)
        for user in (author, *readers):
            feed.add(openchat.ConversationParticipant, conversation_id=talk, user_id=user)
        message = feed.add(openchat.Message, conversation_id=talk, sender_id=author, content="Hi")
        return "openchat", message, readers
