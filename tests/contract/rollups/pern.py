"""Examples of the rollups of `pern`."""

from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from models.analytics import PernDaily, PernFact, PernSecurityDaily, PernSessionsDaily
from models.pern import AuditLog, AuthSession, Message, MessageStatus
from tasks.apps import APPS
from tests.analytics.figuring import Rows
from tests.analytics.oracle_pern import conversation, entry, fact, message, session, status
from tests.contract.rollup_example import Example, Source

DAILY, SESSIONS_DAILY, SECURITY_DAILY = APPS["pern"].rollups
#: Of no bucket: a rollup does not begin with a row that says it is older than the year 2000.
UNCOUNTED = datetime(1999, 1, 1, tzinfo=UTC)


def _message(rows: Rows, at: datetime) -> UUID:
    return message(rows, conversation(rows), at)


def _delivered(rows: Rows, at: datetime) -> UUID:
    return status(rows, _message(rows, UNCOUNTED), delivered=at)


def _read(rows: Rows, at: datetime) -> UUID:
    return status(rows, _message(rows, UNCOUNTED), read=at)


EXAMPLES = (
    Example(
        rollup=DAILY,
        sources=(
            Source(
                at=(Message.created_at,),
                counts=(PernDaily.messages, PernDaily.conversations, PernDaily.active_users),
                add=_message,
            ),
            Source(at=(MessageStatus.delivered_at,), counts=(PernDaily.deliveries,), add=_delivered),
            Source(at=(MessageStatus.read_at,), counts=(PernDaily.reads, PernDaily.active_users), add=_read),
            Source(
                at=(PernFact.at,),
                counts=(PernDaily.messages, PernDaily.conversations),
                add=partial(fact, kind="message"),
                needs=(PernFact.key,),
            ),
            Source(
                at=(PernFact.at,),
                counts=(PernDaily.active_users,),
                add=partial(fact, kind="person"),
                needs=(PernFact.key,),
            ),
            *(
                Source(at=(PernFact.at,), counts=(counts,), add=partial(fact, kind=kind))
                for kind, counts in (("delivery", PernDaily.deliveries), ("read", PernDaily.reads))
            ),
        ),
    ),
    Example(
        rollup=SESSIONS_DAILY,
        sources=(
            Source(
                at=(AuthSession.created_at,),
                counts=(PernSessionsDaily.sessions, PernSessionsDaily.users),
                add=session,
            ),
        ),
        # `pern.sessions` deletes them soon.
        recomputed=False,
    ),
    Example(
        rollup=SECURITY_DAILY,
        sources=(Source(at=(AuditLog.created_at,), counts=(PernSecurityDaily.events,), add=entry),),
    ),
)
