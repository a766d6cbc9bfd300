"""`roomkeeper rollup zone`: count a rollup's days in another zone, on all hosts at once."""

from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console

from commands import formatting
from commands.formatting import quantity, timestamp
from commands.policies import named, ready
from tasks.analytics.zones import ZoneChange, change_zone
from tasks.apps import ROLLUPS
from tasks.apps import zone as zone_set
from tasks.policies.rollup import DAY, Rollup
from workers import time_zones
from workers.settings import Settings, SettingsError, get_settings, variable


def zone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, from `roomkeeper rollup list`.")],
    wanted: Annotated[str, typer.Argument(metavar="ZONE", help="Whose days count, as Europe/Berlin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Count a rollup's days in another zone; its next run computes all days again that have lost no rows."""
    settings = get_settings()
    rollup = named("a rollup", name, ROLLUPS, settings)
    if rollup.grain is not DAY:
        raise SettingsError(f"{rollup.name} counts hours, which are of UTC in every zone.")
    if fault := time_zones.fault_of(wanted):
        raise SettingsError(f"ZONE: {fault}.")
    ready(settings, rollup)
    change = change_zone(rollup, wanted, dry_run=dry_run)
    if change is None:
        raise SettingsError(
            f"{rollup.name} has never run: its first run takes the zone that {variable('rollup_zones')} says."
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if change.before.zone == wanted:
        console.print(f"{rollup.name} counts days of {wanted} already.")
    else:
        for sentence in _sentences(rollup, wanted, change, dry_run=dry_run):
            console.print(sentence)
    if not dry_run and zone_set(rollup, settings) != wanted:
        console.print(_how_to_set(rollup, wanted, settings))
    if dry_run:
        console.print("Nothing was changed.")


def _sentences(rollup: Rollup, wanted: str, change: ZoneChange, *, dry_run: bool) -> list[str]:
    seam, again = change.after.seam, change.buckets
    counts = "would count" if dry_run else "counts"
    if seam is None:
        found = [f"{rollup.name} {counts} days of {wanted}, no longer of {change.before.zone}."]
    else:
        found = [f"{rollup.name} {counts} days of {wanted} from {timestamp(seam.at)} UTC on."]
        if seam.at > change.after.covered_from:
            found.append(f"Days up to {formatting.bucket(seam.last_day)} stay days of {seam.zone}.")
        if again:
            hours = formatting.number((again[0].end - again[0].start) / timedelta(hours=1))
            found.append(f"{formatting.bucket(again[0].label)} begins where they end, and has {hours} hours.")
    if again:
        are = "is" if len(again) == 1 else "are"
        found.append(
            f"{quantity(len(again), 'day')} from {formatting.bucket(again[0].label)} on {are} computed by "
            f"its next run, or at once: roomkeeper run {rollup.name}"
        )
    return found


def _how_to_set(rollup: Rollup, wanted: str, settings: Settings) -> str:
    zones = {**settings.rollup_zones, rollup.name: wanted}
    if wanted == rollup.zone:
        del zones[rollup.name]
    given = ",".join(f"{name}={zone}" for name, zone in zones.items())
    return (
        f"{variable('rollup_zones')} here says {zone_set(rollup, settings)}: set it on every host, and "
        f"restart the programs, or they do not compute {rollup.name}: {variable('rollup_zones')}={given}"
    )
