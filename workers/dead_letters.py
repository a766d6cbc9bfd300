"""Dead letters: messages that were refused or failed for good, kept with the reason."""

import json
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from models.platform import DeadLetter
from workers.db import transaction

log = structlog.get_logger(__name__)

#: A payload beyond this many characters is cut: a dead letter explains, it is no archive.
MAX_PAYLOAD_CHARS = 64 * 1024


def reason(error: BaseException) -> str:
    """Say in one line why `error` ended a task; of a payload, field by field, never its values."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
    return f"{type(error).__name__}: {error}"


def keep(*, task: str, task_id: str, payload: dict[str, Any], reason: str) -> None:
    """Write a dead letter. If the database is away, at least the log says that one was due."""
    text = json.dumps(payload, default=repr).replace("\\u0000", "�")
    if len(text) > MAX_PAYLOAD_CHARS:
        text = json.dumps({"cut": text[:MAX_PAYLOAD_CHARS]})
    row = {"task": task, "task_id": task_id, "payload": json.loads(text), "reason": reason.replace("\0", "�")}
    try:
        with transaction() as connection:
            connection.execute(insert(DeadLetter), row)
    except SQLAlchemyError as error:
        log.error("dead_letter.lost", task=task, task_id=task_id, reason=reason, error=str(error))
    else:
        log.warning("dead_letter.kept", task=task, task_id=task_id, reason=reason)
