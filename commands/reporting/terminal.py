"""Tells a report in the terminal: small tables, and a line of bars for each series."""

from collections.abc import Sequence
from math import ceil

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commands import formatting
from commands.reporting.charts import Drawn, Heat, Known, Ranked, Report
from commands.reporting.jobs import Job
from commands.reporting.records import Number, Over, Shape, Unit
from commands.reporting.units import WEEKDAYS, with_unit

#: What a value is shown as, from the lowest to the highest; where letters are all there is, as digits.
BARS, DIGITS = "▁▂▃▄▅▆▇█", "0123456789"
#: What stands for a day without statistics.
NOTHING = " "
#: From this width on, in characters, a line has room for more days.
WIDE, SHORT = 110, 30


def sparkline(values: Sequence[Number | None], signs: str = BARS, highest: Number | None = None) -> str:
    """Return the values as signs between 0 and the highest, theirs if not given; a blank for None."""
    if highest is None:
        highest = max((value for value in values if value is not None), default=0)
    last = len(signs) - 1
    return "".join(
        # What is more than nothing is seen to be so.
        NOTHING if value is None else signs[ceil(max(value, 0) / highest * last) if highest else 0]
        for value in values
    )


def narrowed(values: Sequence[Number | None], width: int) -> list[Number | None]:
    """Return at most `width` values: the highest of each so many days, which fits any statistic."""
    size = -(-len(values) // width)
    # From the end: the latest days are whole.
    first = len(values) % size
    cuts = [*([0] if first else []), *range(first, len(values), size)]
    parts = [values[at : at + size] if at or not first else values[:first] for at in cuts]
    return [max((one for one in part if one is not None), default=None) for part in parts]


def tell(report: Report, about: str, console: Console) -> None:
    """Print the report."""
    plain = console.options.ascii_only
    width = max(SHORT, min(90, console.width - 60)) if console.width >= WIDE else SHORT
    count = len(report.charts[0].days)
    console.print(f"{report.app}: {about}", style="bold", markup=False)
    zones = " and ".join(sorted({one.days_of for one in report.progress}))
    console.print(
        f"{_plain(formatting.days(report.first, report.last), plain)}, days of {zones}; "
        f"made {report.made_at:%Y-%m-%d %H:%M} UTC"
    )
    if (size := -(-count // width)) > 1:
        console.print(f"Each sign is {size} days: the highest of them.")
    for drawn in report.charts:
        console.print()
        _chart(drawn, console, width, plain)
    for heat in report.heats:
        console.print()
        _heat(heat, console, plain)
    for ranked in report.rankings:
        console.print()
        _ranking(ranked, console)
    console.print()
    _jobs(report.jobs, console, plain)


def _plain(text: str, plain: bool) -> str:
    return text.replace("–", "-") if plain else text


def _chart(drawn: Drawn, console: Console, width: int, plain: bool) -> None:
    chart = drawn.chart
    heads = {Over.SUM: "sum", Over.HIGHEST: "highest", Over.NOTHING: ""}
    closed = next((at for at in reversed(range(len(drawn.days))) if drawn.known[at] is Known.CLOSED), None)
    table = Table(box=None, pad_edge=False, title=Text(chart.title, style="bold"), title_justify="left")
    table.add_column("", overflow="fold", min_width=12, max_width=24)
    table.add_column("", no_wrap=True)
    last = "" if closed is None else formatting.day(drawn.days[closed])
    table.add_column(last, justify="right", no_wrap=True)
    table.add_column(heads[chart.over], justify="right", no_wrap=True)
    together = chart.shape is Shape.STACK and chart.over is Over.SUM and len(drawn.lines) > 1
    rows = [(line.name, line.values) for line in drawn.lines]
    for name, values in [*rows, *([("together", drawn.whole())] if together else [])]:
        there = [value for value in values if value is not None]
        over: Number | None = None
        if there and chart.over is not Over.NOTHING:
            over = sum(there) if chart.over is Over.SUM else max(there)
        table.add_row(
            Text(name, style="bold" if name == "together" else ""),
            _signs(drawn, values, width, plain),
            "" if closed is None else _plain(with_unit(values[closed], chart.unit), plain),
            "" if over is None else _plain(with_unit(over, chart.unit), plain),
        )
    if drawn.any:
        console.print(table)
    else:
        console.print(Text(chart.title, style="bold"))
        console.print("  No statistics.")
    if note := _note(drawn):
        console.print(Text(_plain(note, plain), style="dim"))


def _signs(drawn: Drawn, values: Sequence[Number | None], width: int, plain: bool) -> Text:
    line = Text(sparkline(narrowed(values, width), DIGITS if plain else BARS), style="cyan")
    size = -(-len(values) // width)
    late = sum(one is Known.PROVISIONAL for one in drawn.known)
    if late:
        # At the end always, but for days to come.
        after = next(at for at, one in enumerate(reversed(drawn.known)) if one is Known.PROVISIONAL)
        end = len(line) - after // size
        line.stylize("dim", end - -(-late // size), end)
    return line


def _note(drawn: Drawn) -> str:
    """Say what of the days is not final, or not there."""
    notes = []
    for kind, what in ((Known.PROVISIONAL, "provisional"), (Known.NOTHING, "no statistics")):
        days = [day for day, one in zip(drawn.days, drawn.known, strict=True) if one is kind]
        if not days:
            continue
        if (days[-1] - days[0]).days + 1 == len(days):
            notes.append(f"{what}: {formatting.days(days[0], days[-1])}")
        else:
            notes.append(f"{what}: {len(days)} days")
    return "; ".join(notes)


def _heat(heat: Heat, console: Console, plain: bool) -> None:
    if not heat.highest:
        console.print(Text(heat.hours.title, style="bold"))
        console.print("  No statistics.")
        return
    table = Table(box=None, pad_edge=False, title=Text(heat.hours.title, style="bold"), title_justify="left")
    table.add_column("UTC", min_width=12)
    table.add_column("0     6     12    18", no_wrap=True)
    table.add_column("most", justify="right", no_wrap=True)
    for name, means in zip(WEEKDAYS, heat.means, strict=True):
        there = [mean for mean in means if mean is not None]
        signs = sparkline(means, DIGITS if plain else BARS, heat.highest)
        table.add_row(name, Text(signs, style="cyan"), f"{max(there):,.1f}" if there else "")
    console.print(table)
    console.print(Text("The mean of closed hours, by weekday and hour.", style="dim"))


def _ranking(ranked: Ranked, console: Console) -> None:
    ranking = ranked.ranking
    if not ranked.rows:
        console.print(Text(ranking.title, style="bold"))
        console.print("  No statistics.")
        return
    table = _listed(ranking.title)
    table.add_column(ranking.heading, overflow="fold")
    for series in ranking.columns:
        table.add_column(series.name, justify="right")
    for name, values in ranked.rows:
        cells = (
            with_unit(value, one.statistic.unit) for value, one in zip(values, ranking.columns, strict=True)
        )
        table.add_row(Text(name), *cells)
    console.print(table)


def _jobs(jobs: Sequence[Job], console: Console, plain: bool) -> None:
    table = _listed("Jobs, by the job history of 7 days")
    table.add_column("job", overflow="fold")
    for name in ("last run (UTC)", "outcome"):
        table.add_column(name)
    for name in ("runs", "failed", "median"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        last = job.health.last
        overdue = "overdue" if job.health.overdue else ""
        outcome = ", ".join(filter(None, (last.outcome if last else "", overdue))) or "-"
        wrong = overdue or (last is not None and last.outcome in {"failed", "stopped"})
        table.add_row(
            Text(job.name),
            f"{last.started_at:%m-%d %H:%M}" if last else "never",
            Text(outcome, style="red" if wrong else ""),
            f"{sum(job.outcomes.values()):,}",
            f"{job.outcomes.get('failed', 0):,}",
            _plain(with_unit(job.median, Unit.SECONDS), plain),
        )
    console.print(table)


def _listed(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title, style="bold"), title_justify="left")
