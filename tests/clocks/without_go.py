"""Leaves out the tests that need SeaweedFS, whose clock is not moved: it refuses what another signs."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them."""
    without = [item for item in items if "seaweedfs" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
