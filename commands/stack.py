"""`roomkeeper stack`: everything on this machine, with files, stale rows and statistics going through it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from commands.formatting import first_names, quantity
from stack.demo.settings import IMPATIENT
from stack.errors import StackError
from tasks.apps import APPS

if TYPE_CHECKING:
    from pathlib import Path

    from stack.demo.rollups import RollupDemo, Seen
    from stack.demo.stale_rows import Effect, Ephemera
    from stack.group import LocalStack

app = typer.Typer(help="Run everything on this machine: for a first look, and for development.")

#: How long nothing may happen to what is fed: no fate, no effect, and no run of a job that is waited for.
PATIENCE_SECONDS = 180.0
#: How many names a line has room for.
_NAMES = 4

console = Console(highlight=False, soft_wrap=True)


@app.command()
def run() -> None:
    """Start everything, feed samples in, and stay until Ctrl-C. Data is kept for the next time."""
    with _packages():
        from stack.demo.rollups import RollupDemo
        from stack.group import LocalStack
    from stack.interrupts import Interrupted

    # Ctrl-C is how it ends. (In the middle of the start it is raised, and ends with 130.)
    rollup_demo = RollupDemo()
    with (
        LocalStack(overrides=IMPATIENT, furnish=rollup_demo.furnish, say=console.print) as group,
        suppress(Interrupted),
    ):
        _show(group, rollup_demo)
        console.print("Running. Ctrl-C ends it; the data stays.", style="bold")
        group.wait()


@app.command()
def demo() -> None:
    """The same without staying, from nothing: exit code 0 only if everything met its expected fate."""
    with _packages():
        from stack.demo.rollups import RollupDemo
        from stack.group import DEMO_STATE, LocalStack

    rollup_demo = RollupDemo()
    with LocalStack(
        DEMO_STATE, overrides=IMPATIENT, fresh=True, furnish=rollup_demo.furnish, say=console.print
    ) as group:
        right = _show(group, rollup_demo)
    raise typer.Exit(0 if right else 1)


@contextmanager
def _packages() -> Iterator[None]:
    """Say what to do where the servers' packages are not installed, as in production."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StackError(f"The local stack needs the package {error.name}; type: make install") from error


def _show(group: "LocalStack", rollup_demo: "RollupDemo") -> bool:
    """Feed files and rows in, tell each one's fate as it happens, sum up; return whether all were right."""
    from stack.demo.attempts import tries
    from stack.demo.rows import clock
    from stack.demo.samples import SAMPLES
    from stack.demo.stale_rows import Ephemera
    from stack.demo.uploads import services
    from stack.interrupts import Interrupted
    from stack.patience import Patience

    right = total = 0
    with services(group.settings) as apis:
        with apis.engine.begin() as connection:
            since = clock(connection)
        console.print(f"\nFeeding {len(SAMPLES)} sample files in…")
        fed = apis.feed(SAMPLES)
        ephemera = Ephemera(apis.engine, group.settings)
        policies = ephemera.feed()
        console.print(f"Leaving stale rows behind for {policies} policies, and others alive…")
        rollups = rollup_demo.feed(apis.engine, group.settings, len(fed), since)
        console.print(f"Letting people meet, call and write, for {rollups} rollups to count…")

        waiting = {one.id: one.sample.name for one in fed}
        patience = Patience(PATIENCE_SECONDS)
        unproven, tried = 0, None

        def pause() -> None:
            nonlocal unproven, tried
            effects, seen = ephemera.look(), rollup_demo.look(apis.engine)
            unproven += _tell(effects)
            _print_rollups(seen)
            if effects or seen:
                patience.progress()
            if number := group.wait(0.2):
                raise Interrupted(number)
            if patience.report_due() or patience.exhausted():
                jobs = [case.policy.name for case in ephemera.waiting] + [
                    one.name for one in rollup_demo.waiting
                ]
                console.print(_waiting([*waiting.values(), *jobs], patience.seconds, group.logs))
                before, tried = tried, tries(apis.engine, jobs, list(waiting), since)
                if tried != before:
                    patience.progress()
                if patience.exhausted():
                    raise TimeoutError

        try:
            for fate in apis.watch(fed, pause):
                patience.progress()
                del waiting[fate.fed.id]
                total += 1
                right += fate.right
                mark = "[green]✓[/]" if fate.right else "[red]✗[/]"
                sample = fate.fed.sample
                console.print(f"{mark} {sample.app}/{sample.name} ({sample.says}) → {fate.sentence}")
            while ephemera.waiting or rollup_demo.waiting:
                pause()
        except TimeoutError:
            after = f"in {patience.seconds:.0f} s"
            if total < len(fed):
                console.print(f"✗ {len(fed) - total} files have met no fate {after}.", style="red")
            for case in ephemera.waiting:
                console.print(f"✗ {case.policy.name}: not {after}: {case.fed.says}", style="red")
            for rollup in rollup_demo.waiting:
                console.print(f"✗ {rollup.name}: its statistics are not there {after}.", style="red")
            console.print(f"  What the workers say is in {group.logs}.")
        harmed = ephemera.harmed()
        for case in harmed:
            console.print(f"✗ {case.policy.name}: a row that had to stay was changed.", style="red")
        swept = policies - len(ephemera.waiting)
        whole = _verified(ephemera)
    rolled = rollups - len(rollup_demo.waiting)
    with_rollups = ", ".join(name for name in group.settings.apps if APPS[name].rollups)
    console.print(
        f"{rolled} of {rollups} rollups have run, and have their statistics. "
        f"Look at them: roomkeeper report APP --html FILE (APP: {with_rollups})"
    )
    title = f"\n{right} of {len(fed)} files as expected; the rows of {swept} of {policies} policies swept"
    table = Table(show_header=False, box=None, title=title, title_justify="left")
    for name, address in group.addresses.items():
        table.add_row(name, address)
    console.print(table)
    return (
        right == len(fed)
        and swept == policies
        and rolled == rollups
        and not harmed
        and not unproven
        and whole
    )


def _waiting(names: list[str], seconds: float, logs: "Path") -> str:
    """Say what is still waited for, with the last line of each worker's log."""
    from stack.processes import last_lines

    shown = first_names(names, _NAMES)
    lines = [f"waiting for {shown}, {seconds:.0f} s so far."]
    for name in ("attachments", "maintenance"):
        with suppress(OSError):
            last = last_lines((logs / f"{name}.log").read_text(errors="replace")).rpartition("\n")[2]
            lines.append(f"  The log of {name} ends: {last[:200]}")
    return escape("\n".join(lines))


def _tell(effects: list["Effect"]) -> int:
    """Tell what became of rows; return how many should have a receipt, and have none."""
    for effect in effects:
        case = effect.case
        rows = quantity(case.rows, "row")
        when = f"{effect.seconds:.1f} s after it was due"
        receipt = "" if effect.receipt is None else f", receipt {effect.receipt}"
        mark, lacks = ("[green]✓[/]", "") if effect.proven else ("[red]✗[/]", ", without a receipt")
        console.print(f"{mark} {case.policy.name}: {rows}, {when}{receipt}{lacks} ({case.fed.says})")
    return sum(not effect.proven for effect in effects)


def _print_rollups(found: list["Seen"]) -> None:
    """Tell which rollups have their statistics."""
    for seen in found:
        many = f"{seen.total:,} {seen.history.many}, {quantity(seen.buckets, seen.rollup.grain)}"
        console.print(f"[green]✓[/] {seen.rollup.name}: {many} (in {seen.rollup.table.fullname})")


def _verified(ephemera: "Ephemera") -> bool:
    """Tell whether the chain of receipts is whole, and return it."""
    found = ephemera.verified()
    for sentence in found.faults:
        console.print(f"✗ {sentence}", style="red")
    if not found.faults and found.receipts:
        console.print(f"[green]✓[/] {found.receipts:,} receipts, all as written; the last: {found.last}")
    return not found.faults
