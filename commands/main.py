"""The `roomkeeper` command: one sub-command per file beside this one."""

import sys

import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from commands import (
    apps,
    attachments,
    check,
    checks,
    database,
    dead_letters,
    grants,
    holds,
    partition,
    policies,
    programs,
    reconcile,
    report,
    retention,
    rollup,
    run,
    settings,
    stack,
    triggers,
)
from stack.errors import StackError
from workers.bootstrap import BootstrapError
from workers.settings import SettingsError

app = typer.Typer(
    help="Background workers and scheduled jobs for chat back ends.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would print the settings, passwords and all.
    pretty_exceptions_enable=False,
)
app.command("apps")(apps.apps)
app.command("check")(check.check)
app.command("grant")(grants.grant)
app.command("policies")(policies.list_policies)
app.command("reconcile")(reconcile.reconcile)
app.command("report")(report.report)
app.command("run")(run.run)
app.command("settings")(settings.settings)
app.command("worker")(programs.worker)
app.command("beat")(programs.beat)
app.command("flower")(programs.flower)
app.command("metrics")(programs.metrics)
app.add_typer(attachments.app, name="attachments")
app.add_typer(database.app, name="db")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(holds.app, name="hold")
app.add_typer(partition.app, name="partition")
app.add_typer(retention.app, name="retention")
app.add_typer(rollup.app, name="rollup")
app.add_typer(stack.app, name="stack")
app.add_typer(triggers.app, name="triggers")


def main() -> None:
    """Run the command line; a fault that the user can mend is told in a sentence, with exit code 1."""
    try:
        app()
    except (SettingsError, BootstrapError, StackError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        sys.exit(1)
    except DBAPIError as error:
        checks.print_faults([checks.refusal(error)], Console(stderr=True))
        sys.exit(1)


if __name__ == "__main__":
    main()
