"""Errors of the database without the rows that they are of, in logs, tables, Flower and terminals alike.

PostgreSQL repeats values of rows: in an error's detail ("Key (email)=(...)", "Failing row contains ..."),
in the context ("COPY t, line 1, column email: ..."), and in the message itself where it is about a value
("invalid input syntax for type uuid: ..."). So the engine takes them out where an error arises
(`workers.db.create`): what is made of the error afterwards, be it a text, a traceback or a pickle, has
none. SQLSTATEs decide, not words, which are in the server's language.
"""

import re

import psycopg
from sqlalchemy.engine import ExceptionContext

from models.platform import SCHEMA

#: What a value stands in, in the languages of PostgreSQL.
_QUOTES = re.compile("[\"'`«»‹›„“”‚‘’「」『』]")
#: The functions of the server by which PL/pgSQL's RAISE and ASSERT raise, with any SQLSTATE.
_RAISE = frozenset({"exec_stmt_raise", "exec_stmt_assert"})
#: Classes of errors that functions in other languages raise.
_ROUTINES = ("38", "39")


def take_out_values(error: psycopg.Error) -> None:
    """Leave of an error's text what holds of no row: the message, as far as it is the server's own.

    Of what a function of an application raises, only which function that was: the text may have any value.
    """
    error.args = (_text(error), *error.args[1:])


def on_error(context: ExceptionContext) -> None:
    """Take values of rows out of an error: a listener of SQLAlchemy's `handle_error`."""
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    if isinstance(error, psycopg.Error):
        take_out_values(error)
        if wrapped is not None:
            # It has made its own text by now, as it does of any driver's error.
            wrapped.args = (f"({type(error).__module__}.{type(error).__name__}) {error}", *wrapped.args[1:])


def _text(error: psycopg.Error) -> str:
    diagnostics = error.diag
    # Without a SQLSTATE it is the driver's own, or the refusal of a connection.
    text = str(error) if error.sqlstate is None else diagnostics.message_primary or ""
    if diagnostics.source_function in _RAISE or (error.sqlstate or "").startswith(_ROUTINES):
        where = (diagnostics.context or "a function").partition("\n")[0]
        # Our own functions name the place and never what is there.
        return text if f" {SCHEMA}." in where else f"raised by {where}"
    if isinstance(error, psycopg.DataError) and (quote := _QUOTES.search(text)):
        return f"{text[: quote.start()]}…"
    return text
