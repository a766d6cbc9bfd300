"""`make soak`: traffic of all applications on the local stack, disturbed by a seeded plan, then counted."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from stack.demo.rollups import RollupDemo
from stack.demo.settings import IMPATIENT
from stack.demo.uploads import Services, services
from stack.errors import StackError
from stack.group import LocalStack
from stack.interrupts import Interrupted
from stack.programs import PROGRAMS, roomkeeper
from stack.soak import final_count
from stack.soak.disturbances import AWAY, InForce, plan
from stack.soak.traffic import REFUSED, Traffic
from stack.soak.watch import GROWTH, Check, Checks, Memory, Silence
from tasks.apps import rollups

STATE = Path(".roomkeeper") / "soak"
#: A round of traffic and a sample of memory come every so many seconds.
ROUND, SAMPLE = 5.0, 15.0
#: What was not possible is tried again after so many seconds.
AGAIN = 5.0
#: How long the end may take to settle.
SETTLE_SECONDS = 300.0
#: A disk of its own for work files, so that it can be filled.
DISK = "size=64m"
#: Autovacuum at its busiest.
BUSY = (
    "ALTER SYSTEM SET autovacuum_naptime = '1s'",
    "ALTER SYSTEM SET autovacuum_vacuum_threshold = 10",
    "ALTER SYSTEM SET autovacuum_vacuum_scale_factor = 0",
    "ALTER SYSTEM SET autovacuum_analyze_threshold = 10",
    "ALTER SYSTEM SET autovacuum_analyze_scale_factor = 0",
    "ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 0",
    "SELECT pg_reload_conf()",
)

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Return 0 only if nothing was lost, nothing was silent, memory was flat, and all counts agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    work = (STATE.parent / "soak-work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    disk = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "none", work], check=False).returncode == 0
    if not disk:
        console.print("! The disk of work files cannot be filled: mounting one takes root.", style="yellow")
    demo = RollupDemo()
    overrides = {**IMPATIENT, "ROOMKEEPER_WORK_ROOT": str(work), "ROOMKEEPER_METRICS_PORT": "9465"}
    try:
        with LocalStack(
            STATE,
            overrides=overrides,
            own_signatures=True,
            fresh=True,
            furnish=demo.furnish,
            say=console.print,
        ) as stack:
            return _soak(stack, demo, given.minutes * 60, given.seed, disk=disk)
    finally:
        if disk:
            subprocess.run(["umount", "--lazy", work], check=False)


def _soak(stack: LocalStack, demo: RollupDemo, seconds: float, seed: int, *, disk: bool) -> int:
    planned = plan(seed, seconds, disk=disk)
    console.print(f"Seed {seed}, {seconds / 60:g} minutes, {len(planned)} disturbances.")
    in_force, memory, silence = InForce(stack), Memory(), Silence()
    with services(stack.settings) as apis:
        _make_busy(apis)
        traffic = Traffic(apis, stack.settings, demo, seed)
        began = time.monotonic()
        due = {"round": 0.0, "sample": 0.0}
        checks = Checks(stack)
        while (now := time.monotonic() - began) < seconds:
            for one in in_force.end(now):
                console.print(f"{now:6.0f} s  over: {one.name}")
            while planned and planned[0][0] <= now:
                one = planned.pop(0)[1]
                console.print(f"{now:6.0f} s  {one.name}")
                try:
                    in_force.begin(one, now)
                except AWAY as error:
                    # Its server has just been killed, say: later, then.
                    console.print(f"          not possible now: {type(error).__name__}")
                    planned.append((now + AGAIN, one))
                    planned.sort(key=lambda item: item[0])
            if now >= due["round"]:
                traffic.round()
                due["round"] = now + ROUND
            if now >= due["sample"]:
                memory.sample(stack)
                due["sample"] = now + SAMPLE
            if (found := checks.poll(now)) is not None:
                _look(found, apis, silence, in_force, traffic)
            if number := stack.wait(0.2):
                raise Interrupted(number)
        while in_force.names():
            in_force.end(float("inf"))
            if number := stack.wait(0.2):
                raise Interrupted(number)
        console.print("Traffic has ended; waiting for what is left.")
        problems = _settle(stack, apis, traffic, demo)
    problems += silence.problems
    problems += [f"never possible: {one.name}" for _, one in planned]
    return _report(traffic, memory, problems)


def _make_busy(apis: Services) -> None:
    with apis.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in BUSY:
            connection.exec_driver_sql(statement)


def _look(found: Check, apis: Services, silence: Silence, in_force: InForce, traffic: Traffic) -> None:
    try:
        with apis.engine.begin() as connection:
            waiting = final_count.unfinished(connection)
    except REFUSED:
        waiting = 1
    for one in traffic.ephemera:
        try:
            one.look()
        except REFUSED:
            break
    silence.look(found, traffic.sent["files"] - waiting, waiting, in_force.names())
    faults = "; ".join(found.faults) or "no fault"
    console.print(f"{found.at:6.0f} s  {traffic.sent['files']} files, {waiting} unfinished; check: {faults}")


def _settle(stack: LocalStack, apis: Services, traffic: Traffic, demo: RollupDemo) -> list[str]:
    """Wait until nothing is left to do, or for `SETTLE_SECONDS`; return what is wrong."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        with apis.engine.begin() as connection:
            rest = final_count.left(connection)
            problems = [*final_count.files(connection), *final_count.statuses(connection, traffic)]
        for one in traffic.ephemera:
            one.look()
        demo.look(apis.engine)
        problems += [
            f"{case.policy.name}: not done: {case.fed.says}"
            for one in traffic.ephemera
            for case in one.waiting
        ]
        problems += [f"{one.name}: statistics are not complete" for one in demo.waiting]
        problems += [f"{name}: {number}" for name, number in rest._mapping.items() if number]
        if not problems or time.monotonic() > deadline:
            break
        if number := stack.wait(2):
            raise Interrupted(number)
    if traffic.ephemera:
        problems += traffic.ephemera[-1].verified().faults
    for name in rollups(stack.settings):
        audit = subprocess.run(
            roomkeeper(("rollup", "audit", name)),
            env=stack.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if audit.returncode:
            output = f"{audit.stdout}{audit.stderr}".strip()
            problems.append(f"rollup audit {name}: {output[-500:]}")
    return problems


def _report(traffic: Traffic, memory: Memory, problems: list[str]) -> int:
    console.print(", ".join(f"{number:,} {name}" for name, number in traffic.sent.items()) + " sent;")
    console.print(f"{traffic.refused} times a server refused a service, which sent nothing then.")
    for name, (first, last) in memory.report().items():
        console.print(f"  {name}: {first:.0f} MiB in the second quarter, {last:.0f} MiB in the last")
        # The servers' memory grows with their data, and begins anew when they are killed.
        if name in PROGRAMS and last > GROWTH * first and last - first > 50:
            problems.append(f"{name} grew from {first:.0f} to {last:.0f} MiB")
    for problem in problems:
        console.print(f"✗ {problem}", style="red", markup=False)
    if not problems:
        console.print("✓ nothing lost, nothing silent, memory flat, all counts agree", style="green")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        sys.exit(f"{error}")
