"""`roomkeeper retention`: what would go, leave to go on, what went, and how it comes back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from psycopg.errors import QueryCanceled
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from sqlalchemy import Row, func, insert, select
from sqlalchemy.exc import OperationalError

from commands import arguments, progress
from commands.policies import (
    chosen,
    counted,
    due,
    how_to_set,
    hurried,
    lacks_period,
    likely,
    parsed,
    quiet,
    ready,
    short,
    spell,
    told_time,
)
from models.platform import Approval, Receipt
from tasks.apps import POLICIES, after
from tasks.policies.retention import Cascade, Retention, SetValues
from tasks.policies.sweep import Delete
from workers.db import transaction
from workers.settings import LEAST_DAYS, MAX_DAYS, Settings, SettingsError, get_settings, variable
from workers.storage import ObjectMissing, StoreError

if TYPE_CHECKING:
    from tasks.retention.object_deletions import Outcome, Waiting
    from tasks.retention.preview import Preview, Referring

app = typer.Typer(
    help="What retention would take, what it took, and how that comes back.", no_args_is_help=True
)

Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Its name, from `roomkeeper policies`.")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The receipt's number.")]
Now = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Go by this time, as 2026-03-01T10:00:00Z; by the clock if not given."),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the latest first.")]

_SECONDS_A_DAY = timedelta(days=1).total_seconds()


# -- what would go ---------------------------------------------------------------------------------------


@app.command()
def preview(
    policy: Annotated[
        str, typer.Argument(metavar="[POLICY]", help="All, counted roughly, if none is named.")
    ] = "",
    now: Now = None,
    days: Annotated[
        float | None,
        typer.Option(min=LEAST_DAYS, max=MAX_DAYS, help="As if this were the policy's period."),
    ] = None,
) -> None:
    """Show what a run would take, what goes along with it and what stays, and why; nothing changes."""
    settings = get_settings()
    moment = None if now is None else parsed(now)
    if policy:
        _tell(_previewed(_retention(policy, settings), settings, moment, days))
        _console().print("Nothing was changed.")
    elif moment is not None or days is not None:
        raise SettingsError("--now and --days are for one policy: name it.")
    else:
        _tell_all(settings)


def _tell_all(settings: Settings) -> None:
    ready(settings)
    # Not before: importing tasks makes the Celery application, which not all commands here need.
    from tasks.retention.safety_limit import ApprovalRequired, allowance

    table = Table(expand=True)
    table.add_column("policy", no_wrap=True)
    table.add_column("takes what is older than", ratio=1)
    table.add_column("due now", justify="right", no_wrap=True)
    table.add_column("a run may take", justify="right")
    table.add_column("archive", ratio=1, overflow="fold")
    with hurried():
        for name, policy in POLICIES.items():
            if not isinstance(policy, Retention) or policy.app not in {*settings.apps, "roomkeeper"}:
                continue
            if lacks_period(policy, settings):
                table.add_row(name, f"off: {how_to_set(policy, settings)}", "–", "–", "–", style="dim")
                continue
            try:
                with transaction() as connection:
                    may = f"{allowance(connection, policy, settings).rows:,}"
            except ApprovalRequired:
                may = "nothing: rows were put back"
            off = "; off: " + variable("sweep_off") if name in settings.sweep_off else ""
            period = after(policy, settings)
            told = "what each row says" if period is None else spell(period)
            table.add_row(name, told + off, due(policy, settings), may, _place(policy, settings, ""))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print("All there is about one: roomkeeper retention preview POLICY. Nothing was changed.")


def _previewed(
    policy: Retention, settings: Settings, moment: datetime | None, days: float | None = None
) -> "Preview":
    from tasks.retention import preview

    if days is not None:
        if after(policy, settings) is None and not policy.off_until_set:
            raise SettingsError(f"{policy.name} has no period: its rows say themselves when they are old.")
        settings = settings.model_copy(
            update={"retention_days": {**settings.retention_days, policy.name: days}}
        )
    elif off := lacks_period(policy, settings):
        raise SettingsError(f"{off}. To see what a period would take, say --days.")
    ready(settings, policy)
    try:
        with _bar(f"{policy.name}: counting", "page") as watch:
            return preview.preview(policy, settings, now=moment, watch=watch)
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise SettingsError(
                f"{policy.name}: counting takes too long; what refers to its rows has no index by its key."
            ) from error
        raise


def _tell(found: "Preview") -> None:
    policy, settings = found.policy, get_settings()
    console = _console()
    console.print(
        policy.rule if found.period is None else policy.rule.replace("{after}", spell(found.period))
    )
    what = "go" if isinstance(policy.action, Delete) else "be changed"
    cutoff = f", what is older than {told_time(found.cutoff)}" if found.cutoff else ""
    _line(console, "moment", f"{told_time(found.now)} UTC{cutoff}")
    size = f", {decimal(found.size)} without indexes" if found.rows else ""
    _line(console, f"would {what}", f"{counted(found.rows)} of {policy.table.fullname}{size}")
    if found.oldest and found.newest:
        for name, moment in (("oldest", found.oldest), ("newest", found.newest)):
            _line(console, name, f"{told_time(moment)}, {(found.now - moment).days:,} days")
    for number, sample in enumerate(found.samples):
        _line(console, "" if number else "for example", sample)
    for one in found.referring:
        _line(console, *_referring(one))
    if found.files:
        files = _number(found.files, "file")
        _line(
            console, "objects", f"{files}, {decimal(found.file_bytes)} as their rows say; and their pictures"
        )
    if found.held:
        _line(console, "on hold", f"{counted(found.held)}, though old enough; see: roomkeeper hold list")
    if found.not_closed:
        _line(console, "waits for figures", f"{counted(found.not_closed)}; see: roomkeeper rollup list")
    _line(console, "archive", _place(policy, settings, f"{policy.name}/"))
    _line(console, "a run", _verdict(found))


def _line(console: Console, name: str, said: str) -> None:
    console.print(f"{name:>18}  {said}")


def _referring(one: "Referring") -> tuple[str, str]:
    column = f"{one.table.fullname}.{one.one.by.property.columns[0].name}"
    if isinstance(one.one, Cascade):
        size = f", {decimal(one.size)}" if one.rows else ""
        return "goes along", f"{counted(one.rows)} by {column}{size}"
    if isinstance(one.one, SetValues):
        names = ", ".join(to.property.columns[0].name for to in one.one.changes())
        return "stays, changed", f"{counted(one.rows)} by {column}, at most: {names}"
    return "kept alive", f"{counted(one.rows)}, though old enough, by {column}"


def _verdict(found: "Preview") -> str:
    policy = found.policy
    if found.allowed is None:
        return f"would stop. {found.stopped}"
    usual = f"usually {found.allowed.usual:,}"
    if found.too_many:
        return (
            f"would stop: it may take {found.allowed.rows:,} rows, {usual}. If all of this may go: "
            f"roomkeeper retention approve {policy.name} --reason …"
        )
    by = f" by approval {found.allowed.approval}" if found.allowed.approval else ""
    return f"may take {found.allowed.rows:,} rows{by}, {usual}"


def _place(policy: Retention, settings: Settings, below: str) -> str:
    """Return where the policy's rows are archived, down to `below`."""
    if not policy.archive:
        return "none"
    if policy.name in settings.archive_off:
        return f"none: {variable('archive_off')}"
    if settings.archive_root is not None:
        return f"{settings.archive_root}/{below}"
    if settings.archive_bucket is not None:
        return f"s3://{settings.archive_bucket}/{below}"
    return f"missing, so it does not run: set {variable('archive_root')} or {variable('archive_bucket')}"


# -- leave to go on --------------------------------------------------------------------------------------


@app.command()
def approve(
    policy: Policy,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept.")],
    actor: arguments.Actor = "",
) -> None:
    """Let a policy take all that is due now, though it is far more than usual, or was put back."""
    settings = get_settings()
    why, who = _said(reason), arguments.words(actor).strip() or arguments.myself()
    wanted = _retention(policy, settings)
    found = _previewed(wanted, settings, None)
    _tell(found)
    if found.allowed is not None and found.rows <= found.allowed.rows:
        raise SettingsError(
            f"{wanted.name} needs no approval: {counted(found.rows)} would go, and a run may take "
            f"{found.allowed.rows:,}."
        )
    seconds = None if found.period is None else found.period.total_seconds()
    values = {
        "policy": wanted.name,
        "period_seconds": seconds,
        "rows": found.rows,
        "reason": why,
        "approved_by": who,
        "expires_at": func.now() + timedelta(hours=settings.approval_hours),
    }
    with transaction() as connection:
        made = connection.execute(
            insert(Approval).values(values).returning(Approval.id, Approval.expires_at)
        ).one()
    console = _console()
    may = f"may take these {counted(found.rows)}" if found.rows else "runs again; nothing is due now"
    console.print(
        f"Approval {made.id}: {wanted.name} {may}. It holds until {told_time(made.expires_at)} UTC, for the "
        f"period that the policy has now. Its next run goes by it, or: roomkeeper run {wanted.name}"
    )


@app.command()
def approvals(limit: Limit = 20) -> None:
    """List approvals, the latest first: who let which policy take how much, and until when."""
    taken = (
        select(func.coalesce(func.sum(Receipt.rows), 0))
        .where(Receipt.policy == Approval.policy, Receipt.approval == Approval.id)
        .scalar_subquery()
    )
    ready(get_settings())
    with transaction() as connection:
        found = connection.execute(
            select(*Approval.__table__.columns, taken.label("taken"), func.now().label("now"))
            .order_by(Approval.id.desc())
            .limit(limit)
        ).all()
    console = _console()
    for row in found:
        period = (
            ""
            if row.period_seconds is None
            else f" older than {short(timedelta(seconds=row.period_seconds))}"
        )
        state = "until" if row.expires_at > row.now else "expired"
        console.print(
            f"{row.id}  {told_time(row.approved_at)}  {row.policy}: {counted(row.rows)}{period}, "
            f"{row.taken:,} taken, {state} {told_time(row.expires_at)}; {row.approved_by}: {row.reason}"
        )
    if not found:
        console.print("None.")


# -- what went -------------------------------------------------------------------------------------------


@app.command("receipts")
def list_receipts(
    policy: Annotated[str, typer.Argument(metavar="[POLICY]", help="Only this policy's.")] = "",
    limit: Limit = 20,
) -> None:
    """List receipts, the latest first: what was taken when, and what was put back."""
    settings = get_settings()
    ready(settings)
    wanted = select(*Receipt.__table__.columns).order_by(Receipt.number.desc()).limit(limit)
    with transaction() as connection:
        if policy:
            wanted = wanted.where(Receipt.policy == policy)
        found = connection.execute(wanted).all()
    if policy and not found and policy not in POLICIES:
        raise SettingsError(f"{policy!r} is not a policy.{likely(policy, list(POLICIES))}")
    console = _console()
    for row in found:
        tables = ", ".join(
            f"{name} {number:,}" for name, number in (row.content.get("tables") or {}).items() if number
        )
        objects = row.content.get("objects")
        more = [tables, _number(objects, "object") if objects else "", row.content.get("operator") or ""]
        said = "; ".join(filter(None, more))
        console.print(
            f"{row.number}  {told_time(row.written_at)}  {row.policy}: {counted(row.rows)} {row.kind}"
            + (f" ({said})" if said else "")
        )
    if not found:
        console.print("None.")


@app.command("receipt")
def show_receipt(number: Number) -> None:
    """Tell all that a receipt says."""
    ready(get_settings())
    from tasks.retention import object_deletions, receipts

    with transaction() as connection:
        row = receipts.one(connection, number)
        outcome = object_deletions.of_receipt(connection, number)
    if row is None:
        raise _no_receipt(number)
    console = _console()
    for name in ("number", "kind", "policy", "rows", "approval", "run"):
        _field(console, name, getattr(row, name))
    _field(console, "written at", f"{told_time(row.written_at)} UTC")
    archives = row.content.get("archives") or []
    seconds = row.content.get("period_seconds")
    for name, value in row.content.items():
        if name == "rule" and seconds is not None:
            _field(console, name, value.replace("{after}", spell(timedelta(seconds=seconds))))
        elif name == "objects" and outcome is not None:
            _field(console, name, _of_objects(outcome))
        elif name not in {"archives", "period_seconds"}:
            _field(console, name.replace("_", " "), value)
    for one in archives:
        changed = ", values before and after a change" if one["changed"] else ""
        _field(console, "archive", f"{one['key']}: {counted(one['rows'])} of {one['table']}{changed}")
        _field(console, "sha256", f"{one['sha256']}, {decimal(one['size'])}")
    _field(console, "previous", row.previous)
    _field(console, "hash", row.hash)
    if receipts.digest(dict(row._mapping)) != row.hash:
        raise SettingsError(f"Receipt {number} is not what was written: see roomkeeper retention verify")


def _of_objects(outcome: "Outcome") -> str:
    """Say what became of the objects that a receipt names."""
    names = {"deleted": "deleted", "kept": "kept: rows name them", "cancelled": "kept: rows were restored"}
    parts = [
        f"{outcome.outcomes[name]:,} {said}" for name, said in names.items() if outcome.outcomes.get(name)
    ]
    if outcome.waiting is not None:
        parts.append(f"{outcome.waiting.objects:,} waiting ({_waits(outcome.waiting)})")
    return ", ".join(parts)


def _waits(waiting: "Waiting") -> str:
    """Say since when objects wait to be deleted, and why."""
    if waiting.failing_since is None:
        return f"since {told_time(waiting.since)} UTC, not tried yet"
    tried = _number(waiting.attempts, "failed attempt")
    return f"{tried} since {told_time(waiting.failing_since)} UTC: {waiting.error}"


@app.command("pending")
def list_pending() -> None:
    """List objects of deleted rows that are still to be deleted, the oldest first, and why they wait."""
    ready(get_settings())
    from tasks.retention import object_deletions

    with transaction() as connection:
        found = object_deletions.every(connection)
    console = _console()
    for row, waiting in found:
        receipt = "no receipt" if row.receipt is None else f"receipt {row.receipt}"
        objects = f"{_number(waiting.objects, 'object')} of {_number(waiting.files, 'file')}"
        what = f"{row.policy}, {receipt}: {objects} in {row.store}"
        console.print(f"{told_time(waiting.since)}  {what}; {_waits(waiting)}")
    if not found:
        console.print("None.")


def _field(console: Console, name: str, value: Any) -> None:
    if value in (None, "", [], {}):
        return
    if isinstance(value, dict):
        value = ", ".join(
            f"{key}: {one:,}" if isinstance(one, int) else f"{key}: {one}" for key, one in value.items()
        )
    elif isinstance(value, list):
        value = " to ".join(map(str, value))
    _line(console, name, str(value))


def _no_receipt(number: int) -> SettingsError:
    return SettingsError(f"There is no receipt {number}; see: roomkeeper retention receipts")


@app.command()
def verify(
    archives: Annotated[
        bool, typer.Option("--archives", help="Read every archive as well, and compare its SHA-256.")
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A hash that was noted before: it must be in the chain."),
    ] = None,
) -> None:
    """Check that no receipt was changed or is missing; exit code 1, with a sentence for each that was."""
    settings = get_settings()
    ready(settings)
    from tasks.retention import receipts
    from tasks.retention.preview import reading

    with reading() as connection:
        found = receipts.verify(connection, expected=expect.strip().lower() if expect else None)
    checked, faults = _check_archives(settings) if archives else (0, [])
    faults = found.faults + faults
    complaints = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for sentence in faults:
        complaints.print(f"✗ {sentence}", style="red")
    console = _console()
    number = _number(found.receipts, "receipt")
    seen = f", {_number(checked, 'archive')}" if archives else ""
    if faults:
        console.print(f"{number}{seen}; {_number(len(faults), 'fault')}.")
        raise typer.Exit(1)
    console.print(f"{number}{seen}: all as written.")
    if found.receipts:
        console.print(
            f"The last one's hash, to be kept elsewhere and given as --expect the next time: {found.last}"
        )


def _check_archives(settings: Settings) -> tuple[int, list[str]]:
    """Read every archive that receipts name; return how many there are, and what is wrong."""
    from tasks.retention import receipts
    from tasks.retention.archive import Archived, ArchiveError, check
    from workers.storage.archives import archive_for

    store = archive_for(settings)
    checked, faults = 0, []
    with transaction() as connection:
        total = connection.scalar(
            select(func.coalesce(func.sum(func.jsonb_array_length(Receipt.content["archives"])), 0)).where(
                Receipt.content.has_key("archives")
            )
        )
    if total and store is None:
        where = f"{variable('archive_root')} or {variable('archive_bucket')}"
        return 0, [f"Receipts name {_number(total, 'archive')}, and no place of archives is set up: {where}."]
    with _bar("archives", "archive") as watch:
        for row in _streamed(receipts.every):
            for one in row.content.get("archives") or []:
                assert store is not None
                try:
                    check(store, Archived(**one))
                except (ArchiveError, ObjectMissing) as error:
                    faults.append(f"Receipt {row.number}: {_of_archive(one['key'], error)}.")
                except StoreError as error:
                    faults.append(f"The archives cannot be read: {str(error).rstrip('.')}.")
                    return checked, faults
                checked += 1
                watch(checked, int(total or 0))
    return checked, faults


def _streamed(every: Callable[..., Iterator[Row[Any]]]) -> Iterator[Row[Any]]:
    with transaction() as connection:
        yield from every(connection)


def _of_archive(key: str, error: Exception) -> str:
    said = str(error).rstrip(".")
    return said if key in said else f"{key}: {said}"


# -- how it comes back -----------------------------------------------------------------------------------


@app.command()
def restore(
    number: Number,
    reason: Annotated[str, typer.Option("--reason", help="Why; the receipt of this says it.")],
    actor: arguments.Actor = "",
) -> None:
    """Put back the rows that a receipt says were taken, keys and all; deleted objects do not come back."""
    settings = get_settings()
    why, who = _said(reason), arguments.words(actor).strip() or arguments.myself()
    ready(settings)
    from tasks.retention import receipts
    from tasks.retention.restore import RestoreError
    from tasks.retention.restore import restore as put_back

    with transaction() as connection:
        receipt = receipts.one(connection, number)
    if receipt is None:
        raise _no_receipt(number)
    so_far, total = 0, sum(one["rows"] for one in receipt.content.get("archives") or [])
    try:
        with quiet(), progress.watching(f"receipt {number}") as show:

            def watch(_table: str, rows: int) -> None:
                nonlocal so_far
                so_far += rows
                show(f"receipt {number}, row {so_far:,} of {total:,}", so_far, total)

            def waiting(seconds: float) -> None:
                show(f"receipt {number}: waiting for a deletion of its objects to end, {seconds:.0f} s")

            done = put_back(number, settings, operator=who, reason=why, watch=watch, waiting=waiting)
    except KeyboardInterrupt:
        typer.echo("Broken off: nothing was put back.", err=True)
        raise typer.Exit(130) from None
    except RestoreError as error:
        raise SettingsError(f"{str(error).rstrip('.')}.") from error
    except StoreError as error:
        raise SettingsError(f"Nothing was put back: {str(error).rstrip('.')}.") from error
    console = _console()
    for table, rows in done.rows.items():
        if rows:
            console.print(f"{table}: {counted(rows)} put back.")
    for rows, said in (
        (done.changed, "got back the values that they had before the others went"),
        (done.there, "there already, as archived"),
        (done.other, "there with other values, or another is in the place: these stay as they are"),
        (done.absent, "referred to these and has gone since: restore its own receipt, then this one again"),
    ):
        if rows:
            console.print(f"{counted(rows)} {said}.")
    if done.objects_kept:
        objects = _number(done.objects_kept, "object")
        console.print(f"{objects} still waited to be deleted, and stay.")
    if done.objects:
        objects = _number(done.objects, "object")
        console.print(f"{objects} that went with them cannot come back: the rows name what is not there.")
    if done.receipt is None:
        console.print("Nothing was changed.")
        return
    stopping = [
        name
        for name, policy in POLICIES.items()
        if isinstance(policy, Retention) and policy.table.fullname in done.rows
        if not lacks_period(policy, settings)
    ]
    console.print(
        f"Receipt {done.receipt} says so. By their age they are due, so what would take them stops now "
        f"({', '.join(stopping) or receipt.policy}): place a hold on whose they are (roomkeeper hold add), "
        "or give it a longer period; then say, of each: roomkeeper retention approve POLICY --reason …"
    )


# -- all -------------------------------------------------------------------------------------------------


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def _retention(name: str, settings: Settings) -> Retention:
    found = chosen(name, settings)
    if not isinstance(found, Retention):
        raise SettingsError(
            f"{name} is no retention policy, and writes no receipts; see what is due: "
            f"roomkeeper run {name} --dry-run"
        )
    return found


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _said(reason: str) -> str:
    why = arguments.words(reason).strip()
    if not why:
        raise SettingsError("--reason must say why, in a few words.")
    return why


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how far it is, of how much."""
    with progress.watching(what) as show:
        yield lambda done, total: show(f"{what}, {unit} {done:,} of {total:,}", done, total)
