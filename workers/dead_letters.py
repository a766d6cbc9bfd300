"""Dead letters: messages that were refused or failed for good, kept with the reason."""

import json
import re
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, insert
from sqlalchemy.exc import SQLAlchemyError

from models.platform import DeadLetter
from workers.db import transaction

log = structlog.get_logger(__name__)

#: A payload beyond this many characters is cut, and cannot be sent again. The longest that any task takes, a
#: thousand message statuses, is not.
MAX_PAYLOAD_CHARS = 512 * 1024
MAX_REASON_CHARS = 1000


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
    said = _said(task, task_id, reason)
    try:
        with transaction() as connection:
            _insert(connection, said, payload)
    except SQLAlchemyError as error:
        # Its own words may repeat the payload.
        log.error("dead_letter.not_stored", **said, error=type(error).__name__)
        return False
    log.warning("dead_letter.kept", **said)
    return True


def keep_within(
    connection: Connection, *, task: str, task_id: str, payload: dict[str, Any], reason: str
) -> None:
    """Write a dead letter in the caller's own transaction: it is there if what else happened there is.

    Raises:
        SQLAlchemyError: it could not be written.
    """
    said = _said(task, task_id, reason)
    _insert(connection, said, payload)
    log.warning("dead_letter.kept", **said)


def _said(task: str, task_id: str, reason: str) -> dict[str, str]:
    return {"task": _text(task), "task_id": _text(task_id), "reason": _text(reason)[:MAX_REASON_CHARS]}


def _insert(connection: Connection, said: dict[str, str], payload: dict[str, Any]) -> None:
    connection.execute(insert(DeadLetter), said | {"payload": _storable(payload)})


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
