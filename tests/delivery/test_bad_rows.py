"""One row of the inbox that cannot be merged is found quickly, and slows no other down."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, text

from models.platform import StatusInbox

# Modules, not tasks: pytest looks at what it finds here before there are settings.
from tasks.delivery import drain as drains
from tasks.delivery import inbox
from tasks.delivery.events import dumped
from tasks.delivery.merge import merge
from tasks.policies.columns import table_of
from tests.delivery.people import Pern, event
from tests.platform import Platform

#: Enough for several batches.
ROWS = 1_000


@pytest.fixture
def messages(platform: Platform) -> list[UUID]:
    """Messages, each of which a row of the inbox says that Bob has read it, in this order."""
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        made = world.messages(connection, ada, ROWS)
        rows = [{"app": "pern", "events": dumped([event(one, bob, "read", 1)])} for one in made]
        connection.execute(insert(table_of(StatusInbox)), rows)
    return made


@pytest.mark.parametrize("bad", [[0], [ROWS // 2], [ROWS - 1], [3, 7, 190, 201, 999]])
def test_a_bad_row_is_set_aside_after_few_attempts(
    platform: Platform, messages: list[UUID], monkeypatch: pytest.MonkeyPatch, bad: list[int]
) -> None:
    refused = {messages[one] for one in bad}
    attempts: list[int] = []

    def counted(connection: Any, table: Any, events: Any) -> Any:
        attempts.append(len(events))
        if any(one.message_id in refused for one in events):
            # As a trigger of the application may.
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'refused'; END $$"))
        return merge(connection, table, events)

    monkeypatch.setattr(drains, "merge", counted)
    drains.drain()
    with platform.engine.begin() as connection:
        merged = {message for message, _ in Pern().rows(connection, messages)}
    assert merged == {*messages} - refused
    left = platform.sql("SELECT events FROM roomkeeper.status_inbox")
    assert {UUID(row.events[0]["message_id"]) for row in left} == refused
    batches = ROWS // inbox.ROWS
    # Each is found in its batch by eighths: 8 + 8 + 4 parts at most; a slow run may meet it once more.
    assert len(attempts) <= batches + 2 + 22 * len(bad)
    (run,) = platform.sql("SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.drain'")
    assert run.rows >= ROWS
    assert run.outcome == "done"
