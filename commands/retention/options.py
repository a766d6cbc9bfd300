"""Arguments and options that several commands of retention have."""

from typing import Annotated

import typer

from commands.policies import chosen
from tasks.policies.retention import Retention
from workers.settings import Settings, SettingsError

Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Its name, from `roomkeeper policies`.")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The receipt's number.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the latest first.")]


def retention_policy(name: str, settings: Settings) -> Retention:
    """Return the retention policy of this name.

    Raises:
        SettingsError: there is none, or its application is not enabled.
    """
    found = chosen(name, settings)
    if not isinstance(found, Retention):
        raise SettingsError(
            f"{name} is no retention policy, and writes no receipts; see what is due: "
            f"roomkeeper run {name} --dry-run"
        )
    return found
