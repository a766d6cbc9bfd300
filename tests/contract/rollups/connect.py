"""Examples of the rollups of `connect`."""

from datetime import datetime, timedelta
from uuid import UUID

from models.analytics import ConnectCallsDaily, ConnectDaily
from models.connect import Connection, InteractionLog, Message, VideoRequest
from tasks.apps import APPS
from tests.analytics.figuring import Rows
from tests.analytics.oracle_connect import call, message, person, request, room, tie
from tests.contract.rollup_example import Example, Source

CALLS_DAILY, DAILY = APPS["connect"].rollups


def _open_call(rows: Rows, at: datetime) -> UUID:
    return call(rows, at, outcome=None)


def _connection(rows: Rows, at: datetime) -> UUID:
    """Add a connection that came of a call of this moment, which has ended."""
    connection = tie(rows, call(rows, at, at + timedelta(seconds=1)))
    rows.of(Connection)[-1]["created_at"] = at
    return connection


def _own_call(rows: Rows, at: datetime) -> UUID:
    user = person(rows)
    return call(rows, at, people=(user, user))


def _request(rows: Rows, at: datetime) -> UUID:
    return request(rows, tie(rows, call(rows, None)), at)


def _message(rows: Rows, at: datetime) -> UUID:
    return message(rows, room(rows, tie(rows, call(rows, None))), at)


EXAMPLES = (
    Example(
        rollup=CALLS_DAILY,
        sources=(
            Source(
                at=(InteractionLog.started_at,),
                counts=(ConnectCallsDaily.open_calls, ConnectCallsDaily.no_outcome),
                add=_open_call,
            ),
            # It counts in the day of its call.
            Source(at=(), counts=(ConnectCallsDaily.connected,), add=_connection, model=Connection),
        ),
    ),
    Example(
        rollup=DAILY,
        sources=(
            Source(
                at=(InteractionLog.started_at,),
                counts=(ConnectDaily.users_in_calls,),
                add=_own_call,
            ),
            Source(at=(VideoRequest.requested_at,), counts=(ConnectDaily.requests,), add=_request),
            Source(
                at=(Message.created_at,), counts=(ConnectDaily.messages, ConnectDaily.senders), add=_message
            ),
        ),
    ),
)
