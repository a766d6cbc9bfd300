"""An index of the models serves every policy, or the policy says in how long it walks through its table."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import and_, func, or_

from models.audiorooms import RoomParticipant
from models.echoroom import SessionParticipant, TypingIndicator
from models.openchat import Session
from tasks.apps import POLICIES
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep
from tasks.sweeps.index_shapes import served
from tests.contract.contract import check_indexed

TYPING = Sweep(
    name="echoroom.test",
    model=TypingIndicator,
    rule="what is past is deleted",
    why="Because it must (echoroom.md, Cleanup Functions).",
    due=TypingIndicator.expires_at < NOW,
    action=Delete(),
    every=timedelta(seconds=5),
)


@pytest.mark.parametrize("name", POLICIES)
def test_an_index_of_the_models_serves_every_policy(name: str) -> None:
    check_indexed(POLICIES[name])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"due": TypingIndicator.started_at < NOW},
            "echoroom.test: no index of echoroom.typing_indicators serves `due`. Compare the first column of "
            "one of the table's indexes (expires_at, id, session_id) in it with NOW or with plain values, or "
            "say in `full_pass_every` in how long the table is to be looked through.",
        ),
        (
            {"indexed": TypingIndicator.started_at < NOW, "full_pass_every": timedelta(hours=1)},
            "echoroom.test: no index of echoroom.typing_indicators serves `indexed`. Compare the first "
            "column of one of the table's indexes (expires_at, id, session_id) in it with NOW or "
            "with plain values.",
        ),
    ],
)
def test_a_policy_that_no_index_serves_is_noticed(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_indexed(replace(TYPING, **changes))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "right"),
    [
        (TypingIndicator.expires_at < NOW, True),
        (TypingIndicator.expires_at.is_(None), True),
        (TypingIndicator.expires_at >= NOW - AFTER, True),
        (TypingIndicator.session_id.in_([]), True),
        # Not the first column of any index.
        (TypingIndicator.user_id.is_(None), False),
        # Compared with what another row may say otherwise.
        (TypingIndicator.expires_at < TypingIndicator.started_at, False),
        (func.coalesce(TypingIndicator.expires_at, NOW) < NOW, False),
        (TypingIndicator.expires_at != NOW, False),
        (TypingIndicator.expires_at.is_not(None), False),
        (and_(TypingIndicator.expires_at < NOW, TypingIndicator.started_at < NOW), True),
        (or_(TypingIndicator.expires_at < NOW, TypingIndicator.started_at < NOW), False),
        (or_(TypingIndicator.expires_at < NOW, TypingIndicator.expires_at.is_(None)), True),
    ],
)
def test_whether_an_index_serves_is_seen_by_the_condition(condition: Any, right: bool) -> None:
    table: Any = TypingIndicator.__table__
    assert served(condition, table) is right


def test_a_partial_index_serves_what_it_is_restricted_to() -> None:
    table: Any = RoomParticipant.__table__
    assert served(and_(RoomParticipant.left_at.is_(None), RoomParticipant.role == "listener"), table)
    assert not served(RoomParticipant.left_at < NOW, table)
    sessions: Any = Session.__table__
    assert not served(Session.expires_at < NOW, sessions)
    participants: Any = SessionParticipant.__table__
    assert served(SessionParticipant.is_active.is_(True), participants)
