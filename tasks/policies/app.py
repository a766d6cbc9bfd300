"""An application's definition: records that the job families' code reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any, Protocol

from sqlalchemy import Column as TableColumn
from sqlalchemy import ColumnElement, Table, literal
from sqlalchemy.orm import InstrumentedAttribute

from models.base import Base
from tasks.attachments.policy import Rules
from tasks.policies.columns import Column, Model, names_of, parts_of, table_of
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
class Mirror:
    """The columns in which an application's own API sees how an attachment fares; None where it has none.

    Attributes:
        status: 'pending', 'processing', 'completed' (served) or 'failed' (not served).
        error: why it failed or still waits, `reason: detail`.
        scanned: whether a verdict was reached.
        verdict: 'clean', 'infected' or 'suspicious'.
        details: JSON text of the scan: engine, signatures, hash.
        metadata: JSON text that others write too: our keys are merged in.
        media_type: corrected where the content says otherwise and the policy allows it.
        url, small_url, large_url: set by a clean verdict only, taken away when work begins.
        small_key: the small picture's key in the store, for an application that keeps keys, not URLs.
        updated_at: set with every change, where no trigger does it.
    """

    status: Column | None = None
    error: Column | None = None
    scanned: Column | None = None
    verdict: Column | None = None
    details: Column | None = None
    metadata: Column | None = None
    media_type: Column | None = None
    url: Column | None = None
    small_url: Column | None = None
    large_url: Column | None = None
    small_key: Column | None = None
    updated_at: Column | None = None

    def columns(self) -> set[str]:
        """Return the names of the table's columns that are written."""
        return names_of(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttachmentTable:
    """A table of attachments, fed to `attachments.process`.

    Attributes:
        model: the table.
        why: the rule in a sentence, with the document it comes from.
        key: the object's key in its store.
        provider: the store's name; None for an application that only has the local one.
        name: the file name as uploaded.
        media_type: the type as declared by the uploader.
        size: bytes, as declared.
        encrypted: whether the bytes are end-to-end encrypted; None for never.
        sha256: the stored bytes' SHA-256 in hexadecimal, as declared; None where no column has it.
        live: the rows worth working on.
        unprocessed: among the live, those the application believes unprocessed; the recovery job looks
            for them, and an index should serve it. None where the table has no such state: the recovery job
            then walks through all rows, a stretch at each turn.
        created_at: when the row was inserted.
        downloads: how often the file was downloaded; None where nobody counts.
        rules: what this application takes beyond the platform's own policy; None for all that it allows.
        mirror: where the application sees the outcome.
    """

    model: Model
    why: str
    id: Column
    key: Column
    provider: Column | None
    name: Column
    media_type: Column
    size: Column
    encrypted: Column | None
    sha256: Column | None
    live: ColumnElement[bool]
    unprocessed: ColumnElement[bool] | None
    created_at: Column
    downloads: Column | None = None
    rules: Rules | None = None
    mirror: Mirror

    task = "attachments.process"

    def store_name(self) -> "ColumnElement[Any] | Column":
        """Return the name of the store that a row uses."""
        return self.provider if self.provider is not None else literal("local")

    @property
    def models(self) -> tuple[Model, ...]:
        """The table."""
        return (self.model,)

    def needs(self) -> list[Need]:
        """Return what the job needs of the database."""
        named = (getattr(self, field.name) for field in fields(self))
        read = names_of(value for value in named if isinstance(value, InstrumentedAttribute))
        # Conditions name columns too.
        for condition in filter(lambda given: given is not None, (self.live, self.unprocessed)):
            read |= {part.name for part in parts_of(condition) if isinstance(part, TableColumn)}
        return [
            Need(
                table=table_of(self.model),
                columns=frozenset(read | self.mirror.columns()),
                privileges=frozenset({"SELECT", "UPDATE"}),
            )
        ]


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
        rollups: its figures.
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

    def jobs(self) -> list[Job]:
        """Return the tables that jobs use, and what for."""
        named: tuple[Job | None, ...] = (self.attachments, self.delivery)
        return [*(job for job in named if job), *self.policies, *self.rollups]
