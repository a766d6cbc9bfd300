"""A second installation on the same broker does not start; a broker is taken over on purpose."""

from uuid import uuid4

import pytest
from redis import Redis
from syrupy.assertion import SnapshotAssertion

from tests.commands.cli import on, stable
from tests.platform import Platform, eventually
from tests.servers import ValkeyServer
from workers.installation import KEY

pytestmark = pytest.mark.system


def own(platform: Platform) -> str:
    ((found,),) = platform.sql("SELECT id::text FROM roomkeeper.installation")
    return str(found)


def become_another(platform: Platform) -> None:
    """Be another installation from now on, as with another database."""
    platform.sql("UPDATE roomkeeper.installation SET id = gen_random_uuid()")


def test_a_second_one_is_refused_until_it_takes_the_broker_over(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.set(worker_processes=1)
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"], decode_responses=True) as client:
        first = platform.worker("delivery")
        assert client.get(KEY) == own(platform)
        # A broker that has lost its data is marked again.
        client.delete(KEY)
        eventually(lambda: client.get(KEY) == own(platform), what="the broker is marked again")
        assert "✓ broker" in on(platform, "check").out.splitlines()

        become_another(platform)
        refused = platform.start("worker", "delivery"), platform.start("beat")
        for program in refused:
            assert program.process.wait(timeout=60) == 1
            assert "The broker belongs to another installation" in program.output()
            assert "roomkeeper broker take-over" in program.output()
            assert "Traceback" not in program.output()
        faults = [fault for fault in on(platform, "check").faults if "installation" in fault[0]]
        assert stable("\n".join(faults[0])) == snapshot(name="check")
        assert client.get(KEY) != own(platform)

        client.lpush("maintenance", "a message of the other")
        assert stable(on(platform, "broker", "take-over")) == snapshot(name="take-over")
        assert stable(on(platform, "broker", "take-over")) == snapshot(name="again")
        assert client.get(KEY) == own(platform)
        # That of the first one notices, and ends.
        assert first.process.wait(timeout=60) == 1
        assert first.output().count("The broker belongs to another installation") == 1
        platform.worker("delivery")


def test_a_worker_that_waits_for_its_broker_looks_when_there_is_one(
    platform: Platform, valkey: ValkeyServer
) -> None:
    platform.set(worker_processes=1)
    with Redis.from_url(valkey.url()) as client:
        client.set(KEY, str(uuid4()))
    valkey.stop()
    worker = platform.start("worker", "delivery")
    eventually(lambda: "Cannot connect to" in worker.output() or "Trying again" in worker.output())
    valkey.start()
    assert worker.process.wait(timeout=60) == 1
    assert "broker.of_another_installation" in worker.output()


def test_a_broker_that_is_away_is_not_taken_over(platform: Platform, valkey: ValkeyServer) -> None:
    valkey.stop()
    outcome = on(platform, "broker", "take-over")
    assert outcome.code == 1
    assert outcome.err.startswith("The broker does not answer")
