"""What a definition says of attachments: their table, where the application sees the outcome, its rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Column as TableColumn
from sqlalchemy import ColumnElement, literal
from sqlalchemy.orm import InstrumentedAttribute

from tasks.policies.columns import Column, Model, names_of, parts_of, table_of
from tasks.policies.media_types import normal
from tasks.policies.traits import ACTIONS, TRAIT, Action
from workers.inspection import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one application wants otherwise; part of its definition.

    Attributes:
        allow: the only media types that are accepted, `image/*` for all that begin so; None for any.
        refuse: media types that are not, whatever `allow` says.
        actions: what is done with a trait where its record says otherwise: 'accept', 'refuse', 'suspicious'.
    """

    allow: tuple[str, ...] | None = None
    refuse: tuple[str, ...] = ()
    actions: Mapping[str, Action] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pattern in (*(self.allow or ()), *self.refuse):
            if normal(pattern) != pattern or "/" not in pattern:
                raise ValueError(f"{pattern!r} is not a media type in its common spelling")
        for name, action in self.actions.items():
            if name not in TRAIT or action not in ACTIONS:
                raise ValueError(f"{name}: {action} is not a trait and what is done with it")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppColumns:
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
        downloads: how often the file was downloaded; None where downloads are not counted.
        rules: what this application takes beyond the platform's own policy; None for all that it allows.
        app_columns: where the application sees the outcome.
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
    app_columns: AppColumns

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
                columns=frozenset(read | self.app_columns.columns()),
                privileges=frozenset({"SELECT", "UPDATE"}),
            )
        ]
