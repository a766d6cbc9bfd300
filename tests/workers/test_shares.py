"""A long queue of one kind of periodic work leaves the other kinds their share of the maintenance worker."""

import pytest
from redis import Redis

from tests.platform import Platform, eventually

pytestmark = pytest.mark.system

#: Of each queue of the maintenance worker, one of its jobs.
JOBS = {
    "cleanup": "echoroom.typing",
    "maintenance": "delivery.audit",
    "retention": "pern.messages_by_conversation",
    "analytics": "openchat.daily",
}
LONG = 400


@pytest.mark.parametrize("long", ["cleanup", "retention", "analytics"])
def test_a_long_queue_of_one_kind_leaves_the_others_their_share(platform: Platform, long: str) -> None:
    platform.set(worker_processes=1)
    for _ in range(LONG):
        platform.send(JOBS[long], queue=long)
    others = [job for queue, job in JOBS.items() if queue != long]
    for queue, job in JOBS.items():
        if queue != long:
            platform.send(job, queue=queue)
    platform.worker("maintenance")
    eventually(
        lambda: (
            len(
                platform.sql(
                    "SELECT DISTINCT job FROM roomkeeper.job_runs WHERE job = ANY(:jobs)", jobs=others
                )
            )
            == len(others)
        ),
        what=f"{others} have run",
    )
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        assert int(client.llen(long)) > LONG / 2
