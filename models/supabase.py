"""`auth`: what Supabase brings to every database, as far as the applications refer to it.

On Supabase it is there and is left alone; elsewhere the bootstrap makes this much of it.
"""

from sqlalchemy.orm import Mapped

from models.base import Base, GeneratedId

#: The logical names of the schemas.
SCHEMAS: tuple[str, ...] = ("auth",)
#: `auth.uid()`: the signed-in person, NULL for a connection without one.
ROUTINES: tuple[str, ...] = (
    """
    CREATE FUNCTION {auth}.uid() RETURNS uuid LANGUAGE sql STABLE
    RETURN NULLIF(current_setting('request.jwt.claim.sub', true), '')::uuid
    """,
)


class User(Base):
    """A person who can sign in. Supabase has many more columns; only `id` is referred to."""

    __tablename__ = "users"
    __table_args__ = ({"schema": "auth"},)

    id: Mapped[GeneratedId]
