"""What the command line costs to start, beside `celery --help` and a Python that does nothing.

    python -m benchmarks.command_line

Prints one line: CPU time (user and system) and peak resident memory of each command's own process, medians
of some rounds in turn; the numbers in brackets are multiples of `celery --help`. `check` and `policies` run
on an empty database of this machine.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from benchmarks._servers import running

ROUNDS = sized(7, 1)
LIGHT = ("--help", "settings", "apps")
HEAVY = ("check", "policies")
#: CPU seconds and MiB.
LIGHT_AIM, LIGHT_MEMORY_AIM, HEAVY_AIM = 0.4, 60, 1.2


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds, and MiB of memory at its peak."""

    cpu: float
    memory: float


def _commands() -> dict[str, tuple[str, ...]]:
    programs = Path(sys.executable).parent
    return {
        "python": (sys.executable, "-c", "pass"),
        "celery --help": (str(programs / "celery"), "--help"),
        **{name: (str(programs / "roomkeeper"), name) for name in (*LIGHT, *HEAVY)},
    }


#: Run by a Python of its own: a process's peak counts what it was forked from, and this one is larger.
_RUN = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def _measure(command: tuple[str, ...], environment: dict[str, str]) -> Cost:
    measuring = [sys.executable, "-c", _RUN, *command]
    done = subprocess.run(measuring, env=environment, capture_output=True, text=True, check=True)
    code, cpu, memory = json.loads(done.stdout)
    # `check` finds a fault: there is no place for archives.
    if code not in {0, 1}:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {done.stderr}")
    return Cost(cpu, memory / 1024)


def measure() -> Result:
    """Measure each command in turn."""
    commands = _commands()
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    with running() as (_folder, environment):
        for _ in range(ROUNDS):
            for name, command in commands.items():
                found[name].append(_measure(command, environment))
    costs = {
        name: Cost(median(cost.cpu for cost in some), median(cost.memory for cost in some))
        for name, some in found.items()
    }
    celery = costs["celery --help"]
    measured = "; ".join(
        f"{name} {cost.cpu:.2f} s ({cost.cpu / celery.cpu:.2f}), {cost.memory:.0f} MiB "
        f"({cost.memory / celery.memory:.2f})"
        for name, cost in costs.items()
    )
    aims = [
        *(Aim(f"{name}, CPU s", costs[name].cpu, LIGHT_AIM, at_most=True) for name in LIGHT),
        *(Aim(f"{name}, MiB", costs[name].memory, LIGHT_MEMORY_AIM, at_most=True) for name in LIGHT),
        *(Aim(f"{name}, CPU s", costs[name].cpu, HEAVY_AIM, at_most=True) for name in HEAVY),
    ]
    return Result(f"command_line: CPU time and peak memory (of celery --help's); {measured}", tuple(aims))


if __name__ == "__main__":
    harness.run(measure)
