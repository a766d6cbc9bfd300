"""A pytest plugin of the runner: makes sure that the copy is what is tested, and notes which tests failed."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

#: The root of the copy, and the file for the result.
TREE, RESULT = "MUTANTS_TREE", "MUTANTS_RESULT"
PACKAGES = ("commands", "migrations", "models", "roomkeeper", "stack", "tasks", "workers", "beat_schedule")

_failed: list[str] = []
_passed: list[str] = []
_broken: list[str] = []


def pytest_configure() -> None:
    """Refuse to test anything but the copy: the project itself is installed in the same environment."""
    tree = Path(os.environ[TREE])
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin)
        if origin is None or not origin.is_relative_to(tree):
            raise pytest.UsageError(f"{name} would be imported from {origin}, not from the copy {tree}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that failed, and apart from it one whose fixtures did."""
    if report.failed:
        (_failed if report.when == "call" else _broken).append(report.nodeid)
    elif report.when == "call":
        _passed.append(report.nodeid)


def pytest_unconfigure() -> None:
    """Write the result."""
    result = {"failed": _failed, "passed": _passed, "broken": _broken}
    Path(os.environ[RESULT]).write_text(json.dumps(result))
