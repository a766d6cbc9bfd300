"""Examples of the rollups of `echoroom`."""

from datetime import datetime, timedelta
from uuid import UUID

from models.analytics import EchoroomDaily, EchoroomHourly, EchoroomSpeaker, EchoroomStay
from models.echoroom import ChatMessage, ChatSession, MessageReaction, User
from tasks.apps import APPS
from tasks.policies.rollup import Rollup
from tests.analytics.figuring import Rows
from tests.contract.rollup_example import Example, Source

HOURLY, DAILY = APPS["echoroom"].rollups


def _room(rows: Rows) -> UUID:
    return rows.add(ChatSession, category="Calm")


def _user(rows: Rows) -> UUID:
    return rows.add(User, username="Ada")


def _message_in(rows: Rows, room: UUID, at: datetime, kind: str) -> UUID:
    values = {"sender_name": "Ada", "content": "hi", "message_type": kind, "created_at": at}
    return rows.add(ChatMessage, session_id=room, user_id=_user(rows), **values)


def _message(rows: Rows, at: datetime) -> UUID:
    return _message_in(rows, _room(rows), at, "text")


def _reaction(rows: Rows, at: datetime) -> UUID:
    room = _room(rows)
    # Less than a day before it, also once the reaction was moved to an earlier bucket.
    message = _message_in(rows, room, at - timedelta(hours=13), "system")
    # A room's open bucket is not computed for a reaction alone.
    _message_in(rows, room, at, "system")
    return rows.add(MessageReaction, message_id=message, user_id=_user(rows), emoji="🌧", created_at=at)


def _stay(rows: Rows, at: datetime) -> UUID:
    """Add a stay that ended when it began: one person, in the bucket of that moment alone."""
    moments = {"joined_at": at, "left_at": at, "seen_at": at}
    return rows.add(EchoroomStay, room_id=_room(rows), user_id=_user(rows), **moments)


def _speaker(rows: Rows, at: datetime) -> UUID:
    return rows.add(EchoroomSpeaker, room_id=_room(rows), user_id=_user(rows), hour=at)


def _example(rollup: Rollup, target: type[EchoroomHourly | EchoroomDaily]) -> Example:
    return Example(
        rollup=rollup,
        sources=(
            Source(
                at=(EchoroomStay.joined_at, EchoroomStay.left_at), counts=(target.participants,), add=_stay
            ),
            Source(at=(EchoroomSpeaker.hour,), counts=(target.speakers,), add=_speaker),
            Source(
                at=(ChatMessage.created_at,),
                counts=(target.messages_text,),
                add=_message,
                needs=(ChatMessage.session_id, ChatMessage.message_type),
            ),
            Source(
                at=(MessageReaction.created_at,),
                counts=(target.reactions,),
                add=_reaction,
                needs=(MessageReaction.message_id,),
            ),
        ),
    )


EXAMPLES = (_example(HOURLY, EchoroomHourly), _example(DAILY, EchoroomDaily))
