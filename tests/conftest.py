"""Real servers for every test that asks for them: started once a session, at the first use, never before."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from datetime import time as datetime_time
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from botocore.loaders import JSONFileLoader
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.util import LRUCache

import tests.examples  # noqa: F401 - its profiles
from stack.ports import free_port, free_ports
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.postgres import Postgres
from stack.servers.seaweedfs import PORTS, SeaweedFS
from stack.servers.valkey import Valkey
from tasks.apps import APPS
from tests.databases import REUSED, ReusedDatabase
from tests.platform import Platform, environment, eventually
from tests.servers import ClamdServer, PostgresServer, RunningServer, SeaweedFSServer, ValkeyServer
from workers import db, migrate
from workers.app import app
from workers.bootstrap import bootstrap
from workers.broker_clock import BrokerClock, clock
from workers.db import create
from workers.settings import Settings, load

_numbers = count(1)
_MEMORY = Path("/dev/shm")
#: What the databases of a session may need, their logs included.
_ROOM_BYTES = 4 * 1024**3
_started: list[RunningServer[Any]] = []
_R = TypeVar("_R", bound=RunningServer[Any])


def pytest_configure() -> None:
    """Let every task read Celery's configuration while there are settings, before tests are collected.

    One that is first touched without any, as when pytest looks at a module's names, stays half-bound for the
    rest of the process, whatever is set later. Settings of the shell, such as those of `make run`, are not
    the tests'.
    """
    for name in [*os.environ]:
        if name == "DATABASE_URL" or name.startswith("ROOMKEEPER_"):
            del os.environ[name]
    with environment({"DATABASE_URL": "postgresql://127.0.0.1/none"}):
        app.loader.import_default_modules()
        app.finalize()
        assert all(task.request_stack is not None for task in app.tasks.values())


@contextmanager
def _running(make: Callable[[], _R]) -> Iterator[_R]:
    """Run the server that `make` describes; once more if another program took its port meanwhile."""
    server = make()
    try:
        server.start()
    except RuntimeError:
        server = make()
        server.start()
    _started.append(server)
    try:
        yield server
    finally:
        _started.remove(server)
        server.stop()


@contextmanager
def _in_memory(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Make a directory in memory, if there is room: a database for each test is a thousand files on disk."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
        with tempfile.TemporaryDirectory(prefix=f"roomkeeper-{name}-", dir=_MEMORY) as directory:
            yield Path(directory)
    else:
        yield tmp_path_factory.mktemp(name)


@pytest.fixture(autouse=True)
def _revive() -> Iterator[None]:
    """Whatever server a test stopped, killed or froze serves the next test again."""
    yield
    for server in _started:
        server.start()


@pytest.fixture(autouse=True)
def _forget_the_brokers_time() -> Iterator[None]:
    """What a test with clocks of its own was told by the broker is not believed by the next one."""
    yield
    vars(clock).update(vars(BrokerClock()))


@pytest.fixture
def same_day() -> None:
    """Midnight of UTC does not come while the test runs: for days that are counted back from today."""
    today = datetime.now(UTC).date()
    left = datetime.combine(today + timedelta(days=1), datetime_time(), UTC) - datetime.now(UTC)
    if left < timedelta(minutes=1):  # pragma: no cover
        eventually(lambda: datetime.now(UTC).date() > today, 70)


class _Compiled(LRUCache[Any, Any]):
    """What SQLAlchemy has compiled, for all engines: each would compile the same statements anew."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        # The first part is the engine's dialect, and they are all alike.
        super().__setitem__(key[1:], value)


@pytest.fixture(scope="session", autouse=True)
def _ask_and_compile_once() -> Iterator[None]:
    """Share what SQLAlchemy compiles for a database, and what it asks one at its first connection."""
    compiled = _Compiled(3000)
    first: dict[str, Engine] = {}

    def create_alike(url: URL, **options: Any) -> Engine:
        options["execution_options"] = {"compiled_cache": compiled}
        if not str(url.database).startswith(REUSED):
            return create_engine(url, **options)
        key = f"{url.render_as_string(hide_password=False)} {options}"
        known = first.get(key)
        # It has asked once a connection was made.
        if known is None or known.dialect.server_version_info is None:
            first[key] = create_engine(url, **options)
            return first[key]
        made = create_engine(url, _initialize=False, **options)
        vars(made.dialect).update(vars(known.dialect))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "create_engine", create_alike)
        yield


@pytest.fixture(scope="session", autouse=True)
def _several_runs_in_a_process() -> Iterator[None]:
    """Let this process have connections for two runs at once: some tests have them in threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "_connections", 2 * db.CONNECTIONS)
        yield


@pytest.fixture
def two_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has as many connections as one of a worker: what takes another fails."""
    monkeypatch.setattr(db, "_connections", db.CONNECTIONS)
    db.forget_engine()
    yield
    db.forget_engine()


@pytest.fixture(scope="session", autouse=True)
def _describe_s3_once() -> Iterator[None]:
    """Read the files that describe S3 to a client once: each client would read and parse them anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", staticmethod(cache(JSONFileLoader().load_file)))
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL for the whole session. Most tests want `empty_database` instead."""
    with (
        _in_memory(tmp_path_factory, "postgres") as directory,
        _running(lambda: PostgresServer(Postgres(directory, free_port(), durable=False))) as server,
    ):
        # A database serves many tests: none finds statistics that it has not asked for.
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def empty_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database that is dropped afterwards, with any open connections."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    yield postgres.url(name)
    postgres.start()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Valkey for the whole session. Most tests want `broker_url` instead."""
    directory = tmp_path_factory.mktemp("valkey")
    with _running(lambda: ValkeyServer(Valkey(directory, free_port()))) as server:
        yield server


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """The URL of a broker that is empty."""
    valkey.flush()
    return valkey.url()


@pytest.fixture(scope="session")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClamdServer]:
    """clamd with test signatures, for the whole session."""
    directory = tmp_path_factory.mktemp("clamd")
    own = signatures.choose(directory / "signatures", own_only=True)
    limit = Settings.model_fields["max_file_bytes"].default
    with _running(lambda: ClamdServer(Clamd(directory, own, limit))) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFSServer]:
    """SeaweedFS for the whole session. Most tests want `bucket` instead."""
    directory = tmp_path_factory.mktemp("seaweedfs")
    with _running(
        lambda: SeaweedFSServer(SeaweedFS(directory, free_ports(PORTS), secret_key="secret-of-tests"))
    ) as server:
        yield server
        server.client.close()


@pytest.fixture(scope="session")
def _bucket(seaweedfs: SeaweedFSServer) -> str:
    name = f"test-{next(_numbers)}"
    seaweedfs.create_bucket(name)
    return name


@pytest.fixture
def bucket(seaweedfs: SeaweedFSServer, _bucket: str) -> Iterator[str]:
    """The name of an empty bucket."""
    yield _bucket
    seaweedfs.start()
    seaweedfs.empty_bucket(_bucket)


@pytest.fixture(scope="session")
def _template(postgres: PostgresServer) -> str:
    """The name of a database with the five applications' tables and ours, to be copied."""
    name = "template_platform"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    engine = create(load({"DATABASE_URL": postgres.url(name)}))
    bootstrap(engine, [app.models for app in APPS.values()])
    migrate.upgrade(engine)
    engine.dispose()
    return name


@pytest.fixture(scope="session")
def _reused(postgres: PostgresServer, _template: str) -> Iterator[ReusedDatabase]:
    made = ReusedDatabase(postgres.url(), _template, postgres.url)
    yield made
    made.drop()


@pytest.fixture
def database(postgres: PostgresServer, _reused: ReusedDatabase) -> Iterator[str]:
    """The URL of a database with the five applications' tables and ours, all empty."""
    yield _reused.url()
    postgres.start()
    _reused.clean()


@pytest.fixture
def platform(database: str, broker_url: str, clamd: ClamdServer, tmp_path: Path) -> Iterator[Platform]:
    """A whole platform, quick to retry, to whose broker this process publishes.

    Its programs are started by the test, and ended after it.
    """
    values = {
        "DATABASE_URL": database,
        "ROOMKEEPER_BROKER_URL": broker_url,
        "ROOMKEEPER_CLAMD": clamd.address,
        "ROOMKEEPER_STORAGE_ROOT": str(tmp_path / "storage"),
        "ROOMKEEPER_QUARANTINE_ROOT": str(tmp_path / "quarantine"),
        "ROOMKEEPER_ATTACHMENT_RETRY_SECONDS": "0.2",
        "ROOMKEEPER_ATTACHMENT_RETRY_MAX_SECONDS": "1",
        "ROOMKEEPER_ATTACHMENT_LEASE_SECONDS": "2",
        "ROOMKEEPER_ATTACHMENT_GRACE_SECONDS": "0",
        "ROOMKEEPER_VISIBILITY_TIMEOUT_SECONDS": "5",
        "ROOMKEEPER_SHUTDOWN_SECONDS": "5",
        # The scanner is asked about a file of this size each time it is new: a small one takes no time.
        "ROOMKEEPER_MAX_FILE_BYTES": str(8 * 1024**2),
    }
    (tmp_path / "storage").mkdir()
    with environment(values):
        # Some tests hold many at once.
        made = Platform(create(load(values), connections=20), dict(os.environ), tmp_path)
        # For what this process publishes: the configuration was read without any settings.
        app.conf.update(broker_url=broker_url, broker_write_url=broker_url)
        try:
            yield made
        finally:
            made.close()
