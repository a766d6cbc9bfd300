"""Runs a retention policy in a process that is killed at one of its steps.

A step is where a function is entered, or left, for the nth time: `tasks.retention.receipts.append:after:1`.
`python -m tests.retention.dying POLICY STEP` does the same from a shell.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from tests.retention.retaining import policy
from tests.sweeps.sweeping import NOW


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


def kill_at(step: str, name: str, environment: Mapping[str, str]) -> None:
    """Run the policy in a child of this process, which has all imported, and see that it is killed there."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        # Nothing may return from here into pytest, whatever happens.
        try:
            _forget_parent(environment)
            _die_at(step)
            _run(name)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _forget_parent(environment: Mapping[str, str]) -> None:
    from workers import db, settings

    os.environ.clear()
    os.environ.update(environment)
    settings.get_settings.cache_clear()
    db.forget_engine(close=False)


def _run(name: str) -> None:
    from tasks.retention import task as retention
    from workers.settings import get_settings

    retention.run(policy(name), get_settings(), now=NOW, by_hand=True)


if __name__ == "__main__":
    _die_at(sys.argv[2])
    _run(sys.argv[1])
    sys.exit("It was not killed.")
