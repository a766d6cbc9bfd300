"""The plan of `make soak`, and that what it begins it also ends."""

from collections import Counter
from typing import Any

import pytest

from stack.programs import PROGRAMS
from stack.soak.disturbances import (
    APART,
    AWAY,
    CLOCKS,
    FULL_DISK,
    LASTING,
    MOMENTARY,
    SERVERS,
    Disturbance,
    InForce,
    plan,
)
from stack.soak.report import Outcome
from stack.soak.watch import Check, Silence, Work
from tests.platform import Platform
from workers.settings import Settings

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
        "pgbouncer": 2,
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


def test_what_a_disturbance_needs_is_not_ended_meanwhile() -> None:
    for seed in range(50):
        planned = plan(seed, HOUR, disk=True)
        windows = [(at, at + one.seconds, one.of) for at, one in planned if one.of]
        assert windows
        for at, one in planned:
            server = one.name.partition(" is ended")[0]
            assert not any(begin <= at <= end for begin, end, of in windows if of == server), one.name
        for program in (*PROGRAMS, "pgbouncer"):
            first, second = (at for at, one in planned if one.name.startswith(f"{program} is ended"))
            assert second - first >= APART


def test_a_part_of_the_plan_can_be_run_in_less_time() -> None:
    planned = plan(1, 600, disk=True, only="^the clock of|holds rows", longest=20)
    assert {one.name for _, one in planned} == {
        *(one.name for one in CLOCKS),
        "an application's transaction holds rows",
    }
    assert {one.seconds for _, one in planned} == {20}


READ_ONLY = Disturbance("read-only", lambda _: None, seconds=60, check="takes no writes")
#: What is not seen from outside.
CLOCK = Disturbance("the clock", lambda _: None, seconds=60)


def silence(*faults: str, in_force: Disturbance | None = None, every: float = 10) -> Silence:
    """Look for two minutes at files of which none is done; `check` prints `faults`."""
    watch, names = Silence(), [in_force] if in_force else []
    for number in range(int(120 / every) + 1):
        watch.look(Check(number * every, list(faults), names), {"files": Work(5, 3)}, names)
    return watch


def test_silence_without_the_right_cause_is_a_problem() -> None:
    assert "no fault" in silence().problems[0]
    assert "no fault" in silence(in_force=CLOCK).problems[0]
    assert "holds messages" in silence("The queue holds messages.", in_force=READ_ONLY).problems[0]
    named = silence("The database takes no writes.", in_force=READ_ONLY)
    assert (named.problems, named.during) == ([], {"read-only": (13, 13)})
    assert silence("No worker of kind attachments is running.", in_force=CLOCK).problems == []
    # It is true, and no reason for files to wait.
    assert "late" in silence("8 rollups are late.", in_force=CLOCK).problems[0]
    # What has not been named at all, though nothing was silent for long.
    assert silence(in_force=READ_ONLY).never_named() == ["check never named: read-only (in 13 runs)"]


def test_work_that_goes_on_is_not_silent_and_neither_is_none() -> None:
    watch = Silence()
    for number in range(30):
        works = {"files": Work(number // 5, 3), "calls": Work(7, 0)}
        watch.look(Check(number * 10, []), works, [])
    assert watch.problems == []
    assert watch.longest == {"files": 40}


def test_on_a_slow_machine_a_look_counts_no_more_than_usual() -> None:
    assert silence(every=60).problems == []


def outcome(**changes: Any) -> Outcome:
    calm: dict[str, Any] = {
        "seconds": 240,
        "seed": 7,
        "begun": [(31.2, READ_ONLY), (90, CLOCK), (200, CLOCK)],
        "sent": {"files": 1234},
        "refused": {"OperationalError": 2},
        "lost": [],
        "silence": Silence(longest={"files": 20}),
        "never_begun": [],
        "memory": {"delivery": (200, 230), "postgres": (100, 900)},
        "audits": {"openchat.daily": ""},
        "faults_at_the_end": [],
    }
    return Outcome(**{**calm, **changes})


def test_the_report_is_a_table() -> None:
    assert outcome().problems() == []
    table = outcome().table().splitlines()
    assert "| duration | 4 minutes |" in table
    assert "| the clock for 60 s | at 90, 200 s |" in table
    assert "| sent | 1,234 files |" in table
    assert "| lost | nothing |" in table
    assert "| memory of delivery | 200 MiB, at the end 230 MiB |" in table
    assert "| audits | 1 of 1 rollups agree |" in table


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lost": ["outbox: 3"]}, "outbox: 3"),
        ({"never_begun": ["clamd reloads"]}, "never possible: clamd reloads"),
        ({"memory": {"delivery": (200, 300)}}, "delivery grew from 200 to 300 MiB"),
        ({"audits": {"openchat.daily": "differs"}}, "rollup audit openchat.daily: differs"),
        ({"faults_at_the_end": ["No beat is running."]}, "check at the end: No beat is running."),
    ],
)
def test_what_is_wrong_at_the_end_is_a_problem(changes: dict[str, Any], problem: str) -> None:
    assert outcome(**changes).problems() == [problem]


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


class Stack:
    """Stands for one that runs: what is asked of it is where its database is."""

    def __init__(self, settings: Settings) -> None:
        self.direct_settings = settings


def test_a_table_whose_rows_are_held_is_altered_later(platform: Platform) -> None:
    """Both disturbances come from one process: one must not wait for the end of the other."""
    stack: Any = Stack(platform.settings)
    holds = next(one for one in LASTING if "holds rows" in one.name)
    alters = next(one for one in MOMENTARY if "column" in one.name)
    assert holds.end is not None
    held = holds.begin(stack)
    with pytest.raises(AWAY):
        alters.begin(stack)
    holds.end(stack, held)
    alters.begin(stack)
