"""A wall clock that is stepped while its program runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack.clock import Clocks
from stack.errors import StackError

HOUR = 3600
#: Says its wall and its monotonic clock, and a child's, each time that it gets a line.
PROGRAM = """
import os, sys, time
for _ in sys.stdin:
    print(time.time(), time.monotonic(), flush=True)
    if not os.fork():
        print(time.time(), time.monotonic(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_the_wall_clock_is_stepped_there_and_back_and_the_monotonic_one_is_not(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    environment = os.environ | clocks.environment("beat")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdin=pipe, stdout=pipe, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        ahead, steady = [], []
        for seconds in (0, HOUR, -HOUR, 0):
            clocks.set("beat", seconds)
            clocks.set("another", 7 * HOUR)
            program.stdin.write("\n")
            program.stdin.flush()
            for _ in ("itself", "child"):
                wall, monotonic = map(float, program.stdout.readline().split())
                ahead.append(wall - monotonic)
                steady.append(monotonic)
        program.stdin.close()
    moved = [round((one - ahead[0]) / 60) for one in ahead]
    assert moved == [0, 0, 60, 60, -60, -60, 0, 0]
    assert steady == sorted(steady)
    assert steady[-1] - steady[0] < HOUR


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(StackError, match="apt-get install gcc libc6-dev"):
        Clocks(tmp_path / "clocks")
