"""An application's definition: records that the job families' code reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from sqlalchemy import Column as TableColumn
from sqlalchemy import Table

from models.base import Base
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import Model
from tasks.policies.naive import app_of_default
from tasks.policies.retention import Retention
from tasks.policies.rollup import Rollup
from tasks.policies.status import ReadMarks, ReadPointers, StatusRows
from tasks.policies.sweep import PolicyError, Sweep
from workers.inspection import Need


class Job(Protocol):
    """What a definition says of one job: the tables that it is fed from, and what it needs of them."""

    def __hash__(self) -> int:
        """It is a key: each is one record, made at import."""

    @property
    def task(self) -> str:
        """The task's name."""

    @property
    def why(self) -> str:
        """The rule in a sentence, with the document it comes from."""

    @property
    def models(self) -> tuple[Model, ...]:
        """The tables that it feeds on; those that it only looks into are not among them."""

    def needs(self) -> list[Need]:
        """Return what the job needs of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One application: which of its tables feed which job, and why no job touches the others.

    Attributes:
        name: as in settings, payloads and commands.
        about: what it is, in a phrase.
        document: the document that its rules come from.
        models: its module of models.
        attachments: its table of attachments, if it has one.
        delivery: how it keeps the statuses of messages, if it does.
        cleanup: its policies for what is ephemeral.
        retention: its policies for what has had its time.
        rollups: its statistics.
        entities: whom or what a legal hold may be placed on: 'user', 'conversation', 'room', each with the
            table of those; None where that is not one of the application's.
        untouched: the tables that no job touches, each with the reason.
    """

    name: str
    about: str
    document: str
    models: ModuleType
    attachments: AttachmentTable | None = None
    delivery: StatusRows | ReadMarks | ReadPointers | None = None
    cleanup: tuple[Sweep, ...] = ()
    retention: tuple[Retention, ...] = ()
    rollups: tuple[Rollup, ...] = ()
    entities: Mapping[str, Model | None] = field(default_factory=dict)
    untouched: Mapping[Model, str]

    def __post_init__(self) -> None:
        """Refuse policies that are not this application's, and names that are used twice."""
        names = [*(policy.name for policy in self.policies), *(rollup.name for rollup in self.rollups)]
        for name in names:
            if not name.startswith(f"{self.name}."):
                raise PolicyError(
                    f"{name}: it is in the definition of {self.name}; call it {self.name}.something."
                )
            if names.count(name) > 1:
                raise PolicyError(f"{name}: this name is used twice; call one of them something else.")

    @property
    def policies(self) -> tuple[Sweep, ...]:
        """All its policies."""
        return (*self.cleanup, *self.retention)

    def tables(self) -> list[Table]:
        """Return all tables of the application, in the order of their definition."""
        return [table for table in Base.metadata.tables.values() if table.schema in self.models.SCHEMAS]

    def naive_columns(self) -> list[TableColumn[Any]]:
        """Return the columns without a time zone whose default is the moment (`tasks/policies/naive.py`)."""
        return [
            column
            for table in self.tables()
            for column in table.columns
            if app_of_default(column) is not None
        ]

    def jobs(self) -> list[Job]:
        """Return the tables that jobs use, and what for."""
        named: tuple[Job | None, ...] = (self.attachments, self.delivery)
        return [*(job for job in named if job), *self.policies, *self.rollups]
