"""The example of a rollup: how to make rows that it counts. `rollup_contract.py` does the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from uuid import UUID

from tasks.policies.columns import Column, Model, model_of
from tasks.policies.rollup import Rollup
from tests.analytics.figuring import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table whose rows a rollup counts, each row in the bucket of its moment.

    Attributes:
        at: the columns that hold the moment of such a row, of one table. All get the same value.
        counts: the columns of the target that each row raises by one in its bucket. Rows of other sources
            raise them only if they name them too.
        add: adds a row of a moment, with all that it needs; returns its key. Each row gets people and places
            of its own.
        model: the table; None if it is that of `at`. Needed where the row has no moment of its own and counts
            with another row: then `at` is empty.
        key: the name of the column that identifies a row.
        needs: columns without which a row does not count: NULL in one of them leaves it out. Any other column
            that may be NULL makes no difference.
    """

    at: tuple[Column, ...]
    counts: tuple[Column, ...]
    add: Callable[[Rows, datetime], UUID]
    model: Model | None = None
    key: str = "id"
    needs: tuple[Column, ...] = ()

    @property
    def of(self) -> Model:
        """The table."""
        return self.model or model_of(self.at[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What the contract needs to know of a rollup.

    Attributes:
        sources: one for each column by which rows are counted, and for each table without one.
        recomputed: whether closed buckets are computed again for a while. False where cleanup takes the rows
            soon after.
    """

    rollup: Rollup
    sources: tuple[Source, ...]
    recomputed: bool = True


def example_of(rollup: Rollup) -> Example:
    """Return the example of a rollup: the one in `EXAMPLES` of its application's module beside this one.

    Raises:
        LookupError: it has none.
    """
    name = f"tests.contract.rollups.{rollup.app}"
    try:
        examples: tuple[Example, ...] = import_module(name).EXAMPLES
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        examples = ()
    for example in examples:
        if example.rollup is rollup:
            return example
    path = f"{name.replace('.', '/')}.py"
    raise LookupError(f"{rollup.name} has no Example: add one to EXAMPLES in {path}.")
