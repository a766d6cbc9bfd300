"""`roomkeeper attachments reconsider`: refused files are examined again by the rules of now."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from commands import arguments, checks, progress
from commands.formatting import alternatives, printable, quantity
from tasks.apps import enabled
from tasks.attachments.operator_actions import WITH_ATTACHMENTS
from workers.settings import Settings, SettingsError, get_settings, variable
from workers.storage import StoreError

if TYPE_CHECKING:
    from tasks.attachments.reconsider import Group

#: What those are called that are as old as `reconsider.AGES`, and older.
_AGES = ("up to a day old", "up to 7 days old", "up to 30 days old", "older")
#: Reasons of files that are never examined again by this command.
_NEVER = ("malware", "operator")


def reconsider(
    app: Annotated[
        str | None, typer.Option("--app", help=f"{alternatives(WITH_ATTACHMENTS)}: only its files.")
    ] = None,
    refused_for: Annotated[
        list[str] | None,
        typer.Option(
            "--refused-for", help="Only files refused for this reason, such as not_allowed; repeatable."
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it nothing is changed.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in each file's event log.")] = "",
    at_once: Annotated[
        int, typer.Option(min=1, max=10_000, help="Add none while so many files wait or are worked on.")
    ] = 100,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many files.")] = None,
    actor: arguments.Actor = "",
) -> None:
    """Show which refused files would be examined again by the rules of now; with --apply, do it.

    Never malware, nor what an operator has quarantined. Run again with the same --reason, it goes on.
    """
    # Not before: no other command of these needs the broker's client.
    from tasks.attachments import reconsider as work

    settings, reasons = get_settings(), tuple(map(printable, refused_for or ()))
    why, who = printable(reason).strip(), arguments.actor(actor)
    _ready(settings, app, reasons)
    if apply:
        why = arguments.reason(reason)
    wanted = work.Selection((app,) if app else tuple(enabled(settings)), reasons, why)
    found = work.preview(wanted, settings)
    _check_reason(why, found)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for group in found:
        console.print(_line(group))
    files = sum(group.files for group in found)
    if not apply:
        would = f"{quantity(files, 'file')} would be examined again, {at_once:,} at a time"
        most = "" if limit is None or limit >= files else f", the first {limit:,} now"
        nothing = "they are not served meanwhile. Nothing was changed; to do it: --apply --reason"
        console.print(f"{would}{most}; {nothing}" if files else "None.")
        return
    done = work.Progress()
    try:
        with progress.watching("reconsidering", bar=False) as watch:
            work.reconsider(wanted, settings, done, actor=who, at_once=at_once, limit=limit, watch=watch)
    except KeyboardInterrupt:
        typer.echo(f"Broken off after {quantity(done.reopened, 'file')}; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    except StoreError as error:
        raise SettingsError(
            f"{str(error).rstrip('.')}. {quantity(done.reopened, 'file')} before that; run it again to go on."
        ) from error
    console.print(_ended(done.reopened, done.missing, settings))


def _ready(settings: Settings, app: str | None, reasons: tuple[str, ...]) -> None:
    arguments.known("--app", app, WITH_ATTACHMENTS)
    on = enabled(settings)
    if app is not None and app not in on:
        raise SettingsError(f"{app} is not enabled: {variable('apps')} names {', '.join(on) or 'nothing'}.")
    for name in reasons:
        if name in _NEVER:
            raise SettingsError(
                f"--refused-for: files quarantined for {name} are not examined again; one by one: "
                "roomkeeper attachments retry, or release."
            )
    checks.require_database(settings, [])


def _check_reason(why: str, found: "list[Group]") -> None:
    """Refuse the name of a reason of refusal as the reason why: the other option was meant."""
    names = sorted({group.reason for group in found})
    if why in (*names, *_NEVER):
        raise SettingsError(
            f"--reason says why the files are examined again. To choose those refused for {why}: "
            f"--refused-for {why}"
        )


def _line(group: "Group") -> str:
    ages = [f"{count:,} {name}" for count, name in zip(group.ages, _AGES, strict=True) if count]
    # Of what was too large to be read no size is known.
    size = f", {decimal(group.size)}" if group.size else ""
    return f"{group.app}  {group.reason}: {quantity(group.files, 'file')}{size}; {', '.join(ages)}"


def _ended(reopened: int, missing: int, settings: Settings) -> str:
    left = f" {quantity(missing, 'file')} left as before: the object is missing." if missing else ""
    if not reopened:
        return f"Nothing was changed.{left}"
    return (
        f"{quantity(reopened, 'file')} to be examined again; the recovery job enqueues the last of them "
        f"within {settings.recover_every_seconds:g} s.{left} See: "
        "roomkeeper attachments list --event reconsidered"
    )
