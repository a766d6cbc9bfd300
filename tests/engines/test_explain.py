"""Whether the real database has the indexes that policies lean on."""

import pytest

from tasks.apps import POLICIES
from tasks.engines import explain
from tests.platform import Platform


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_applications_own_indexes_serve_every_policy(platform: Platform, name: str) -> None:
    with platform.engine.begin() as connection:
        assert explain.served(connection, POLICIES[name])


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("echoroom.idx_typing_indicators_expires", "echoroom.typing"),
        ("echoroom.idx_session_participants_active", "echoroom.ghosts"),
        ("audiorooms.idx_participants_active", "audiorooms.stays"),
        ("interaction_schema.idx_interaction_logs_started_at", "connect.calls"),
    ],
)
def test_an_index_that_is_not_there_is_missed(platform: Platform, index: str, name: str) -> None:
    platform.sql(f"DROP INDEX {index}")
    with platform.engine.begin() as connection:
        assert not explain.served(connection, POLICIES[name])
