"""A sixth application gets the tests of the contract, and the contract notices what is wrong with one."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models.base import Aware, AwareNow, Base, DefaultFalse, GeneratedId, TextStr
from tasks.policies.retention import Cascade, Restrict, Retention, SetValues
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep, Update
from tests.contract.contract import (
    check_complete,
    check_indexed,
    retention_keeps_contract,
    sweep_keeps_contract,
)
from tests.contract.example import NEW, Example, changes, goes, refers
from tests.contract.examples import example_of
from tests.platform import Platform


@pytest.fixture(scope="module")
def sixth() -> Iterator[Any]:
    """The models of an application `notes`; its tables are known for as long as these tests run."""

    class Notes(DeclarativeBase):
        metadata = Base.metadata

    class Author(Notes):
        __tablename__ = "author"
        __table_args__ = ({"schema": "notes"},)
        id: Mapped[GeneratedId]
        name: Mapped[TextStr]

    class Note(Notes):
        __tablename__ = "note"
        __table_args__ = (
            Index("note_created", "created_at"),
            Index("note_shown", "shown_until"),
            {"schema": "notes"},
        )
        id: Mapped[GeneratedId]
        author_id: Mapped[UUID | None] = mapped_column(ForeignKey(Author.id))
        created_at: Mapped[AwareNow | None]
        shown_until: Mapped[Aware | None]
        pinned: Mapped[DefaultFalse | None]
        answers: Mapped[UUID | None] = mapped_column(ForeignKey("notes.note.id", ondelete="SET NULL"))

    class Tag(Notes):
        __tablename__ = "tag"
        __table_args__ = ({"schema": "notes"},)
        id: Mapped[GeneratedId]
        note_id: Mapped[UUID] = mapped_column(ForeignKey(Note.id, ondelete="CASCADE"))

    class Link(Notes):
        __tablename__ = "link"
        __table_args__ = ({"schema": "notes"},)
        id: Mapped[GeneratedId]
        note_id: Mapped[UUID] = mapped_column(ForeignKey(Note.id, ondelete="CASCADE"))

    yield SimpleNamespace(Author=Author, Note=Note, Tag=Tag, Link=Link)
    for table in [one for one in Base.metadata.sorted_tables if one.schema == "notes"]:
        Base.metadata.remove(table)


def sweep(sixth: Any, **other: Any) -> Sweep:
    note = sixth.Note
    given: dict[str, Any] = {
        "name": "notes.pins",
        "model": note,
        "rule": "notes past shown_until are pinned no more",
        "why": "A made-up rule for tests.",
        "due": (note.shown_until < NOW) & note.pinned.is_(True),
        "action": Update({note.pinned: False}),
        "every": timedelta(minutes=1),
    }
    return Sweep(**given | other)


def retention(sixth: Any, **other: Any) -> Retention:
    note = sixth.Note
    given: dict[str, Any] = {
        "name": "notes.notes",
        "model": note,
        "rule": "notes older than {after} go with their tags",
        "why": "A made-up rule for tests.",
        "age": note.created_at,
        "where": note.pinned.is_not(True),
        "refers": (
            Cascade(sixth.Tag.note_id, "CASCADE: nothing without its note"),
            SetValues(note.answers, "SET NULL: an answer stays"),
            Restrict(sixth.Link.note_id, "CASCADE: what is linked is kept"),
        ),
        "owners": {note: {"user": (note.author_id,)}, sixth.Tag: {}},
    }
    return Retention(**given | other)


def of_the_sweep(sixth: Any) -> Example:
    note = sixth.Note
    return Example(
        policy="notes.pins",
        row={note.shown_until: datetime.fromisoformat("2025-01-01T00:00Z"), note.pinned: True},
        limits=(note.shown_until,),
        null_stays=(note.shown_until, note.pinned),
        stays=({note.pinned: False},),
        becomes={note.pinned: False},
    )


def of_the_retention(sixth: Any) -> Example:
    note = sixth.Note
    return Example(
        policy="notes.notes",
        row={note.author_id: NEW},
        limits=(note.created_at,),
        null_due=(note.author_id, note.pinned),
        null_stays=(note.created_at,),
        stays=({note.pinned: True},),
        related=(goes(sixth.Tag.note_id), changes(note.answers, values={note.pinned: True})),
        protected_by=(refers(sixth.Link.note_id),),
        held={"user": (note.author_id,)},
    )


@pytest.fixture
def notes(platform: Platform, sixth: Any) -> Iterator[Any]:
    """The tables of `notes` in the database."""
    tables = [one for one in Base.metadata.sorted_tables if one.schema == "notes"]
    platform.sql("CREATE SCHEMA notes")
    Base.metadata.create_all(platform.engine, tables)
    yield sixth
    platform.sql("DROP SCHEMA notes CASCADE")


def emptied(platform: Platform) -> None:
    platform.sql(
        "TRUNCATE notes.author, notes.note, notes.tag, notes.link, roomkeeper.holds,"
        " roomkeeper.approvals, roomkeeper.sweep_checkpoints"
    )


def test_a_sixth_application_is_tested_by_its_examples(platform: Platform, notes: Any) -> None:
    check_indexed(sweep(notes))
    check_complete(sweep(notes), of_the_sweep(notes))
    sweep_keeps_contract(platform, sweep(notes), of_the_sweep(notes))
    emptied(platform)
    check_indexed(retention(notes))
    check_complete(retention(notes), of_the_retention(notes))
    retention_keeps_contract(platform, retention(notes), of_the_retention(notes))


def test_a_wrong_sweep_is_noticed(platform: Platform, notes: Any) -> None:
    note = notes.Note
    past = note.shown_until < NOW
    wrong_sweeps: tuple[tuple[str, dict[str, Any]], ...] = (
        (
            "must stay has pinned = False.*shown_until = 2026-03-01 12:00",
            {"due": (note.shown_until <= NOW) & note.pinned.is_(True)},
        ),
        (
            "is due has pinned = True.*11:59:59.999999",
            {"due": (note.shown_until < NOW - timedelta(seconds=1)) & note.pinned.is_(True)},
        ),
        ("must stay has pinned = False.*pinned = None", {"due": past & note.pinned.is_not(False)}),
        (
            "must stay has pinned = False.*shown_until = None",
            {
                "due": (past | note.shown_until.is_(None)) & note.pinned.is_(True),
                "full_pass_every": timedelta(minutes=1),
            },
        ),
        ("a row that is due is gone", {"action": Delete()}),
        ("is due has shown_until = None", {"action": Update({note.pinned: False, note.shown_until: None})}),
        ("must stay has pinned = False.*pinned = None", {"due": past}),
    )
    for says, values in wrong_sweeps:
        with pytest.raises(AssertionError, match=says):
            sweep_keeps_contract(platform, sweep(notes, **values), of_the_sweep(notes))
        emptied(platform)


def test_a_wrong_retention_policy_is_noticed(platform: Platform, notes: Any) -> None:
    note = notes.Note
    tags, answers, _ = retention(notes).refers
    owners = {note: {"user": (note.author_id,)}, notes.Tag: {}, notes.Link: {}}
    wrong: tuple[dict[str, Any], ...] = (
        {"where": None},
        {"where": note.pinned.is_(False)},
        {"owners": {note: {}, notes.Tag: {}}},
        {"cutoff": NOW - AFTER + timedelta(microseconds=1)},
        {"refers": (tags, answers, Cascade(notes.Link.note_id, "CASCADE: wrong"))},
    )
    for values in wrong:
        with pytest.raises(AssertionError, match=r"notes\.notes: its preview counts"):
            retention_keeps_contract(
                platform, retention(notes, **{"owners": owners} | values), of_the_retention(notes)
            )
        emptied(platform)


def test_an_example_that_is_not_complete_is_noticed(sixth: Any) -> None:
    note, whole = sixth.Note, of_the_retention(sixth)
    for lacking, says in (
        (replace(whole, limits=()), "limits"),
        (replace(whole, null_due=(note.author_id,)), "NULL in note.pinned"),
        (replace(whole, related=whole.related[1:]), "tag.note_id|Tag.note_id"),
        (replace(whole, related=whole.related[:1]), "Note.answers"),
        (replace(whole, protected_by=()), "Link.note_id"),
        (replace(whole, held={}), "Note.author_id in held"),
    ):
        with pytest.raises(AssertionError, match=says):
            check_complete(retention(sixth), lacking)


def test_a_policy_without_an_index_is_noticed(sixth: Any) -> None:
    with pytest.raises(AssertionError, match=r"no index of notes\.note serves `due`"):
        check_indexed(sweep(sixth, due=sixth.Note.pinned.is_(True)))


def test_a_policy_without_an_example_is_noticed() -> None:
    with pytest.raises(AssertionError, match="has no Example: write one in tests/contract/notes"):
        example_of("notes.notes")
