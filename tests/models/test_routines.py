"""The applications' triggers, functions, views and policies behave as documented, faults included."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute

from models import audiorooms, connect, echoroom
from models.base import Base
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    engine = create(load({"DATABASE_URL": empty_database}))
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One transaction on a database with the three applications that have routines."""
    bootstrap(engine, (echoroom, connect, audiorooms))
    with engine.begin() as connection:
        yield connection


def add(connection: Connection, model: type[Base], **values: object) -> UUID:
    """Insert one row and return its id."""
    table: Any = model.__table__
    return UUID(str(connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()))


def value(connection: Connection, column: InstrumentedAttribute[Any], key: UUID) -> Any:
    """Return one column of the row with this id."""
    return connection.execute(select(column).where(column.class_.id == key)).scalar_one()


def now(connection: Connection) -> datetime:
    """Return the time of the transaction."""
    moment: datetime = connection.execute(select(func.now())).scalar_one()
    return moment


def call(connection: Connection, function: str, *arguments: object) -> Any:
    """Call `schema.function` with the arguments."""
    names = ", ".join(f":a{number}" for number in range(len(arguments)))
    values = {f"a{number}": argument for number, argument in enumerate(arguments)}
    return connection.execute(text(f"SELECT {function}({names})"), values).scalar_one()


def test_every_trigger_is_on_its_table(connection: Connection) -> None:
    triggers = text("SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal")
    assert set(connection.execute(triggers).all()) == {
        ("echoroom.chat_sessions", "update_chat_sessions_updated_at"),
        ("echoroom.users", "update_users_updated_at"),
        ("echoroom.chat_messages", "update_chat_messages_updated_at"),
        ("echoroom.session_participants", "update_participant_count_trigger"),
        ("user_schema.users", "update_users_timestamp"),
        ("user_schema.profiles", "update_profiles_timestamp"),
        ("user_schema.user_sessions", "update_sessions_timestamp"),
        ("interaction_schema.connections", "update_connections_timestamp"),
        ("communication_schema.chat_rooms", "update_chat_rooms_timestamp"),
        ("communication_schema.messages", "update_messages_timestamp"),
        ("audiorooms.audio_rooms", "audio_rooms_updated_at"),
        ("audiorooms.room_participants", "room_participants_connection_duration"),
    }


def connect_user(connection: Connection, name: str, role: str = "male", **values: object) -> UUID:
    return add(
        connection, connect.User, username=name, email=f"{name}@a.b", password_hash="", role=role, **values
    )


def test_an_update_sets_updated_at(connection: Connection) -> None:
    rows: list[tuple[Any, UUID]] = [
        (echoroom.User, add(connection, echoroom.User, username="a", updated_at=LONG_AGO)),
        (connect.User, connect_user(connection, "a", updated_at=LONG_AGO)),
        (
            audiorooms.AudioRoom,
            add(connection, audiorooms.AudioRoom, code="ABC123", password_hash="", updated_at=LONG_AGO),
        ),
    ]
    for model, key in rows:
        assert value(connection, model.updated_at, key) == LONG_AGO
        connection.execute(update(model).values(created_at=LONG_AGO))
        assert value(connection, model.updated_at, key) == now(connection)


class TestEchoroom:
    def join(self, connection: Connection, **values: object) -> tuple[UUID, UUID]:
        """Let someone into a new room and return the ids of the room and of the participant."""
        room = add(connection, echoroom.ChatSession, category="Calm")
        user = add(connection, echoroom.User, username="a")
        return room, add(connection, echoroom.SessionParticipant, session_id=room, user_id=user, **values)

    def count(self, connection: Connection, room: UUID) -> int:
        return int(value(connection, echoroom.ChatSession.current_participants, room))

    def activate(self, connection: Connection, active: bool | None) -> None:
        connection.execute(update(echoroom.SessionParticipant).values(is_active=active))

    def test_joining_leaving_and_deleting_are_counted(self, connection: Connection) -> None:
        room, _ = self.join(connection)
        assert self.count(connection, room) == 1
        self.activate(connection, False)
        assert self.count(connection, room) == 0
        self.activate(connection, True)
        assert self.count(connection, room) == 1
        connection.execute(delete(echoroom.SessionParticipant))
        assert self.count(connection, room) == 0

    def test_the_counter_goes_to_minus_one_when_is_active_passes_through_null(
        self, connection: Connection
    ) -> None:
        room, _ = self.join(connection, is_active=None)
        assert self.count(connection, room) == 0
        self.activate(connection, True)
        assert self.count(connection, room) == 0
        self.activate(connection, False)
        assert self.count(connection, room) == -1

    def test_a_change_of_room_is_not_counted(self, connection: Connection) -> None:
        room, _ = self.join(connection)
        other = add(connection, echoroom.ChatSession, category="Joyful")
        connection.execute(update(echoroom.SessionParticipant).values(session_id=other))
        assert (self.count(connection, room), self.count(connection, other)) == (1, 0)

    def test_expired_typing_indicators_are_cleaned_up(self, connection: Connection) -> None:
        room, _ = self.join(connection)
        moment = now(connection)
        kept = set()
        for expires_at in (moment - timedelta(seconds=1), moment, None):
            user = add(connection, echoroom.User, username="a")
            key = add(
                connection,
                echoroom.TypingIndicator,
                session_id=room,
                user_id=user,
                username="a",
                expires_at=expires_at,
            )
            if expires_at is None or expires_at >= moment:
                kept.add(key)
        call(connection, "echoroom.cleanup_expired_typing_indicators")
        assert set(connection.execute(select(echoroom.TypingIndicator.id)).scalars()) == kept

    @pytest.mark.parametrize(
        ("idle", "stays"), [(timedelta(minutes=31), False), (timedelta(minutes=29), True), (None, True)]
    )
    def test_the_inactive_leave(self, connection: Connection, idle: timedelta | None, stays: bool) -> None:
        room, key = self.join(connection)
        moment = now(connection)
        connection.execute(update(echoroom.User).values(last_active=idle and moment - idle))
        call(connection, "echoroom.cleanup_inactive_participants")
        assert value(connection, echoroom.SessionParticipant.is_active, key) is stays
        assert value(connection, echoroom.SessionParticipant.left_at, key) == (None if stays else moment)
        assert self.count(connection, room) == int(stays)


class TestConnect:
    def tie(self, connection: Connection, **values: object) -> tuple[UUID, UUID, UUID]:
        """Connect two users and return the ids of the connection and of both."""
        man, woman = connect_user(connection, "he"), connect_user(connection, "she", "female")
        log = add(
            connection,
            connect.InteractionLog,
            user1_id=man,
            user2_id=woman,
            room_id="r",
            started_at=now(connection) - timedelta(days=366),
        )
        tie = add(
            connection,
            connect.Connection,
            user1_id=man,
            user2_id=woman,
            interaction_log_id=log,
            female_user_id=woman,
            **values,
        )
        return tie, man, woman

    def partner(self, connection: Connection, user: UUID, tie: UUID) -> Any:
        return call(connection, "interaction_schema.get_connection_partner", user, tie)

    def test_partner(self, connection: Connection) -> None:
        tie, man, woman = self.tie(connection)
        assert self.partner(connection, man, tie) == woman
        assert self.partner(connection, woman, tie) == man
        assert self.partner(connection, uuid4(), tie) is None
        connection.execute(update(connect.Connection).values(is_active=False))
        assert self.partner(connection, man, tie) is None

    def test_is_female(self, connection: Connection) -> None:
        _, man, woman = self.tie(connection)
        assert call(connection, "user_schema.is_female_user", woman) is True
        assert call(connection, "user_schema.is_female_user", man) is False
        assert call(connection, "user_schema.is_female_user", uuid4()) is None

    def test_expired_sessions_are_cleaned_up(self, connection: Connection) -> None:
        user = connect_user(connection, "a")
        moment = now(connection)
        add(connection, connect.UserSession, user_id=user, expires_at=moment - timedelta(seconds=1))
        kept = {
            add(connection, connect.UserSession, user_id=user, expires_at=moment),
            add(connection, connect.UserSession, user_id=user, expires_at=None),
        }
        call(connection, "user_schema.cleanup_expired_sessions")
        assert set(connection.execute(select(connect.UserSession.id)).scalars()) == kept

    def test_old_interactions_take_live_connections_with_them(self, connection: Connection) -> None:
        tie, _, _ = self.tie(connection)
        call(connection, "interaction_schema.cleanup_old_interactions", 367)
        assert value(connection, connect.Connection.is_active, tie) is True
        call(connection, "interaction_schema.cleanup_old_interactions")
        assert connection.execute(select(connect.Connection.id)).all() == []

    def test_an_interaction_with_an_outcome_stays(self, connection: Connection) -> None:
        tie, _, _ = self.tie(connection)
        connection.execute(update(connect.InteractionLog).values(outcome="female_connected"))
        call(connection, "interaction_schema.cleanup_old_interactions", 0)
        assert value(connection, connect.Connection.is_active, tie) is True


class TestAudiorooms:
    def room(self, connection: Connection, code: str = "ABC123", **values: object) -> UUID:
        return add(connection, audiorooms.AudioRoom, code=code, password_hash="", **values)

    def stay(self, connection: Connection, room: UUID, seconds: float | None = None) -> UUID:
        """Let someone in at `LONG_AGO` and out after `seconds`."""
        key = add(connection, audiorooms.RoomParticipant, room_id=room, joined_at=LONG_AGO)
        if seconds is not None:
            self.leave(connection, key, seconds)
        return key

    def leave(self, connection: Connection, key: UUID, seconds: float) -> None:
        stay = audiorooms.RoomParticipant
        left_at = LONG_AGO + timedelta(seconds=seconds)
        connection.execute(update(stay).where(stay.id == key).values(left_at=left_at))

    def test_leaving_sets_the_duration_once(self, connection: Connection) -> None:
        key = self.stay(connection, self.room(connection), 90.9)
        assert value(connection, audiorooms.RoomParticipant.connection_duration, key) == 90
        self.leave(connection, key, 200)
        assert value(connection, audiorooms.RoomParticipant.connection_duration, key) == 90

    def test_leaving_before_joining_is_refused(self, connection: Connection) -> None:
        key = self.stay(connection, self.room(connection))
        with pytest.raises(IntegrityError, match="connection_duration"), connection.begin_nested():
            self.leave(connection, key, -1)

    def test_active_rooms_view(self, connection: Connection) -> None:
        room = self.room(connection)
        self.room(connection, "DEF456", active=False)
        self.stay(connection, room)
        self.stay(connection, room, 60)
        view = text("SELECT id, current_listeners, total_listeners, last_activity FROM active_rooms_view")
        connection.execute(text("SET LOCAL search_path = audiorooms"))
        assert connection.execute(view).all() == [(room, 1, 2, LONG_AGO)]

    def test_room_statistics_view_multiplies_by_the_days_of_analytics(self, connection: Connection) -> None:
        room = self.room(connection)
        self.stay(connection, room, 60)
        self.stay(connection, room, 120)
        for day in (1, 2, 3):
            add(
                connection,
                audiorooms.RoomAnalytics,
                room_id=room,
                date=date(2020, 1, day),
                peak_listeners=day,
            )
        view = text(
            "SELECT total_participants, total_listen_seconds, avg_session_duration, peak_listeners"
            " FROM audiorooms.room_statistics_view"
        )
        assert connection.execute(view).all() == [(2, 3 * 180, 90, 3)]


def test_row_level_security_hides_rows_from_a_plain_role(connection: Connection) -> None:
    add(connection, echoroom.User, username="a")
    add(connection, echoroom.ChatSession, category="Calm")
    add(connection, audiorooms.AudioRoom, code="ABC123", password_hash="")
    # Made in the transaction and never committed, so no other test meets it.
    connection.execute(text("CREATE ROLE plain"))
    connection.execute(text("GRANT USAGE ON SCHEMA echoroom, audiorooms, auth TO plain"))
    connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA echoroom, audiorooms TO plain"))
    connection.execute(text("SET LOCAL ROLE plain"))

    def count(model: type[Base]) -> int:
        return connection.execute(select(func.count()).select_from(model)).scalar_one()

    assert count(echoroom.User) == 0
    assert count(audiorooms.AudioRoom) == 0
    assert count(echoroom.ChatSession) == 1
    connection.rollback()
