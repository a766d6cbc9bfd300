"""Texts of errors without the rows that they are of: for logs, the job history and dead letters.

PostgreSQL repeats values of rows in the detail of an error ("Key (email)=(...)", "Failing row contains ..."),
and in the message of one about a value ("invalid input syntax for type uuid: ...").
"""

import re
from collections.abc import MutableMapping
from typing import Any

#: A line break, as such or as `repr` shows it.
_BREAK = r"(?:\n|\\n)"
#: From the detail to what SQLAlchemy, a traceback or `repr` adds: a value may have lines of its own.
_AFTER = rf"{_BREAK}\[SQL|{_BREAK}\(Background|{_BREAK}{_BREAK}The above|{_BREAK}{_BREAK}During|['\"]\)|\Z"
_DETAIL = re.compile(rf"{_BREAK}DETAIL:  .*?(?={_AFTER})", re.DOTALL)
_QUOTED = rf"\\?\".*?\\?\"(?={_BREAK}|['\"]?\)|\Z)"
_VALUES = (
    (re.compile(rf"(invalid input (?:syntax|value) for [^:\n]*: ){_QUOTED}", re.DOTALL), r"\1…"),
    (re.compile(rf"(out of range: ){_QUOTED}", re.DOTALL), r"\1…"),
    (re.compile(r"value \\?\"[^\"\n]*\" is out of range"), "value … is out of range"),
)


def without_values(text: str) -> str:
    """Return a text of an error of the database without values of rows; any other text as it is."""
    # The message first: a value in it may look like the beginning of a detail.
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text)
    return _DETAIL.sub("", text) if "DETAIL:  " in text else text


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take values of rows out of all texts of a log line: a processor of structlog."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_values(value)
    return event
