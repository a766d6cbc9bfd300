"""The archives of one batch of retention: keys are noted, then files written, before rows are deleted.

The note is committed first, so that a crash leaves no file that nothing names. No transaction of the batch is
open meanwhile: a run has one connection for its lock and one for its batch, never a third.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects.postgresql import insert

from models.platform import UnfinishedArchive
from tasks.policies.retention import Cascade, Retention, SetValues
from tasks.policies.sweep import Update
from tasks.retention import archive
from tasks.retention.archive import Archived, ArchiveError
from tasks.retention.cascade import cascade_statements, set_values_statements
from workers.db import release_snapshot, transaction
from workers.storage import ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa

#: A table, and whether its rows stay and only some of their columns change.
Part = tuple[Table, bool]


class BatchArchives:
    """The archives of one batch.

    Args:
        store: where they go.
        run, now: the run that the batch belongs to, and the moment that it goes by.
        number: of the batch within its run.

    Attributes:
        keys: of all that the batch may write.
    """

    def __init__(self, store: ObjectStore, policy: Retention, run: UUID, now: datetime, number: int) -> None:
        self._store = store
        self._about = {"policy": policy.name, "run": str(run), "now": now.isoformat()}
        self._keys: dict[Part, list[str]] = defaultdict(list)
        for part, (table, changed) in enumerate(_parts(policy)):
            name = f"{run}-{number:05}-{part}-{table.name}{'-changed' if changed else ''}.parquet"
            self._keys[table, changed].append(f"{policy.name}/{now:%Y/%m/%d}/{name}")
        self.keys = [key for keys in self._keys.values() for key in keys]

    def note(self) -> None:
        """Note the key of every archive that the batch may write, in a transaction of its own."""
        with transaction() as connection:
            rows = [{"key": key, "policy": self._about["policy"]} for key in self.keys]
            connection.execute(insert(UnfinishedArchive), rows)

    def write(
        self, deleted: "Sequence[tuple[Table, pa.Table]]", changed: "Sequence[tuple[Table, pa.Table]]"
    ) -> list[Archived]:
        """Write what a batch has deleted and changed, and read it back.

        Raises:
            StoreError: it cannot be written.
        """
        keys = {part: iter(found) for part, found in self._keys.items()}
        every = [*((*one, False) for one in deleted), *((*one, True) for one in changed)]
        return [
            archive.write(
                self._store, next(keys[table, stays]), table.fullname, rows, self._about, changed=stays
            )
            for table, rows, stays in every
        ]

    def settle(self, connection: Connection) -> None:
        """Remove the notes in the transaction of the batch, which names its archives in a receipt.

        Raises:
            ArchiveError: they were removed meanwhile.
        """
        noted = connection.execute(delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(self.keys)))
        if noted.rowcount != len(self.keys):
            # Its connection to the job history was lost, not this one.
            raise ArchiveError("another run has taken this one for dead, and removed its archives")


@cache
def _parts(policy: Retention) -> tuple[Part, ...]:
    """Return what one batch archives at most, each part once."""
    own = () if isinstance(policy.action, Update) else ((policy.table, False),)
    return (*own, *_parts_of(policy, policy.refers))


def _parts_of(policy: Retention, refers: Sequence[object]) -> Iterator[Part]:
    for one in refers:
        if isinstance(one, SetValues):
            own = policy.table is one.by.property.columns[0].table
            yield set_values_statements(one, of_itself=own).table, True
        elif isinstance(one, Cascade):
            yield cascade_statements(one).table, False
            yield from _parts_of(policy, one.refers)


def remove_unfinished(job: str, archives: ObjectStore | None, among: Sequence[str] | None = None) -> None:
    """Remove the archives that a crash has left of a policy, or of a table's partitions.

    They are locked meanwhile: a run that was taken for dead, and is not, cannot commit a receipt that names
    them.

    Args:
        among: only these; None for all.
    """
    if archives is None:
        return
    with transaction() as connection:
        keys = select(UnfinishedArchive.key).where(UnfinishedArchive.policy == job)
        if among is not None:
            keys = keys.where(UnfinishedArchive.key.in_(among))
        left = list(connection.execute(keys.with_for_update(skip_locked=True)).scalars())
        if left:
            release_snapshot(connection)
            archives.delete_many(left)
            connection.execute(delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(left)))
