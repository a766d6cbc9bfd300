"""The supervised group, with harmless programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from stack import session, supervise
from stack.errors import StackError
from stack.processes import POLL_SECONDS, run
from stack.supervise import Event, Program, Supervisor, leftovers

#: Write their process id, and then wait; the second does not answer SIGTERM.
WAIT = ("sh", "-c", 'echo $$ >> "$1"; exec sleep 600', "sh")
STUBBORN = ("sh", "-c", "trap '' TERM; echo $$ >> \"$1\"; while :; do sleep 0.05; done", "sh")


def awaited(fact: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `fact` is true."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(POLL_SECONDS)


class Group:
    """Supervised programs in a temporary directory, and what they have written there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: list[Supervisor] = []

    def program(
        self,
        name: str,
        command: Sequence[str] = WAIT,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: int = 10,
    ) -> Program:
        return Program(name, (*command, str(self.directory / name)), stop_signal, stop_seconds)

    def supervisor(self, *stages: Sequence[Program]) -> Supervisor:
        made = Supervisor(self.directory, stages, dict(os.environ), self.directory)
        self._made.append(made)
        made.start()
        return made

    def started(self, *stages: Sequence[Program]) -> Supervisor:
        made = self.supervisor(*stages)
        for number, stage in enumerate(stages):
            made.start_stage(number)
            for program in stage:
                awaited(partial(self.pids, program.name))
        return made

    def pids(self, name: str) -> list[int]:
        """Return the process ids that the program has had, whole lines only."""
        file = self.directory / name
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def leader(self) -> int:
        return int((self.directory / "supervisord.pid").read_text())

    def close(self) -> None:
        for made in self._made:
            made.stop(hurry=lambda: True)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def collected(supervisor: Supervisor, count: int) -> list[Event]:
    """Return the next `count` events."""
    events: list[Event] = []

    def enough() -> bool:
        events.extend(supervisor.events())
        return len(events) >= count

    awaited(enough)
    return events


def test_a_killed_program_is_said_and_started_again(group: Group) -> None:
    supervisor = group.started([group.program("one"), group.program("two")])
    assert supervisor.events() == []
    os.kill(group.pids("one")[0], signal.SIGKILL)
    ended, again = collected(supervisor, 2)
    assert ended == Event("one", "one has ended (terminated by SIGKILL) and is started again.", down=True)
    awaited(lambda: len(group.pids("one")) == 2)
    assert again == Event("one", f"one runs again, pid {group.pids('one')[1]}.", down=False)
    assert len(group.pids("two")) == 1


def test_the_last_stage_ends_first_and_nothing_stays(group: Group) -> None:
    supervisor = group.started([group.program("server")], [group.program("worker")])
    leader = group.leader
    supervisor.stop()
    log = supervisor.log("supervisord").read_text()
    assert log.index("stopped: worker") < log.index("stopped: server")
    assert not runs(leader)
    assert session.members(leader, group.directory) == []
    assert leftovers(group.directory) is None


def test_the_stop_signal_is_the_program_s_own(group: Group) -> None:
    supervisor = group.started([group.program("one", stop_signal=signal.SIGINT)])
    supervisor.stop()
    assert "stopped: one (terminated by SIGINT)" in supervisor.log("supervisord").read_text()


def test_what_does_not_end_in_time_is_killed(group: Group) -> None:
    supervisor = group.started([group.program("stubborn", STUBBORN, stop_seconds=1)])
    supervisor.stop()
    assert "stopped: stubborn (terminated by SIGKILL)" in supervisor.log("supervisord").read_text()


def test_in_a_hurry_everything_is_killed(group: Group) -> None:
    supervisor = group.started([group.program("stubborn", STUBBORN, stop_seconds=600)])
    leader = group.leader
    began = time.monotonic()
    supervisor.stop(hurry=lambda: True)
    assert time.monotonic() - began < 10
    assert session.members(leader, group.directory) == []


def test_a_program_that_keeps_ending_is_an_error_with_its_last_words(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_ENDS", 2)
    monkeypatch.setattr(supervise, "_ENDS_SECONDS", 0)
    broken = Program("broken", ("sh", "-c", "echo no such table; exit 3"))
    supervisor = group.supervisor([broken])
    supervisor.start_stage(0)
    sentences: list[str] = []
    with pytest.raises(StackError) as caught:
        supervisor.await_ready("broken", lambda: False, say=sentences.append)
    first, *rest = str(caught.value).splitlines()
    assert first == "broken ends each time that it is started."
    assert rest == ["no such table", "no such table"]
    ended = "broken has ended (exit status 3) and is started again. Its log ends: no such table"
    assert sentences[0] == ended


def test_a_program_that_does_not_exist_is_an_error(group: Group) -> None:
    supervisor = group.supervisor([Program("missing", ("/nonexistent/program",))])
    with pytest.raises(StackError, match="missing cannot be started"):
        supervisor.start_stage(0)


def test_the_death_of_the_supervisor_is_said(group: Group) -> None:
    supervisor = group.started([group.program("one")])
    os.kill(group.leader, signal.SIGKILL)
    with pytest.raises(StackError, match="supervisord has ended with SIGKILL"):
        awaited(supervisor.events)


def test_leftovers_are_found_and_ended_even_if_they_resist(group: Group) -> None:
    group.started([group.program("one"), group.program("stubborn", STUBBORN)])
    leader = group.leader
    # It cannot end the others, nor itself.
    os.kill(leader, signal.SIGSTOP)
    assert leftovers(group.directory) == leader
    session.end(leader, group.directory, 0.2)
    assert leftovers(group.directory) is None
    assert not runs(group.pids("one")[0])
    assert not runs(group.pids("stubborn")[0])


def test_a_stranger_with_the_same_number_is_not_touched(group: Group, tmp_path: Path) -> None:
    group.started([group.program("one")])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "supervisord.pid").write_text(str(group.leader))
    assert leftovers(elsewhere) is None
    session.end(group.leader, elsewhere, 0)
    assert runs(group.pids("one")[0])


def test_odd_paths_work(tmp_path: Path) -> None:
    # What the configuration treats specially, wherever the path gets into it.
    directory = tmp_path / "100 %(here)s;'q'"
    directory.mkdir()
    group = Group(directory)
    try:
        group.started([group.program("one")])
        assert runs(group.pids("one")[0])
    finally:
        group.close()


@pytest.mark.parametrize("name", ["state", "100 %(here)s;'q'"])
def test_it_can_be_asked_by_command(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    group = Group(directory)
    try:
        group.started([group.program("one")], [group.program("two")])
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("supervisorctl")),
                "-c",
                str(directory / "supervisord.conf"),
                "status",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        group.close()
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["stage0:one", "stage1:two"], done


def test_a_path_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "a #b"
    directory.mkdir()
    with pytest.raises(StackError, match="cannot be supervised"):
        Group(directory).supervisor()


def test_a_failed_command_is_an_error_with_its_last_words() -> None:
    with pytest.raises(StackError, match=r"ended with code 3:\nno such table"):
        run(["sh", "-c", "echo no such table; exit 3"])


def test_a_command_is_killed_with_its_children_when_the_waiting_ends(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def pause(seconds: float) -> None:
        if pid.exists() and pid.read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"], pause=pause)
    awaited(lambda: not runs(int(pid.read_text())))
