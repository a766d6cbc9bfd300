"""`roomkeeper run`: a policy or a rollup by hand."""

from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
from psycopg.errors import QueryCanceled
from rich.console import Console
from sqlalchemy.exc import OperationalError

from commands import arguments, formatting, progress, rollup_status
from commands.formatting import quantity, timestamp
from commands.policies import lacks_period, named, parsed, quiet, ready
from tasks.analytics.calendar import Bucket, bucket_at, buckets
from tasks.analytics.engine import MovedError, RollupProgress
from tasks.analytics.state import due_by
from tasks.apps import POLICIES, ROLLUPS
from tasks.policies.retention import Retention
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Delete, Sweep
from tasks.retention.foreign_keys import UnknownReferenceError
from tasks.retention.safety_limit import ApprovalRequired
from tasks.sweeps import eligible_rows
from workers.db import clock, transaction
from workers.settings import Settings, SettingsError, get_settings, variable
from workers.storage import StoreError

if TYPE_CHECKING:
    from tasks.sweeps.engine import SweepProgress

SAMPLED = 5
#: More rows than there are.
_ALL = 2**62


def run(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A policy's or a rollup's, from `roomkeeper policies`."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is due, and name some; change nothing.")
    ] = False,
    now: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Go by this time, as 2026-03-01T10:00:00Z; by the clock if not given."
        ),
    ] = None,
) -> None:
    """Run one policy or rollup now, to its end; beat's runs of it are skipped meanwhile."""
    settings = get_settings()
    jobs: dict[str, Sweep | Rollup] = {**POLICIES, **ROLLUPS}
    wanted = named("a policy or a rollup", name, jobs, settings)
    moment = None if now is None else parsed(now)
    if isinstance(wanted, Rollup):
        _roll(wanted, settings, moment, dry_run=dry_run)
        return
    if off := lacks_period(wanted, settings):
        raise SettingsError(f"{off}.")
    ready(settings, wanted)
    at = clock()
    if dry_run:
        _tell_what_is_due(wanted, settings, moment or at)
    elif moment is not None and moment > at:
        raise SettingsError(
            f"{timestamp(moment)} UTC is still to come: what is alive now would be swept. Say --dry-run as "
            "well to see what would be due then."
        )
    else:
        _sweep(wanted, settings, moment)


# -- a rollup --------------------------------------------------------------------------------------------


def _roll(rollup: Rollup, settings: Settings, moment: datetime | None, *, dry_run: bool) -> None:
    if moment is not None and not dry_run:
        raise SettingsError(
            f"{rollup.name} goes by the clock, or today's statistics would lose what has come since. Say "
            "--dry-run as well to see what would be closed then; days that are past are computed anew with: "
            f"roomkeeper rollup backfill {rollup.name} --from DAY --to DAY"
        )
    ready(settings, rollup)
    with transaction() as connection:
        standing = rollup_status.read(connection, [rollup])[rollup.name]
    rollup_status.require_same(standing, settings)
    due = _to_be_closed(standing, moment or standing.now)
    if dry_run:
        _tell_what_is_to_be_closed(standing, moment or standing.now, due)
    else:
        _compute(rollup, settings, due)


def _to_be_closed(standing: rollup_status.RollupStatus, moment: datetime) -> list[Bucket] | None:
    """Return the buckets that a run closes; None where only the run itself finds out."""
    rollup, state = standing.rollup, standing.state
    if state is None or state.definition != rollup.definition:
        return None
    ended = buckets(state.watermark, moment, rollup.grain, state.zone, state.seam)
    return [bucket for bucket in ended if due_by(rollup, bucket) <= moment]


def _tell_what_is_to_be_closed(
    standing: rollup_status.RollupStatus, moment: datetime, due: list[Bucket] | None
) -> None:
    rollup = standing.rollup
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if standing.state is None:
        console.print(
            f"{rollup.name} has never run: its first run begins with the {rollup.grain} of the earliest row "
            "that it counts."
        )
    elif due is None:
        state = standing.state
        first = bucket_at(state.covered_from, rollup.grain, state.zone, state.seam)
        console.print(
            f"What {rollup.name} counts has changed with this version: its next run computes again all since "
            f"{formatting.bucket(first.label)} that have lost no rows."
        )
    else:
        are = "is" if len(due) == 1 else "are"
        which = f": {formatting.buckets(due[0].label, due[-1].label)}" if due else ""
        console.print(
            f"{rollup.name}: {quantity(len(due), rollup.grain)} {are} to be closed at "
            f"{timestamp(moment)} UTC{which}."
        )
    console.print("Nothing was changed.")


def _compute(rollup: Rollup, settings: Settings, due: list[Bucket] | None) -> None:
    from tasks.analytics import task as analytics

    began = monotonic()
    total = None if due is None else len(due)
    of = "" if total is None else f" of {total:,}"
    closed = 0
    with progress.watching(rollup.name) as show:

        def watch(done: RollupProgress) -> None:
            nonlocal closed
            closed = done.closed
            show(f"{rollup.name}: {closed:,}{of} {rollup.grain}s closed", closed, total)

        try:
            done = analytics.run(rollup, settings, by_hand=True, watch=watch)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"{rollup.name}: broken off; {quantity(closed, rollup.grain)} closed."
            )
            raise typer.Exit(130) from None
        except MovedError as error:
            raise SettingsError(f"{rollup.name}: {error}; run it again.") from error
    if done is None:
        raise SettingsError(_under_way(rollup.name))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{rollup.name}: {quantity(done.closed, rollup.grain)} closed, {quantity(done.rows, 'row')} of "
        f"statistics changed, {monotonic() - began:.1f} s."
    )
    if done.more:
        console.print("There is more: its time was over. Run it again.")


# -- a policy --------------------------------------------------------------------------------------------


def _tell_what_is_due(policy: Sweep, settings: Settings, moment: datetime) -> None:
    try:
        found = eligible_rows.eligible(policy, settings, _ALL, moment)
        samples = eligible_rows.samples(policy, settings, SAMPLED, moment)
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise SettingsError(
                f"Counting what is due takes longer than {variable('statement_timeout_ms')} allows, "
                f"{settings.statement_timeout_ms:,} ms; give it more for this command."
            ) from error
        raise
    console = Console(highlight=False, markup=False, soft_wrap=True)
    example = ", for example:" if samples else "."
    is_due = quantity(found, "row is", "rows are")
    console.print(f"{policy.name}: {is_due} due at {timestamp(moment)} UTC{example}")
    for sample in samples:
        console.print(f"  {sample}")
    console.print("Nothing was changed.")


def _run(
    policy: Sweep, settings: Settings, moment: datetime | None, watch: Callable[["SweepProgress"], None]
) -> "SweepProgress | None":
    """Run it; what keeps retention from running is a sentence."""
    from tasks.retention import task as retention
    from tasks.sweeps import task as cleanup

    if not isinstance(policy, Retention):
        return cleanup.run(policy, settings, now=moment, by_hand=True, watch=watch)
    try:
        with quiet():
            return retention.run(
                policy, settings, now=moment, by_hand=True, operator=arguments.myself(), watch=watch
            )
    except (ApprovalRequired, UnknownReferenceError) as reason:
        raise SettingsError(f"{reason}.") from reason
    except StoreError as error:
        raise SettingsError(f"{str(error).rstrip('.')}.") from error


def _sweep(policy: Sweep, settings: Settings, moment: datetime | None) -> None:
    began = monotonic()
    so_far = 0
    with progress.watching(policy.name) as show:

        def watch(done: "SweepProgress") -> None:
            nonlocal so_far
            so_far = done.rows
            show(f"{policy.name}: {_so_far(done)}", done.page, done.pages or None)

        try:
            done = _run(policy, settings, moment, watch)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False).print(
                f"{policy.name}: broken off; {quantity(so_far, 'row')} {_what(policy)}."
            )
            raise typer.Exit(130) from None
    if done is None:
        raise SettingsError(_under_way(policy.name))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    rows, batches = quantity(done.rows, "row"), quantity(done.batches, "batch", "batches")
    console.print(f"{policy.name}: {rows} {_what(policy)} in {batches}, {monotonic() - began:.1f} s.")
    if done.remaining:
        is_due = quantity(done.remaining, "row is", "rows are")
        why = f"the database says {done.error}" if done.error else "locked or changed by another session"
        console.print(f"{is_due} due still: {why}.")
    if isinstance(policy, Retention):
        if done.rows:
            console.print(f"What went, and where it is archived: roomkeeper retention receipts {policy.name}")
        if done.more:
            console.print(
                f"There is more than it may take at once: roomkeeper retention preview {policy.name}"
            )
    elif done.more:
        console.print("There is more: its time was over. Run it again.")


def _under_way(name: str) -> str:
    return f"Another run of {name} is under way: nothing was done here; see: roomkeeper policies"


def _so_far(done: "SweepProgress") -> str:
    pages = f", page {done.page:,} of {done.pages:,}" if done.pages else ""
    return f"{quantity(done.rows, 'row')}{pages}"


def _what(policy: Sweep) -> str:
    return "deleted" if isinstance(policy.action, Delete) else "changed"
