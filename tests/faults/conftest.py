"""What tests of bad days share."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from sqlalchemy.engine import make_url

from tests.faults.replication import database_refuses_writes
from tests.platform import Platform
from tests.servers import PostgresServer

ReadOnly = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def read_only(platform: Platform, postgres: PostgresServer) -> ReadOnly:
    """Make the platform's database read-only in a `with` block."""
    name = str(make_url(platform.environment["DATABASE_URL"]).database)
    return lambda: database_refuses_writes(postgres, name)
