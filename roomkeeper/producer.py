"""Work handed over through the broker."""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool

from roomkeeper import payloads
from roomkeeper.payloads import InvalidPayload, Status

if TYPE_CHECKING:
    from kombu import Connection

_SCHEMES = ("redis", "rediss")
#: The most at a time; more threads than that wait for each other.
_CONNECTIONS = 10


class PublishFailed(Exception):
    """The broker did not confirm a task within the time: the task may have arrived or not.

    Call again with `task_id=error.task_id` to publish the same task. Without a second call a recovery job
    finds the file, and the rollup's next run finds the room. No job finds statuses.

    Attributes:
        task_id: to be given again.
    """

    def __init__(self, task: str, task_id: UUID, cause: Exception) -> None:
        super().__init__(
            f"{task}: the broker did not confirm it ({type(cause.__cause__ or cause).__name__}). "
            "The task may or may not have arrived. "
            f"Call again with task_id {task_id}, and it is the same task."
        )
        self.task_id = task_id


class Producer:
    """Publishes tasks. One serves all threads of a process, and may be kept for its life.

    Args:
        broker_url: `redis://…` or `rediss://…`, the workers' ROOMKEEPER_BROKER_URL.
        timeout_seconds: how long one answer of the broker is waited for. A call fails after three times that.

    Raises:
        ValueError: the address is not of that kind.
    """

    def __init__(self, broker_url: str, *, timeout_seconds: float = 2.0) -> None:
        if not (isinstance(broker_url, str) and broker_url.partition("://")[0] in _SCHEMES):
            # The address may hold a password.
            raise ValueError("broker_url: must begin with redis:// or rediss://.")
        self._client = _Client(broker_url, timeout_seconds)
        # Of its own: Celery's are one for all in the process that have the same address, and closed for all.
        self._connections = self._client.connection_for_write().Pool(limit=_CONNECTIONS)
        self._producers = ProducerPool(self._connections, limit=_CONNECTIONS)

    def process_attachment(self, app: str, attachment_id: UUID | str, *, task_id: UUID | None = None) -> UUID:
        """Have an attachment identified, scanned, drawn and served. Its row must be committed.

        Returns:
            the task's id, as in logs, Flower and dead letters.

        Raises:
            InvalidPayload: before anything is sent.
            PublishFailed: the broker is away, frozen or full.
        """
        payload = payloads.attachment(app, attachment_id)
        task_id = _checked(task_id)
        self._send(payloads.PROCESS_ATTACHMENT, payload, task_id, task_id)
        return task_id

    def record_status(
        self, app: str, statuses: Iterable[Status], *, task_id: UUID | None = None
    ) -> list[UUID]:
        """Have statuses of messages merged, however many: a task for each thousand, none for none.

        Returns:
            the tasks' ids.

        Raises:
            InvalidPayload: before anything is sent.
            PublishFailed: some of the tasks may have arrived. Call again with all the statuses: to merge them
                twice changes nothing.
        """
        parts = payloads.events(app, statuses)
        task_id = _checked(task_id)
        # The first has the id itself; with the same statuses the others have the same ids again.
        ids = [uuid5(task_id, str(number)) if number else task_id for number in range(len(parts))]
        for one, part in zip(ids, parts, strict=True):
            self._send(payloads.RECORD_STATUS, {"app": app, "events": part}, one, task_id)
        return ids

    def recount_conversation(
        self, app: str, conversation_id: UUID | str, *, task_id: UUID | None = None
    ) -> UUID:
        """Have the counters of a conversation corrected. That a message was deleted, or that a member has
        left, must be committed.

        Returns:
            the task's id, as in logs, Flower and dead letters.

        Raises:
            InvalidPayload: before anything is sent.
            PublishFailed: the broker is away, frozen or full.
        """
        payload = payloads.conversation(app, conversation_id)
        task_id = _checked(task_id)
        self._send(payloads.RECOUNT_CONVERSATION, payload, task_id, task_id)
        return task_id

    def recompute_room(self, app: str, room: UUID | str, *, task_id: UUID | None = None) -> UUID:
        """Have the statistics of a room that has closed computed at once. What its rows say must be
        committed.

        Args:
            room: its id, or its code.

        Returns:
            the task's id, as in logs, Flower and dead letters.

        Raises:
            InvalidPayload: before anything is sent.
            PublishFailed: the broker is away, frozen or full.
        """
        payload = payloads.room(app, room)
        task_id = _checked(task_id)
        self._send(payloads.RECOMPUTE_ROOM, payload, task_id, task_id)
        return task_id

    def close(self) -> None:
        """Close its connections."""
        self._connections.force_close_all()
        self._client.close()

    def __enter__(self) -> "Producer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, task: str, payload: payloads.Payload, task_id: UUID, first_id: UUID) -> None:
        try:
            with self._producers.acquire(block=True) as producer:
                self._client.send_task(
                    task,
                    args=[payload],
                    queue=payloads.QUEUES[task],
                    task_id=str(task_id),
                    ignore_result=True,
                    producer=producer,
                )
        except OperationalError as error:
            raise PublishFailed(task, first_id, error) from error


def _checked(task_id: UUID | None) -> UUID:
    if not isinstance(task_id, UUID | None):
        raise InvalidPayload(f"task_id: not a uuid.UUID, but a value of type {type(task_id).__name__}.")
    return task_id or uuid4()


class _Client(Celery):
    """A Celery application that has nothing to do with the service's own."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        super().__init__(
            "roomkeeper.producer",
            set_as_current=False,
            # Without Django's, which would load the service's settings.
            fixups=[],
            changes={
                "task_serializer": "json",
                "result_serializer": "json",
                "accept_content": ["json"],
                # Once more, for a connection that has gone stale.
                "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0.2},
                # Without them a frozen broker would block the caller for ever.
                "broker_connection_timeout": timeout,
                "broker_transport_options": {"socket_timeout": timeout, "socket_connect_timeout": timeout},
            },
        )

    def connection_for_write(self, url: str | None = None, **options: Any) -> "Connection":
        # The address that was given: Celery would prefer CELERY_BROKER_URL of the service's environment.
        return super().connection_for_write(url or self._url, **options)
