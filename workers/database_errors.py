"""What an error of the database means: wait and retry, take less, give this row up, or call an operator.

By SQLSTATE and not by exception class. A server that is read-only after a failover is worth waiting for and
is an `InternalError` like a bug of the server; a lock timeout is an `OperationalError` like a trigger fault.
"""

from enum import Enum, auto

import psycopg
from sqlalchemy import exc


class ErrorKind(Enum):
    """What to do about an error of the database.

    Attributes:
        UNAVAILABLE: the server takes no work now, whatever the statement: wait and retry, without end.
        CONTENTION: this transaction was in the way of another, or too much for one: retry, or take less.
        DATA: this row or event is at fault, the next one may pass: set it aside.
        BUG: the statement, the schema or a right is at fault: nothing will pass until a person mends it.
    """

    UNAVAILABLE = auto()
    CONTENTION = auto()
    DATA = auto()
    BUG = auto()


U, C, D, B = ErrorKind.UNAVAILABLE, ErrorKind.CONTENTION, ErrorKind.DATA, ErrorKind.BUG

#: By the class of the SQLSTATE, its first two characters. A class that is not here is an application's own,
#: raised by a trigger of its own: DATA.
CLASSES = {
    "02": B,  # no data: a warning that no statement of ours raises
    "03": B,  # SQL statement not yet complete
    "08": U,  # connection exception; PgBouncer reports all its own errors as a protocol violation
    "09": D,  # triggered action exception
    "0A": B,  # feature not supported
    "0B": B,  # invalid transaction initiation
    "0F": B,  # locator exception
    "0L": B,  # invalid grantor
    "0P": B,  # invalid role specification
    "0Z": B,  # diagnostics exception
    "10": D,  # XQuery error
    "20": D,  # case not found
    "21": D,  # cardinality violation: a key twice in a batch
    "22": D,  # data exception
    "23": D,  # integrity constraint violation
    "24": B,  # invalid cursor state
    "25": B,  # invalid transaction state
    "26": U,  # invalid SQL statement name: see below, with 42P05
    "27": D,  # triggered data change violation: a trigger changes the row that it is fired for
    "28": U,  # invalid authorization: a password was changed, and the settings have not followed
    "2B": D,  # dependent objects still exist: this partition stays, the next may go
    "2D": B,  # invalid transaction termination
    "2F": D,  # SQL routine exception: a function of the application
    "34": B,  # invalid cursor name
    "38": D,  # external routine exception
    "39": D,  # external routine invocation exception: a trigger function of the application
    "3B": B,  # savepoint exception
    "3D": U,  # invalid catalog name: the database is being restored, dropped first and made again
    "3F": B,  # invalid schema name
    "40": C,  # transaction rollback: serialization failure, deadlock, conflict with recovery
    "42": B,  # syntax error or access rule violation; in a deploy's window, too: dead letters are sent again
    "44": D,  # WITH CHECK OPTION violation
    "53": U,  # insufficient resources: disk full, out of memory, too many connections
    "54": D,  # program limit exceeded: a value too long for its index, nested too deep for the stack
    "55": B,  # object not in prerequisite state: no replica identity where deletes are published
    "57": U,  # operator intervention: shutting down, starting up
    "58": U,  # system error: input or output failed
    "72": C,  # snapshot too old
    "F0": U,  # configuration file error: the server's
    "HV": B,  # foreign data wrapper error
    "P0": D,  # PL/pgSQL error: RAISE in a trigger of the application
    "XX": B,  # internal error, data corrupted: more writing does no good
}

#: Those that are of another kind than their class.
CODES = {
    "25006": U,  # read-only SQL transaction: a replica after a failover, or an operator has frozen writes
    "25P03": U,  # idle in transaction session timeout: the session was ended
    "25P04": C,  # transaction timeout
    "2200H": B,  # sequence generator limit exceeded: no further row can be inserted at all
    "40002": D,  # transaction integrity constraint violation
    "40003": U,  # statement completion unknown
    # Prepared statements behind a transaction pooler: which server connection one gets is chance.
    "42P05": U,  # duplicate prepared statement
    "53400": C,  # configuration limit exceeded: more temporary files than `temp_file_limit`
    "54011": B,  # too many columns
    "54023": B,  # too many arguments
    "55006": C,  # object in use
    "55P03": C,  # lock not available
    # A statement that was too slow, or that an operator has cancelled. Both look alike; less may do for the
    # first, and for the second a retry is what was asked for: the others are to have their turn.
    "57014": C,  # query canceled
    "HV001": U,  # FDW out of memory
    "HV00N": U,  # FDW unable to establish connection
}

#: psycopg's own errors, which carry no SQLSTATE; the first class that fits.
WITHOUT_STATE: dict[type[psycopg.Error], ErrorKind] = {
    psycopg.errors.PipelineAborted: B,  # went on after an error
    psycopg.OperationalError: U,  # no connection, or it was lost; any refusal at connect has no SQLSTATE
    psycopg.DataError: D,  # a NUL in a text
    psycopg.IntegrityError: D,
    psycopg.InternalError: B,
    psycopg.ProgrammingError: B,  # a type that is not adapted
    psycopg.NotSupportedError: B,
    psycopg.InterfaceError: B,  # a cursor that is closed
    psycopg.Error: U,  # libpq itself gave up; it knows no classes
}

#: SQLAlchemy's own errors, which wrap none of psycopg's; all others are faults of ours.
OWN: dict[type[exc.SQLAlchemyError], ErrorKind] = {
    exc.TimeoutError: B,  # this process uses all its connections: what needs another would need it again
    exc.DisconnectionError: U,
    exc.PendingRollbackError: U,  # a transaction went on whose connection was lost
}

#: The server's function that raises "cached plan must not change result type": an application has altered a
#: table that a prepared statement reads. The rollback forgets the statement, and a retry passes.
_STALE_PLAN = "RevalidateCachedQuery"


def kind_of(error: BaseException) -> ErrorKind | None:
    """Return what kind of error of the database this is; None if it is none."""
    if isinstance(error, exc.DBAPIError):
        if error.connection_invalidated:
            return ErrorKind.UNAVAILABLE
        return kind_of(error.orig) if isinstance(error.orig, psycopg.Error) else ErrorKind.BUG
    if isinstance(error, psycopg.Error):
        if error.sqlstate:
            return _kind_of_state(error)
        return next(kind for base, kind in WITHOUT_STATE.items() if isinstance(error, base))
    if isinstance(error, exc.SQLAlchemyError):
        return next((kind for base, kind in OWN.items() if isinstance(error, base)), ErrorKind.BUG)
    return None


def is_unavailable(error: BaseException) -> bool:
    """Return whether the database takes no work now: nothing that another row or statement would change."""
    return kind_of(error) is ErrorKind.UNAVAILABLE


def is_transient(error: BaseException) -> bool:
    """Return whether the same may pass when it is tried again."""
    return kind_of(error) in {ErrorKind.UNAVAILABLE, ErrorKind.CONTENTION}


def _kind_of_state(error: psycopg.Error) -> ErrorKind:
    state = error.sqlstate or ""
    if state == "0A000" and error.diag.source_function == _STALE_PLAN:
        return ErrorKind.UNAVAILABLE
    return CODES.get(state) or CLASSES.get(state[:2], ErrorKind.DATA)
