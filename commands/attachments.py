"""`roomkeeper attachments`: one file's story, and what an operator may do to it."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

import typer
from kombu.exceptions import OperationalError
from rich.console import Console
from sqlalchemy import Row

from tasks.attachments import operate
from tasks.attachments.jobs import UnknownAttachmentError
from workers.settings import SettingsError

app = typer.Typer(help="One file's story; retry, quarantine or release it.", no_args_is_help=True)

App = Annotated[str, typer.Argument(metavar="APP", help="The application.")]
Id = Annotated[UUID, typer.Argument(metavar="ID", help="The attachment's id.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the file's story.")]

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
    "not_before",
    "lease_until",
    "engine_version",
    "signature_version",
    "rescanned_at",
    "risk",
    "small_key",
    "large_key",
    "quarantine_key",
    "address_expires_at",
    "created_at",
    "finished_at",
)


@app.command()
def show(application: App, attachment_id: Id) -> None:
    """Tell one file's story: each phase, when, how long, and what was found."""
    console = Console(soft_wrap=True, highlight=False)
    with _told():
        job, events = operate.look(application, attachment_id)
    if job is None and not events:
        raise SettingsError(f"Nobody has worked on {application} {attachment_id}; is it in the table?")
    if job is not None:
        for name in _LINES:
            value = getattr(job, name)
            if value not in (None, "", []):
                console.print(f"{name:>18}  {_plain(value)}", markup=False)
    console.print()
    for event in events:
        console.print(_told_event(event), markup=False)


@app.command("list")
def list_(
    application: Annotated[str | None, typer.Option("--app", help="Only this application's.")] = None,
    state: Annotated[str | None, typer.Option(help="waiting, running, finished or parked.")] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, refused or quarantined.")] = None,
    reason: Annotated[str | None, typer.Option(help="Such as malware or type_mismatch.")] = None,
    sha256: Annotated[str | None, typer.Option(help="All copies of this content.")] = None,
    event: Annotated[str | None, typer.Option(help="What has happened, such as late_detection.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest first.")] = 50,
) -> None:
    """List attachments that fit everything given: what is parked, quarantined, withdrawn by a rescan."""
    console = Console(soft_wrap=True, highlight=False)
    jobs = operate.find(
        app=application, state=state, outcome=outcome, reason=reason, sha256=sha256, event=event, limit=limit
    )
    for job in jobs:
        became = ", ".join(filter(None, (job.outcome, job.verdict, job.reason)))
        line = f"{_plain(job.updated_at)}  {job.app} {job.attachment_id}  {job.state:<8}  {became}"
        console.print(line.rstrip(), markup=False)
    if not jobs:
        console.print("None.")


@app.command()
def retry(application: App, attachment_id: Id, reason: Reason) -> None:
    """Have the file go through the pipeline once more; it is not served meanwhile."""
    _act("retry", application, attachment_id, reason)


@app.command()
def quarantine(application: App, attachment_id: Id, reason: Reason) -> None:
    """Withdraw the file and move it to quarantine, whatever the scanner says of it."""
    _act("quarantine", application, attachment_id, reason)


@app.command()
def release(application: App, attachment_id: Id, reason: Reason) -> None:
    """Serve the file in spite of its verdict: a false alarm. Copies of it are judged on their own."""
    _act("release", application, attachment_id, reason)


def _act(name: str, application: str, attachment_id: UUID, reason: str) -> None:
    if not reason.strip():
        raise SettingsError("--reason must say why, in a few words.")
    actor = os.environ.get("SUDO_USER") or getpass.getuser()
    with _told():
        operate.act(name, application, attachment_id, actor=actor, reason=reason.strip())
    # Not before: importing tasks makes the Celery application, which no other command here needs.
    from tasks.attachments.payload import ProcessAttachment
    from tasks.attachments.process import process

    request = ProcessAttachment(app=application, id=attachment_id)
    try:
        process.apply_async((request.model_dump(mode="json"),))
    except (OperationalError, OSError):
        typer.echo("The broker is away; the file is announced when it is back.")
    typer.echo(
        f"{name}: {application} {attachment_id} is taken up; see: roomkeeper attachments show "
        f"{application} {attachment_id}"
    )


@contextmanager
def _told() -> Iterator[None]:
    """Tell what is not there in a sentence."""
    try:
        yield
    except UnknownAttachmentError as error:
        raise SettingsError(f"{error}.") from error


def _told_event(event: Row[Any]) -> str:
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
