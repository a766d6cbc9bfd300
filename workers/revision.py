"""Which revision the schema `roomkeeper` is at, and which one this code needs: without Alembic."""

from pathlib import Path

from sqlalchemy import Connection, text

from models.platform import SCHEMA

SCRIPTS = Path(__file__).parent.parent / "migrations"
_TABLE = text("""
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS class
          JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
         WHERE space.nspname = :schema AND class.relname = 'alembic_version'
    )
""")
_CURRENT = text(f"SELECT version_num FROM {SCHEMA}.alembic_version")  # noqa: S608


_OLDEST_WORKER = text(f"SELECT oldest_worker FROM {SCHEMA}.revisions WHERE revision = :revision")  # noqa: S608
_REVISIONS = text("SELECT to_regclass(:name) IS NOT NULL")


def current(connection: Connection) -> str | None:
    """Return the revision that the database is at, or None for a database without our schema."""
    if not connection.scalar(_TABLE, {"schema": SCHEMA}):
        return None
    revision: str | None = connection.execute(_CURRENT).scalar_one_or_none()
    return revision


def newest() -> str:
    """Return the revision that this code needs: migrations are numbered, and so are their files."""
    return max(file.name.partition("_")[0] for file in (SCRIPTS / "versions").glob("[0-9]*.py"))


def newer(connection: Connection) -> str | None:
    """Return the revision that the database is at, if it is newer than this code and serves it.

    A newer version of Roomkeeper has migrated the database, and its steps were additive, as far back as this
    code: they say so in `roomkeeper.revisions`.
    """
    at = current(connection)
    if at is None or at <= newest():
        return None
    if not connection.scalar(_REVISIONS, {"name": f"{SCHEMA}.revisions"}):
        return None
    oldest: str | None = connection.execute(_OLDEST_WORKER, {"revision": at}).scalar_one_or_none()
    return at if oldest is not None and oldest <= newest() else None
