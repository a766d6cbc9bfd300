"""What must hold before the platform can work: each check returns its faults, a sentence and an advice."""

import os
import tempfile
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import disk_usage

import typer
from psycopg.errors import (
    DuplicatePreparedStatement,
    InsufficientPrivilege,
    InvalidSqlStatementName,
    LockNotAvailable,
    QueryCanceled,
    ReadOnlySqlTransaction,
)
from rich.console import Console
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from commands import check_pooler, check_zones, rollup_status
from models.platform import SCHEMA
from tasks import availability
from tasks.apps import enabled, every, policies, rollups
from tasks.policies.attachment import AttachmentTable
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Sweep
from tasks.retention.partitions import change_feeds
from tasks.sweeps import index_check
from workers import health, liveness, sandbox, scanner_probes
from workers import revision as revisions
from workers.database_errors import is_transient
from workers.db import engine_for
from workers.inspection import Fault, Need, inspect
from workers.scanner import Scanner, ScannerUnavailable, Version
from workers.settings import Settings, variable
from workers.storage import BucketMissing, ObjectStore, StoreError, UnknownProvider, store_for
from workers.storage.local import LocalStore
from workers.workdir import FULL_BYTES, workdir

#: How many rows of a table are asked which store they name: some milliseconds' worth.
SAMPLED_ROWS = 5000
#: How libpq's words end where several servers are named, and none of them takes writes.
_NONE_TAKES_WRITES = ("session is read-only", "server is in hot standby mode")
_NAME_THE_PRIMARY = (
    f"Name the primary in {variable('database_url')}, or all servers: postgresql://user@host1,host2/name; or "
    "wait for the end of a failover."
)
_TAKES_WRITES = text("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean")


def print_faults(faults: Iterable[Fault], console: Console) -> None:
    """Print the faults, and warnings as what they are."""
    for fault in faults:
        mark, style = ("!", "yellow") if fault.warning else ("✗", "red")
        console.print(f"{mark} {fault.sentence}", style=style, markup=False, highlight=False, soft_wrap=True)
        console.print(f"  {fault.advice}", markup=False, highlight=False, soft_wrap=True)


def require_database(settings: Settings, wanted: list[Need]) -> None:
    """End the command, with the faults, unless the database has our schema and what is wanted of it.

    Raises:
        typer.Exit: there are faults.
    """
    if faults := database(settings, wanted):
        print_faults(faults, Console(stderr=True))
        raise typer.Exit(1)


def database(settings: Settings, wanted: list[Need] | None = None) -> list[Fault]:
    """Check that the database has our schema, and what is `wanted` of it; as a rule, what all jobs need."""
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            # Who only looks at what is due may do so on a replica.
            if wanted is not None:
                return revision(connection) or inspect(connection, wanted, settings.schemas)
            if faults := writable(connection) or revision(connection):
                return faults
            found = availability.find_faults(connection, settings)
            without = without_index(connection, settings, found.applications)
            running = {name: app for name, app in enabled(settings).items() if name not in found.applications}
            return [
                *found.all(),
                *newer_revision(connection),
                *check_zones.faults(connection, settings, running),
                *index_check.warnings(without),
                *check_pooler.warnings(connection, settings),
                *change_feeds.faults(connection, availability.tables(settings)),
            ]
    except DBAPIError as error:
        return [refusal(error)]


def without_index(
    connection: Connection, settings: Settings, off: Container[str]
) -> list[index_check.Unserved]:
    """Return which policies no index serves, but for those of applications that are switched off.

    Of a table that is not there no more is to be said.
    """
    running = [policy for name, policy in policies(settings).items() if name.partition(".")[0] not in off]
    return index_check.unserved(connection, running, settings.schemas)


def writable(connection: Connection) -> list[Fault]:
    """Check that the server takes writes."""
    replica, frozen = connection.execute(_TAKES_WRITES).one()
    if replica:
        return [Fault("The database server is a replica: it takes no writes.", _NAME_THE_PRIMARY)]
    if frozen:
        return [
            Fault(
                "The database takes no writes: default_transaction_read_only is on.",
                "If that is over: ALTER SYSTEM, DATABASE or ROLE ... RESET default_transaction_read_only, "
                "wherever it was set.",
            )
        ]
    return []


def revision(connection: Connection) -> list[Fault]:
    """Check that our schema is what this version needs, or a newer one that serves it."""
    at, newest = revisions.current(connection), revisions.newest()
    if at == newest or revisions.newer(connection) is not None:
        return []
    if at is not None and at > newest:
        return [
            Fault(
                f"The schema {SCHEMA} is at {at}, and this version, which needs {newest}, cannot use it.",
                "Run the newer version of Roomkeeper that migrated this database.",
            )
        ]
    return [
        Fault(
            f"The schema {SCHEMA} is {'absent' if at is None else f'at {at}'}, and this version needs "
            f"{newest}.",
            "Run: roomkeeper db upgrade",
        )
    ]


def newer_revision(connection: Connection) -> list[Fault]:
    """Return a note where a newer version has migrated our schema, and this one runs on it."""
    at = revisions.newer(connection)
    if at is None:
        return []
    return [
        Fault(
            f"The schema {SCHEMA} is at {at}, which is newer than this version ({revisions.newest()}) and "
            "serves it.",
            "A newer version is being deployed: go on with it until all programs are of that version.",
            warning=True,
        )
    ]


def refusal(error: DBAPIError) -> Fault:
    """Return why the database did not do what it was asked, and what to do about it.

    Raises:
        DBAPIError: `error` itself, if it is a fault of ours: then its traceback is wanted.
    """
    # Below the first line are hints in the form of questions, and the same once more for each address.
    reason = (str(error.orig).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    if isinstance(error.orig, InsufficientPrivilege):
        return Fault(
            f"The database refuses: {reason}.",
            f"Give the role of {variable('database_url')} that right, or name another role there.",
        )
    if isinstance(error.orig, QueryCanceled):
        return Fault(
            f"The database takes too long: {reason}.",
            f"See what keeps it busy, or give it more in {variable('statement_timeout_ms')}.",
        )
    if isinstance(error.orig, LockNotAvailable):
        return Fault(
            f"The database refuses: {reason}.",
            "Another transaction holds a row or a table that is needed, such as a migration or an open "
            "session of psql: see pg_stat_activity, and try again when it has ended.",
        )
    if isinstance(error.orig, ReadOnlySqlTransaction) or reason.endswith(_NONE_TAKES_WRITES):
        return Fault(f"The database takes no writes: {reason}.", _NAME_THE_PRIMARY)
    if isinstance(error.orig, DuplicatePreparedStatement | InvalidSqlStatementName):
        return Fault(
            f"The database refuses: {reason}.",
            f"A transaction pooler stands before it: set {variable('prepared_statements')}=false.",
        )
    if pooler := check_pooler.refusal(reason):
        return pooler
    if is_transient(error):
        return Fault(
            f"The database does not answer: {reason}.",
            f"Start it, or name another in {variable('database_url')}.",
        )
    raise error


def broker(settings: Settings) -> list[Fault]:
    """Check that the broker answers and loses nothing by itself."""
    # A third of a second that workers, which check the database only, need not wait for.
    import redis

    from workers.broker_errors import REFUSALS

    advice = f"Start it, or name another in {variable('broker_url')}."
    try:
        with redis.Redis.from_url(
            settings.broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
        ) as client:
            client.ping()
            # What would be refused if its memory were full, its disk, or if it were a replica.
            client.set("roomkeeper.check", "", ex=1)
            client.delete("roomkeeper.check")
            try:
                found = client.config_get("maxmemory-policy", "appendonly")
            except redis.ResponseError:
                # A hosted broker may keep its configuration to itself.
                return []
    except redis.AuthenticationError:
        # Its own words are a treatise on the protocol.
        return [Fault("The broker wants another password.", f"Put it into {variable('broker_url')}.")]
    except redis.exceptions.OutOfMemoryError:
        return [
            Fault(
                "The broker's memory is full: it takes no messages.",
                "Workers empty it; see that they run, or give it more: maxmemory in its configuration.",
            )
        ]
    except REFUSALS as error:
        return [
            Fault(
                f"The broker refuses: {str(error).rstrip('.')}.",
                f"Let it serve, or name another in {variable('broker_url')}.",
            )
        ]
    except redis.RedisError as error:
        return [Fault(f"The broker does not answer: {str(error).rstrip('.')}.", advice)]
    faults = []
    if found.get("maxmemory-policy") != "noeviction":
        faults.append(
            Fault(
                f"The broker may drop messages when memory is short ({found.get('maxmemory-policy')}).",
                "Set in its configuration: maxmemory-policy noeviction",
            )
        )
    if found.get("appendonly") != "yes":
        faults.append(
            Fault("The broker forgets its messages when it dies.", "Set in its configuration: appendonly yes")
        )
    return faults


def installation(settings: Settings) -> list[Fault]:
    """Check that the broker is not marked as another installation's; others report servers that are away."""
    import redis

    from workers import installation as installations

    url = settings.broker_url.get_secret_value()
    with (
        suppress(DBAPIError, redis.RedisError),
        engine_for(settings) as engine,
        engine.begin() as connection,
        redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client,
    ):
        own, found = installations.read(connection), installations.holder(client)
        if found not in (None, own):
            return [installations.foreign(own, found)]
    return []


def store(settings: Settings) -> list[Fault]:
    """Check that each store that is set up and its quarantine work, and that no one serves the latter."""
    faults = _bucket(settings) if settings.s3_bucket else []
    root, quarantine = settings.storage_root, settings.quarantine_root
    # Not pathlib's: they raise where a directory above may not be looked into.
    if os.path.isdir(root):  # noqa: PTH112
        faults += works("store", store_for("local", settings), "storage_root")
    else:
        # Not made here: a disk that is not mounted would become an empty store.
        faults.append(
            Fault(
                f"There is no directory {root} for the store.",
                "Create it, for this user and the API services to write to, or set "
                f"{variable('storage_root')}.",
            )
        )
    # What is moved here must arrive: until it does, the infected file waits in the store.
    if os.path.isdir(quarantine):  # noqa: PTH112
        place = LocalStore(quarantine, quarantine, settings.storage_url)
        faults += works("quarantine", place, "quarantine_root")
    else:
        faults += can_be_made("quarantine", quarantine, "quarantine_root")
    if quarantine.resolve().is_relative_to(root.resolve()):
        faults.append(
            Fault(
                f"The quarantine {quarantine} lies in the store, whose files are served.",
                f"Name a place outside of {root} in {variable('quarantine_root')}.",
            )
        )
    return faults


def work_files(settings: Settings) -> list[Fault]:
    """Check that there is room for the files that are worked on."""
    root = settings.work_root or Path(tempfile.gettempdir())
    try:
        with workdir(settings.work_root):
            free = disk_usage(root).free
    except OSError as error:
        return [_unwritable("directory of work files", f"{root}: {error.strerror}", "work_root")]
    if free >= FULL_BYTES:
        return []
    return [
        Fault(
            f"The disk of work files is full: {root} has {free:,} bytes left. Files wait.",
            f"Make room, or name a directory of another disk in {variable('work_root')}.",
        )
    ]


def works(name: str, place: ObjectStore, field: str) -> list[Fault]:
    """Check that the directory that `field` names can be written to and read."""
    try:
        place.probe()
    except StoreError as error:
        return [_unwritable(name, str(error), field)]
    return []


def can_be_made(name: str, root: Path, field: str) -> list[Fault]:
    """Check that a worker could make the directory, which a check must not leave behind."""
    ways = (root.absolute(), *root.absolute().parents)
    above = next(path for path in ways if os.path.exists(path))  # noqa: PTH110 - as above
    try:
        with tempfile.TemporaryDirectory(prefix=".roomkeeper-probe-", dir=above):
            return []
    except OSError as error:
        return [_unwritable(name, f"{root} cannot be made: {error.strerror}", field)]


def _unwritable(name: str, why: str, field: str) -> Fault:
    return Fault(
        f"The {name} does not work: {why}.",
        f"Give this user the right to write there, or set {variable(field)}.",
    )


def providers(settings: Settings) -> list[Fault]:
    """Check that the stores that rows name are set up; what a table lacks, or the database, others tell."""
    faults: list[Fault] = []
    with suppress(DBAPIError), engine_for(settings) as engine:
        for name, app in enabled(settings).items():
            if app.attachments is not None:
                # Each by itself: what one application lacks is no other's fault.
                with suppress(ProgrammingError), engine.begin() as connection:
                    faults += _providers(connection, name, app.attachments, settings)
    return faults


def _providers(
    connection: Connection, name: str, table: AttachmentTable, settings: Settings
) -> Iterator[Fault]:
    if table.provider is None:
        return
    # A sample, for no index knows the providers: by their ids, the rows are either random or the latest.
    sample = (
        select(table.provider.label("provider"), table.live.label("live"))
        .order_by(table.id.desc())
        .limit(SAMPLED_ROWS)
        .subquery()
    )
    for provider in connection.scalars(select(sample.c.provider).where(sample.c.live).distinct()):
        try:
            store_for(provider, settings)
        except UnknownProvider:
            advice = (
                f"Set {variable('s3_bucket')}, and what else that store needs."
                if provider == "s3"
                else "Move them to 'local' or 's3': their files wait, and their addresses are not renewed."
            )
            yield Fault(f"Rows of {name} name the store {provider!r}, which is not set up.", advice)


def periods(settings: Settings) -> dict[str, timedelta]:
    """Return how often each policy and each rollup runs, of those that do."""
    running: dict[str, Sweep | Rollup] = {**policies(settings), **rollups(settings)}
    return {name: every(job, settings) for name, job in running.items()}


def jobs(settings: Settings) -> tuple[list[Fault], str]:
    """Check by the job history that policies and rollups run and get on; return what is to be said of it,
    too.

    Raises:
        DBAPIError: the job history cannot be read, of which `database` tells.
    """
    with engine_for(settings) as engine, engine.begin() as connection:
        history = health.ask(connection, periods(settings))
        late = rollup_status.faults(rollup_status.read(connection, rollups(settings).values()).values())
        processes = liveness.read(connection)

    def why_silent() -> str:
        return liveness.why_silent(processes, _queue_lengths(settings))

    return [*health.faults(history, why_silent), *late], " (nothing has run yet)" if history.empty else ""


def _queue_lengths(settings: Settings) -> dict[str, int]:
    """Return the lengths of the queues; none of a broker that does not answer, which its check reports."""
    import redis

    from workers import queue_lengths

    try:
        return queue_lengths.read(settings)
    except redis.RedisError:
        return {}


def workers(settings: Settings) -> list[Fault]:
    """Check by their heartbeats that workers of all kinds run, and beat."""
    # A database that does not answer is reported by `database`.
    with suppress(DBAPIError), engine_for(settings) as engine, engine.begin() as connection:
        return liveness.faults(liveness.read(connection))
    return []


def _bucket(settings: Settings) -> list[Fault]:
    faults = []
    names = f"{variable('s3_bucket')} or {variable('s3_quarantine_bucket')}"
    try:
        store_for("s3", settings).probe()
    except BucketMissing as error:
        faults.append(Fault(f"The S3 store does not work: {error}.", f"Make it, or name another in {names}."))
    except StoreError as error:
        faults.append(
            Fault(
                f"The S3 store does not work: {error}.",
                "Give the access key the rights to list, read, write and delete in the bucket and in the "
                f"quarantine, or set {variable('s3_endpoint')}, {variable('s3_access_key')}, {names}.",
            )
        )
    if settings.s3_public_url and settings.s3_quarantine_bucket in {None, settings.s3_bucket}:
        faults.append(
            Fault(
                f"The quarantine lies in the bucket {settings.s3_bucket}, whose objects are served.",
                f"Name a bucket of its own in {variable('s3_quarantine_bucket')}.",
            )
        )
    return faults


def scanner(settings: Settings) -> list[Fault]:
    """Check that clamd answers, finds what it must, and fails closed: it is asked, not its configuration."""
    clamd = Scanner(settings.clamd, settings.scan_timeout_seconds)
    try:
        version = clamd.versions()
        # It is asked by files; where none can be written, the check of the store has reported that.
        probed = [] if work_files(settings) else scanner_probes.faults(clamd, settings)
        return signatures(version, settings) + probed
    except ScannerUnavailable as error:
        return [
            Fault(f"The virus scanner does not answer: {error}.", f"Start it, or set {variable('clamd')}.")
        ]


def signatures(version: Version, settings: Settings, now: datetime | None = None) -> list[Fault]:
    """Check that the signatures are young enough. Those that do not tell their age pass: ours, for tests."""
    if version.released is None:
        return []
    age = (now or datetime.now(UTC)) - version.released
    if age <= timedelta(days=settings.signature_max_age_days):
        return []
    return [
        Fault(
            f"The virus signatures are {age.days} days old (number {version.signatures}, of "
            f"{version.released:%Y-%m-%d}).",
            f"See why freshclam does not renew them, or allow more in {variable('signature_max_age_days')}.",
        )
    ]


def decoder(_settings: Settings) -> list[Fault]:
    """Check that the process in which untrusted files are decoded is confined in every way that there is."""
    try:
        missing = {name: why for name, why in sandbox.protections().items() if why is not None}
    except sandbox.SandboxFailure as error:
        return [Fault(f"Untrusted files cannot be decoded: {error}.", "See the worker's log.")]
    return [
        Fault(
            f"Untrusted files are decoded without {name}: {why}.",
            "Run it on Linux 5.13 or newer, without a seccomp profile that forbids it.",
        )
        for name, why in missing.items()
    ]
