"""Starts of the local stack that take long, are killed, or find what an earlier one left half made."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stack import programs, supervise
from stack.demo.attempts import tries
from stack.errors import PortTakenError, StackError
from stack.patience import Patience
from stack.ports import free_port
from stack.servers.postgres import Postgres
from stack.supervise import Program, Supervisor
from tests.platform import Platform, eventually
from tests.servers import PostgresServer
from tests.stack.test_group import Launcher, awaited_end, processes_of

pytestmark = pytest.mark.system

#: Shorter than any of the programs below takes.
STILL_SECONDS = 2.5


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "state")
    yield launcher
    launcher.close()


class Waiting:
    """One program under supervision, and what is reported while it is waited for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sentences: list[str] = []
        self._made: list[Supervisor] = []

    def program(self, name: str, script: str) -> Program:
        file = self.directory / f"{name}.py"
        file.write_text(script)
        return Program(name, (sys.executable, "-u", str(file)))

    def start(self, script: str, *others: Program) -> Supervisor:
        program = self.program("program", script)
        made = Supervisor(self.directory, [[program, *others]], dict(os.environ), self.directory)
        self._made.append(made)
        made.start()
        made.start_stage(0)
        return made

    def wait(self, supervisor: Supervisor, file: str = "ready") -> None:
        supervisor.await_ready(
            "program",
            (self.directory / file).exists,
            patience=Patience(STILL_SECONDS, report_seconds=1),
            say=self.sentences.append,
        )

    def close(self) -> None:
        for made in self._made:
            made.stop(hurry=lambda: True)


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    made = Waiting(tmp_path)
    yield made
    made.close()


READY = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"
SLOWLY = {
    "it writes new lines": "import time\nfor step in 'abcdefghij': print('step', step * 9); time.sleep(0.5)",
    "it computes": "import time\nwhile time.process_time() < 3: pass",
    "it writes to the disk": """
import os, time
with open('data', 'wb') as data:
    for _ in range(10):
        data.write(os.urandom(1 << 20)); data.flush(); os.fsync(data.fileno()); time.sleep(0.5)
""",
    "its child computes": """
import subprocess, sys
subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 3: pass'])
""",
}


@pytest.mark.parametrize("how", SLOWLY)
def test_a_program_is_waited_for_as_long_as_it_makes_progress(waiting: Waiting, how: str) -> None:
    began = time.monotonic()
    waiting.wait(waiting.start(f"{SLOWLY[how]}\n{READY}"))
    assert time.monotonic() - began > STILL_SECONDS
    assert waiting.sentences[0].startswith("waiting for program, ")
    if "lines" in how:
        assert waiting.sentences[-1].endswith(f"Its log ends: step {waiting.sentences[-1][-1] * 9}")


STUCK = {
    "it sleeps": "import time; print('sleeping'); time.sleep(600)",
    # As a client does that finds no server.
    "it says the same": "import time\nwhile True: print('try', time.time()); time.sleep(0.2)",
}


@pytest.mark.parametrize("how", STUCK)
def test_a_program_that_makes_no_progress_is_an_error(waiting: Waiting, how: str) -> None:
    with pytest.raises(StackError, match="there was no progress for") as caught:
        waiting.wait(waiting.start(STUCK[how]))
    last = str(caught.value).splitlines()[-1]
    assert last.startswith(("sleeping", "try"))


def test_a_program_that_ends_while_it_is_waited_for_is_waited_for_again(waiting: Waiting) -> None:
    """A worker whose database is being started again; and another program, whatever the reason."""
    once = """
import pathlib, sys
seen = pathlib.Path(sys.argv[0] + '.seen')
if not seen.exists():
    seen.touch()
    sys.exit(1)
"""
    other = waiting.program("other", f"{once}\nimport time; time.sleep(600)")
    waiting.wait(waiting.start(f"{once}\n{READY}", other))
    ended = {line.split(" ")[0] for line in waiting.sentences if " has ended (exit status 1) " in line}
    assert ended == {"program", "other"}


def test_ends_with_long_lives_in_between_are_no_reason_to_give_up(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_ENDS", 2)
    monkeypatch.setattr(supervise, "_ENDS_SECONDS", 0)
    monkeypatch.setattr(supervise, "_LONG_LIFE_SECONDS", 0.5)
    lives = """
import pathlib, sys
lives = pathlib.Path('lives')
if not lives.exists() or lives.stat().st_size < 2:
    lives.open('a').write('x')
    sys.exit(1)
"""
    supervisor = waiting.start(f"{lives}\n{READY}")
    supervisor.await_ready("program", (waiting.directory / "ready").exists, say=waiting.sentences.append)
    assert len([line for line in waiting.sentences if " has ended " in line]) == 2


def test_each_program_is_waited_for_by_itself(platform: Platform) -> None:
    """What others do meanwhile is no progress of one that hangs."""
    names = [names for _, names, _ in programs.ready_probes(platform.settings)]
    assert names == [["attachments"], ["delivery"], ["maintenance"], ["flower"], ["metrics"]]


def test_a_worker_that_is_frozen_does_not_answer_for_the_others(platform: Platform) -> None:
    delivery, maintenance = (platform.worker(kind) for kind in ("delivery", "maintenance"))
    os.kill(maintenance.process.pid, signal.SIGSTOP)
    ready = {name: probe for _, (name,), probe in programs.ready_probes(platform.settings)}
    eventually(ready["delivery"], 20)
    assert not ready["maintenance"]()
    os.kill(maintenance.process.pid, signal.SIGCONT)
    eventually(ready["maintenance"], 20)
    assert delivery.process.poll() is None


def test_a_program_is_never_given_up(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_SHORT_LIVES", 1)
    supervisor = waiting.start(f"import os, sys\nif not os.path.exists('database'): sys.exit(1)\n{READY}")
    sentences: list[str] = []

    def rounds() -> int:
        sentences.extend(event.sentence for event in supervisor.events())
        return sum("as soon as it is started; it is tried again" in line for line in sentences)

    # The pauses are of one second each time, not longer from round to round.
    eventually(lambda: rounds() >= 2, 30)
    (waiting.directory / "database").touch()
    eventually(lambda: rounds() and (waiting.directory / "ready").exists(), 30)


def test_a_pause_between_starts_is_bounded(waiting: Waiting) -> None:
    waiting.start(READY)
    config = (waiting.directory / "supervisord.conf").read_text()
    # supervisord pauses a second longer after each short life, until it gives up.
    assert "startretries=10\n" in config


def test_a_port_that_was_taken_meanwhile_is_told_from_other_ends(waiting: Waiting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listens = f"import socket; socket.create_server({taken.getsockname()!r})"
        with pytest.raises(PortTakenError, match="The port of program has been taken"):
            waiting.wait(waiting.start(listens))


def test_a_start_whose_port_is_taken_meanwhile_goes_on_with_another(launch: Launcher) -> None:
    starter = launch("taken-port")
    taken = int(starter.until(r"^taken (\d+)")[1])
    starter.until("The port of valkey has been taken by another program. Starting again, on other ports…")
    starter.until("^up ")
    numbers = json.loads((launch.state / "ports.json").read_text())
    assert taken not in numbers.values()
    starter.interrupt()
    assert starter.code() == 0
    assert processes_of(launch.state) == []


def test_a_database_that_is_killed_while_it_is_set_up_is_set_up_again(launch: Launcher) -> None:
    starter = launch.up("crashing-database")
    assert starter.lines.count("setting up") == 2
    assert any("postgres has ended (terminated by SIGKILL)" in line for line in starter.lines)
    starter.interrupt()
    assert starter.code() == 0


def test_a_start_gets_over_what_others_left_half_made(launch: Launcher) -> None:
    """What is there if each file is cut off at its creation, and the machine goes down in the middle."""
    for name in (
        "postgres/data/base",
        "postgres/data.new/base",
        "clamd/signatures",
        "seaweedfs/data",
        "logs",
    ):
        (launch.state / name).mkdir(parents=True)
    for name in (
        "seaweedfs-secret",
        "flower-password",
        "ports.json",
        "ports.new",
        "env.new",
        "supervisord.conf",
        "supervisord.pid",
        "logs/supervisord.log",
        "clamd/clamd",
        "clamd/clamd.conf",
        "clamd/signatures/daily.new",
        "clamd/signatures/daily.cud",
        "seaweedfs/s3.json",
        # A socket without a listener is a file all the same.
        "supervisord.sock",
        "clamd/clamd.sock",
        "seaweedfs/s3.sock",
        "seaweedfs/filer.sock",
    ):
        (launch.state / name).touch()
    starter = launch.up()
    for name in ("seaweedfs-secret", "flower-password"):
        assert len((launch.state / name).read_text()) > 10
    starter.interrupt()
    assert starter.code() == 0


@pytest.mark.parametrize("moment", ["postgres/data.new/PG_VERSION", "logs/seaweedfs.log"])
def test_a_start_that_is_killed_does_not_break_the_next(launch: Launcher, moment: str) -> None:
    first = launch()
    while not (launch.state / moment).exists():
        assert first.process.poll() is None
        time.sleep(0.001)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    # At once: the first one's programs are only just ending.
    second = launch.up()
    second.interrupt()
    assert second.code() == 0
    awaited_end(launch.state)


def test_postgres_starts_though_its_number_is_another_program_s_now(tmp_path: Path) -> None:
    server = PostgresServer(Postgres(tmp_path, free_port(), durable=False))
    server.start()
    named = tmp_path / "data" / "postmaster.pid"
    content = named.read_text()
    number = server.pid
    server.kill()
    other = subprocess.Popen(["sleep", "600"])
    try:
        # As after a restart of the machine.
        named.write_text(content.replace(str(number), str(other.pid), 1))
        server.start()
        assert server.server.ready()
    finally:
        server.stop()
        other.kill()
        other.wait()


def test_a_job_may_try_a_few_times_and_a_file_as_often_as_its_state_changes(platform: Platform) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    file = platform.pern_attachment(None)

    def tried() -> object:
        return tries(platform.engine, ["pern.audit_info"], [file], since)

    ran = (
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('pern.audit_info', now() + make_interval(secs => :late), now(), 0, 'done')"
    )
    before = tried()
    platform.sql(ran, late=-120)
    assert tried() == before
    known = {before}
    for _ in range(5):
        platform.sql(ran, late=0)
        assert tried() not in known
        known.add(tried())
    platform.sql(ran, late=0)
    assert tried() in known
    platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, attempt)"
        " VALUES ('pern', :file, 'waiting', 1)",
        file=file,
    )
    assert tried() not in known
