"""The declarative base, and the column types that the applications' tables share.

Every table names its schema by the *logical* name of `APPS`' documents (`openchat`, `user_schema`, …).
What a schema is really called in a given database is a setting; the engine translates
(`schema_translate_map`), so nothing here or in a job may spell a schema's name into SQL text.
"""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import DateTime, Text, false, func, text, true
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column


class Base(DeclarativeBase):
    """The one base: one metadata holds the five applications' tables and the platform's own."""


#: `uuid PRIMARY KEY DEFAULT gen_random_uuid()`, the key of every application but `pern`.
GeneratedId = Annotated[UUID, mapped_column(primary_key=True, server_default=func.gen_random_uuid())]
#: `uuid PRIMARY KEY` without a default: the writer supplies it (`pern`).
SuppliedId = Annotated[UUID, mapped_column(primary_key=True)]

#: `timestamp with time zone`.
Aware = Annotated[datetime, mapped_column(DateTime(timezone=True))]
#: `timestamp with time zone DEFAULT now()`.
AwareNow = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
#: `timestamp with time zone DEFAULT CURRENT_TIMESTAMP`; PostgreSQL prints it differently from `now()`.
AwareCurrent = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=text("CURRENT_TIMESTAMP"))
]
#: `timestamp without time zone`, holding UTC (`openchat`): right only on connections pinned to UTC.
Naive = Annotated[datetime, mapped_column(DateTime(timezone=False))]
#: `timestamp without time zone DEFAULT now()`.
NaiveNow = Annotated[datetime, mapped_column(DateTime(timezone=False), server_default=func.now())]

#: `text`. Plain `str` would map to `varchar`.
TextStr = Annotated[str, mapped_column(Text)]

#: `boolean DEFAULT false` and `boolean DEFAULT true`. Mostly nullable: test with IS TRUE, IS NOT TRUE.
DefaultFalse = Annotated[bool, mapped_column(server_default=false())]
DefaultTrue = Annotated[bool, mapped_column(server_default=true())]
#: `integer DEFAULT 0`.
Counter = Annotated[int, mapped_column(server_default=text("0"))]

#: `jsonb`, an object or an array by convention only.
JsonObject = Annotated[dict[str, Any], mapped_column(JSONB)]
JsonArray = Annotated[list[Any], mapped_column(JSONB)]

#: `inet`; an address with a netmask is read as an interface.
Inet = Annotated[IPv4Address | IPv6Address | IPv4Interface | IPv6Interface, mapped_column(INET)]
