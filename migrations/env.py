"""Alembic's environment. Run through `workers.migrate`, which hands it an open connection."""

from typing import Any

from alembic import context

import models.platform
from models.base import Base


def in_platform_schema(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
    """Keep Alembic to our schema: the applications' tables are theirs."""
    return kind != "table" or name in {
        table.name for table in Base.metadata.tables.values() if table.schema == models.platform.SCHEMA
    }


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table_schema=models.platform.SCHEMA,
    include_schemas=True,
    include_name=lambda name, kind, _parents: kind != "schema" or name == models.platform.SCHEMA,
    include_object=in_platform_schema,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
