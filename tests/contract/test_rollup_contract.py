"""Every rollup keeps the contract (`rollup_contract.py`), and a rollup that breaks a rule of it is found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import delete

from models.analytics import RollupState
from tasks.apps import ROLLUPS
from tasks.policies.rollup import Rollup
from tests.contract.rollup_contract import check
from tests.contract.rollup_example import example_of
from tests.contract.rollups import sixth
from tests.platform import environment
from workers.db import get_engine


@pytest.fixture
def settings(database: str) -> Iterator[None]:
    """This process's engine is one of an empty database."""
    with environment({"DATABASE_URL": database}):
        yield


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("rollup", ROLLUPS.values(), ids=list(ROLLUPS))
def test_a_rollup_keeps_the_contract(rollup: Rollup) -> None:
    check(example_of(rollup))


@pytest.mark.parametrize("name", ["pern.hourly", "sixth.daily"])
def test_a_rollup_without_an_example_is_reported(name: str) -> None:
    other = replace(ROLLUPS["pern.daily"], name=name)
    with pytest.raises(LookupError) as caught:
        example_of(other)
    path = f"tests/contract/rollups/{name.partition('.')[0]}.py"
    assert str(caught.value) == f"{name} has no Example: add one to EXAMPLES in {path}."


# -- a sixth application --------------------------------------------------------------------------------


@pytest.mark.usefixtures("settings")
def test_a_sixth_application_needs_an_example_and_no_tests() -> None:
    with sixth.tables():
        check(example_of(sixth.ROLLUP))
        for wrong in sixth.WRONG:
            with emptied(), pytest.raises(AssertionError) as caught:
                check(sixth.example(wrong.rollup))
            assert wrong.breaks in str(caught.value), wrong.what


@contextmanager
def emptied() -> Iterator[None]:
    """Empty the tables of the sixth application before."""
    with get_engine().begin() as connection:
        for table in reversed(sixth.SixthBase.metadata.sorted_tables):
            connection.execute(delete(table))
        connection.execute(delete(RollupState))
    yield
