"""What must hold before the platform can work: each check returns its faults, a sentence and an advice."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from psycopg.errors import InsufficientPrivilege
from rich.console import Console
from sqlalchemy.exc import DBAPIError, OperationalError

from models.base import Base
from models.platform import SCHEMA
from tasks.apps import enabled
from tasks.attachments import scan
from workers import migrate
from workers.db import create
from workers.inspection import Fault, Need, inspect
from workers.known_bad import EICAR, encrypted_zip, nested_zip
from workers.scanner import Scanner, ScannerUnavailable
from workers.settings import Settings, variable
from workers.storage import StoreError, store_for
from workers.storage.local import LocalStore


def tell(faults: list[Fault], console: Console) -> None:
    """Print the faults."""
    for fault in faults:
        console.print(f"✗ {fault.sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  {fault.advice}", markup=False, highlight=False, soft_wrap=True)


def database(settings: Settings) -> list[Fault]:
    """Check that the database has what the enabled applications' jobs and the platform use."""
    engine = create(settings)
    try:
        with engine.begin() as connection:
            revision, newest = migrate.current(connection), migrate.newest()
            if revision != newest:
                return [
                    Fault(
                        f"The schema {SCHEMA} is {'absent' if revision is None else f'at {revision}'}, and "
                        f"this version needs {newest}.",
                        "Run: roomkeeper db upgrade",
                    )
                ]
            return inspect(connection, needs(settings), settings.schemas)
    except DBAPIError as error:
        return [refusal(error)]
    finally:
        engine.dispose()


def refusal(error: DBAPIError) -> Fault:
    """Return what the database said instead of doing what it was asked.

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
    if isinstance(error, OperationalError):
        return Fault(
            f"The database does not answer: {reason}.",
            f"Start it, or name another in {variable('database_url')}.",
        )
    raise error


def needs(settings: Settings) -> list[Need]:
    """Return what the enabled applications' jobs, and the platform itself, need of the database."""
    ours = [
        Need(
            table,
            frozenset(column.name for column in table.columns),
            frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
        )
        for table in Base.metadata.tables.values()
        if table.schema == SCHEMA
    ]
    return ours + [job.need() for app in enabled(settings).values() for job in app.jobs()]


def broker(settings: Settings) -> list[Fault]:
    """Check that the broker answers and loses nothing by itself."""
    # A third of a second that workers, which check the database only, need not wait for.
    import redis

    advice = f"Start it, or name another in {variable('broker_url')}."
    try:
        with redis.Redis.from_url(
            settings.broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
        ) as client:
            client.ping()
            try:
                found = client.config_get("maxmemory-policy", "appendonly")
            except redis.ResponseError:
                # A hosted broker may keep its configuration to itself.
                return []
    except redis.AuthenticationError:
        # Its own words are a treatise on the protocol.
        return [Fault("The broker wants another password.", f"Put it into {variable('broker_url')}.")]
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


def store(settings: Settings) -> list[Fault]:
    """Check that the local store and its quarantine can be written to, and that no one serves the latter."""
    faults = []
    places = {
        "storage_root": ("store", store_for("local", settings)),
        # What is moved here must arrive: until it does, the infected file waits in the store.
        "quarantine_root": (
            "quarantine",
            LocalStore(settings.quarantine_root, settings.quarantine_root, settings.storage_url),
        ),
    }
    for field, (name, place) in places.items():
        try:
            place.probe()
        except StoreError as error:
            faults.append(
                Fault(
                    f"The {name} does not work: {error}.",
                    f"Give this user the right to write there, or set {variable(field)}.",
                )
            )
    if settings.quarantine_root.resolve().is_relative_to(settings.storage_root.resolve()):
        faults.append(
            Fault(
                f"The quarantine {settings.quarantine_root} lies in the store, whose files are served.",
                f"Name a place outside of {settings.storage_root} in {variable('quarantine_root')}.",
            )
        )
    return faults


def scanner(settings: Settings) -> list[Fault]:
    """Check that clamd answers, finds what it must, and fails closed: it is asked, not its configuration."""
    clamd = Scanner(settings.clamd, settings.scan_timeout_seconds)
    try:
        clamd.versions()
        with tempfile.TemporaryDirectory() as folder:
            return [fault for probe in PROBES for fault in probe(clamd, Path(folder), settings)]
    except ScannerUnavailable as error:
        return [
            Fault(f"The virus scanner does not answer: {error}.", f"Start it, or set {variable('clamd')}.")
        ]


def _finds_eicar(clamd: Scanner, folder: Path, _settings: Settings) -> list[Fault]:
    path = folder / "eicar"
    path.write_bytes(EICAR)
    if scan.judge(clamd.scan_file(path)).name == "infected":
        return []
    return [
        Fault("The virus scanner does not find the EICAR test file.", "Give it signatures: run freshclam.")
    ]


def _alerts_on_limits(clamd: Scanner, folder: Path, settings: Settings) -> list[Fault]:
    path = folder / "nested.zip"
    path.write_bytes(nested_zip())
    if scan.judge(clamd.scan_file(path)).name == "clean":
        return [
            Fault(
                "The virus scanner calls clean what goes beyond its limits.",
                "Set in clamd.conf: AlertExceedsMax yes",
            )
        ]
    # Only a scanner that alerts can be asked whether the largest upload is within its limits. The file
    # has a hole for content: it takes no disk.
    path = folder / "largest"
    with path.open("wb") as file:
        file.truncate(settings.max_file_bytes)
    fits = f"StreamMaxLength, MaxFileSize and MaxScanSize of clamd must be at least {settings.max_file_bytes}"
    advice = f"{fits} bytes, or {variable('max_file_bytes')} smaller."
    try:
        largest = scan.judge(clamd.scan_file(path))
    except ScannerUnavailable as error:
        return [
            Fault(f"The virus scanner does not take the largest upload that is allowed: {error}.", advice)
        ]
    if largest.name == "clean":
        return []
    return [Fault("The largest upload that is allowed is beyond the virus scanner's limits.", advice)]


def _alerts_on_encryption(clamd: Scanner, folder: Path, _settings: Settings) -> list[Fault]:
    path = folder / "encrypted.zip"
    path.write_bytes(encrypted_zip())
    if scan.judge(clamd.scan_file(path)).name != "clean":
        return []
    return [
        Fault("The virus scanner calls encrypted archives clean.", "Set in clamd.conf: AlertEncrypted yes")
    ]


PROBES: tuple[Callable[[Scanner, Path, Settings], list[Fault]], ...] = (
    _finds_eicar,
    _alerts_on_limits,
    _alerts_on_encryption,
)
