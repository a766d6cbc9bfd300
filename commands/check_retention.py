"""What must hold before retention may delete: periods that fit each other, and a place for archives."""

import os
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from commands.checks import can_be_made, works
from commands.formatting import duration, first_names, quantity, timestamp
from commands.policies import how_to_set
from models import pern
from models.platform import PendingDeletion
from tasks.analytics.rollup_guard import counting
from tasks.apps import POLICIES, after, attachments_of, policies, rollups
from tasks.apps.pern import MALFORMED_LIMIT
from tasks.attachments.tables import CannotAskError, askable
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Sweep
from tasks.retention.cascade import files_of
from tasks.retention.pending_deletions import BATCH
from tasks.sweeps.index_check import unindexed
from workers.db import engine_for
from workers.inspection import Fault
from workers.settings import Settings, variable
from workers.storage import BucketMissing, StoreError
from workers.storage.archives import archive_for
from workers.storage.local import LocalStore

#: Of the audit trail this is kept longest.
_SECURITY, _AUDIT = "pern.audit_security", "pern.audit_"
#: Conversations whose limit is wrong are counted so far, for so long.
_COUNTED, _COUNT_MS = 1_000, 2_000
#: Objects of deleted rows that wait for longer are reported.
LONG_PENDING = timedelta(hours=1)
_DAY = timedelta(days=1)


def faults(settings: Settings) -> list[Fault]:
    """Return what must not be so while retention runs, and as warnings what may be meant so."""
    running = {name: policy for name, policy in policies(settings).items() if isinstance(policy, Retention)}
    return [
        *_archives(running, settings),
        *_rollups(settings),
        *_follows(running, settings),
        *_files(running, settings),
        *_security(running, settings),
        *_waits_for_ever(settings),
        *_malformed_limits(settings),
        *_pending_deletions(settings),
        *_keys_without_index(running, settings),
    ]


def _archives(running: dict[str, Retention], settings: Settings) -> Iterator[Fault]:
    root, bucket = settings.archive_root, settings.archive_bucket
    wanted = [name for name, policy in running.items() if policy.archive and name not in settings.archive_off]
    if root is None and bucket is None:
        if wanted:
            verb = "archives its rows before they go" if len(wanted) == 1 else "archive rows before they go"
            yield Fault(
                f"{first_names(wanted)} {verb}, and there is no place for archives: nothing is deleted.",
                f"Set {variable('archive_root')} or {variable('archive_bucket')}; or name what may go "
                f"without in {variable('archive_off')}, and what must not go in {variable('sweep_off')}.",
            )
        return
    name = variable("archive_bucket" if root is None else "archive_root")
    if root is not None and root.resolve().is_relative_to(settings.storage_root.resolve()):
        yield Fault(
            f"The archives in {root} lie in the store, whose files are served.",
            f"Name a place outside of {settings.storage_root} in {name}.",
        )
    elif root is not None and os.path.isdir(root):  # noqa: PTH112 - pathlib raises where one may not look
        yield from works("archive", LocalStore(root, root, ""), "archive_root")
    elif root is not None:
        yield from can_be_made("archive", root, "archive_root")
    else:
        yield from _bucket(settings, name)


def _bucket(settings: Settings, name: str) -> Iterator[Fault]:
    try:
        store = archive_for(settings)
        assert store is not None
        store.probe()
    except BucketMissing as error:
        yield Fault(f"The archive does not work: {error}.", f"Make it, or name another in {name}.")
    except StoreError as error:
        yield Fault(
            f"The archive does not work: {error}.",
            f"Give the access key the rights to list, read, write and delete in it, or set "
            f"{variable('s3_endpoint')}, {variable('s3_access_key')}, {name}.",
        )


def _rollups(settings: Settings) -> Iterator[Fault]:
    """Find policies that freeze statistics before what came late is counted."""
    on = rollups(settings)
    for name, policy in policies(settings).items():
        period = after(policy, settings)
        needed = {rollup.name: _window(rollup) for rollup in counting(policy) if rollup.name in on}
        short = [rollup for rollup, window in needed.items() if period is not None and period < window]
        if period is not None and short:
            longest = max(needed.values())
            yield Fault(
                f"{name} deletes after {duration(period)} what the statistics need for {duration(longest)} "
                f"({first_names(short)}).",
                f"Give it {duration(longest)} at least: {_setting(policy, longest)}",
            )


def _setting(policy: Sweep, period: timedelta) -> str:
    """Return the setting by which a policy has a period of whole days."""
    if isinstance(policy, Retention):
        return f"{variable('retention_days')}={policy.name}={period.days}"
    return f"{variable('sweep_after')}={policy.name}={period // timedelta(seconds=1)}"


def _window(rollup: Rollup) -> timedelta:
    """Return how old a row may be when its statistics are computed the last time, in whole days."""
    return -(-(rollup.grace + (rollup.recompute_for or timedelta(0))) // _DAY) * _DAY


def _follows(running: dict[str, Retention], settings: Settings) -> Iterator[Fault]:
    """Find policies that are to take rows before those that keep them alive have had their time."""
    for name, policy in running.items():
        period = after(policy, settings)
        for other in policy.follows:
            awaited = after(POLICIES[other], settings) if other in running else None
            if period is not None and awaited is not None and period < awaited:
                yield _contradiction(
                    f"{name} is to delete after {duration(period)} what waits for {other}, which takes "
                    f"{duration(awaited)}.",
                    name,
                    at_least=awaited,
                )


def _files(running: dict[str, Retention], settings: Settings) -> Iterator[Fault]:
    """Find files that would go with their message before their own time.

    The other way round is no contradiction: a file that was deleted may be gone before its message is, and
    one that was not goes with its message.
    """
    for name, policy in running.items():
        grace = after(policy, settings)
        attachments = attachments_of(policy.app)
        if grace is None or attachments is None or policy.table is not table_of(attachments.model):
            continue
        for other, taking in running.items():
            period = after(taking, settings)
            along = taking.table is not policy.table and policy.table in taking.tables()
            if along and taking.app == policy.app and period is not None and period < grace:
                yield _contradiction(
                    f"{name} keeps deleted files for {duration(grace)}, and {other} takes them along with "
                    f"their messages after {duration(period)}.",
                    other,
                    at_least=grace,
                )


def _security(running: dict[str, Retention], settings: Settings) -> Iterator[Fault]:
    security = running.get(_SECURITY)
    kept = after(security, settings) if security is not None else None
    if kept is None:
        # For ever.
        return
    for name, policy in running.items():
        period = after(policy, settings)
        if name.startswith(_AUDIT) and period is not None and period > kept:
            yield _contradiction(
                f"{_SECURITY} is deleted after {duration(kept)}, before {name}, which is kept for "
                f"{duration(period)}: security is to be kept longest.",
                _SECURITY,
                at_least=period,
            )


def _contradiction(sentence: str, name: str, at_least: timedelta) -> Fault:
    days = at_least / timedelta(days=1)
    return Fault(
        sentence,
        f"Give it as long at least: {variable('retention_days')}={name}={days:g}; or the other less.",
    )


def _waits_for_ever(settings: Settings) -> Iterator[Fault]:
    running = policies(settings)
    for name, policy in running.items():
        for other in policy.follows if isinstance(policy, Retention) else ():
            if other not in running:
                how = (
                    f"take it out of {variable('sweep_off')}"
                    if other in settings.sweep_off
                    else how_to_set(POLICIES[other], settings)
                )
                yield Fault(
                    f"{name} never takes what {other} would have to take first, which is off.",
                    f"If that is not meant so: {how}",
                    warning=True,
                )


def _malformed_limits(settings: Settings) -> Iterator[Fault]:
    """Find conversations whose own limit is ignored: an application should not have let it in."""
    if "pern" not in settings.apps:
        return
    key = pern.Conversation.id
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            connection.exec_driver_sql("SELECT set_config('statement_timeout', %s, true)", (str(_COUNT_MS),))
            wrong = connection.scalars(select(key).where(MALFORMED_LIMIT).limit(_COUNTED + 1)).all()
    except DBAPIError:
        # Too many to be looked through in a moment; or the database is not as it should be, which is told.
        return
    if wrong:
        number = f"{_COUNTED:,}+" if len(wrong) > _COUNTED else f"{len(wrong):,}"
        conversations = "conversation has" if len(wrong) == 1 else "conversations have"
        yield Fault(
            f"{number} {conversations} a message_retention_days that is not a whole number of days: it is "
            f"ignored ({first_names([str(one) for one in wrong])}).",
            "Mend it in pern.conversations.settings, and whatever writes it there.",
            warning=True,
        )


def _pending_deletions(settings: Settings) -> Iterator[Fault]:
    """Find objects that should have been deleted long ago, with their rows."""
    old = PendingDeletion.created_at < func.now() - LONG_PENDING
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            found = connection.execute(
                select(
                    PendingDeletion.store,
                    func.count().label("files"),
                    func.min(PendingDeletion.created_at).label("since"),
                    func.max(PendingDeletion.error).label("error"),
                )
                .where(old)
                .group_by(PendingDeletion.store)
                .order_by(PendingDeletion.store)
            ).all()
    except DBAPIError:
        # The database is not as it should be, which is told.
        return
    for row in found:
        files = quantity(row.files, "file")
        yield Fault(
            f"The objects of {files} wait in {row.store} to be deleted, though their rows were deleted at "
            f"{timestamp(row.since)} UTC: {row.error or 'nothing has tried yet'}.",
            "See: roomkeeper retention pending. Beat and a maintenance worker must run, and the store must "
            "let its objects be deleted.",
            warning=True,
        )


def _keys_without_index(running: dict[str, Retention], settings: Settings) -> Iterator[Fault]:
    """Find columns that are searched for the keys of objects before these are deleted."""
    if not any(files_of(policy) for policy in running.values()):
        return
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            tables = askable(connection, settings).values()
            columns = [
                column.property.columns[0]
                for table in tables
                for column in (table.key, table.app_columns.small_key)
                if column is not None
            ]
            found = [*unindexed(connection, columns, settings.schemas)]
    except (DBAPIError, CannotAskError):
        # The database is not as it should be, which is reported; or its objects wait, which is too.
        return
    for name, advice in found:
        yield Fault(
            f"{name} has no index: it is read as a whole for each {BATCH} files whose objects retention "
            "deletes.",
            advice,
            warning=True,
        )
