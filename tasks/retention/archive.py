"""Rows as compressed Parquet in object storage, and back: exactly what PostgreSQL writes of them.

Each value is the text that PostgreSQL itself gives for it, NULL apart from the empty text: what any type
makes, it also reads. So nothing is lost on the way, whatever columns a table has, and the file can be read by
anything that reads Parquet. What a file is of stands in its metadata.

Rows leave and enter the database as CSV, by COPY. One batch is in memory at a time.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from csv import reader
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError

from tasks.policies.retention import Retention
from tasks.sweeps.batch import Contested
from workers.redaction import take_out_values
from workers.settings import Settings, variable
from workers.storage import ObjectStore, ObjectTooLarge, StoreError
from workers.storage.archives import archive_for

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA_TYPE = "application/vnd.apache.parquet"
_BLOCK = 1024 * 1024
#: So much of a table's rows is in memory at once, unless it is one row's family, which cannot be parted.
MOST_BYTES = 64 * 1024 * 1024
_METADATA = b"roomkeeper"
#: Of the text that a table was made of.
_DIGEST = b"sha256"
#: A fifth of the room, for hardly more time; dictionaries save neither.
_COMPRESSION = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}


class TooLarge(Contested):
    """Rows have too many bytes to be held in memory at once."""


class ArchiveError(StoreError):
    """An archive is not what was written, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Archived:
    """One archive, as a receipt names it.

    Attributes:
        table: the table that the rows are of, by the catalogue's name of its schema.
        key: where it is.
        sha256: of its bytes.
        size: in bytes.
        rows: how many.
        changed: whether these rows stay, and only some columns of theirs were changed.
    """

    table: str
    key: str
    sha256: str
    size: int
    rows: int
    changed: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def archives_of(policy: Retention, settings: Settings) -> ObjectStore | None:
    """Return where the policy's rows are archived; None if they are not.

    Raises:
        StoreError: they are to be, and there is no place for them.
    """
    if not policy.archive or policy.name in settings.archive_off:
        return None
    found = archive_for(settings)
    if found is None:
        without = "" if policy.must_archive else f", or name it in {variable('archive_off')} to do without"
        raise StoreError(
            f"{policy.name} archives its rows before they go, and there is no archive: set "
            f"{variable('archive_root')} or {variable('archive_bucket')}{without}"
        )
    return found


def copy_out(
    connection: Connection,
    statement: Executable,
    values: Mapping[str, Any],
    most_bytes: int | None = None,
    expected: "pa.Table | None" = None,
) -> "pa.Table":
    """Execute a statement that returns rows, and return them as texts, under the columns' real names.

    Args:
        expected: what another statement returned; the same rows in the same order are `expected` itself.

    Raises:
        TooLarge: they are more than `most_bytes`.
        sqlalchemy.exc.DBAPIError: as if it had been executed as usual.
    """
    compiled = statement.compile(  # type: ignore[attr-defined]
        dialect=connection.dialect,
        schema_translate_map=connection.get_execution_options().get("schema_translate_map"),
        render_schema_translate=True,
        compile_kwargs={"render_postcompile": True},
    )
    buffer, longest = io.BytesIO(), 0
    copy = f"COPY ({compiled}) TO STDOUT (FORMAT csv, HEADER true)"
    parameters = compiled.construct_params(values)
    with _driver(connection) as cursor, cursor.copy(copy.encode(), parameters) as rows:
        for row in rows:
            longest = max(longest, len(row))
            buffer.write(row)
            if most_bytes is not None and buffer.tell() > most_bytes:
                raise TooLarge(f"more than {most_bytes:,} bytes at once")
    digest = hashlib.sha256(buffer.getbuffer()).digest()
    if expected is not None and (expected.schema.metadata or {}).get(_DIGEST) == digest:
        return expected
    buffer.seek(0)
    # A column's name may have line ends.
    names = next(reader(line.decode() for line in iter(buffer.readline, b"")))
    return _parsed(buffer, names, longest).replace_schema_metadata({_DIGEST: digest})


def same(one: "pa.Table", other: "pa.Table") -> bool:
    """Return whether two tables have the same rows, in whatever order."""
    if one is other:
        return True
    if one.column_names != other.column_names or one.num_rows != other.num_rows:
        return False
    order = [(name, "ascending") for name in one.column_names]
    return bool(one.sort_by(order).equals(other.sort_by(order)))


def _parsed(buffer: io.BytesIO, names: list[str], longest: int) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    types = {name: pa.string() for name in names}
    if buffer.tell() == buffer.getbuffer().nbytes:
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    return csv.read_csv(
        buffer,
        # A row must fit into a block.
        read_options=csv.ReadOptions(column_names=names, block_size=max(_BLOCK, 2 * longest)),
        # A row of one column that is NULL is an empty line.
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def copy_in(connection: Connection, target: str, rows: "pa.Table") -> None:
    """Copy rows of texts into `target`, a table's name and its columns as SQL has them."""
    from pyarrow import csv

    buffer = io.BytesIO()
    # Quotes all texts, and so tells the empty one from NULL.
    csv.write_csv(rows, buffer, csv.WriteOptions(include_header=False, quoting_style="needed"))
    # SQLAlchemy doubles percent signs for the driver, which leaves them so where there are no parameters.
    statement = f"COPY {target.replace('%%', '%')} FROM STDIN (FORMAT csv)".encode()
    with _driver(connection) as cursor, cursor.copy(statement) as copy:
        copy.write(buffer.getbuffer())


@contextmanager
def _driver(connection: Connection) -> "Iterator[psycopg.Cursor[Any]]":
    """Yield a cursor of what SQLAlchemy talks to the database by, for COPY; errors as SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor() as cursor:
            yield cursor
    except psycopg.Error as error:
        take_out_values(error)
        raised = DBAPIError.instance(
            "COPY", {}, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        )
        raise raised from error


def write(
    store: ObjectStore,
    key: str,
    table: str,
    rows: "pa.Table",
    about: Mapping[str, Any],
    *,
    changed: bool = False,
) -> Archived:
    """Store rows under `key`, read them back, and return what a receipt says of them.

    Args:
        table: the table that they are of.
        about: goes into the file's metadata.

    Raises:
        ArchiveError: what is there is not what was written.
        StoreError: the store did not take it, or not give it back.
    """
    from pyarrow import parquet

    metadata = {**about, "table": table, "changed": changed}
    rows = rows.replace_schema_metadata({_METADATA: json.dumps(metadata).encode()})
    with tempfile.TemporaryDirectory(prefix="roomkeeper-archive-") as directory:
        path = Path(directory) / "archive.parquet"
        parquet.write_table(rows, path, **_COMPRESSION)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        archived = Archived(table, key, sha256, path.stat().st_size, rows.num_rows, changed)
        store.put(key, path, MEDIA_TYPE)
        path.unlink()
        _fetch(store, archived, path)
        if parquet.read_metadata(path).num_rows != rows.num_rows:
            raise ArchiveError(f"{key} does not have the rows that were written")
    return archived


@contextmanager
def fetched(store: ObjectStore, several: Sequence[Archived]) -> Iterator[dict[str, Path]]:
    """Fetch archives, and yield a file of each, by its key, until the block ends.

    Raises:
        ArchiveError: one is not what was written.
        StoreError: the store did not give it.
    """
    with tempfile.TemporaryDirectory(prefix="roomkeeper-archive-") as directory:
        paths = {one.key: Path(directory) / f"{number}.parquet" for number, one in enumerate(several)}
        for one in several:
            _fetch(store, one, paths[one.key])
        yield paths


def load(path: Path) -> "pa.Table":
    """Return the rows of an archive that was fetched."""
    from pyarrow import parquet

    return parquet.read_table(path)


def check(store: ObjectStore, archived: Archived) -> None:
    """See whether an archive is there, and is the one that was written; raises as `fetched`."""
    with tempfile.NamedTemporaryFile(prefix="roomkeeper-archive-") as file:
        _fetch(store, archived, Path(file.name))


def _fetch(store: ObjectStore, archived: Archived, into: Path) -> None:
    try:
        fetched = store.fetch(archived.key, into, limit=max(archived.size, 1))
    except ObjectTooLarge as error:
        raise ArchiveError(f"{archived.key} is larger than what was written") from error
    if fetched.sha256 != archived.sha256:
        raise ArchiveError(f"{archived.key} is not what was written: its SHA-256 is {fetched.sha256}")
