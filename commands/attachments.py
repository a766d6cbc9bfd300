"""`roomkeeper attachments`: one file's event log, and what an operator may do to it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from sqlalchemy import Row

from commands import arguments
from commands.attachments_reconsider import reconsider
from commands.formatting import alternatives, printable
from tasks.attachments import operator_actions
from tasks.attachments.attachment_work import UnknownAttachmentError
from tasks.attachments.content.finding import phrase
from workers.settings import SettingsError, get_settings, variable

app = typer.Typer(help="One file's event log; retry, quarantine or release it.", no_args_is_help=True)

App = Annotated[str, typer.Argument(metavar="APP", help="The application.")]
Id = Annotated[UUID, typer.Argument(metavar="ID", help="The attachment's id.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the file's event log.")]

#: The most lines that are printed.
_LISTED = 1000


#: What of a job is worth a line, in this order.
_LINES = (
    "state",
    "outcome",
    "verdict",
    "reason",
    "detail",
    "signature",
    "override",
    "media_type",
    "findings",
    "size_bytes",
    "sha256",
    "attempt",
    "failures",
    "phase",
    "worker",
    "lease_until",
    "engine_version",
    "signature_version",
    "rescanned_at",
    "risk",
    "small_key",
    "large_key",
    "quarantine_key",
    "url_expires_at",
    "created_at",
    "finished_at",
)


@app.command()
def show(application: App, attachment_id: Id) -> None:
    """Tell one file's event log: each phase, when, how long, and what was found."""
    console = Console(soft_wrap=True, highlight=False)
    with _not_found_reported(application, attachment_id):
        job, events = operator_actions.look(application, attachment_id)
        if job is None and not events:
            why = operator_actions.why_idle(application, attachment_id)
            raise SettingsError(f"No worker has taken up {application} {attachment_id} yet: {why}.")
    if job is not None:
        for name in _LINES:
            value = getattr(job, name)
            if value not in (None, "", []):
                console.print(f"{name:>18}  {_plain(value)}", markup=False)
        for name, moment in _waiting(job):
            console.print(f"{name:>18}  {moment}", markup=False)
    console.print()
    for event in events:
        console.print(_event_line(event), markup=False)


@app.command("list")
def list_(
    application: Annotated[
        str | None,
        typer.Option("--app", help=f"{alternatives(operator_actions.WITH_ATTACHMENTS)}: only its files."),
    ] = None,
    state: Annotated[str | None, typer.Option(help=f"{alternatives(operator_actions.STATES)}.")] = None,
    outcome: Annotated[str | None, typer.Option(help=f"{alternatives(operator_actions.OUTCOMES)}.")] = None,
    reason: Annotated[str | None, typer.Option(help="Such as malware or type_mismatch.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="All copies of this content: 64 hexadecimal digits.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="What has happened, such as late_detection.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_LISTED, help="At most so many, the latest first.")] = 50,
) -> None:
    """List attachments that fit everything given: what has failed, is quarantined, withdrawn by a rescan."""
    arguments.known("--app", application, operator_actions.WITH_ATTACHMENTS)
    arguments.known("--state", state, operator_actions.STATES)
    arguments.known("--outcome", outcome, operator_actions.OUTCOMES)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise SettingsError("--sha256 must be 64 hexadecimal digits.")
    console = Console(soft_wrap=True, highlight=False)
    jobs = operator_actions.find(
        app=application,
        state=state,
        outcome=outcome,
        reason=printable(reason),
        sha256=sha256,
        event=printable(event),
        limit=limit,
    )
    names = operator_actions.file_names(jobs)
    for job in jobs:
        became = ", ".join(filter(None, (job.outcome, job.verdict, job.reason)))
        which = (
            f"{job.app} {job.attachment_id} {phrase(names.get((job.app, job.attachment_id), ''))}".rstrip()
        )
        console.print(f"{_plain(job.updated_at)}  {which}  {job.state:<8}  {became}".rstrip(), markup=False)
    if not jobs:
        console.print("None.")


@app.command()
def retry(application: App, attachment_id: Id, reason: Reason, actor: arguments.Actor = "") -> None:
    """Have the file go through the pipeline once more; it is not served meanwhile."""
    _act("retry", application, attachment_id, reason, actor)


@app.command()
def quarantine(application: App, attachment_id: Id, reason: Reason, actor: arguments.Actor = "") -> None:
    """Withdraw the file and move it to quarantine, whatever the scanner says of it."""
    _act("quarantine", application, attachment_id, reason, actor)


@app.command()
def release(application: App, attachment_id: Id, reason: Reason, actor: arguments.Actor = "") -> None:
    """Serve the file in spite of its verdict: a false alarm. Copies of it are judged on their own.

    Holds for this content and the reason that it was refused for; not for what is empty or too_large.
    """
    with _not_found_reported(application, attachment_id):
        job, _ = operator_actions.look(application, attachment_id)
    against = job.reason if job is not None and job.outcome else None
    if against in operator_actions.UNRELEASABLE:
        raise SettingsError(
            f"{application} {attachment_id} cannot be released from {against}: "
            f"{operator_actions.UNRELEASABLE[against]}."
        )
    if job is not None and job.outcome == "accepted" and job.override == "release":
        raise SettingsError(f"{application} {attachment_id} has been released already.")
    _act("release", application, attachment_id, reason, actor)
    if against is None:
        typer.echo("Nothing was known against it: should it be refused now, release it then.")


app.command("reconsider")(reconsider)


def _act(name: str, application: str, attachment_id: UUID, reason: str, actor: str) -> None:
    why, who = arguments.reason(reason), arguments.actor(actor)
    with _not_found_reported(application, attachment_id):
        operator_actions.act(name, application, attachment_id, actor=who, reason=why)
    # Not before: importing tasks makes the Celery application, which no other command here needs.
    from tasks.attachments.payload import ProcessAttachment
    from tasks.attachments.process import process
    from workers.broker_errors import BROKER_AWAY

    request = ProcessAttachment(app=application, id=attachment_id)
    try:
        process.apply_async((request.model_dump(mode="json"),))
    except BROKER_AWAY:
        typer.echo("The broker is away; the file is announced when it is back.")
    typer.echo(
        f"{name}: {application} {attachment_id} is queued; see: roomkeeper attachments show "
        f"{application} {attachment_id}"
    )


@contextmanager
def _not_found_reported(application: str, attachment_id: UUID) -> Iterator[None]:
    """Tell what is not there in a sentence, and where else it is."""
    try:
        yield
    except UnknownAttachmentError as error:
        there = [
            f" {other} has one: roomkeeper attachments show {other} {attachment_id}"
            for other in operator_actions.elsewhere(application, attachment_id)
        ]
        raise SettingsError(f"{error}.{';'.join(there)}") from error


def _waiting(job: Row[Any]) -> Iterator[tuple[str, str]]:
    """Yield when a file that waits is looked at next; and until when, if it waits for its object."""
    if job.state != "waiting" or job.not_before is None:
        return
    yield "next attempt", f"{_plain(job.not_before)} UTC"
    if job.reason == "object_missing":
        until = job.created_at + timedelta(seconds=get_settings().attachment_missing_seconds)
        yield "waits until", f"{_plain(until)} UTC; then it fails ({variable('attachment_missing_seconds')})"


def _event_line(event: Row[Any]) -> str:
    """Return one line: when, which attempt, what, how long, what was found, who did it and why."""
    attempt = f"#{event.attempt}" if event.attempt else ""
    seconds = "" if event.seconds is None else f"{event.seconds:.3f} s"
    found = [f"{name} {_plain(value)}" for name, value in event.detail.items() if value not in (None, [], "")]
    who = [f"{event.actor}: {event.reason}"] if event.actor else []
    by = [f"by {event.worker}"] if event.worker and event.event == "claimed" else []
    says = "; ".join([*who, *found, *by])
    return f"{_plain(event.at)}  {attempt:>3} {event.event:<14} {seconds:>10}  {says}".rstrip()


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)
