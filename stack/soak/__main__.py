"""`make soak`: traffic of all applications on the local stack, disturbed by a seeded plan, then counted."""

import argparse
import re
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
from stack.programs import roomkeeper
from stack.soak import final_count, report
from stack.soak.disturbances import AWAY, Disturbance, InForce, plan
from stack.soak.traffic import REFUSED, Traffic
from stack.soak.watch import Check, Checks, Memory, Silence, Work
from tasks.apps import POLICIES, ROLLUPS, rollups

STATE = Path(".roomkeeper") / "soak"
#: A round of traffic and a sample of memory come every so many seconds.
ROUND, SAMPLE = 5.0, 15.0
#: What was not possible is tried again after so many seconds.
AGAIN = 5.0
#: How long nothing may change while what is left is waited for, and how long all of it may take.
STILL_SECONDS, SETTLE_SECONDS = 300.0, 1800.0
#: How often sweeps and retention run, and rollups: a machine must keep up that has other things to do, too.
SWEEP_SECONDS, ROLLUP_SECONDS = 30, 15
#: A file whose message is lost is announced again after so many seconds: `STILL_SECONDS` are more.
REQUEUE_SECONDS = 120
#: What `check` says of rollups that have days of the past to close.
LATE = re.compile(r"\b(is|are) late: .* should have been closed")
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
    parser.add_argument(
        "--only", default="", help="only disturbances with this regular expression in the name"
    )
    parser.add_argument("--longest", type=float, default=float("inf"), help="seconds that one lasts at most")
    given = parser.parse_args()
    work = (STATE.parent / "soak-work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    disk = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "none", work], check=False).returncode == 0
    if not disk:
        console.print("! The disk of work files cannot be filled: mounting one takes root.", style="yellow")
    demo = RollupDemo()
    overrides = {
        **IMPATIENT,
        "ROOMKEEPER_SWEEP_EVERY": ",".join(
            [
                *(f"{name}={SWEEP_SECONDS}" for name in POLICIES if name != "roomkeeper.runs"),
                *(f"{name}={ROLLUP_SECONDS}" for name in ROLLUPS),
            ]
        ),
        "ROOMKEEPER_ATTACHMENT_REQUEUE_SECONDS": str(REQUEUE_SECONDS),
        "ROOMKEEPER_WORK_ROOT": str(work),
        "ROOMKEEPER_METRICS_PORT": "9465",
    }
    try:
        with LocalStack(
            STATE,
            overrides=overrides,
            own_signatures=True,
            fresh=True,
            furnish=demo.furnish,
            pooled=True,
            clocked=True,
            say=console.print,
        ) as stack:
            seconds = given.minutes * 60
            planned = plan(given.seed, seconds, disk=disk, only=given.only, longest=given.longest)
            return _soak(stack, demo, seconds, given.seed, planned)
    finally:
        if disk:
            subprocess.run(["umount", "--lazy", work], check=False)


def _soak(
    stack: LocalStack,
    demo: RollupDemo,
    seconds: float,
    seed: int,
    planned: list[tuple[float, Disturbance]],
) -> int:
    console.print(f"Seed {seed}, {seconds / 60:g} minutes, {len(planned)} disturbances.")
    in_force, memory, silence = InForce(stack), Memory(), Silence()
    begun: list[tuple[float, Disturbance]] = []
    # What the applications do, and what is counted, does not depend on the pooler.
    settings = stack.direct_settings
    with services(settings) as apis:
        _make_busy(apis)
        traffic = Traffic(apis, settings, demo, seed)
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
                    begun.append((now, one))
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
            if (found := checks.poll(now, in_force.names())) is not None:
                _look(found, apis, silence, in_force, traffic)
            if number := stack.wait(0.2):
                raise Interrupted(number)
        while in_force.names():
            in_force.end(float("inf"))
            if number := stack.wait(0.2):
                raise Interrupted(number)
        console.print("Traffic has ended; waiting for what is left.")
        lost = _settle(stack, apis, traffic, demo)
        audits = _audits(stack)
        faults = _check_at_the_end(stack)
    outcome = report.Outcome(
        seconds=seconds,
        seed=seed,
        begun=begun,
        sent=traffic.sent,
        refused=traffic.refused,
        lost=lost,
        silence=silence,
        never_begun=[one.name for _, one in planned],
        memory=memory.report(),
        audits=audits,
        faults_at_the_end=faults,
    )
    console.print(outcome.table(), markup=False)
    for problem in (problems := outcome.problems()):
        console.print(f"✗ {problem}", style="red", markup=False)
    if not problems:
        console.print("✓ nothing lost, nothing silent, memory flat, all counts agree", style="green")
    return 1 if problems else 0


def _make_busy(apis: Services) -> None:
    with apis.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in BUSY:
            connection.exec_driver_sql(statement)


def _look(found: Check, apis: Services, silence: Silence, in_force: InForce, traffic: Traffic) -> None:
    try:
        with apis.engine.begin() as connection:
            works = final_count.work(connection, traffic.sent)
    except REFUSED:
        works = {name: Work(-1, 1) for name in ("files", "calls with statuses", "periodic jobs")}
    for one in traffic.ephemera:
        try:
            one.look()
        except REFUSED:
            break
    silence.look(found, works, in_force.names())
    faults = "; ".join(found.faults) or "no fault"
    waiting = ", ".join(f"{work.waiting} {name}" for name, work in works.items() if name != "periodic jobs")
    console.print(f"{found.at:6.0f} s  waiting: {waiting}; check: {faults}", markup=False)


def _settle(stack: LocalStack, apis: Services, traffic: Traffic, demo: RollupDemo) -> list[str]:
    """Wait until nothing is left to do, or nothing changes any more; return what is wrong then."""
    began = changed = time.monotonic()
    before: list[str] = []
    while True:
        problems = _left(apis, traffic, demo)
        now = time.monotonic()
        if problems != before:
            before, changed = problems, now
            console.print(
                f"{now - began:6.0f} s  left: {len(problems)}, such as {problems[:3]}", markup=False
            )
        if not problems or now - changed > STILL_SECONDS or now - began > SETTLE_SECONDS:
            break
        if number := stack.wait(2):
            raise Interrupted(number)
    if traffic.ephemera:
        problems += traffic.ephemera[-1].verified().faults
    return problems


def _left(apis: Services, traffic: Traffic, demo: RollupDemo) -> list[str]:
    with apis.engine.begin() as connection:
        rest = final_count.left(connection)
        problems = [*final_count.files(connection), *final_count.statuses(connection, traffic)]
    for one in traffic.ephemera:
        one.look()
    demo.look(apis.engine)
    problems += [
        f"{case.policy.name}: not done: {case.fed.says}" for one in traffic.ephemera for case in one.waiting
    ]
    problems += [f"{one.name}: statistics are not complete" for one in demo.waiting]
    problems += [f"{name}: {number}" for name, number in rest._mapping.items() if number]
    return problems


def _audits(stack: LocalStack) -> dict[str, str]:
    """Return the rollups, each with what its audit has found; an empty text where all agrees."""
    found = {}
    for name in rollups(stack.settings):
        audit = _roomkeeper(stack, "rollup", "audit", name)
        found[name] = f"{audit.stdout}{audit.stderr}".strip()[-500:] if audit.returncode else ""
    return found


def _check_at_the_end(stack: LocalStack) -> list[str]:
    """Return the faults that `check` still has when all is calm; rollups may still close days of the past."""
    deadline = time.monotonic() + STILL_SECONDS
    late: set[str] | None = None
    while True:
        done = _roomkeeper(stack, "check")
        faults = [line[2:] for line in done.stdout.splitlines() if line.startswith("✗ ")]
        if done.returncode and not faults:
            faults = [done.stderr[-500:]]
        # They began with a history. What is named goes on from look to look.
        now_late = {fault for fault in faults if LATE.search(fault)}
        faults = [fault for fault in faults if fault not in now_late or fault in (late or now_late)]
        if late is None and now_late:
            late = now_late
        if not faults or time.monotonic() > deadline:
            return faults
        if number := stack.wait(5):
            raise Interrupted(number)


def _roomkeeper(stack: LocalStack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        roomkeeper(arguments), env=stack.environment, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        sys.exit(f"{error}")
