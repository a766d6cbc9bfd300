"""Does an index of the real database serve a policy? It is asked: the models may not be what is there."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ClauseElement, Connection, Executable, Select, select
from sqlalchemy.ext.compiler import compiles

from tasks.apps.sweeps import Sweep

#: For a policy whose period nobody has set yet.
STAND_IN = timedelta(days=365)


def served(connection: Connection, policy: Sweep) -> bool:
    """Return whether an index finds what is due for the policy; one that walks needs none."""
    if policy.found is None:
        return True
    (key,) = policy.table.primary_key.columns
    # Or a small table would be read as a whole, index or not.
    connection.exec_driver_sql("SELECT set_config('enable_seqscan', 'off', true)")
    asked = _Explained(select(key).where(policy.found))
    given = {"now": datetime.now(UTC), "after": policy.after or STAND_IN}
    plan = connection.execute(asked, given).scalar_one()
    name = policy.table.name
    return all(_narrow(node, policy) for node in _nodes(plan[0]["Plan"]) if node.get("Alias") == name)


def _narrow(node: dict[str, Any], policy: Sweep) -> bool:
    """Return whether a step of a plan reads a part of the table only."""
    if "Index Name" not in node:
        return bool(node["Node Type"] != "Seq Scan")
    # Without a condition an index is read as a whole: no matter where it has few rows only.
    few = {one.name for one in policy.table.indexes if one.dialect_options["postgresql"]["where"] is not None}
    return "Index Cond" in node or node["Index Name"] in few


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


class _Explained(Executable, ClauseElement):
    """EXPLAIN, of a query."""

    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(_Explained)
def _explained(element: _Explained, compiler: Any, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.query, **options)}"
