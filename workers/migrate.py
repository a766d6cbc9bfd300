"""Brings the schema `roomkeeper` up to date through Alembic."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert

import models.analytics  # noqa: F401 - its tables are among the metadata
from models.base import Base
from models.platform import SCHEMA, Revision
from workers.revision import SCRIPTS, current, newer

#: Any constant will do; it keeps two upgrades at once from making the same table twice.
_LOCK = 0x526F6F6D
_SCHEMA = text("SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :name")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> tuple[str | None, str | None]:
    """Migrate to the newest revision, in one transaction. Return the revisions before and after.

    A newer schema that serves this version is left as it is. A role that owns the schema needs no CREATE on
    the database.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        # IF NOT EXISTS would need the right to create schemas even where it is there.
        if connection.execute(_SCHEMA, {"name": SCHEMA}).scalar_one_or_none() is None:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        before = current(connection)
        if newer(connection) is not None:
            return before, before
        config = _config(connection)
        command.upgrade(config, "head")
        _note_oldest_workers(connection, ScriptDirectory.from_config(config))
        return before, current(connection)


def _note_oldest_workers(connection: Connection, scripts: ScriptDirectory) -> None:
    """Store which workers each revision serves, for workers that are older than it."""
    rows = [
        {"revision": script.revision, "oldest_worker": script.module.oldest_worker}
        for script in scripts.walk_revisions()
        # Those before 0009 do not say so: they serve none but their own.
        if hasattr(script.module, "oldest_worker")
    ]
    connection.execute(insert(Revision).on_conflict_do_nothing(), rows)


def drift(connection: Connection) -> list[object]:
    """Return what differs between our models and the database's schema `roomkeeper`; empty when nothing."""
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table_schema": SCHEMA,
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
            "include_object": lambda thing, _name, kind, *_: kind != "table" or thing.schema == SCHEMA,
            "compare_server_default": True,
        },
    )
    return list(compare_metadata(context, Base.metadata))
