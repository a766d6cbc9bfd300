"""The local stack: the servers and the platform's programs as one supervised group."""

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import sqlalchemy.exc

from stack import exports, lock, ports, programs, session
from stack.clock import Clocks
from stack.errors import PortTakenError, StackError
from stack.interrupts import Interrupted, Interrupts
from stack.processes import run
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.pgbouncer import PgBouncer
from stack.servers.postgres import Postgres, create_database
from stack.servers.seaweedfs import PORTS, SeaweedFS
from stack.servers.server import Server
from stack.servers.valkey import Valkey
from stack.supervise import Program, Supervisor, leftovers
from workers.settings import Settings, load, variable

ROOT = Path(__file__).resolve().parent.parent
#: The state of the stack that stays, and of the one that shows its samples and ends.
RUN_STATE = ROOT / ".roomkeeper" / "run"
DEMO_STATE = ROOT / ".roomkeeper" / "demo"

DATABASE = "roomkeeper"
BUCKET = "roomkeeper"
#: What retention takes is kept in one of its own, that nothing serves.
ARCHIVE = "roomkeeper-archive"
_LOCK = "lock"
_EXPORTS = "env"
#: How long what a killed stack has left may take to end before it is killed.
_LEFTOVERS_SECONDS = 120
#: How often a start may find a port taken by another program, and go on with others.
_MOVES = 3
#: How often the database may go away while it is set up.
_SET_UPS = 5
_WATCH_SECONDS = 0.5
#: Of PgBouncer: two connections for each process of the three kinds of workers, and some for commands.
_POOL = {"default_pool_size": "20", "max_client_conn": "200"}

#: The variables that the stack sets itself, for they say where its own servers are and where its files go.
OWN = (
    "database_url",
    "broker_url",
    "clamd",
    "storage_root",
    "quarantine_root",
    "flower_port",
    "metrics_port",
    "worker_metrics_port",
    "archive_root",
    "archive_bucket",
    *(field for field in Settings.model_fields if field.startswith("s3_")),
)

#: Where the stack has its own idea of a setting. A worker takes the whole of this time to end, even an idle
#: one, which is too long at a terminal.
_DEFAULTS = {"ROOMKEEPER_SHUTDOWN_SECONDS": "3"}

#: Takes one line for the person at the terminal.
Say = Callable[[str], None]


class LocalStack:
    """Everything in one group on this machine, with its data in one directory.

    In a `with` block it runs. SIGINT and SIGTERM are raised as `Interrupted` within the block, at any moment
    of the start, and nowhere else; however the block is left, all that was started is ended, in reverse
    order, and nothing else; another signal meanwhile kills what is left. Use it in the main thread.

    The environment's DATABASE_URL is **not** used, nor are the broker, scanner, stores and ports set there:
    the stack has its own. (ROOMKEEPER_FLOWER_PORT and ROOMKEEPER_METRICS_PORT are tried first.) All other
    settings of the environment hold.

    Args:
        state: the directory for data, logs and sockets; made if it is missing.
        overrides: settings by variable, for those that the environment does not set.
        own_signatures: look only for the test signatures even if the machine has real ones.
        fresh: empty `state` first.
        furnish: puts into the database what is to be there before the programs run; it may be broken off
            anywhere.
        pooled: let the programs reach the database through PgBouncer, in transaction pooling.
        clocked: let the clock of each program be stepped, by `clocks`.
        say: told how it gets on, a line each.

    Attributes:
        clocks: the wall clocks of the programs; only of a stack that is `clocked`, and that runs.

    Raises:
        StackError: it cannot start, or another one runs in `state`; a sentence for the person who started it.
        SettingsError: a setting of the environment is wrong.
    """

    def __init__(
        self,
        state: Path = RUN_STATE,
        *,
        overrides: Mapping[str, str] | None = None,
        own_signatures: bool = False,
        fresh: bool = False,
        furnish: Callable[[Settings], None] = lambda _: None,
        pooled: bool = False,
        clocked: bool = False,
        say: Say = lambda _: None,
    ) -> None:
        self._state = state.resolve()
        self._overrides = dict(overrides or {})
        self._own_signatures = own_signatures
        self._fresh = fresh
        self._furnish = furnish
        self._pooled = pooled
        self._say = say
        self._clocked = clocked
        self.clocks: Clocks | None = None
        self._interrupts = Interrupts()
        self._environment: dict[str, str] = {}
        self._counts_port = 0
        self._addresses: dict[str, str] = {}
        self._database_url = ""
        self._supervisor: Supervisor | None = None
        self._held = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client of this stack: the one of this process, with the stack's addresses."""
        return dict(self._environment)

    @property
    def settings(self) -> Settings:
        """The settings that all its programs have."""
        return load(self._environment)

    @property
    def direct_settings(self) -> Settings:
        """The same, past the pooler where there is one."""
        return load({**self._environment, variable("database_url"): self._database_url})

    @property
    def addresses(self) -> dict[str, str]:
        """What is to be told to people: name → where it is, and how to get in."""
        return dict(self._addresses)

    @property
    def logs(self) -> Path:
        """The directory of the programs' logs, one file each."""
        return self._state / "logs"

    def __enter__(self) -> Self:
        self._held.enter_context(self._interrupts)
        try:
            self.start()
            self._interrupts.at_once = True
            self._interrupts.check()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it serves. Called by `with`."""
        began = time.monotonic()
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = self._held.enter_context(lock.held(self._state / _LOCK))
        left = leftovers(self._state)
        if left is not None:
            self._say("ending what a killed stack has left running…")
            session.end(left, self._state, _LEFTOVERS_SECONDS, self._pause)
        if self._fresh:
            self._empty()
        for moves in count(1):
            try:
                self._bring_up()
                break
            except PortTakenError as error:
                # Everything again, and not this program alone: the others know its port.
                if moves > _MOVES:
                    raise
                self._take_down(f"{error} Starting again, on other ports…")
        held.tell(self._addresses)
        self._say(f"all up after {time.monotonic() - began:.1f} s")

    def _bring_up(self) -> None:
        postgres, valkey, seaweedfs, clamd, *poolers = self._plan()
        quick: list[Server] = [valkey, clamd, *poolers]
        servers: list[Server] = [postgres, seaweedfs]
        servers += quick
        for server in servers:
            server.prepare(lambda command: run(command, pause=self._pause))
        settings = load(self._environment)
        settings.storage_root.mkdir(exist_ok=True)
        if self._clocked:
            self.clocks = Clocks(self._state / "clocks")
        exports.write(self._state / _EXPORTS, self._environment)
        self._supervisor = supervisor = Supervisor(
            self._state,
            [
                [_program(server) for server in servers],
                programs.supervised(settings, self._counts_port, self.clocks),
            ],
            self._environment,
            ROOT,
        )
        supervisor.start(self._pause)
        supervisor.start_stage(0)
        self._await(postgres.name, postgres.ready)
        self._set_up(postgres)
        # Last, for real signatures take their time to load.
        for server in quick:
            self._await(server.name, server.ready)
        supervisor.start_stage(1)
        # It takes its seconds, and the programs take theirs; what they ask of it before, they ask again.
        self._await(seaweedfs.name, seaweedfs.ready)
        self._await("buckets", lambda: seaweedfs.has_buckets(BUCKET, ARCHIVE), [seaweedfs.name])
        for name, names, ready in programs.ready_probes(settings):
            self._await(name, ready, names)

    def stop(self) -> None:
        """End everything, the last first. Called by `with`; again is harmless."""
        self._interrupts.at_once = False
        self._take_down("ending…")
        self._held.close()

    def _take_down(self, sentence: str) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            before = self._interrupts.count
            self._say(sentence)
            supervisor.stop(hurry=lambda: self._interrupts.count > before)

    def pid(self, name: str) -> int:
        """Return the process id of a program or server.

        Raises:
            ProcessLookupError: it does not run at the moment.
        """
        pid = self._supervisor.pid(name) if self._supervisor is not None else None
        if pid is None:
            raise ProcessLookupError(name)
        return pid

    def poll(self) -> None:
        """Say what has happened to the programs since the last time.

        Raises:
            StackError: the group has no supervisor any more.
        """
        if self._supervisor is not None:
            for event in self._supervisor.events():
                self._say(event.sentence)

    def wait(self, seconds: float | None = None) -> signal.Signals | None:
        """Watch the programs until Ctrl-C or SIGTERM, or for so many seconds.

        Returns:
            The signal that ended it, which is how such a stack ends as a rule; None if the time was over.

        Raises:
            StackError: the group has no supervisor any more.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            while deadline is None or time.monotonic() < deadline:
                self.poll()
                self._pause(_WATCH_SECONDS)
        except Interrupted as interrupted:
            return interrupted.signal
        return None

    def _plan(self) -> tuple[Postgres, Valkey, SeaweedFS, Clamd, *tuple[PgBouncer, ...]]:
        """Choose ports and signatures; describe the servers, the environment and the addresses."""
        # Checked before anything runs, and without the addresses that do not count.
        asked = {**_DEFAULTS, **self._overrides, **os.environ}
        for field in OWN:
            if field not in {"flower_port", "metrics_port"}:
                asked.pop(variable(field), None)
        settings = load({**asked, variable("database_url"): "postgresql://127.0.0.1"})
        parts = {part: f"seaweedfs_{part}" for part in PORTS}
        wishes = {
            "postgres": None,
            "valkey": None,
            **dict.fromkeys(parts.values()),
            **({"pgbouncer": None} if self._pooled else {}),
            "flower": settings.flower_port,
            "metrics": settings.metrics_port,
            "counts": settings.worker_metrics_port,
        }
        chosen = ports.choose(self._state / "ports.json", wishes)
        for name, port in chosen.taken.items():
            self._say(f"port {port} is taken, {name} listens on {chosen.numbers[name]}")
        known = signatures.choose(self._state / "clamd" / "signatures", own_only=self._own_signatures)
        if known.warning:
            self._say(known.warning)
        postgres = Postgres(self._state / "postgres", chosen.numbers["postgres"])
        valkey = Valkey(self._state / "valkey", chosen.numbers["valkey"])
        seaweedfs = SeaweedFS(
            self._state / "seaweedfs",
            {part: chosen.numbers[name] for part, name in parts.items()},
            self._secret("seaweedfs-secret"),
        )
        clamd = Clamd(self._state / "clamd", known, settings.max_file_bytes)
        poolers = (
            [PgBouncer(self._state / "pgbouncer", chosen.numbers["pgbouncer"], postgres.port, _POOL)]
            if self._pooled
            else []
        )
        self._database_url = postgres.url(DATABASE)
        password = (
            settings.flower_password.get_secret_value()
            if settings.flower_password
            else self._secret("flower-password")
        )
        flower = f"http://127.0.0.1:{chosen.numbers['flower']}"
        own = {
            "database_url": poolers[0].url(self._database_url) if poolers else self._database_url,
            "broker_url": valkey.address,
            "clamd": clamd.address,
            "storage_root": str(self._state / "storage"),
            "quarantine_root": str(self._state / "quarantine"),
            "s3_endpoint": seaweedfs.address,
            # It has none, but each request is signed for one.
            "s3_region": "us-east-1",
            "s3_bucket": BUCKET,
            "s3_access_key": seaweedfs.access_key,
            "s3_secret_key": seaweedfs.secret_key,
            "archive_bucket": ARCHIVE,
            "flower_port": str(chosen.numbers["flower"]),
            "flower_password": password,
            "metrics_port": str(chosen.numbers["metrics"]),
        }
        self._counts_port = chosen.numbers["counts"]
        self._environment = {**asked, **{variable(field): value for field, value in own.items()}}
        self._addresses = {
            "Flower": f"{flower} (user {settings.flower_user}, password {password})",
            "metrics": f"http://127.0.0.1:{chosen.numbers['metrics']}/metrics",
            "counts": f"http://127.0.0.1:{self._counts_port}/metrics (of the worker for attachments)",
            "PostgreSQL": self._database_url,
            **({"PgBouncer": own["database_url"]} if poolers else {}),
            "Valkey": own["broker_url"],
            "S3": f"{seaweedfs.address}/{BUCKET} (key {seaweedfs.access_key}, secret {seaweedfs.secret_key})",
            "archive": f"{seaweedfs.address}/{ARCHIVE}",
            "clamd": own["clamd"],
            "storage": own["storage_root"],
            "by hand": exports.example(self._state / _EXPORTS),
        }
        return postgres, valkey, seaweedfs, clamd, *poolers

    def _set_up(self, postgres: Postgres) -> None:
        began = time.monotonic()
        for attempt in count(1):
            try:
                self._set_up_once(postgres)
                break
            except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
                # It may have been killed, and then it is started again.
                if attempt == _SET_UPS:
                    raise StackError(f"The database cannot be set up: {error}") from error
                self._await(f"{postgres.name} (again)", postgres.ready, [postgres.name])
        self._say(f"database … ready in {time.monotonic() - began:.1f} s")

    def _set_up_once(self, postgres: Postgres) -> None:
        create_database(postgres, DATABASE)
        # It does not check for interrupts, but all of it is transactions, so it may be broken off anywhere.
        self._interrupts.at_once = True
        try:
            self._interrupts.check()
            programs.set_up(self.direct_settings)
            self._furnish(self.direct_settings)
        finally:
            self._interrupts.at_once = False

    def _await(self, name: str, ready: Callable[[], bool], names: Sequence[str] = ()) -> None:
        assert self._supervisor is not None
        began = time.monotonic()
        self._supervisor.await_ready(name, ready, names, say=self._say, pause=self._pause)
        self._say(f"{name} … ready in {time.monotonic() - began:.1f} s")

    def _pause(self, seconds: float) -> None:
        self._interrupts.pause(seconds)

    def _secret(self, name: str) -> str:
        """Return the secret in the file `name`: made once, so that a browser may remember it."""
        file = self._state / name
        try:
            kept = file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            kept = ""
        if not kept:
            kept = secrets.token_urlsafe(12)
            # Renamed when it is whole: an empty one would be kept for good.
            fresh = file.with_name(f"{name}.new")
            fresh.unlink(missing_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(kept, encoding="ascii")
            fresh.replace(file)
        return kept

    def _empty(self) -> None:
        for entry in self._state.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()


def _program(server: Server) -> Program:
    return Program(server.name, server.command, server.stop_signal)
