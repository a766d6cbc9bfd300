"""What must hold before the platform can work: each check returns its faults, a sentence and an advice."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from sqlalchemy.exc import OperationalError

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
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[-1]
        return [
            Fault(
                f"The database does not answer: {reason}",
                f"Start it, or name another in {variable('database_url')}.",
            )
        ]
    finally:
        engine.dispose()


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
    except redis.RedisError as error:
        return [Fault(f"The broker does not answer: {error}", advice)]
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
    """Check that the local store can be written to, and that its quarantine is out of reach."""
    faults = []
    try:
        store_for("local", settings).probe()
    except StoreError as error:
        faults.append(
            Fault(
                f"The store does not work: {error}.",
                f"Give this user the right to write there, or set {variable('storage_root')}.",
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
