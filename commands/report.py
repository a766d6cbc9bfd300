"""`roomkeeper report`: an application's daily statistics, as a page with charts or in the terminal."""

import io
import os
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from commands import checks, formatting
from commands.formatting import did_you_mean
from commands.reporting import pages, query, terminal
from commands.reporting.charts import Known, Report
from commands.reporting.records import Page
from tasks.apps import APPS, every, policies, rollups
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import Sweep
from workers.db import clock, transaction
from workers.settings import Settings, SettingsError, get_settings, variable

#: So many days are shown by default, and at most.
DAYS, MOST = 30, 3660


def report(
    app: Annotated[str, typer.Argument(metavar="APP", help="The application.")],
    first: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", help="The first day shown, as 2026-03-01; 29 days before --to."
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day shown; today if not given.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with charts, that needs no network."),
    ] = None,
) -> None:
    """Show an application's daily statistics, and how its jobs are."""
    if app not in pages.PAGES:
        known = list(pages.PAGES)
        raise SettingsError(f"{app!r} is not an application: {', '.join(known)}.{did_you_mean(app, known)}")
    settings = get_settings()
    page = _page(app)
    given = _parsed("--from", first), _parsed("--to", last)
    if html is not None:
        _may_be_written(html)
    checks.require_database(settings, query.needs(page))
    made = _read(app, page, *given, settings)
    if html is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A room's name may have letters that the terminal has not.
            sys.stdout.reconfigure(errors="replace")
        terminal.tell(made, APPS[app].about, Console(highlight=False, markup=False))
        return
    from commands.reporting.page import html as drawn

    size = _write(html, drawn(made, APPS[app].about))
    typer.echo(f"{html}: {formatting.days(made.first, made.last)}, {decimal(size)}; it needs no network.")


def _page(app: str) -> Page:
    page = pages.PAGES[app]
    if APPS[app].attachments is None:
        return page
    return Page(charts=(*page.charts, *pages.attachments(app)), hours=page.hours, rankings=page.rankings)


def _read(app: str, page: Page, first: date | None, last: date | None, settings: Settings) -> Report:
    now = clock()
    start, end = _days(first, last, now.date())
    running: dict[str, Sweep | Rollup] = {**policies(settings), **rollups(settings)}
    of_app = [name for name in running if name.startswith(f"{app}.")]
    jobs = {
        name: every(running[name], settings)
        for name in dict.fromkeys([*of_app, *page.rollups])
        if name in running
    }
    with transaction() as connection:
        made = query.read(connection, app, page, jobs, start, end, now)
    if not made.progress:
        off = "" if app in settings.apps else f" {app} is not in {variable('apps')}."
        raise SettingsError(
            f"There are no statistics of {app} yet.{off} Statistics are made by the maintenance workers; "
            "see: roomkeeper policies"
        )
    known = {one for drawn in made.charts for one in drawn.known}
    if known == {Known.NOTHING} and not any(heat.any for heat in made.heats):
        none = f"There are no statistics of {app} for {formatting.days(start, end)}"
        begun = [(one.begins, one.chart.rollup.name) for one in made.charts if one.begins is not None]
        if begun and end < min(begun)[0]:
            begins, rollup = min(begun)
            raise SettingsError(
                f"{none}: they begin on {begins}. Older ones are made with: roomkeeper rollup backfill "
                f"{rollup} --from {start} --to {begins - timedelta(days=1)}"
            )
        raise SettingsError(f"{none} yet; see: roomkeeper rollup list")
    return made


def _parsed(option: str, given: str | None) -> date | None:
    if given is None:
        return None
    try:
        return date.fromisoformat(given.strip())
    except ValueError:
        raise SettingsError(f"{option} must be a day like 2026-03-01 (got {given!r}).") from None


def _days(first: date | None, last: date | None, today: date) -> tuple[date, date]:
    """Return the days that are shown."""
    end = last or today
    if end > today:
        raise SettingsError(f"--to {end} is still to come: today is {today} in UTC.")
    start = first or max(date.min + timedelta(days=DAYS), end) - timedelta(days=DAYS - 1)
    if start > end:
        raise SettingsError(f"--from {start} is after {f'--to {end}' if last else f'today, {end} in UTC'}.")
    if (end - start).days >= MOST:
        raise SettingsError(f"--from {start} is too far back: a report shows {MOST:,} days at most.")
    return start, end


def _may_be_written(path: Path) -> None:
    """Check that the file can be written, before the report is computed."""
    if path.exists() and not path.is_file():
        raise SettingsError(f"--html {path} cannot be written: it is there, and no file.")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise SettingsError(f"--html {path} cannot be written: there is no directory {parent}.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SettingsError(f"--html {path} cannot be written: {parent} refuses.")


def _write(path: Path, text: str) -> int:
    """Write the file as a whole or not at all; return its size in bytes."""
    # Not the link, but what it names.
    whole = path.resolve()
    content = text.encode()
    try:
        with tempfile.NamedTemporaryFile(dir=whole.parent, prefix=f".{whole.name}-", delete=False) as file:
            made = Path(file.name)
            try:
                file.write(content)
                file.close()
                made.chmod(_rights(whole))
                made.replace(whole)
            except BaseException:
                made.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise SettingsError(f"--html {path} cannot be written: {error.strerror}.") from error
    return len(content)


def _rights(path: Path) -> int:
    """Return the rights that a file has, or that a new one gets from this process."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
