"""Snapshots: each belongs to a test.

A snapshot that is missing fails its test, and one that a test no longer uses fails the run. In a run of some
tests only (`-m "not system"`) syrupy passes over those whose test is gone.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.system
def test_every_snapshot_belongs_to_a_test() -> None:
    modules: list[str] = []
    snapshots: list[str] = []
    for file in sorted(ROOT.glob("tests/**/__snapshots__/*.ambr")):
        module = file.parent.parent / f"{file.stem}.py"
        assert module.exists(), f"{file} belongs to no test"
        modules.append(str(module.relative_to(ROOT)))
        names = re.findall(r"^# name: (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        snapshots += [f"{modules[-1]}::{name}" for name in names]
    assert snapshots
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--snapshot-disable-unused", *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A test's snapshots are called as the test; if there are several, with a number or a name behind.
    tests = tuple(set(done.stdout.splitlines()))
    assert [one for one in snapshots if one not in tests and not one.startswith(_continued(tests))] == []


def _continued(tests: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{test}{mark}" for test in tests for mark in (".", "["))


@pytest.mark.system
def test_snapshots_that_are_not_used_fail_every_whole_run(pytestconfig: pytest.Config) -> None:
    assert not [option for option in pytestconfig.getini("addopts") if option.startswith("--snapshot")]
    assert "--snapshot" not in (ROOT / "scripts" / "test.sh").read_text(encoding="utf-8")
    assert "--snapshot" not in (ROOT / "Makefile").read_text(encoding="utf-8")
