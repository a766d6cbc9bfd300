"""An index of the models serves every policy, or the policy says in how long it walks through its table."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from models.echoroom import TypingIndicator
from tasks.apps import POLICIES
from tasks.policies.sweep import NOW, Delete, Sweep
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
