"""Draws a report as one HTML page that loads nothing: statistics, style, scripts are all in it."""

import base64
import json
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from xml.etree.ElementTree import Element

from commands import formatting
from commands.formatting import quantity
from commands.reporting import vega
from commands.reporting.axes import wide_apart
from commands.reporting.charts import Drawn, Heat, Known, Ranked, Report, RollupCoverage
from commands.reporting.jobs import Job
from commands.reporting.markup import tag, written
from commands.reporting.records import Over, Shape, Unit
from commands.reporting.units import WEEKDAYS, short_with_unit, with_unit

#: How an outcome is marked.
_OUTCOMES = {"done": "good", "more": "good", "skipped": "quiet", "failed": "bad", "stopped": "bad"}


def html(report: Report, about: str) -> str:
    """Return the page.

    Args:
        about: what the application is, in a phrase.
    """
    charts = {
        **{f"chart-{at}": vega.chart(drawn) for at, drawn in enumerate(report.charts) if drawn.any},
        **{f"heat-{at}": vega.heat(heat) for at, heat in enumerate(report.heats) if heat.highest},
    }
    themes = {
        "light": vega.params(vega.LIGHT, vega.OTHERS_LIGHT),
        "dark": vega.params(vega.DARK, vega.OTHERS_DARK),
    }
    scripts = (
        _library(),
        f"const charts = {_json(charts)};\nconst themes = {_json(themes)};\n{_asset('page.js')}",
    )
    # If a name contains code all the same: the browser runs these scripts only, and makes no requests.
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    days = formatting.days(report.first, report.last)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", **{"http-equiv": "Content-Security-Policy"}, content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{report.app}, {days}"),
        # Or browsers would ask for one.
        tag("link", rel="icon", href="data:,"),
        tag("style", _asset("page.css")),
    )
    body = tag("body", _header(report, about, days), _main(report), _footer(report))
    for script in scripts:
        body.append(tag("script", script))
    return written(tag("html", head, body, lang="en"))


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and what puts their charts into a page, as one script; it takes seconds."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(sha256(script.encode()).digest()).decode()


def _json(value: object) -> str:
    """Return JSON that ends no script."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- the parts of the page -------------------------------------------------------------------------------


def _header(report: Report, about: str, days: str) -> Element:
    zones = sorted({one.days_of for one in report.progress}) or ["UTC"]
    made = f"{report.made_at:%Y-%m-%d %H:%M} UTC"
    count = quantity(len(report.charts[0].days) if report.charts else 0, "day")
    return tag(
        "header",
        tag("h1", report.app),
        tag("p", about, class_="about"),
        tag(
            "p",
            tag("strong", days),
            f" · {count} of {' and '.join(zones)} · made {made}",
            class_="when",
        ),
    )


def _main(report: Report) -> Element:
    tiles = [_tile(drawn) for drawn in report.charts if drawn.chart.headline and drawn.over_all() is not None]
    charts = [
        *(_figure(f"chart-{at}", drawn) for at, drawn in enumerate(report.charts)),
        *(_heat(f"heat-{at}", heat) for at, heat in enumerate(report.heats)),
    ]
    return tag(
        "main",
        tag("noscript", tag("p", "Charts need JavaScript; the tables do not.", class_="note")),
        tag("ul", *tiles, class_="tiles") if tiles else None,
        tag("section", tag("h2", "Statistics"), *_legend_of_days(report), tag("div", *charts, class_="grid")),
        *(_ranking(one) for one in report.rankings),
        _jobs(report),
        _progress(report),
    )


def _tile(drawn: Drawn) -> Element:
    over_all = drawn.over_all()
    assert over_all is not None
    value, day = over_all
    closed = [
        one
        for one, known in zip(drawn.whole(), drawn.known, strict=True)
        if known is Known.CLOSED and one is not None
    ]
    if day is not None:
        more = f"on {formatting.day(day) if day.year == drawn.days[-1].year else formatting.full_day(day)}"
    elif closed:
        mean = sum(closed) / len(closed)
        many = quantity(len(closed), "closed day")
        shown = round(mean) if mean >= 10 and drawn.chart.unit is Unit.NUMBER else mean
        more = f"{short_with_unit(shown, drawn.chart.unit)} a day, mean of {many}"
    else:
        more = "so far"
    return tag(
        "li",
        tag("strong", short_with_unit(value, drawn.chart.unit), title=with_unit(value, drawn.chart.unit)),
        tag("span", drawn.chart.headline or ""),
        tag("small", more),
    )


def _legend_of_days(report: Report) -> Iterator[Element]:
    """Say what the bands behind the days mean, if there are any."""
    kinds = {one for drawn in report.charts for one in drawn.known}
    parts: list[Element | str] = []
    if Known.PROVISIONAL in kinds:
        parts += [tag("i", class_="swatch open"), " not closed yet: provisional, rows may still come "]
    if Known.NOTHING in kinds:
        parts += [
            tag("i", class_="swatch nothing"),
            " no statistics: before the first row, or not computed, which is not the same as 0",
        ]
    if parts:
        yield tag("p", *parts, class_="note days")


def _figure(name: str, drawn: Drawn) -> Element:
    legend = (
        tag(
            "ul",
            *(tag("li", tag("i", class_=f"swatch {one.colour}"), one.name) for one in drawn.lines),
            class_="legend",
        )
        if len(drawn.lines) > 1
        else None
    )
    says = drawn.chart.says
    if wide_apart(drawn):
        says += " The scale is logarithmic."
    zone = "" if drawn.zone == "UTC" else f" Days of {drawn.zone}."
    return tag(
        "figure",
        tag("figcaption", tag("h3", drawn.chart.title, id=f"{name}-title"), tag("p", says + zone)),
        legend,
        tag("div", id=name, class_="chart") if drawn.any else tag("p", "No statistics.", class_="empty"),
        _details(_table_of(drawn)) if drawn.any else None,
        aria_labelledby=f"{name}-title",
        role="group",
    )


def _table_of(drawn: Drawn) -> Element:
    together = drawn.chart.shape is Shape.STACK and drawn.chart.over is Over.SUM and len(drawn.lines) > 1
    heads = ["day", *(line.name for line in drawn.lines), *(["together"] if together else [])]
    whole = drawn.whole()
    rows = []
    # The latest first, so that yesterday is seen without scrolling.
    for at in reversed(range(len(drawn.days))):
        values = [*(line.values[at] for line in drawn.lines), *([whole[at]] if together else [])]
        known = drawn.known[at]
        mark = {"provisional": " (provisional)", "nothing": " (no statistics)"}.get(known, "")
        rows.append(
            tag(
                "tr",
                tag("th", f"{drawn.days[at]:%Y-%m-%d}{mark}", scope="row"),
                *(_cell(with_unit(value, drawn.chart.unit)) for value in values),
                class_=None if known is Known.CLOSED else str(known),
            )
        )
    return _table(drawn.chart.title, heads, rows)


def _heat(name: str, heat: Heat) -> Element:
    rows = [
        tag(
            "tr",
            tag("th", day, scope="row"),
            *(_cell("–" if mean is None else f"{mean:,.1f}") for mean in heat.means[at]),
        )
        for at, day in enumerate(WEEKDAYS)
    ]
    heads = ["day", *(f"{hour:02}" for hour in range(24))]
    scale = tag(
        "p",
        "0 ",
        tag("i", class_="ramp"),
        f" {heat.highest:,.1f}",
        class_="legend",
    )
    return tag(
        "figure",
        tag("figcaption", tag("h3", heat.hours.title, id=f"{name}-title"), tag("p", heat.hours.says)),
        scale if heat.highest else None,
        tag("div", id=name, class_="chart") if heat.highest else tag("p", "No statistics.", class_="empty"),
        _details(_table(heat.hours.title, heads, rows)) if heat.highest else None,
        aria_labelledby=f"{name}-title",
        role="group",
    )


def _ranking(ranked: Ranked) -> Element:
    ranking = ranked.ranking
    heads = ["", ranking.heading, *(one.name for one in ranking.columns)]
    rows = [
        tag(
            "tr",
            tag("td", str(at)),
            tag("th", name, scope="row"),
            *(
                _cell(with_unit(value, one.statistic.unit))
                for value, one in zip(values, ranking.columns, strict=True)
            ),
        )
        for at, (name, values) in enumerate(ranked.rows, 1)
    ]
    return tag(
        "section",
        tag("h2", ranking.title),
        tag("p", ranking.says, class_="says"),
        _table(ranking.title, heads, rows, 2) if rows else tag("p", "No statistics.", class_="empty"),
    )


def _jobs(report: Report) -> Element:
    heads = ["job", "last run (UTC)", "outcome", "all its runs", "runs", "rows", "median", "longest"]
    rows = [_job(job) for job in report.jobs]
    return tag(
        "section",
        tag("h2", "Jobs"),
        tag(
            "p",
            "From the job history, which keeps 7 days: how often each job ran and how that ended, how many "
            "rows it changed, how long it took. A run is skipped while another of the same job is under way.",
            class_="says",
        ),
        _table("Jobs", heads, rows, 4) if rows else tag("p", "None runs.", class_="empty"),
    )


def _job(job: Job) -> Element:
    last = job.health.last
    if last is None:
        at, kind, outcome = (
            "never",
            "bad" if job.health.overdue else "quiet",
            "overdue" if job.health.overdue else "–",
        )
    else:
        at = f"{last.started_at:%Y-%m-%d %H:%M:%S}"
        kind, outcome = _OUTCOMES[last.outcome], last.outcome
        if job.health.overdue:
            kind, outcome = "bad", f"{last.outcome}, overdue"
    marks = {"good": "✓ ", "bad": "✗ ", "quiet": ""}
    error = last.error if last is not None and last.error else None
    return tag(
        "tr",
        tag("th", job.name, scope="row"),
        tag("td", at),
        tag("td", tag("span", marks[kind] + outcome, class_=kind, title=error)),
        tag("td", ", ".join(f"{count:,} {outcome}" for outcome, count in job.outcomes.items()) or "–"),
        _cell(f"{sum(job.outcomes.values()):,}"),
        _cell(f"{job.rows:,}"),
        _cell(with_unit(job.median, Unit.SECONDS)),
        _cell(with_unit(job.longest, Unit.SECONDS)),
    )


def _progress(report: Report) -> Element:
    rows = [_progress_of(one) for one in report.progress]
    return tag(
        "section",
        tag("h2", "How far the statistics are"),
        tag("p", "What is closed is final, but for rows that are corrected or deleted later.", class_="says"),
        _table(
            "How far the statistics are",
            ["statistics", "from", "closed up to", "last computed", "zone"],
            rows,
            5,
        ),
    )


def _progress_of(one: RollupCoverage) -> Element:
    moments = (one.covered_from, one.watermark, one.ticked_at)
    return tag(
        "tr",
        tag("th", one.rollup, scope="row"),
        *(tag("td", "–" if at is None else f"{at:%Y-%m-%d %H:%M} UTC") for at in moments),
        tag("td", one.days_of),
    )


def _footer(report: Report) -> Element:
    return tag("footer", tag("p", f"Made by roomkeeper report {report.app}."))


def _details(table: Element) -> Element:
    return tag("details", tag("summary", "Table"), table)


def _cell(number: str) -> Element:
    return tag("td", number, class_="number")


def _head(name: str, number: bool) -> Element:
    return tag("th", name, scope="col", class_="number" if number else None)


def _table(name: str, heads: list[str], rows: list[Element], words: int = 1) -> Element:
    """Return a table that scrolls by itself where it is too wide.

    Args:
        words: how many of its columns, the first ones, are not numbers.
    """
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(_head(head, number >= words) for number, head in enumerate(heads)))),
            tag("tbody", *rows),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=name,
    )
