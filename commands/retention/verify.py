"""`roomkeeper retention verify`: no receipt was changed or is missing, and archives are as written."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import Row, func, select

from commands.formatting import quantity
from commands.policies import ready
from commands.retention.output import bar, console
from models.platform import Receipt
from workers.db import transaction
from workers.settings import Settings, get_settings, variable
from workers.storage import ObjectMissing, StoreError


def verify(
    archives: Annotated[
        bool, typer.Option("--archives", help="Read every archive as well, and compare its SHA-256.")
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A hash that was noted before: it must be in the chain."),
    ] = None,
) -> None:
    """Check that no receipt was changed or is missing; exit code 1, with a sentence for each that was."""
    settings = get_settings()
    ready(settings)
    from tasks.retention import receipts
    from tasks.retention.preview import reading

    with reading() as connection:
        found = receipts.verify(connection, expected=expect.strip().lower() if expect else None)
    checked, faults = _check_archives(settings) if archives else (0, [])
    faults = found.faults + faults
    complaints = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for sentence in faults:
        complaints.print(f"✗ {sentence}", style="red")
    out = console()
    number = quantity(found.receipts, "receipt")
    seen = f", {quantity(checked, 'archive')}" if archives else ""
    if faults:
        out.print(f"{number}{seen}; {quantity(len(faults), 'fault')}.")
        raise typer.Exit(1)
    out.print(f"{number}{seen}: all as written.")
    if found.receipts:
        out.print(
            f"The last one's hash, to be kept elsewhere and given as --expect the next time: {found.last}"
        )


def _check_archives(settings: Settings) -> tuple[int, list[str]]:
    """Read every archive that receipts name; return how many there are, and what is wrong."""
    from tasks.retention import receipts
    from tasks.retention.archive import Archived, ArchiveError, check
    from workers.storage.archives import archive_for

    store = archive_for(settings)
    checked, faults = 0, []
    with transaction() as connection:
        total = connection.scalar(
            select(func.coalesce(func.sum(func.jsonb_array_length(Receipt.content["archives"])), 0)).where(
                Receipt.content.has_key("archives")
            )
        )
    if total and store is None:
        where = f"{variable('archive_root')} or {variable('archive_bucket')}"
        archives = quantity(total, "archive")
        return 0, [f"Receipts name {archives}, and no place of archives is set up: {where}."]
    with bar("archives", "archive") as watch:
        for row in _streamed(receipts.every):
            for one in row.content.get("archives") or []:
                assert store is not None
                try:
                    check(store, Archived(**one))
                except (ArchiveError, ObjectMissing) as error:
                    faults.append(f"Receipt {row.number}: {_of_archive(one['key'], error)}.")
                except StoreError as error:
                    faults.append(f"The archives cannot be read: {str(error).rstrip('.')}.")
                    return checked, faults
                checked += 1
                watch(checked, int(total or 0))
    return checked, faults


def _streamed(every: Callable[..., Iterator[Row[Any]]]) -> Iterator[Row[Any]]:
    with transaction() as connection:
        yield from every(connection)


def _of_archive(key: str, error: Exception) -> str:
    message = str(error).rstrip(".")
    return message if key in message else f"{key}: {message}"
