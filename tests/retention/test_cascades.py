"""No retention policy reaches a row that it does not name: told from the catalogue, and shown on a database.

The catalogue (`tests/data/catalog.json`) has the foreign keys as PostgreSQL prints them; what a page says of
them is compared key by key, down every cascade. Then every policy of every application runs over one
connected world, in which all but a few rows are young.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Enum,
    Numeric,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB

from models import audiorooms, connect, echoroom, openchat, pern
from models.base import Base
from models.platform import AttachmentEvent, AttachmentJob, DeadLetter, ScanVerdict
from tasks.apps import APPS, POLICIES
from tasks.policies.columns import model_of, table_of
from tasks.policies.retention import Cascade, Reference, Restrict, Retention, SetValues, referred
from tasks.policies.sweep import Delete, Update
from tests.platform import Platform
from tests.retention.proving import add_hold
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import NOW, ago, naive

CATALOGUE: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "catalog.json").read_text()
)
RETENTION = {name: policy for name, policy in POLICIES.items() if isinstance(policy, Retention)}
each_policy = pytest.mark.parametrize("policy", RETENTION.values(), ids=list(RETENTION))


# -- by the catalogue -------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A foreign key of one column."""

    table: str
    column: str
    to: str
    on_delete: str


_KEY = re.compile(
    r'FOREIGN KEY \((?P<columns>.+?)\) REFERENCES (?P<to>[\w."]+)\(.+?\)'
    r"(?: ON UPDATE (?:CASCADE|RESTRICT|SET NULL))?(?: ON DELETE (?P<action>CASCADE|RESTRICT|SET NULL))?$"
)


def _foreign_keys() -> list[Key]:
    found = []
    for table, entry in CATALOGUE.items():
        for constraint in entry.get("constraints", ()):
            if constraint.startswith("FOREIGN KEY"):
                parts = _KEY.fullmatch(constraint)
                assert parts is not None, constraint
                assert "," not in parts["columns"]
                to = parts["to"].replace('"', "")
                found.append(Key(table, parts["columns"], to, parts["action"] or "NO ACTION"))
    return found


KEYS = _foreign_keys()


def key_of(one: Reference) -> Key | None:
    """Return the foreign key that a page speaks of; None where there is none."""
    column = one.by.property.columns[0]
    found = [key for key in KEYS if (key.table, key.column) == (column.table.fullname, column.name)]
    return found[0] if found else None


def faults(policy: Retention) -> Iterator[str]:
    """Yield what is wrong with what a policy says of the rows that it would reach."""
    deletes = isinstance(policy.action, Delete)
    yield from _level(policy.table.fullname, policy.refers, deletes)
    others = {
        other.table.fullname
        for other in RETENTION.values()
        if isinstance(other.action, Delete) and other.table is not policy.table
    }
    # A file goes with what it is attached to, whatever it says of itself.
    files = {table_of(app.attachments.model).fullname for app in APPS.values() if app.attachments}
    for path in policy.family():
        table = path[-1].by.property.columns[0].table.fullname
        if table in others - files:
            yield f"{table} has a period of its own, and goes along"
    if deletes:
        named = {table.fullname for table in policy.tables()}
        for table in _cascade(policy.table.fullname, policy.refers):
            if table not in named:
                yield f"{table} is reached by a cascade"


def _level(table: str, refers: Sequence[Reference], deletes: bool) -> Iterator[str]:
    """Yield what is wrong with what is said of the keys that lead to `table` and to what goes with it."""
    named = [(one.by.property.columns[0].table.fullname, one.by.property.columns[0].name) for one in refers]
    for other in KEYS:
        if other.to == table and deletes and named.count((other.table, other.column)) != 1:
            yield f"{other.table}.{other.column} refers to {table} ({other.on_delete}), and is not named once"
    for one, (its_table, column) in zip(refers, named, strict=True):
        where = f"{its_table}.{column}"
        if its_table in CATALOGUE and column not in CATALOGUE[its_table]["columns"]:
            yield f"{where} is not in the catalogue"
        key = key_of(one)
        action = key.on_delete if key else "no key"
        if referred(one).table.fullname != table or (key is not None and key.to != table):
            yield f"{where} does not refer to {table}"
        if isinstance(one, Cascade) and action == "SET NULL":
            yield f"{where} is set to NULL by its key, and must not go"
        if isinstance(one, SetValues) and one.by not in one.changes():
            # NULL by the key alone would not be archived; a cascade would take what must stay.
            yield f"{where} goes on to refer to {table} ({action})"
        if isinstance(one, SetValues) and key is not None:
            value = one.changes().get(one.by, ...)
            if value is not None:
                yield f"{where} ({action}) is changed, and not to NULL"
        if not one.why.startswith(action if key else "no foreign key"):
            yield f"{where}: the reason speaks of another key than {action}"
        if isinstance(one, Cascade):
            yield from _level(its_table, one.refers, deletes=True)


def _cascade(table: str, refers: Sequence[Reference]) -> Iterator[str]:
    """Yield the tables of which PostgreSQL would delete rows with those of `table`."""
    declared = {key_of(one): one for one in refers}
    for key in KEYS:
        if key.to != table or key.on_delete != "CASCADE":
            continue
        one = declared.get(key)
        if one is None:
            yield key.table
            yield from _cascade(key.table, ())
        elif isinstance(one, Cascade):
            yield key.table
            yield from _cascade(key.table, one.refers)


def test_the_catalogue_has_the_keys_that_are_walked() -> None:
    assert len(KEYS) == sum(
        constraint.startswith("FOREIGN KEY")
        for entry in CATALOGUE.values()
        for constraint in entry.get("constraints", ())
    )
    mapped = {
        (column.table.fullname, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.foreign_keys
    }
    assert {(key.table, key.column) for key in KEYS} == mapped
    assert {key.on_delete for key in KEYS} == {"CASCADE", "SET NULL", "RESTRICT", "NO ACTION"}


@each_policy
def test_no_policy_reaches_what_it_does_not_name(policy: Retention) -> None:
    assert list(faults(policy)) == []


def _with(policy: str, *refers: Reference) -> Retention:
    """Return a policy that says something else of its references: the check at its start passed over."""
    other = object.__new__(Retention)
    for one in fields(Retention):
        object.__setattr__(other, one.name, getattr(RETENTION[policy], one.name))
    object.__setattr__(other, "refers", refers)
    return other


_LOGS = "interaction_schema.interaction_logs"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        # What the application's own clean-up function does.
        (
            _with("connect.logs"),
            "interaction_schema.connections.interaction_log_id refers to "
            f"{_LOGS} (CASCADE), and is not named once",
        ),
        (_with("connect.logs"), "communication_schema.messages is reached by a cascade"),
        (
            _with("connect.logs", Cascade(connect.Connection.interaction_log_id, "CASCADE: along")),
            "communication_schema.chat_rooms is reached by a cascade",
        ),
        (
            _with(
                "connect.logs",
                Cascade(
                    connect.Connection.interaction_log_id,
                    "CASCADE: along",
                    refers=(
                        Cascade(
                            connect.ChatRoom.connection_id,
                            "CASCADE: along",
                            refers=(Cascade(connect.Message.chat_room_id, "CASCADE: along"),),
                        ),
                    ),
                ),
            ),
            "communication_schema.messages has a period of its own, and goes along",
        ),
        (
            _with("pern.messages", Cascade(pern.Message.reply_to_id, "SET NULL: along")),
            "pern.messages.reply_to_id is set to NULL by its key, and must not go",
        ),
        (
            _with("pern.messages", SetValues(pern.Attachment.message_id, "CASCADE: x", values={})),
            "pern.attachments.message_id goes on to refer to pern.messages (CASCADE)",
        ),
        (
            _with(
                "audiorooms.rooms",
                SetValues(
                    audiorooms.RoomAnalytics.room_id,
                    "CASCADE: x",
                    values={audiorooms.RoomAnalytics.room_id: audiorooms.AudioRoom.id},
                ),
            ),
            "audiorooms.room_analytics.room_id (CASCADE) is changed, and not to NULL",
        ),
        (
            _with("pern.messages", Cascade(pern.Attachment.message_id, "SET NULL: along")),
            "pern.attachments.message_id: the reason speaks of another key than CASCADE",
        ),
        (
            _with("pern.messages", Restrict(pern.ConversationParticipant.conversation_id, "CASCADE: x")),
            "pern.conversation_participants.conversation_id does not refer to pern.messages",
        ),
    ],
)
def test_what_would_reach_further_is_found(wrong: Retention, fault: str) -> None:
    assert fault in list(faults(wrong))


# -- on a database ----------------------------------------------------------------------------------------

PERIOD = 30
OLD = ago(days=100)
#: What stays for longer, so that it can be old and no sign of life, and not due by itself.
LONGER = {"echoroom.messages": 300}
#: What the models do not say of a column: what its checks and its application want.
WANTED: dict[str, Callable[[], Any]] = {
    "user_schema.users.role": lambda: "female",
    "openchat.user_relationship.type": lambda: "friend",
    "audiorooms.audio_rooms.code": lambda: uuid4().hex[:6].upper(),
    "audiorooms.audit_log.event_type": lambda: "room_joined",
    "roomkeeper.attachment_jobs.state": lambda: "waiting",
    "roomkeeper.scan_verdicts.verdict": lambda: "clean",
}

Row = tuple[Table, tuple[Any, ...]]


@dataclass
class World:
    """Rows of all applications, connected with each other.

    Attributes:
        shared: of each table, a row to refer to.
        gone: rows that must go.
        changed: rows that stay, and what of them changes.
    """

    connection: Connection
    shared: dict[Table, dict[str, Any]] = field(default_factory=dict)
    deleted: set[Row] = field(default_factory=set)
    changed: dict[Row, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, model: Any, at: datetime = NOW, **values: Any) -> dict[str, Any]:
        """Add a row whose times are all `at`, and that refers to rows by all its keys; return it."""
        table = table_of(model)
        given = {model.__mapper__.get_property(name).columns[0].name: one for name, one in values.items()}
        alone = any(isinstance(one, UniqueConstraint) for one in table.constraints) or any(
            column.unique for column in table.columns
        )
        for column in table.columns:
            if column.name not in given:
                self._fill(given, column, at, alone)
        made = self.connection.execute(insert(table).values(given).returning(*table.columns)).mappings().one()
        return dict(made)

    def _fill(self, given: dict[str, Any], column: "Column[Any]", at: datetime, alone: bool) -> None:
        kind = column.type
        if f"{column.table.fullname}.{column.name}" in WANTED:
            given[column.name] = WANTED[f"{column.table.fullname}.{column.name}"]()
        elif column.foreign_keys:
            (key,) = column.foreign_keys
            if key.column.table is not column.table:
                # Of what may be there once only, each row has parents of its own.
                given[column.name] = self._parent(key.column.table, fresh=alone)[key.column.name]
        elif isinstance(kind, DateTime):
            if column.server_default is not None or not column.nullable:
                given[column.name] = at if kind.timezone else naive(at)
        elif column.server_default is None and not column.nullable and column.identity is None:
            given[column.name] = _value(column)

    def _parent(self, table: Table, *, fresh: bool) -> dict[str, Any]:
        if fresh or table not in self.shared:
            made = self.add(_model(table))
            self.shared.setdefault(table, made)
            return made
        return self.shared[table]

    def family(self, refers: Sequence[Reference], row: dict[str, Any], at: datetime) -> None:
        """Add a row for each key that leads to one that goes: it goes along, or is changed."""
        for one in refers:
            if isinstance(one, Restrict):
                continue
            model, values = model_of(one.by), {one.by.key: row[referred(one).name]}
            if model is echoroom.SessionParticipant:
                # Who sits in a room is alive.
                values["is_active"] = False
            other = self.add(model, at, **values)
            if isinstance(one, Cascade):
                self.go(model, other)
                self.family(one.refers, other, at)
            else:
                columns = {column.property.columns[0].name for column in one.changes()}
                self.changed[_row(model, other)] |= columns

    def go(self, model: Any, *those: dict[str, Any]) -> None:
        """Expect these rows to go."""
        self.deleted |= {_row(model, one) for one in those}


def _model(table: Table) -> Any:
    (found,) = (
        mapper.class_
        for base in (Base, AttachmentJob.__base__)
        for mapper in base.registry.mappers  # type: ignore[union-attr]
        if mapper.local_table is table
    )
    return found


def _row(model: Any, values: dict[str, Any]) -> Row:
    table = table_of(model)
    return table, tuple(values[column.name] for column in table.primary_key.columns)


def _value(column: "Column[Any]") -> Any:
    kind = column.type
    if isinstance(kind, Enum):
        return kind.enums[0]
    if isinstance(kind, String):
        return uuid4().hex[: kind.length]
    plain: list[tuple[Any, Any]] = [
        (Uuid, uuid4()),
        (Boolean, False),
        (Numeric, 1),
        (Date, NOW.date()),
        (JSONB, {}),
        (INET, "192.0.2.1"),
        (ARRAY, []),
    ]
    return next((value for type_, value in plain if isinstance(kind, type_)), 1)


def _room(world: World, **values: Any) -> dict[str, Any]:
    return world.add(audiorooms.AudioRoom, active=False, **values)


def _stay(world: World) -> dict[str, Any]:
    room = _room(world)["id"]
    world.add(audiorooms.RoomAnalytics, room_id=room, date=OLD.date())
    return world.add(audiorooms.RoomParticipant, room_id=room, joined_at=OLD, left_at=OLD)


def _in_gone_conversation(world: World) -> dict[str, Any]:
    room = world.add(openchat.Conversation, OLD, is_deleted=True)
    # It is due by itself, once it is empty.
    world.go(openchat.Conversation, room)
    return world.add(openchat.Message, conversation_id=room["id"])


def _anonymised(world: World) -> dict[str, Any]:
    then = RETENTION["openchat.anonymised_users"].action
    assert isinstance(then, Update)
    key = uuid4()
    plain = {
        column.key: value for column, value in then.values.items() if not hasattr(value, "__clause_element__")
    }
    plain |= {"email": f"deleted-{key}@invalid", "email_verified": False, "is_deleted": True}
    plain |= {"is_active": False, "is_online": False, "updated_at": naive(OLD), "deleted_at": naive(OLD)}
    return world.add(openchat.User, id=key, **plain)


def _conversation_with_limit(world: World) -> Any:
    return world.add(pern.Conversation, settings={"message_retention_days": PERIOD})["id"]


#: A row that is due, for each policy.
DUE: dict[str, Callable[[World], dict[str, Any]]] = {
    "connect.logs": lambda world: world.add(connect.InteractionLog, OLD, outcome="both_left"),
    "connect.messages": lambda world: world.add(connect.Message, OLD),
    "pern.messages_by_conversation": lambda world: world.add(
        pern.Message, OLD, conversation_id=_conversation_with_limit(world)
    ),
    "pern.messages": lambda world: world.add(pern.Message, OLD),
    **{
        f"pern.audit_{severity}": lambda world, severity=severity: world.add(  # type: ignore[misc]
            pern.AuditLog, OLD, severity=severity
        )
        for severity in ("info", "warning", "error", "critical", "security")
    },
    "audiorooms.audit_log": lambda world: world.add(audiorooms.AuditLog, OLD),
    "audiorooms.participants": _stay,
    "audiorooms.rooms": lambda world: _room(world, created_at=OLD, updated_at=OLD),
    "openchat.deleted_attachments": lambda world: world.add(openchat.Attachment, OLD, is_deleted=True),
    "openchat.deleted_messages": lambda world: world.add(openchat.Message, OLD, is_deleted=True),
    "openchat.conversation_messages": _in_gone_conversation,
    "openchat.deleted_conversations": lambda world: world.add(openchat.Conversation, OLD, is_deleted=True),
    "openchat.anonymised_users": lambda world: world.add(openchat.User, OLD, is_deleted=True),
    "openchat.deleted_users": _anonymised,
    "echoroom.messages": lambda world: world.add(echoroom.ChatMessage, ago(days=400)),
    "echoroom.anonymous_users": lambda world: world.add(echoroom.User, OLD),
    "roomkeeper.dead_letters": lambda world: world.add(DeadLetter, OLD),
    "roomkeeper.attachment_history": lambda world: world.add(AttachmentEvent, OLD),
    "roomkeeper.scan_verdicts": lambda world: world.add(ScanVerdict, OLD),
}
#: Those whose family must be old too, or it would be a sign of life.
OLD_FAMILY = {"echoroom.anonymous_users"}


def test_there_is_a_due_row_for_each_policy() -> None:
    assert set(DUE) == set(RETENTION)


def test_all_policies_together_take_what_is_due_and_nothing_else(platform: Platform) -> None:
    periods = {name: PERIOD for name, policy in RETENTION.items() if policy.off_until_set or policy.after}
    days(platform, **(periods | LONGER))
    with platform.engine.begin() as connection:
        world = World(connection)
        for table in Base.metadata.sorted_tables:
            if table.schema != "roomkeeper":
                _living(world, table)
        for model in (AttachmentJob, AttachmentEvent, DeadLetter, ScanVerdict):
            world.add(model)
        for name, policy in RETENTION.items():
            _due(world, name, policy)
        kept = [
            _kept(world, name, policy, one)
            for name, policy in RETENTION.items()
            for one in policy.refers
            if isinstance(one, Restrict)
        ]
    for table, values in kept:
        if table is table_of(openchat.Message) and values["content"] == ON_HOLD:
            add_hold(platform, "openchat", "user", values["sender_id"])
    before = _all(platform)
    for _ in range(3):
        for name in RETENTION:
            done = retain(platform, name)
            assert (done.remaining, done.error) == (0, None), name
    after = _all(platform)
    deleted = {row for row in before if row not in after}
    assert {_words(row) for row in deleted - world.deleted} == set()
    assert {_words(row) for row in world.deleted - deleted} == set()
    for row, values in after.items():
        differs = {name for name in values if values[name] != before[row][name]}
        # A trigger of `echoroom` stamps what is changed.
        stamped = {"updated_at"} if row[0].schema == "echoroom" and row in world.changed else set()
        assert differs - stamped <= world.changed.get(row, set()), _words(row)
    for row in world.changed:
        assert after[row] != before[row], _words(row)
    for table, values in kept:
        assert (table, tuple(values[column.name] for column in table.primary_key.columns)) in after
    assert platform.sql("SELECT * FROM roomkeeper.pending_deletions") == []


def _living(world: World, table: Table) -> None:
    """Add a row of a table that is young and refers to others by each of its keys; to itself by another."""
    model = _model(table)
    made = world._parent(table, fresh=False)
    for column in table.columns:
        for key in column.foreign_keys:
            if key.column.table is table:
                world.add(model, **{model.__mapper__.get_property_by_column(column).key: made["id"]})


def _due(world: World, name: str, policy: Retention) -> None:
    row = DUE[name](world)
    world.family(policy.refers, row, OLD if name in OLD_FAMILY else NOW)
    if isinstance(policy.action, Delete):
        world.go(policy.model, row)
    else:
        world.changed[_row(policy.model, row)] |= {
            column.property.columns[0].name for column in policy.action.values
        }
        # Without this message the anonymised user would be deleted.
        world.add(openchat.Message, sender_id=row["id"])


ON_HOLD = "said by a user on hold"


def _kept(world: World, name: str, policy: Retention, one: Restrict) -> tuple[Table, dict[str, Any]]:
    """Add a row that would be due if nothing referred to it by this key, and what refers to it."""
    row = DUE[name](world)
    values = {one.by.key: row[referred(one).name]}
    if policy.model is openchat.Conversation:
        # Else it goes, by another policy.
        values |= {"sender_id": world.add(openchat.User)["id"], "content": ON_HOLD}
    other = world.add(model_of(one.by), **values)
    assert _row(policy.model, row) not in world.deleted
    return table_of(model_of(one.by)), other


def _all(platform: Platform) -> dict[Row, dict[str, Any]]:
    """Return all rows of the applications, and of ours that age."""
    own_tables = {table_of(model) for model in (AttachmentJob, AttachmentEvent, DeadLetter, ScanVerdict)}
    found: dict[Row, dict[str, Any]] = {}
    with platform.engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            if table.schema != "roomkeeper" or table in own_tables:
                for row in connection.execute(select(table)).mappings():
                    values = dict(row)
                    found[table, tuple(values[key.name] for key in table.primary_key.columns)] = values
    return found


def _words(row: Row) -> str:
    return f"{row[0].fullname} {row[1]}"


def test_old_means_older_than_the_periods() -> None:
    assert timedelta(days=PERIOD) < NOW - OLD < timedelta(days=min(LONGER.values()))
