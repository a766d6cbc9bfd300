"""What a worker tells the outside about a task: ids, never content."""

import re
from collections.abc import Mapping
from typing import Any

from celery.worker.request import Request

#: The fields that may be seen in Flower, events and logs, if their values look like names or ids.
SHOWN = ("app", "id")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def redact(value: Any) -> str:
    """Return a task's argument as it may be shown: `{app: 'openchat', id: '…', 3 more}`."""
    if not isinstance(value, Mapping):
        return type(value).__name__
    shown = [
        f"{name}: {value[name]}"
        for name in SHOWN
        if isinstance(value.get(name), str) and _PLAIN.fullmatch(value[name])
    ]
    hidden = len(value) - len(shown)
    return "{" + ", ".join([*shown, f"{hidden} hidden"] if hidden else shown) + "}"


class RedactedRequest(Request):
    """A request whose representation carries ids only, whoever published it and however.

    Done here and not where messages are published: other clients publish too, and the events that Flower
    shows come from here. Flower's own `format_task` would cover its pages but not its API.
    """

    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _request_dict: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = "(" + ", ".join(map(redact, self._args)) + ")"
        self._kwargsrepr = redact(self._kwargs)
        # The pool's process shows these in its own events and logs.
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)
