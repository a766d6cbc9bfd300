"""A partition's rows are archived some pages at a time, by transactions that hold nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, String, Table, bindparam, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from models.platform import UnfinishedArchive
from tasks.retention import archive
from tasks.retention.archive import Archived
from tasks.retention.cascade import ALL
from tasks.retention.partitions.catalog import Partition
from tasks.retention.partitions.create import PATIENCE_MS
from tasks.retention.partitions.rows import LOOK_MS, Kept, PartitionQuery, PolicyMatch
from tasks.sweeps.batch import begin
from tasks.sweeps.statements import key_of, on_pages
from workers.db import transaction
from workers.storage import ObjectStore

#: Rows of an archive, about; and of what is read for it, in bytes, that memory stays what it is.
ARCHIVE_ROWS = 100_000
_READ_BYTES = 64 * 1024 * 1024
_ON_PAGES = text("ctid >= CAST(:first_place AS tid) AND ctid < CAST(:last_place AS tid)").bindparams(
    bindparam("first_place", type_=String), bindparam("last_place", type_=String)
)
SIZE = text("""
    SELECT pg_relation_size(oid) / current_setting('block_size')::bigint AS pages,
           pg_table_size(oid) AS bytes, pg_relation_filenode(oid) AS file
      FROM pg_catalog.pg_class WHERE oid = :oid
""")


@dataclass(slots=True)
class Archives:
    """A policy's archives of one partition; `keys` are the first and the last key of the rows in them."""

    archived: list[Archived] = field(default_factory=list)
    rows: int = 0
    keys: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The keys that they have in the store."""
        return [one.key for one in self.archived]

    def add(self, rows: Any, key: str) -> None:
        """Take an archive's rows into account."""
        from pyarrow import compute

        ends = compute.min_max(rows[key]).as_py()
        self.rows += rows.num_rows
        self.keys = [min([ends["min"], *self.keys[:1]]), max([ends["max"], *self.keys[1:]])]


def ranges(size: Any, rows: int, policy_rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of pages that have about an archive's rows each, and not too much to be held at once."""
    pages = max(1, size.pages)
    at_once = min(
        ARCHIVE_ROWS * pages / max(1, policy_rows),
        # Where its rows lie close together there are more of them: never so many more.
        4 * ARCHIVE_ROWS * pages / max(1, rows),
        _READ_BYTES * pages / max(1, size.bytes),
    )
    step = max(1, int(at_once))
    for first in range(0, pages, step):
        # To the end, whatever was added: it is seen, then.
        yield first, first + step


@dataclass(frozen=True, slots=True)
class Archiver:
    """Archives the rows of a table's partitions for one run.

    Attributes:
        job: the name under which archives are noted until their receipt is written.
        deadline: no further pages are read after that, by the monotonic clock; None for to the end.
        watch: is called with a partition's name and the rows archived so far.
    """

    table: Table
    job: str
    run: UUID
    now: datetime
    deadline: float | None
    watch: Callable[[str, int], None]

    def archive(
        self,
        query: PartitionQuery,
        match: PolicyMatch,
        store: ObjectStore,
        one: Partition,
        pages: Iterator[tuple[int, int]],
    ) -> Archives:
        """Archive the rows of a partition that a policy takes.

        Raises:
            Kept: it takes longer than the run has.
        """
        policy = match.policy.name
        made = Archives()
        about = {"policy": policy, "run": str(self.run), "now": self.now.isoformat(), "partition": one.name}
        statement = select(ALL).select_from(query.table).where(_ON_PAGES, match.takes)
        for first, last in pages:
            if self.deadline is not None and monotonic() > self.deadline:
                raise Kept(
                    "to archive it takes longer than a scheduled run has; by hand: "
                    f"roomkeeper partition run {self.table.fullname}"
                )
            with begin(PATIENCE_MS, LOOK_MS) as connection:
                values = {**query.values(self.now), **on_pages(first, last)}
                rows = archive.copy_out(connection, statement, values)
            if not rows.num_rows:
                continue
            number = len(made.archived) + 1
            key = f"{policy}/{self.now:%Y/%m/%d}/{self.run}-{number:05}-{one.name}.parquet"
            with transaction() as connection:
                connection.execute(insert(UnfinishedArchive).values(key=key, policy=self.job))
            made.archived.append(archive.write(store, key, self.table.fullname, rows, about))
            made.add(rows, key_of(self.table).name)
            self.watch(one.name, made.rows)
        return made


def remove(store: ObjectStore, archives: Archives) -> None:
    """Remove archives whose partition stays."""
    if not archives.archived:
        return
    store.delete_many(archives.names)
    with transaction() as connection:
        connection.execute(delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(archives.names)))


def settle(connection: Connection, archives: Archives) -> None:
    """Take archives off the list of unfinished ones, in the transaction of their receipt.

    Raises:
        Kept: another run has removed them.
    """
    if archives.archived:
        noted = delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(archives.names))
        if connection.execute(noted).rowcount != len(archives.archived):
            raise Kept("its archives were taken for those of a run that has died")
