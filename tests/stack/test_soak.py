"""The plan of `make soak`, and that what it begins it also ends."""

from collections import Counter
from typing import Any

import pytest

from stack.programs import PROGRAMS
from stack.soak.disturbances import FULL_DISK, LASTING, SERVERS, Disturbance, InForce, plan

HOUR = 3600.0


def test_a_seed_has_one_plan_and_another_seed_another() -> None:
    first, again, other = ([(at, one.name) for at, one in plan(seed, HOUR, disk=True)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("disk", [True, False])
def test_every_program_is_restarted_twice_and_every_server_is_killed(disk: bool) -> None:
    planned = plan(1, HOUR, disk=disk)
    times = Counter(one.name.partition(" is ended")[0] for _, one in planned)
    assert {name: times[name] for name in (*PROGRAMS, *SERVERS)} == {
        **dict.fromkeys(PROGRAMS, 2),
        **dict.fromkeys(SERVERS, 1),
    }
    lasting = [(at, one) for at, one in planned if one.seconds]
    assert {one.name for _, one in lasting} == {one.name for one in LASTING if disk or one is not FULL_DISK}
    # One after another, and the last fifth of the time is calm.
    ends = [at + one.seconds for at, one in lasting]
    assert all(end < begin for end, (begin, _) in zip(ends, lasting[1:], strict=False))
    assert max(ends) < HOUR
    assert max(at for at, one in planned if not one.seconds) <= 0.8 * HOUR


def test_in_a_short_run_what_lasts_ends_in_time() -> None:
    for minutes in (1, 3, 5, 10):
        lasting = [(at, one) for at, one in plan(1, minutes * 60, disk=True) if one.seconds]
        assert all(at + one.seconds <= 0.8 * minutes * 60 for at, one in lasting)


class Server:
    """Stands for one that is away a few times."""

    def __init__(self, away: int) -> None:
        self.away, self.disturbed = away, False

    def set(self, disturbed: bool) -> None:
        if self.away:
            self.away -= 1
            raise OSError("away")
        self.disturbed = disturbed


def test_what_cannot_be_ended_is_ended_later() -> None:
    server = Server(away=0)
    stack: Any = None
    one = Disturbance("away", lambda _: server.set(True), lambda _, __: server.set(False), seconds=60)
    in_force = InForce(stack)
    in_force.begin(one, 0)
    assert (in_force.end(59), in_force.names(), server.disturbed) == ([], [one], True)
    server.away = 2
    assert [in_force.end(60), in_force.end(61)] == [[], []]
    assert (in_force.names(), server.disturbed) == ([one], True)
    assert (in_force.end(62), in_force.names(), server.disturbed) == ([one], [], False)


def test_what_cannot_begin_is_not_in_force() -> None:
    server, stack = Server(away=1), None
    in_force = InForce(stack)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="away"):
        in_force.begin(Disturbance("away", lambda _: server.set(True)), 0)
    assert in_force.names() == []
