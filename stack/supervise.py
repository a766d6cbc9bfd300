"""A group of programs under supervisord: started in stages, started again when they die, ended in reverse."""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from stack import session
from stack.errors import PortTakenError, StackError
from stack.patience import Patience
from stack.processes import POLL_SECONDS, Pause, bound, ending, last_lines
from stack.progress import ProgramProgress
from stack.sockets import socket_path

#: A program that ends sooner than this after its start waits, each time a second longer, before the next.
#: After so many times supervisord gives it up; then we start it again, and the pauses begin at one second.
#: (More retries would let the pauses grow without a bound.)
_SHORT_LIFE_SECONDS = 5
_SHORT_LIVES = 10
#: While the group starts, a program may end so often, and for so long, before that is an error: the server
#: that it needs may just have been started again itself.
_ENDS = 5
_ENDS_SECONDS = 60.0
#: Those before a longer life than this do not count.
_LONG_LIFE_SECONDS = 60.0
#: How often facts are looked at that take more than a moment to find out.
_LOOK_SECONDS = 1.0
_PORT_TAKEN = re.compile(r"address already in use", re.IGNORECASE)
_PID_FILE = "supervisord.pid"


@dataclass(frozen=True)
class Program:
    """A program to be supervised; it must stay in the foreground."""

    name: str
    command: tuple[str, ...]
    stop_signal: signal.Signals = signal.SIGTERM
    #: How long it may take to end before it is killed, with all that it has started.
    stop_seconds: int = 10


@dataclass(frozen=True)
class Event:
    """Something that happened to a program, in words."""

    name: str
    sentence: str
    #: Whether it does not run because of it, for now or for good.
    down: bool


class Supervisor:
    """supervisord and its programs. It dies with us, and they with it, whatever kills either.

    Args:
        directory: where its configuration and the logs (`logs/NAME.log`) are; also the mark by which
            leftovers are recognised.
        stages: the programs of each stage; the last is the first to be ended.
        environment: what all programs find in their environment.
        working_directory: where the programs run.
    """

    def __init__(
        self,
        directory: Path,
        stages: Sequence[Sequence[Program]],
        environment: Mapping[str, str],
        working_directory: Path,
    ) -> None:
        self._directory = directory.resolve()
        self._stages = stages
        # Inherited by all that the programs start, and so the mark of what is ours.
        self._environment = {**environment, "SUPERVISED_IN": str(self._directory)}
        self._working_directory = working_directory.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._spawned: Counter[str] = Counter()
        self._given_up: set[str] = set()
        #: Program → where its log ended before its first start here.
        self._begins: dict[str, int] = {}

    @property
    def patience_seconds(self) -> float:
        """How long an orderly end may take at most."""
        return 5 + sum(max((one.stop_seconds for one in stage), default=0) for stage in self._stages)

    def log(self, name: str) -> Path:
        """Return the path of a program's log."""
        return self._directory / "logs" / f"{name}.log"

    def start(self, pause: Pause = time.sleep) -> None:
        """Start supervisord, without any program.

        Raises:
            StackError: it did not start; the message gives its last words.
        """
        self.log("").parent.mkdir(parents=True, exist_ok=True)
        # What happened in an earlier run is not news.
        self._log.unlink(missing_ok=True)
        config = self._directory / "supervisord.conf"
        config.write_text(self._configuration(), encoding="utf-8")
        words = self.log("supervisord.out")
        with words.open("wb") as output:
            self._process = subprocess.Popen(
                [*bound(signal.SIGTERM), sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self._directory,
                # A session of its own: Ctrl-C must reach us alone, and leftovers must be found.
                start_new_session=True,
            )
        # Its own is written late; a start that is killed meanwhile must be found as well.
        self._pid_file.write_text(str(self._process.pid))
        patience, progress = Patience(), ProgramProgress([words, self._log])
        while not self._answers():
            if progress.made([self._process.pid]):
                patience.progress()
            if self._process.poll() is not None or patience.exhausted():
                output_end = last_lines(words.read_text(errors="replace"))
                raise StackError(f"supervisord did not start:\n{output_end}")
            pause(POLL_SECONDS)

    def start_stage(self, number: int) -> None:
        """Start the programs of one stage, counted from 0, without waiting for them.

        Raises:
            StackError: one cannot be started at all.
        """
        for program in self._stages[number]:
            log = self.log(program.name)
            self._begins.setdefault(program.name, log.stat().st_size if log.exists() else 0)
            try:
                self._call("startProcess", f"{_group(number)}:{program.name}", False)
            except Fault as fault:
                raise StackError(f"{program.name} cannot be started: {fault.faultString}.") from fault

    def await_ready(
        self,
        name: str,
        ready: Callable[[], bool],
        programs: Sequence[str] = (),
        *,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda _: None,
        pause: Pause = time.sleep,
    ) -> None:
        """Wait until `ready` returns true and the programs run.

        There is no fixed limit: it takes as long as the programs make progress. A program that ends meanwhile
        is started again, and waited for.

        Args:
            name: what is waited for, as people call it.
            programs: the programs that it takes; by default the one of this name.
            patience: how long there may be no progress.
            say: is called with a line now and then, if it takes long.

        Raises:
            PortTakenError: a program ended because its port is another program's.
            StackError: a program keeps ending, or there was no progress for too long; with its last words.
        """
        programs = programs or (name,)
        patience = patience or Patience()
        progress = ProgramProgress([self.log(one) for one in programs])
        ends: dict[str, list[float]] = {}
        looked = time.monotonic()
        while True:
            self._bear(self.events(), ends, say)
            # Asked second: what answers may be another program, on a port that it took from ours.
            if ready() and self._runs(programs) and not self._bear(self.events(), ends, say):
                return
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                if progress.made(self._pids(programs)):
                    patience.progress()
                if patience.exhausted():
                    words = "\n".join(self._last_words(one) for one in programs)
                    raise StackError(
                        f"{name} is not ready after {patience.seconds:.0f} s, and there was no progress for "
                        f"{patience.still_seconds:.0f} s: nothing new in the log, no work of processor or "
                        f"disk.\n{words}"
                    )
                if patience.report_due():
                    words = progress.last_line or self._last_words(programs[-1]).rpartition("\n")[2]
                    last = f" Its log ends: {words}" if words else ""
                    say(f"waiting for {name}, {patience.seconds:.0f} s so far.{last}")
            pause(POLL_SECONDS)

    def _bear(
        self, events: Sequence[Event], ends: dict[str, list[float]], say: Callable[[str], None]
    ) -> bool:
        """Report events of a start, and return whether a program ended.

        Raises:
            PortTakenError: it ended because its port is another program's.
            StackError: it has ended too often.
        """
        for event in events:
            words = self._last_words(event.name)
            if event.down:
                if _PORT_TAKEN.search(words):
                    raise PortTakenError(f"The port of {event.name} has been taken by another program.")
                times, now = ends.setdefault(event.name, []), time.monotonic()
                if times and now - times[-1] > _LONG_LIFE_SECONDS:
                    times.clear()
                times.append(now)
                if len(times) >= _ENDS and times[-1] - times[0] > _ENDS_SECONDS:
                    raise StackError(f"{event.name} ends each time that it is started.\n{words}")
            last = words.rpartition("\n")[2]
            say(f"{event.sentence} Its log ends: {last}" if event.down and last else event.sentence)
        return any(event.down for event in events)

    def events(self) -> list[Event]:
        """Return what happened to the programs since the last call.

        Raises:
            StackError: supervisord itself has ended.
        """
        with self._log.open("rb") as log:
            log.seek(self._read)
            # A line that is being written is for the next time.
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read += len(whole + newline)
        found = [
            event for line in whole.decode(errors="replace").splitlines() if (event := self._event(line))
        ]
        self._revive()
        if self._process and (code := self._process.poll()) is not None:
            raise StackError(f"supervisord has ended with {ending(code)}; all programs end with it.")
        return found

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End all programs, the last stage first, and supervisord; return when nothing is left.

        Args:
            hurry: asked all the time; once it says yes everything is killed.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        deadline = time.monotonic() + self.patience_seconds
        while process.poll() is None:
            if hurry() or time.monotonic() > deadline:
                session.kill(process.pid, self._directory, spare=process.pid)
            if time.monotonic() > deadline + 5:
                process.kill()
            # Being asked also wakes it; by itself it looks at its children only once a second.
            self._answers()
            time.sleep(POLL_SECONDS)
        # As a rule nothing is left. If supervisord was killed its programs are only just ending.
        while session.members(process.pid, self._directory):
            if process.returncode >= 0 or hurry() or time.monotonic() > deadline:
                session.kill(process.pid, self._directory)
            time.sleep(POLL_SECONDS)
        self._pid_file.unlink(missing_ok=True)

    def _event(self, line: str) -> Event | None:
        if found := re.search(r" exited: (\S+) \((.+); (?:not )?expected\)", line):
            name, how = found.groups()
            return Event(name, f"{name} has ended ({how}) and is started again.", down=True)
        if found := re.search(r" spawned: '(\S+)' with pid (\d+)", line):
            name, pid = found.groups()
            self._spawned[name] += 1
            # The first time is no news.
            if self._spawned[name] > 1:
                return Event(name, f"{name} runs again, pid {pid}.", down=False)
        if found := re.search(r" gave up: (\S+) ", line):
            name = found[1]
            self._given_up.add(name)
            sentence = (
                f"{name} ends each time, as soon as it is started; it is tried again. See {self.log(name)}."
            )
            return Event(name, sentence, down=True)
        return None

    def _revive(self) -> None:
        """Start what supervisord has given up; until it takes that."""
        for name in list(self._given_up):
            number = next(number for number, stage in enumerate(self._stages) if name in _names(stage))
            # Whatever keeps it from being started now is tried again at the next look.
            with suppress(OSError, HTTPException, Fault):
                self._call("startProcess", f"{_group(number)}:{name}", False)
                self._given_up.discard(name)

    def pid(self, name: str) -> int | None:
        """Return the process id of a program; None while it does not run."""
        return next(iter(self._pids([name])), None)

    def _runs(self, programs: Sequence[str]) -> bool:
        return len(self._pids(programs)) == len(set(programs))

    def _pids(self, programs: Sequence[str]) -> list[int]:
        """Return the process ids of those programs that run."""
        try:
            every = self._call("getAllProcessInfo")
        except (OSError, HTTPException, Fault):
            return []
        return [one["pid"] for one in every if one["name"] in programs and one["pid"]]

    def _last_words(self, name: str) -> str:
        """Return the end of what a program has written since it was first started here."""
        try:
            with self.log(name).open("rb") as log:
                begins = self._begins.get(name, 0)
                # Rotated, perhaps.
                log.seek(begins if begins <= self.log(name).stat().st_size else 0)
                return last_lines(log.read().decode(errors="replace"))
        except FileNotFoundError:
            return ""

    def _answers(self) -> bool:
        try:
            self._call("getState")
        except (OSError, HTTPException, Fault):
            return False
        return True

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with closing(transport):
            proxy = ServerProxy("http://localhost", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)

    @property
    def _socket(self) -> Path:
        return socket_path(self._directory, "supervisord.sock")

    @property
    def _pid_file(self) -> Path:
        return self._directory / _PID_FILE

    @property
    def _log(self) -> Path:
        return self.log("supervisord")

    def _configuration(self) -> str:
        sections: dict[str, dict[str, object]] = {
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            # `supervisorctl -c DIRECTORY/supervisord.conf status` reads it.
            "supervisorctl": {"serverurl": f"unix://{self._socket}"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "supervisord": {
                "nodaemon": "true",
                "silent": "true",
                "pidfile": self._pid_file,
                "logfile": self._log,
                # We read it from where we stopped: it must not be rotated away. A few lines a restart.
                "logfile_maxbytes": 0,
                "nocleanup": "true",
            },
        }
        for number, stage in enumerate(self._stages):
            names = ",".join(program.name for program in stage)
            # The group with the highest number is the first to be ended.
            sections[f"group:{_group(number)}"] = {"programs": names, "priority": number + 1}
            for program in stage:
                sections[f"program:{program.name}"] = {
                    "command": shlex.join(program.command),
                    "directory": self._working_directory,
                    "autostart": "false",
                    "autorestart": "true",
                    "startsecs": _SHORT_LIFE_SECONDS,
                    "startretries": _SHORT_LIVES,
                    "stopsignal": program.stop_signal.name.removeprefix("SIG"),
                    "stopwaitsecs": program.stop_seconds,
                    # The program tells its children to end, as it sees fit: a Celery worker's children must
                    # finish their tasks. Only what does not end in time is killed with all its children.
                    "stopasgroup": "false",
                    "killasgroup": "true",
                    "redirect_stderr": "true",
                    # Relative to its own directory: a percent sign here would be expanded twice.
                    "stdout_logfile": self.log(program.name).relative_to(self._directory),
                    "stdout_logfile_maxbytes": "10MB",
                    "stdout_logfile_backups": 2,
                }
        return "\n".join(
            "\n".join([f"[{name}]", *(f"{key}={_value(value)}" for key, value in section.items()), ""])
            for name, section in sections.items()
        )


def leftovers(directory: Path) -> int | None:
    """Return the session that a starter that was killed has left in `directory`; None if all has ended."""
    try:
        leader = int((directory / _PID_FILE).read_text())
    except (OSError, ValueError):
        return None
    return leader if session.members(leader, directory) else None


def _names(stage: Sequence[Program]) -> set[str]:
    return {program.name for program in stage}


def _group(number: int) -> str:
    return f"stage{number}"


def _value(value: object) -> str:
    """Write a value so that supervisord reads the same.

    Raises:
        StackError: that is impossible.
    """
    text = str(value)
    if re.search(r"\s[;#]|\n", text):
        raise StackError(f"{text!r} cannot be supervised: a path with ' ;' or ' #' in it reads as a comment.")
    return text.replace("%", "%%")
