"""Every retention policy keeps the contract; see `contract.py`. A policy without an example fails here."""

import pytest

from tasks.apps import POLICIES
from tasks.policies.retention import Retention
from tests.contract.contract import check_complete, retention_keeps_contract
from tests.contract.examples import example_of
from tests.platform import Platform

RETENTIONS = {name: policy for name, policy in POLICIES.items() if isinstance(policy, Retention)}


@pytest.mark.parametrize("name", RETENTIONS)
def test_a_retention_policy_keeps_the_contract(platform: Platform, name: str) -> None:
    example = example_of(name)
    check_complete(RETENTIONS[name], example)
    retention_keeps_contract(platform, RETENTIONS[name], example)
