"""What a query finds, read to its end at once and worked through for as long as that takes.

A cursor would be open for as long as a store takes to answer, and keep VACUUM from removing rows.
"""

import json
import tempfile
from collections.abc import Generator
from typing import Any

from sqlalchemy import Select

from tasks.reconcile.listing import unhurried
from workers.db import transaction

#: So many rows are read at once.
_AT_ONCE = 2_000
#: What is larger is written to a file.
_MEMORY_BYTES = 8 * 1024**2


def spooled(query: "Select[Any] | Select[Any, Any, int]") -> Generator[list[Any], None, None]:
    """Yield the rows, of texts, numbers and ids, which come as texts; no transaction is open meanwhile."""
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES, "w+", encoding="utf-8", prefix="roomkeeper-") as file:
        with transaction() as connection:
            unhurried(connection)
            with connection.execute(query, execution_options={"yield_per": _AT_ONCE}) as stream:
                for row in stream:
                    file.write(json.dumps([*row], default=str) + "\n")
        file.seek(0)
        for line in file:
            yield json.loads(line)
