"""The local stack as a process of its own: interrupted, killed, started twice."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from stack.processes import POLL_SECONDS
from workers.settings import load

pytestmark = pytest.mark.system

STARTER = Path(__file__).with_name("starter.py")
ROOT = STARTER.parents[2]


class Starter:
    """A running `starter.py`, and what it prints."""

    def __init__(self, state: Path, way: str, environment: dict[str, str]) -> None:
        self.state = state
        self.process = subprocess.Popen(
            [sys.executable, str(STARTER), str(state), way],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": str(ROOT), **environment},
            # As a terminal gives each command a process group, which Ctrl-C then reaches as a whole.
            start_new_session=True,
        )
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read its output up to the line that `pattern` matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it ended without a line like {pattern!r}:\n" + "\n".join(self.lines))

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        os.killpg(self.process.pid, number)

    def code(self) -> int:
        """Wait for its end and return its exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(60)


class Launcher:
    """Starts `starter.py` in one state directory, and leaves nothing behind."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._starters: list[Starter] = []

    def __call__(self, way: str = "servers", **environment: str) -> Starter:
        starter = Starter(self.state, way, environment)
        self._starters.append(starter)
        return starter

    def up(self, way: str = "servers", **environment: str) -> Starter:
        starter = self(way, **environment)
        starter.until("^up ")
        return starter

    def close(self) -> None:
        for starter in self._starters:
            starter.process.kill()
            starter.process.wait()
            assert starter.process.stdout is not None
            starter.process.stdout.close()
        for pid in processes_of(self.state):
            # It may have been about to end by itself.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "state")
    yield launcher
    launcher.close()


def processes_of(state: Path) -> list[int]:
    """Return every living process that shows the state directory in any way, whatever started it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                traces = [process.joinpath(name).read_bytes() for name in ("cmdline", "environ")]
                traces.append(os.fsencode(process.joinpath("cwd").readlink()))
            except OSError:
                continue
            if any(os.fsencode(state) in trace for trace in traces):
                found.append(int(process.name))
    return found


def awaited_end(state: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(state):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(POLL_SECONDS)


def program_pid(state: Path, name: str) -> int:
    log = (state / "logs" / "supervisord.log").read_text()
    return int(re.findall(rf"spawned: '{name}' with pid (\d+)", log)[-1])


def test_it_starts_ends_and_keeps_its_data(launch: Launcher) -> None:
    first = launch.up()
    url = first.lines[-1].removeprefix("up ")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    first.interrupt()
    assert first.code() == 0
    assert processes_of(launch.state) == []

    second = launch.up()
    assert second.lines[-1] == first.lines[first.lines.index(f"up {url}")]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
    second.interrupt(signal.SIGTERM)
    assert second.code() == 0
    assert processes_of(launch.state) == []


def test_a_shell_gets_the_settings_that_its_programs_have(launch: Launcher) -> None:
    launch.state.mkdir()
    # Files of an earlier start, readable by all.
    for name in ("env", "env.new"):
        (launch.state / name).touch(mode=0o644)
    name = 'ada\'s $(touch x) `y` "z" é'
    starter = launch.up(
        ROOMKEEPER_FLOWER_USER=name,
        ROOMKEEPER_S3_BUCKET="production",
        ROOMKEEPER_BROKER_URL="redis://production/0",
        SECRET_OF_SOMEBODY_ELSE="x",
    )
    file = launch.state / "env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    sourced = subprocess.run(
        ["sh", "-c", '. "$1"; exec env -0', "sh", str(file)],
        env={},
        cwd=launch.state,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert sourced.stderr == b""
    got = dict(line.split("=", 1) for line in sourced.stdout.decode().split("\0") if line)
    settings = load({k: v for k, v in got.items() if k != "PWD"})
    assert settings.flower_user == name
    # As supervisord has handed them on.
    supervisor = int((launch.state / "supervisord.pid").read_text())
    environ = dict(
        line.split("=", 1) for line in Path(f"/proc/{supervisor}/environ").read_text().split("\0") if line
    )
    assert settings == load({k: v for k, v in environ.items() if k.startswith(("ROOMKEEPER_", "DATABASE_"))})
    assert "SECRET_OF_SOMEBODY_ELSE" not in got
    # The same directory that its services use is there.
    assert settings.storage_root.is_dir()
    command = json.loads((launch.state / "lock").read_text())["addresses"]["by hand"]
    assert command.startswith(f". {file}; ")
    assert command.endswith("/bin/roomkeeper check")
    starter.interrupt()
    assert starter.code() == 0


def test_it_says_that_the_signatures_find_nothing_real(launch: Launcher) -> None:
    starter = launch.up()
    assert any("sudo freshclam" in line for line in starter.lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_during_initdb_leaves_nothing(
    launch: Launcher, number: signal.Signals, code: int
) -> None:
    starter = launch()
    while not (launch.state / "postgres" / "data.new" / "PG_VERSION").exists():
        assert starter.process.poll() is None
        time.sleep(0.001)
    starter.interrupt(number)
    assert starter.code() == code
    assert processes_of(launch.state) == []
    assert not (launch.state / "postgres" / "data").exists()


def test_an_interrupt_while_the_supervisor_starts_leaves_nothing(launch: Launcher) -> None:
    starter = launch()
    while not (launch.state / "supervisord.pid").exists():
        assert starter.process.poll() is None
        time.sleep(0.001)
    starter.interrupt()
    assert starter.code() == 130
    assert processes_of(launch.state) == []


def test_an_interrupt_during_the_set_up_leaves_nothing(launch: Launcher) -> None:
    starter = launch("endless-setup")
    starter.until("setting up")
    starter.interrupt()
    assert starter.code() == 130
    assert processes_of(launch.state) == []


def test_a_failed_set_up_ends_everything_and_says_why(launch: Launcher) -> None:
    starter = launch("failing-setup")
    assert starter.code() == 1
    assert starter.lines[-1] == "no such table"
    assert processes_of(launch.state) == []


def test_a_second_interrupt_hurries(launch: Launcher) -> None:
    starter = launch.up("stubborn")
    # It would have more than half a minute to end.
    starter.interrupt()
    starter.until("ending")
    began = time.monotonic()
    starter.interrupt()
    assert starter.code() == 0
    assert time.monotonic() - began < 10
    assert processes_of(launch.state) == []


def test_a_killed_server_is_said_and_started_again(launch: Launcher) -> None:
    starter = launch.up()
    for name in ("valkey", "clamd", "postgres", "seaweedfs"):
        os.kill(program_pid(launch.state, name), signal.SIGKILL)
        starter.until(rf"{name} has ended \(terminated by SIGKILL\) and is started again")
        starter.until(rf"{name} runs again, pid \d+")
    starter.interrupt()
    assert starter.code() == 0


def test_nothing_outlives_a_killed_starter(launch: Launcher) -> None:
    starter = launch.up()
    starter.process.kill()
    awaited_end(launch.state)


def test_the_next_start_ends_what_a_killed_one_left(launch: Launcher) -> None:
    first = launch.up()
    leader = int((launch.state / "supervisord.pid").read_text())
    # Frozen, the old supervisor cannot obey the kernel when its starter dies.
    os.kill(leader, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    second = launch()
    second.until("ending what a killed stack has left running")
    os.kill(leader, signal.SIGCONT)
    second.until("^up ")
    assert leader not in processes_of(launch.state)
    second.interrupt()
    assert second.code() == 0
    assert processes_of(launch.state) == []


def test_a_second_one_in_the_same_directory_is_refused(launch: Launcher) -> None:
    first = launch.up()
    second = launch()
    assert second.code() == 1
    (sentence,) = second.lines
    assert sentence.startswith(
        f"It is already running, pid {first.process.pid}, in {launch.state}: Flower http"
    )
    # The first one is none the worse for it.
    with psycopg.connect(first.lines[-1].removeprefix("up ")) as connection:
        connection.execute("SELECT 1")


def test_taken_ports_are_replaced_and_said(launch: Launcher) -> None:
    launch.state.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        kept, wished = one.getsockname()[1], two.getsockname()[1]
        (launch.state / "ports.json").write_text(json.dumps({"postgres": kept}))
        starter = launch.up(ROOMKEEPER_FLOWER_PORT=str(wished))
    numbers = json.loads((launch.state / "ports.json").read_text())
    assert f"port {kept} is taken, postgres listens on {numbers['postgres']}" in starter.lines
    assert f"port {wished} is taken, flower listens on {numbers['flower']}" in starter.lines


def test_a_wrong_setting_stops_it_before_anything_runs(launch: Launcher) -> None:
    starter = launch(ROOMKEEPER_MAX_FILE_BYTES="many")
    assert starter.code() == 1
    assert "ROOMKEEPER_MAX_FILE_BYTES" in starter.lines[-1]
    assert not (launch.state / "supervisord.pid").exists()


def test_database_and_stores_of_the_environment_are_left_alone(launch: Launcher) -> None:
    starter = launch.up(
        DATABASE_URL="postgresql://production.example/chat",
        ROOMKEEPER_BROKER_URL="redis://production/0",
        ROOMKEEPER_S3_BUCKET="production",
        ROOMKEEPER_S3_PUBLIC_URL="https://production.example",
        ROOMKEEPER_S3_ACCESS_KEY="production",
        ROOMKEEPER_S3_SECRET_KEY="production",
        ROOMKEEPER_ARCHIVE_ROOT="/production",
    )
    assert re.fullmatch(r"up postgresql://roomkeeper@127\.0\.0\.1:\d+/roomkeeper", starter.lines[-1])
    supervisor = int((launch.state / "supervisord.pid").read_text())
    variables = Path(f"/proc/{supervisor}/environ").read_text().split("\0")
    own = [line for line in variables if line.startswith(("ROOMKEEPER_S3_", "ROOMKEEPER_ARCHIVE_"))]
    assert {"ROOMKEEPER_S3_BUCKET=roomkeeper", "ROOMKEEPER_ARCHIVE_BUCKET=roomkeeper-archive"} <= set(own)
    assert not any("production" in line for line in own)
