"""Examples of the rollups of `openchat`."""

from datetime import datetime
from uuid import UUID

from models.analytics import OpenchatDaily, OpenchatMessagesDaily
from models.openchat import Message
from tasks.apps import APPS
from tests.analytics.figuring import Rows
from tests.analytics.oracle_openchat import conversation, message
from tests.contract.rollup_example import Example, Source

MESSAGES_DAILY, DAILY = APPS["openchat"].rollups


def _message(rows: Rows, at: datetime) -> UUID:
    return message(rows, conversation(rows), at)


EXAMPLES = (
    Example(
        rollup=MESSAGES_DAILY,
        sources=(Source(at=(Message.created_at,), counts=(OpenchatMessagesDaily.messages,), add=_message),),
    ),
    Example(
        rollup=DAILY,
        sources=(
            Source(
                at=(Message.created_at,),
                counts=(OpenchatDaily.messages, OpenchatDaily.active_users, OpenchatDaily.conversations),
                add=_message,
            ),
        ),
    ),
)
