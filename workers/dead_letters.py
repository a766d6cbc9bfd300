"""Dead letters: messages that were refused or failed for good, kept with the reason."""

import json
import re
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from models.platform import DeadLetter
from workers.database_errors import ErrorKind, kind_of
from workers.db import transaction

log = structlog.get_logger(__name__)

#: A payload beyond this many characters is cut, and cannot be sent again. The longest that any task takes, a
#: thousand message statuses, is not.
MAX_PAYLOAD_CHARS = 512 * 1024
MAX_REASON_CHARS = 1000
#: The only name in a payload that is kept as JSON in a text, in ASCII; see `store`.
ESCAPED = "escaped"


def reason(error: BaseException) -> str:
    """Say in one line why `error` ended a task; of a payload, field by field, never its values."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False, include_input=False)
        )
    return f"{type(error).__name__}: {error}"


def keep(*, task: str, task_id: str, payload: dict[str, Any], reason: str) -> bool:
    """Write a dead letter; return whether that worked. If not, the message must not be acknowledged."""
    try:
        store(task=task, task_id=task_id, payload=payload, reason=reason)
    except SQLAlchemyError as error:
        # Its own words may repeat the payload.
        log.error("dead_letter.not_stored", **_columns(task, task_id, reason), error=type(error).__name__)
        return False
    return True


def store(*, task: str, task_id: str, payload: dict[str, Any], reason: str) -> None:
    """Write a dead letter. If the database refuses its text, it is written once more in plain ASCII.

    Raises:
        SQLAlchemyError: it could not be written; if its kind is DATA, in no form.
    """
    columns, stored = _columns(task, task_id, reason), _storable(payload)
    try:
        with transaction() as connection:
            _insert(connection, columns, stored)
    except DBAPIError as error:
        if kind_of(error) is not ErrorKind.DATA:
            raise
        # A database that is not in UTF-8 does not take all characters, be it as an escape of JSON.
        why = f"{columns['reason'][: MAX_REASON_CHARS // 2]}; stored as ASCII: {type(error.orig).__name__}"
        with transaction() as connection:
            plain = {name: _ascii(text) for name, text in (columns | {"reason": why}).items()}
            _insert(connection, plain, _escaped(stored))
    log.warning("dead_letter.kept", **columns)


def sent(payload: Any) -> Any:
    """Return the payload of a dead letter as it was sent, if all of it was kept."""
    escaped = payload.get(ESCAPED) if isinstance(payload, dict) else None
    return json.loads(escaped) if isinstance(escaped, str) else payload


def keep_within(
    connection: Connection, *, task: str, task_id: str, payload: dict[str, Any], reason: str
) -> None:
    """Write a dead letter in the caller's own transaction: it is there if what else happened there is.

    Raises:
        SQLAlchemyError: it could not be written.
    """
    columns = _columns(task, task_id, reason)
    _insert(connection, columns, _storable(payload))
    log.warning("dead_letter.kept", **columns)


def _columns(task: str, task_id: str, reason: str) -> dict[str, str]:
    # Of a message that cannot be read, task and id may be anything.
    words = {"task": task, "task_id": task_id, "reason": reason}
    return {name: _text(text)[:MAX_REASON_CHARS] for name, text in words.items()}


def _insert(connection: Connection, columns: dict[str, str], payload: Any) -> None:
    connection.execute(insert(DeadLetter), columns | {"payload": payload})


def _text(value: str) -> str:
    """Return `value` without what PostgreSQL does not take as text: NUL, and half characters."""
    return value.replace("\0", "�").encode(errors="replace").decode()


def _storable(payload: dict[str, Any]) -> Any:
    """Return `payload` as PostgreSQL takes it: strangers write it, and not all of JSON is `jsonb`."""
    try:
        text = _text(json.dumps(payload, default=repr, ensure_ascii=False))
    except RecursionError:
        return {"cut": "nested too deeply"}
    # A NUL is an escape here; the same letters after an escaped backslash are not.
    text = re.sub(r"\\(u0000|.)", lambda found: "�" if found[1] == "u0000" else found[0], text)
    if len(text) > MAX_PAYLOAD_CHARS:
        return {"cut": text[:MAX_PAYLOAD_CHARS]}
    return json.loads(text, parse_constant=str)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _escaped(stored: Any) -> dict[str, str]:
    """Return a payload as JSON in a text: its escapes mean nothing to the database."""
    text = json.dumps(stored)
    return {"cut": text[:MAX_PAYLOAD_CHARS]} if len(text) > MAX_PAYLOAD_CHARS else {ESCAPED: text}
