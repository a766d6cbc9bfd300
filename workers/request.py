"""What a worker tells the outside about a task: ids, never content."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.request import Request

from workers.settings import get_settings

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: The fields that may be seen in Flower, events and logs, each if its value is really what its name says:
#: in a field of that name a stranger may send anything.
SHOWN: dict[str, Callable[[str], object]] = {
    "app": lambda value: value in get_settings().apps,
    "id": _UUID.fullmatch,
}


def redact(value: Any) -> str:
    """Return a task's argument as it may be shown: `{app: openchat, id: …, 3 hidden}`."""
    if not isinstance(value, Mapping):
        return type(value).__name__
    shown = [
        f"{name}: {value[name]}"
        for name, genuine in SHOWN.items()
        if isinstance(value.get(name), str) and genuine(value[name])
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
