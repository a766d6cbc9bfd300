"""Which applications' jobs run: of the enabled ones, those whose tables are as their jobs need them.

An application that lacks a table, a column or a right is switched off, and no other: its attachments are
left to the recovery job, its statuses wait in the inbox, its runs are noted as failed with the reason. Each
process judges for itself, at its first task and again every `RECHECK_SECONDS`: so there is no state to keep
in step, an application comes back without an operator, and a program with other rights judges by its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from time import monotonic

import structlog
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedColumn, UndefinedTable
from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from models.base import Base
from models.platform import SCHEMA
from tasks.apps import enabled, policies, rollups
from tasks.policies.app import App, Job
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Sweep
from workers import job_history
from workers.db import transaction
from workers.inspection import Fault, Need, inspect_schemas
from workers.settings import Settings

#: How long a judgement holds, and how long at least: a task that meets what is missing has it made anew.
RECHECK_SECONDS, LEAST_SECONDS = 30.0, 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Faults:
    """What the database lacks.

    Attributes:
        platform: of what all need: the database itself, and the platform's own schema.
        applications: of each enabled application that lacks something.
    """

    platform: list[Fault]
    applications: dict[str, list[Fault]]

    def all(self) -> list[Fault]:
        """Return them all, each once."""
        return list(dict.fromkeys([*self.platform, *chain.from_iterable(self.applications.values())]))


def find_faults(connection: Connection, settings: Settings) -> Faults:
    """Compare the database with what the jobs that run need."""
    applications = {name: _needs(app.jobs(), settings) for name, app in enabled(settings).items()}
    app_needs = chain.from_iterable(applications.values())
    found = inspect_schemas(connection, [*_own_tables(), *app_needs], settings.schemas)
    shared = {"", SCHEMA}
    return Faults(
        platform=_of(found, shared),
        applications={
            name: faults
            for name, needs in applications.items()
            if (faults := _of(found, {str(need.table.schema) for need in needs} - shared))
        },
    )


def tables(settings: Settings) -> list[Table]:
    """Return the tables of the enabled applications, and the platform's own."""
    schemas = {SCHEMA, *(schema for app in enabled(settings).values() for schema in app.models.SCHEMAS)}
    return [table for table in Base.metadata.tables.values() if table.schema in schemas]


def _own_tables() -> list[Need]:
    return [
        Need(
            table,
            frozenset(column.name for column in table.columns),
            frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
        )
        for table in Base.metadata.tables.values()
        if table.schema == SCHEMA
    ]


def _needs(jobs: Iterable[Job], settings: Settings) -> list[Need]:
    running = {*policies(settings), *rollups(settings)}
    return [
        need
        for job in jobs
        # The right to delete is asked for where something is to be deleted.
        if not isinstance(job, Sweep | Rollup) or job.name in running
        for need in _needs_of(job)
    ]


@cache
def _needs_of(job: Job) -> list[Need]:
    # A walk through all of its statements, and always the same.
    return job.needs()


def _of(found: Mapping[str, list[Fault]], schemas: Iterable[str]) -> list[Fault]:
    return list(dict.fromkeys(fault for schema in sorted(schemas) for fault in found.get(schema, ())))


# -- as this process sees it -----------------------------------------------------------------------------


@dataclass(slots=True)
class _View:
    settings: Settings
    available: dict[str, App]
    disabled: dict[str, list[Fault]]
    judged_at: float
    holds_until: float


_view: _View | None = None


def available(settings: Settings) -> dict[str, App]:
    """Return the applications whose jobs run, by name: those that are enabled and not switched off."""
    return _current(settings).available


def disabled(settings: Settings) -> dict[str, list[Fault]]:
    """Return the enabled applications that are switched off, each with what it lacks."""
    return _current(settings).disabled


def skipped(job: str, settings: Settings, slot: datetime | None = None) -> bool:
    """Return whether a policy or rollup is not to run, for its application is switched off.

    The job history then says so: a failed run, with what is missing.
    """
    app = job.partition(".")[0]
    faults = disabled(settings).get(app)
    if faults is None:
        return False
    with job_history.run(job, slot=slot) as entry:
        if entry is not None:
            entry.outcome, entry.error = "failed", f"{app} is switched off: {faults[0].sentence}"
    return True


def forget() -> None:
    """Judge anew at the next question."""
    global _view
    _view = None


def _current(settings: Settings) -> _View:
    global _view
    now = monotonic()
    view = _view if _view is not None and _view.settings == settings else None
    if view is not None and now < view.holds_until:
        return view
    try:
        with transaction() as connection:
            missing = find_faults(connection, settings).applications
        holds = RECHECK_SECONDS
    except DBAPIError:
        # The task that asks meets the same in a moment, and is tried again.
        missing, holds = view.disabled if view is not None else {}, LEAST_SECONDS
    _report_changes(view.disabled if view is not None else {}, missing)
    apps = {name: app for name, app in enabled(settings).items() if name not in missing}
    _view = _View(settings, apps, missing, now, now + holds)
    return _view


def _report_changes(before: Mapping[str, list[Fault]], after: Mapping[str, list[Fault]]) -> None:
    for app, faults in after.items():
        if before.get(app) != faults:
            report(app, faults)
    for app in before.keys() - after.keys():
        log.warning("application.switched_on", app=app)


def report(app: str, faults: Iterable[Fault]) -> None:
    """Log that an application is switched off, and what to do about it."""
    lacks = [{"fault": fault.sentence, "advice": fault.advice} for fault in faults]
    log.error("application.switched_off", app=app, lacks=lacks)


@event.listens_for(Engine, "handle_error")
def _met(context: ExceptionContext) -> None:
    """Judge anew soon where a statement meets what a job lacks."""
    missing = (UndefinedTable, UndefinedColumn, InvalidSchemaName, InsufficientPrivilege)
    if _view is not None and isinstance(context.original_exception, missing):
        _view.holds_until = min(_view.holds_until, _view.judged_at + LEAST_SECONDS)
