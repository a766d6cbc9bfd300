"""A room of `audiorooms` closes: whichever way its service takes, its statistics are right at once."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from roomkeeper import Producer, sql
from tests.client.studio import CODE, Studio, relaying, studio
from tests.platform import Platform, eventually

#: Days are counted back from today.
pytestmark = [pytest.mark.system, pytest.mark.usefixtures("same_day")]


def in_sql(room: Studio) -> None:
    room.close(then=room.enqueue)
    relaying(room.platform)


def with_the_package_in_sql(room: Studio) -> None:
    room.close(then=lambda cursor: sql.recompute_room(cursor, "audiorooms", room.id))
    relaying(room.platform)


def with_the_package_through_the_broker(room: Studio) -> None:
    room.close()
    with Producer(room.platform.environment["ROOMKEEPER_BROKER_URL"]) as producer:
        producer.recompute_room("audiorooms", CODE)


def with_any_celery_client(room: Studio) -> None:
    room.close()
    room.platform.send("analytics.room", {"app": "audiorooms", "room": CODE}, queue="maintenance")


def without_a_queue(room: Studio) -> None:
    room.close()
    payload = {"app": "audiorooms", "room": str(room.id).upper()}
    room.platform.send("analytics.room", payload, queue="celery")


@pytest.mark.parametrize(
    "way",
    [
        in_sql,
        with_the_package_in_sql,
        with_the_package_through_the_broker,
        with_any_celery_client,
        without_a_queue,
    ],
)
def test_its_figures_are_right_at_once(platform: Platform, way: Callable[[Studio], None]) -> None:
    platform.set(worker_processes=1)
    platform.worker("maintenance")
    room = studio(platform)
    assert room.statistics() == {}
    way(room)
    room.are_right()


def test_a_room_that_is_not_committed_yet_is_waited_for(platform: Platform) -> None:
    platform.set(worker_processes=1)
    worker = platform.worker("maintenance")
    platform.send("analytics.room", {"app": "audiorooms", "room": CODE}, queue="maintenance")
    eventually(lambda: "] retry" in worker.output(), what="it was looked for in vain")
    room = studio(platform)
    room.close()
    room.are_right()


def test_what_cannot_be_done_is_a_dead_letter_that_says_why(platform: Platform) -> None:
    platform.set(worker_processes=1, row_wait_seconds=3)
    platform.worker("maintenance")
    reasons = {
        platform.send("analytics.room", *args, queue="maintenance"): reason
        for args, reason in (
            (({"app": "audiorooms"},), "room: Field required"),
            (({"app": "echoroom", "room": CODE},), "app: Input should be 'audiorooms'"),
            (
                ({"app": "audiorooms", "room": "abc123"},),
                "room: must be a UUID, or a code of six capital letters and digits",
            ),
            (
                ({"app": "audiorooms", "room": 123456},),
                "room: must be a UUID, or a code of six capital letters and digits",
            ),
            (({"app": "audiorooms", "room": CODE, "at": "now"},), "at: Extra inputs are not permitted"),
            ((), "TypeError: missing a required argument: 'request'"),
            (({"app": "audiorooms", "room": CODE},), "UnknownRoomError: there is no such room"),
            (({"app": "audiorooms", "room": str(uuid4())},), "UnknownRoomError: there is no such room"),
        )
    }
    eventually(lambda: len(platform.dead_letters()) == len(reasons), what="all are dead letters")
    kept = {letter.task_id: letter.reason.partition("; none")[0] for letter in platform.dead_letters()}
    assert kept == reasons
