"""What this process has for the broker, which could not take it: messages, and acknowledgements.

It is handed over as soon as the broker takes it. A process that ends first leaves its messages as dead
letters.
"""

import atexit
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from workers.broker_errors import BROKER_AWAY
from workers.broker_scripts import PUSH

if TYPE_CHECKING:
    from redis import Redis

log = structlog.get_logger(__name__)

#: The longest that a process waits at its end for the database to take what the broker does not.
BURY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is nowhere but here.

    Attributes:
        key: the broker's list that it belongs to.
        command: LPUSH or RPUSH: the end of the list, where the next is taken from.
        item: the message as it is in the list.
        bury: makes a dead letter of it, or raises what kept it from that.
    """

    key: str
    command: str
    item: bytes
    bury: Callable[[], None]


class Outstanding:
    """See above."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        #: Tags of messages that are done, and whose notes could not be removed.
        self.done: set[str] = set()
        self._ending = False
        atexit.register(self._bury)
        # They are the process's that took them, not those of its children.
        os.register_at_fork(after_in_child=self._forget)

    def keep(self, message: Message) -> None:
        """Keep a message until the broker takes it."""
        log.warning("broker.message_kept_here", key=message.key)
        self.messages.append(message)
        if self._ending:
            self._bury()

    def settle(self, client: "Redis", index_key: str, notes_key: str) -> None:
        """Hand over what there is.

        Raises:
            RedisError: the broker does not take it yet; what it did not take is kept.
        """
        refused: RedisError | None = None
        for _ in range(len(self.messages)):
            message = self.messages.popleft()
            try:
                PUSH(client, [message.key], [message.command, message.item])
            except BROKER_AWAY:
                self.messages.appendleft(message)
                raise
            except RedisError as error:
                # Its list is none. That of others may be one.
                self.messages.append(message)
                refused = error
            else:
                log.info("broker.message_put_back", key=message.key)
        if self.done:
            tags = tuple(self.done)
            with client.pipeline() as pipe:
                pipe.zrem(index_key, *tags)
                pipe.hdel(notes_key, *tags)
                pipe.execute()
            self.done.difference_update(tags)
        if refused is not None:
            raise refused

    def _forget(self) -> None:
        self.messages.clear()
        self.done.clear()

    def _bury(self) -> None:
        self._ending = True
        try:
            with _time_limit(BURY_SECONDS):
                while self.messages:
                    self._bury_one(self.messages[0])
                    self.messages.popleft()
        except TimeoutError:
            for message in self.messages:
                log.error("broker.message_lost", key=message.key, error="the database does not answer")
            self.messages.clear()

    def _bury_one(self, message: Message) -> None:
        try:
            message.bury()
        except SQLAlchemyError as error:
            # Broker and database are away, and this process ends: the message cannot be kept.
            log.error("broker.message_lost", key=message.key, error=type(error).__name__)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after so many seconds, and then each second.

    Nothing else ends the wait for a database whose machine is frozen: its connection is alive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"not within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


#: This process's.
outstanding = Outstanding()
