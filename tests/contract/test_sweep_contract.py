"""Every sweep keeps the contract; see `contract.py`. A policy without an example fails here."""

import pytest

from tasks.apps import POLICIES
from tasks.policies.retention import Retention
from tests.contract.contract import check_complete, sweep_keeps_contract
from tests.contract.examples import EXAMPLES, example_of
from tests.platform import Platform

SWEEPS = [name for name, policy in POLICIES.items() if not isinstance(policy, Retention)]


def test_every_example_is_of_a_policy() -> None:
    assert not set(EXAMPLES) - set(POLICIES)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_keeps_the_contract(platform: Platform, name: str) -> None:
    example = example_of(name)
    check_complete(POLICIES[name], example)
    sweep_keeps_contract(platform, POLICIES[name], example)
