"""Time zones: the rules of the pinned package, whatever the operating system has."""

import os
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from workers import time_zones

_SHOW = (
    "from datetime import *; from zoneinfo import *;"
    "print(datetime(2026, 7, 1, tzinfo=ZoneInfo('Europe/Berlin')).utcoffset())"
)


@pytest.fixture
def other_rules(tmp_path: Path) -> Path:
    """A directory of a system where Berlin has no summer time."""
    (tmp_path / "Europe").mkdir()
    with as_file(files("tzdata") / "zoneinfo" / "Africa" / "Lagos") as lagos:
        shutil.copy(lagos, tmp_path / "Europe" / "Berlin")
    return tmp_path


@pytest.mark.parametrize(
    "module",
    ["workers.app", "commands.main", "beat_schedule", "tasks.analytics.calendar", "stack.demo.rollups"],
)
def test_every_program_has_the_rules_of_the_package(other_rules: Path, module: str) -> None:
    def offset(program: str) -> str:
        variables = {
            "PYTHONTZPATH": str(other_rules),
            "DATABASE_URL": "postgresql://127.0.0.1/none",
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    assert offset(_SHOW) == "1:00:00"
    # A zone that was read before is read again.
    assert offset(f"{_SHOW}; import {module}; {_SHOW}").splitlines() == ["1:00:00", "2:00:00"]


@pytest.mark.parametrize("name", ["CET", "EET", "MET", "WET"])
def test_names_with_two_meanings_are_refused_with_a_place_that_has_the_same_clocks(name: str) -> None:
    fault = time_zones.fault_of(name)
    assert fault is not None
    place = time_zones.AMBIGUOUS[name]
    assert place in fault
    assert time_zones.fault_of(place) is None


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../Europe/Berlin", "europe/berlin", "localtime"])
def test_names_of_no_zone_are_refused(name: str) -> None:
    assert time_zones.fault_of(name) == f"there is no time zone {name!r}"


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_zones_are_taken(name: str) -> None:
    assert time_zones.fault_of(name) is None
