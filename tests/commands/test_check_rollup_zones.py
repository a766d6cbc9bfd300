"""`roomkeeper check` compares a rollup's zone with what is set here, and with the database server's rules."""

import os
import shutil
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from commands import check_rollup_zones
from tests.platform import Platform, environment
from workers import time_zones
from workers.settings import load

NAME = "pern.security_daily"


@contextmanager
def rules(folder: Path, **zones: str) -> Iterator[None]:
    """Give zones of Europe the rules of others, as if a host had an older package."""
    (folder / "Europe").mkdir()
    for name, other in zones.items():
        with as_file(files("tzdata").joinpath("zoneinfo", *other.split("/"))) as file:
            shutil.copy(file, folder / "Europe" / name)
    zoneinfo.reset_tzpath([folder])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        yield
    finally:
        time_zones.use_pinned_rules()


def counted(platform: Platform, zone: str, covered_from: datetime) -> None:
    platform.sql(
        "INSERT INTO roomkeeper.rollups (name, zone, watermark, covered_from)"
        " VALUES (:name, :zone, now(), :covered_from)",
        name=NAME,
        zone=zone,
        covered_from=covered_from,
    )
    platform.set(rollup_zones=f"{NAME}={zone}")


def found(platform: Platform) -> list[str]:
    """Return what is found, faults and warnings."""
    faults = check_rollup_zones.faults(platform.settings)
    return [f"{'!' if one.warning else '✗'} {one.sentence} {one.advice}" for one in faults]


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Asia/Beirut", "America/Santiago", "Asia/Kathmandu", "Pacific/Apia"]
)
def test_with_the_same_rules_nothing_is_found(platform: Platform, zone: str) -> None:
    """Where midnight comes twice or never, and where a day is missing, too."""
    counted(platform, zone, datetime(2009, 1, 1, tzinfo=UTC))
    assert found(platform) == []


def test_days_that_differ_are_named(platform: Platform, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    now = datetime.now(UTC)
    counted(platform, "Europe/Berlin", datetime(2026, 3, 27, tzinfo=UTC))
    with rules(tmp_path, Berlin="Africa/Lagos"):
        (warning,) = found(platform)
    # In summer, from the night after clocks change on.
    assert "2026-03-30, 2026-03-31, 2026-04-01 and " in warning
    days = int(warning.split()[1])
    assert 200 < days < (now - datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=366)).days
    for number in (days, days - 3):
        warning = warning.replace(str(number), "<days>")
    assert warning == snapshot


def test_a_zone_that_the_server_does_not_know(
    platform: Platform, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    with rules(tmp_path, Atlantis="Atlantic/Azores"):
        counted(platform, "Europe/Atlantis", datetime(2026, 3, 1, tzinfo=UTC))
        assert found(platform) == snapshot


def test_a_name_with_two_meanings_that_counts_already(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    """Set by an earlier version: by `AT TIME ZONE` it has no summer time. It can be changed for a place."""
    counted(platform, "Europe/Brussels", datetime(2026, 3, 27, tzinfo=UTC))
    platform.sql("UPDATE roomkeeper.rollups SET zone = 'CET'")
    disagreement, warning = found(platform)
    assert f"roomkeeper rollup zone {NAME} Europe/Brussels" in disagreement
    assert "2026-03-30, 2026-03-31, 2026-04-01 and " in warning
    assert disagreement == snapshot


def test_a_database_that_is_away_is_reported_elsewhere(platform: Platform) -> None:
    with environment({**platform.environment, "DATABASE_URL": "postgresql://127.0.0.1:1/none"}):
        assert check_rollup_zones.faults(load(os.environ)) == []
