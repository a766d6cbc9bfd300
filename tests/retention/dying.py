"""Runs a retention policy and is killed at one of its steps: `python -m tests.retention.dying POLICY STEP`.

A step is where a function is entered, or left, for the nth time: `tasks.receipts.append:after:1`.
"""

import importlib
import os
import signal
import sys
from typing import Any

from tests.cleanup.sweeping import NOW
from tests.retention.retaining import policy


def _die_at(step: str) -> None:
    where, when, number = step.split(":")
    path, name = where.rsplit(".", 1)
    try:
        owner: Any = importlib.import_module(path)
    except ModuleNotFoundError:
        module, of = path.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), of)
    does = getattr(owner, name)
    calls = 0

    def deadly(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(number) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = does(*given, **named)
        if calls == int(number) and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    _die_at(sys.argv[2])
    from tasks import retention
    from workers.settings import get_settings

    retention.run(policy(sys.argv[1]), get_settings(), now=NOW, by_hand=True)
    sys.exit("It was not killed.")
