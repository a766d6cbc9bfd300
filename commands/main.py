"""The `roomkeeper` command: one sub-command per file beside this one, imported when it is called."""

import sys

import typer

from commands.lazy import Entry, LazyGroup
from workers.errors import OperatorError

#: The sub-commands, in the order of the help text.
ENTRIES: dict[str, Entry] = {
    "apps": Entry(
        "commands.apps",
        "apps",
        "Print every table of the applications with the jobs that use it, or why none does.",
    ),
    "check": Entry(
        "commands.check",
        "check",
        "Check all that the platform needs; exit code 1 for a fault (✗), not for a warning (!).",
    ),
    "grant": Entry(
        "commands.grants",
        "grant",
        "Let a role call roomkeeper.enqueue and roomkeeper.record_status; it needs no right on our tables.",
    ),
    "policies": Entry(
        "commands.policies",
        "list_policies",
        "Print every policy and rollup: what it does, how often, its last run, and what is due or closed.",
    ),
    "reconcile": Entry(
        "commands.reconcile",
        "reconcile",
        "Find objects that no row names, and rows whose object is gone; with --apply, mend both.",
    ),
    "report": Entry(
        "commands.report",
        "report",
        "Show an application's daily statistics, and how its jobs are.",
    ),
    "run": Entry(
        "commands.run",
        "run",
        "Run one policy or rollup now, to its end; beat's runs of it are skipped meanwhile.",
    ),
    "settings": Entry(
        "commands.settings",
        "settings",
        "Print every setting, its default and its meaning, as a Markdown table.",
    ),
    "worker": Entry(
        "commands.programs",
        "worker",
        "Run one kind of worker. It waits for a database that is away, and starts on none "
        "without our schema.",
    ),
    "beat": Entry(
        "commands.programs",
        "beat",
        "Run the scheduler. Several may run: one holds the lock, the others stand by.",
    ),
    "flower": Entry(
        "commands.programs",
        "flower",
        "Run Flower, the operators' view of workers and tasks, behind a password.",
    ),
    "metrics": Entry(
        "commands.programs",
        "metrics",
        "Serve what the database, the broker and the scanner know as Prometheus metrics, until SIGTERM.",
    ),
    "attachments": Entry(
        "commands.attachments", "app", "One file's event log; retry, quarantine or release it."
    ),
    "broker": Entry("commands.broker", "app", "The broker, and which installation it belongs to."),
    "db": Entry("commands.database", "app", "Make or migrate what the database must hold."),
    "dead-letters": Entry("commands.dead_letters", "app", "Messages that were refused or failed for good."),
    "hold": Entry("commands.holds", "app", "Legal holds: what retention must not take."),
    "partition": Entry("commands.partition", "app", "Tables that are partitioned by month."),
    "retention": Entry(
        "commands.retention",
        "app",
        "What retention would take, what it took, and how that comes back.",
    ),
    "rollup": Entry("commands.rollup", "app", "Statistics by the day and the hour."),
    "stack": Entry(
        "commands.stack",
        "app",
        "Run everything on this machine: for a first look, and for development.",
    ),
    "triggers": Entry("commands.triggers", "app", "Have the database itself enqueue new attachments."),
}


class Roomkeeper(LazyGroup):
    """All sub-commands."""

    entries = ENTRIES


app = typer.Typer(
    cls=Roomkeeper,
    help="Background workers and scheduled jobs for chat back ends.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would print the settings, passwords and all.
    pretty_exceptions_enable=False,
)


@app.callback()
def _options() -> None:
    """Make a group of it, even without a sub-command of its own; it has no options."""


def main() -> None:
    """Run the command line; an error that the operator can put right is a sentence, with exit code 1."""
    try:
        app()
    except OperatorError as error:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        sys.exit(1)
    except Exception as error:
        # Not before: most of what is printed without a database does without SQLAlchemy.
        from sqlalchemy.exc import DBAPIError

        if not isinstance(error, DBAPIError):
            raise
        from rich.console import Console

        from commands import checks

        checks.print_faults([checks.refusal(error)], Console(stderr=True))
        sys.exit(1)


if __name__ == "__main__":
    main()
