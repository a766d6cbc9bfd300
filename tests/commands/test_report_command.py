"""`roomkeeper report`: what the page and the terminal say is what the tables hold, and nothing more."""

import base64
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import vl_convert
from sqlalchemy import Engine, insert
from syrupy.assertion import SnapshotAssertion

from commands.reporting import vega
from commands.reporting.figures import Drawn, Known, Line, RollupCoverage, known
from commands.reporting.pages import PAGES, attachments
from commands.reporting.records import (
    By,
    Chart,
    Colour,
    Hours,
    Over,
    Ranking,
    Series,
    Shape,
    Unit,
    rows,
    summed,
)
from commands.reporting.terminal import narrowed, sparkline
from commands.reporting.units import short_with_unit, with_unit
from models import audiorooms, echoroom
from models.analytics import (
    AttachmentsDaily,
    ConnectCallsDaily,
    EchoroomDaily,
    EchoroomHourly,
    OpenchatDaily,
    OpenchatMessagesDaily,
    PernDaily,
    RollupState,
)
from models.platform import JobRun
from stack.ports import free_port
from stack.programs import roomkeeper as command
from tasks.apps import APPS
from tasks.policies.columns import table_of
from tasks.policies.rollup import DAY as DAILY
from tasks.policies.rollup import HOUR
from tests.commands.cli import Outcome, refused, roomkeeper, stable, timeless
from tests.platform import environment
from workers.db import create
from workers.settings import load

#: A Sunday.
FIRST = date(2020, 3, 1)
DAY = timedelta(days=1)
#: What a stranger may call something.
HOSTILE = [
    "</script ><script>alert(1)</script>",
    '"><img src="http://evil.example/x.png" onerror=alert(1)>',
    "']); alert(1); ([' \\ \u2028 {{datum}} ${x}",
    "<!--<script & &amp; é 日本",
    "\x1b[31mred\x07",
    "a" * 5000,
]

#: Days are counted back from today.
pytestmark = pytest.mark.usefixtures("same_day")


def at(day: date, hour: int = 0) -> datetime:
    return datetime.combine(day, time(hour), UTC)


class World:
    """A database with statistics, and the command on it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.engine: Engine = create(load({"DATABASE_URL": url}))
        self.settings: dict[str, str] = {}

    def add(self, model: Any, *rows: Mapping[str, Any]) -> None:
        """Insert rows; what a row does not say of its statistics is 0, or NULL where that may be."""
        table = table_of(model)
        given = {name for row in rows for name in row}
        zeros = {
            column.name: 0
            for column in table.columns
            if not column.nullable and column.server_default is None and column.name not in given
        }
        with self.engine.begin() as connection:
            connection.execute(insert(table), [zeros | dict(row) for row in rows])

    def rolled(
        self,
        *names: str,
        covered: date = FIRST,
        closed: date = FIRST + 30 * DAY,
        ticked: datetime | None = None,
        zone: str = "UTC",
    ) -> None:
        """Say that rollups have come so far: the last closed day is the one before `closed`."""
        for name in names:
            self.add(
                RollupState,
                {
                    "name": name,
                    "zone": zone,
                    "covered_from": at(covered),
                    "watermark": at(closed),
                    "ticked_at": ticked,
                },
            )

    def room(self, code: str, days: Mapping[date, tuple[int, int, int]]) -> UUID:
        """Add a room of `audiorooms` with its peak, minutes and listeners of some days."""
        room = uuid4()
        self.add(audiorooms.AudioRoom, {"id": room, "code": code, "password_hash": "x"})
        for day, (peak, minutes, listeners) in days.items():
            columns = {
                "peak_listeners": peak,
                "total_listen_minutes": minutes,
                "total_listeners": listeners,
            }
            self.add(audiorooms.RoomAnalytics, {"room_id": room, "date": day, **columns})
        return room

    def tell(self, *arguments: str, columns: int = 80) -> Outcome:
        """Run `roomkeeper report`."""
        with environment({"DATABASE_URL": self.url, "COLUMNS": str(columns), **self.settings}):
            return roomkeeper("report", *arguments)

    def page(self, app: str, first: date = FIRST, last: date = FIRST + 29 * DAY) -> "Page":
        """Write the page, and read it."""
        path = self.folder / "page.html"
        outcome = self.tell(app, "--from", str(first), "--to", str(last), "--html", str(path))
        assert (outcome.code, outcome.err) == (0, "")
        return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def world(database: str, tmp_path: Path) -> Iterator[World]:
    made = World(database, tmp_path)
    yield made
    made.engine.dispose()


class Page(HTMLParser):
    """What a browser reads in a page: tags with their attributes, scripts, tables by their names, texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._open: list[str] = []
        self._table: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._open.append(tag)
        if tag == "div" and given.get("role") == "region":
            self._table = self.tables.setdefault(str(given["aria-label"]), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in {"td", "th"}:
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        if where in {"script", "style"}:
            (self.scripts if where == "script" else self.styles).append(data)
            return
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self._table[-1][-1] += data

    @property
    def charts(self) -> dict[str, Any]:
        """What Vega is given."""
        (line,) = (line for line in self.scripts[1].splitlines() if line.startswith("const charts = "))
        return dict(json.loads(line.removeprefix("const charts = ").removesuffix(";")))

    def drawn(self, title: str) -> Any:
        """Return the chart that is called so."""
        (found,) = (one for one in self.charts.values() if one["description"].startswith(f"{title}. "))
        return found

    def values(self, title: str) -> list[list[float | None]]:
        """Return the statistics that are drawn, of each series."""
        return [one["v"] for one in self.drawn(title)["data"]["values"]]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def table(page: Page, title: str) -> dict[str, dict[str, str]]:
    """Return a table by the text of its first column, then by its heads."""
    heads, *rows = page.tables[title]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


# -- the records -----------------------------------------------------------------------------------------


def test_every_application_has_a_page() -> None:
    assert PAGES.keys() == APPS.keys()


def shown(app: str) -> tuple[Chart | Hours | Ranking, ...]:
    more = attachments(app) if APPS[app].attachments else ()
    return (*PAGES[app].shown, *more)


SHOWN: dict[str, Chart | Hours | Ranking] = {
    f"{app}: {one.title}": one for app in PAGES for one in shown(app)
}
CHARTS: dict[str, Chart] = {name: one for name, one in SHOWN.items() if isinstance(one, Chart)}


@pytest.mark.parametrize("name", SHOWN)
def test_a_chart_is_of_a_rollup_of_its_application(name: str) -> None:
    rollup = SHOWN[name].rollup
    assert rollup.app in {name.partition(":")[0], "roomkeeper"}
    assert rollup.grain is (HOUR if isinstance(SHOWN[name], Hours) else DAILY)


def test_a_chart_is_of_one_rollup() -> None:
    both = (Series("a", summed(PernDaily.messages)), Series("b", summed(OpenchatDaily.messages)))
    with pytest.raises(
        ValueError, match=r"^Both: its .* of one rollup's table, and are of: openchat.daily, pern"
    ):
        Chart(title="Both", says="", series=both)
    with pytest.raises(ValueError, match=r"are of: none$"):
        Ranking(title="Rooms", says="", columns=(Series("a", rows(audiorooms.AudioRoom.code == "x")),))


def test_a_rollup_says_what_a_chart_does_not() -> None:
    by_verdict, size, duration = attachments("pern")
    assert (by_verdict.rollup.name, by_verdict.key.key) == ("roomkeeper.attachments_daily", "verdict")
    assert [one.unit for one in (by_verdict, size, duration)] == [Unit.NUMBER, Unit.BYTES, Unit.SECONDS]
    assert (duration.shape, duration.over) == (Shape.LINES, Over.NOTHING)
    assert (by_verdict.shape, by_verdict.over) == (Shape.STACK, Over.SUM)
    units = {one.title: one.unit for one in (*PAGES["connect"].charts, *PAGES["audiorooms"].charts)}
    assert units["Talk time"] is Unit.SPENT
    assert units["Long calls"] is Unit.SECONDS
    assert units["Connect rate"] is Unit.SHARE
    assert units["Listen minutes"] is Unit.MINUTES
    (rooms,) = PAGES["audiorooms"].rankings
    assert (rooms.key.key, rooms.heading) == ("room_id", "room")


@pytest.mark.parametrize("name", CHARTS)
def test_a_charts_series_have_one_unit(name: str) -> None:
    assert {figure.unit for figure in CHARTS[name].figures} == {CHARTS[name].unit}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_adds_up_only_what_adds_up(name: str) -> None:
    chart = CHARTS[name]
    columns = " ".join(str(figure.value) for figure in chart.figures)
    if re.search("median|p95|rate|avg|nullif", columns) and "peak_" not in columns:
        # Not of days, and not of types.
        assert chart.over is Over.NOTHING
        assert chart.headline is None
        assert "nullif" in columns or "sum(" not in columns
        assert all(figure.empty is None for figure in chart.figures)
    if re.search("peak_|users|senders|listeners|participants|speakers|conversations", columns):
        assert chart.over is Over.HIGHEST
    if "peak_" in columns:
        assert "sum(" not in columns
    if isinstance(chart.series, By) and chart.series.top is not None:
        assert "sum(" in columns
        # That is the colour of the others.
        assert Colour.GREY not in (chart.series.colours or {}).values()
    assert chart.headline is None or chart.over is not Over.NOTHING


# -- statistics ---------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_figures(world: World) -> None:
    days = [FIRST + DAY * number for number in range(4)]
    world.rolled("audiorooms.room_analytics", closed=days[3], ticked=at(days[3], 5))
    world.room("AAAAAA", {days[0]: (5, 100, 9), days[1]: (3, 50, 4), days[3]: (1, 7, 1)})
    world.room("BBBBBB", {days[0]: (8, 90, 20)})
    page = world.page("audiorooms", days[0], days[3])
    # The third day had no listeners: that is known, so it is 0.
    assert page.values("Listen minutes") == [[100, 50, 0, 7], [90, 0, 0, 0]]
    assert page.values("Peak of listeners") == [[8, 3, 0, 1], [6.5, 3, None, 1]]
    assert page.values("Room listeners") == [[29, 4, 0, 1]]
    assert page.values("Rooms with listeners") == [[2, 1, 0, 1]]
    assert page.tables["Listen minutes"] == [
        ["day", "AAAAAA", "BBBBBB", "together"],
        ["2020-03-04 (provisional)", "7 min", "0 min", "7 min"],
        ["2020-03-03", "0 min", "0 min", "0 min"],
        ["2020-03-02", "50 min", "0 min", "50 min"],
        ["2020-03-01", "100 min", "90 min", "190 min"],
    ]
    assert page.tables["Busiest rooms"] == [
        ["", "room", "listening", "highest peak", "most listeners on a day", "days with listeners"],
        ["1", "AAAAAA", "157 min", "5", "9", "3"],
        ["2", "BBBBBB", "90 min", "8", "20", "1"],
    ]
    assert "4.1 h of listening" in page.words
    assert "8 most listeners at once in a room on 1 Mar" in page.words
    assert "29 most room listeners on a day on 1 Mar" in page.words
    assert "people count" not in page.words
    assert "counts three times, once per room" in page.words


def test_rooms_beyond_the_first_are_one_series(world: World) -> None:
    world.rolled("audiorooms.room_analytics")
    for number in range(9):
        world.room(f"ROOM{number:02}", {FIRST: (1, 10 + number, 1), FIRST + DAY: (1, 1, 1)})
    page = world.page("audiorooms", FIRST, FIRST + DAY)
    assert page.tables["Listen minutes"][0] == [
        *("day", "ROOM08", "ROOM07", "ROOM06", "ROOM05", "ROOM04", "ROOM03", "other rooms", "together"),
    ]
    assert page.values("Listen minutes")[-1] == [10 + 11 + 12, 3]
    assert table(page, "Listen minutes")["2020-03-01"]["together"] == f"{sum(range(10, 19))} min"


def test_types_have_a_series_each_and_rates_are_of_all_calls(world: World) -> None:
    world.rolled("connect.calls_daily", "connect.daily")
    voice = {"calls": 30, "connected": 3, "connect_rate": 0.1, "timeout": 27, "female_connected": 3}
    video = {"calls": 10, "connected": 9, "connect_rate": 0.9, "both_left": 10, "median_seconds": 60.5}
    world.add(
        ConnectCallsDaily,
        {"day": FIRST, "interaction_type": "voice_call", "total_seconds": 3600, **voice},
    )
    world.add(
        ConnectCallsDaily,
        {"day": FIRST, "interaction_type": "video_call", "total_seconds": 5400, **video},
    )
    page = world.page("connect", FIRST, FIRST + DAY)
    assert page.values("Connect rate") == [[12 / 40, None]]
    assert page.tables["Median length of calls"] == [
        ["day", "video_call", "voice_call"],
        ["2020-03-02", "–", "–"],
        ["2020-03-01", "1 min", "–"],
    ]
    assert page.values("Median length of calls") == [[60.5, None], [None, None]]
    assert page.values("Calls by outcome") == [[3, 0], [10, 0], [27, 0], [0, 0], [0, 0]]
    assert table(page, "Talk time")["2020-03-01"]["together"] == "2.5 h"
    assert "40 calls" in page.words


def test_attachments_are_the_applications_own(world: World) -> None:
    world.rolled("openchat.daily", "roomkeeper.attachments_daily")
    for app, verdict, count in (("openchat", "clean", 5), ("openchat", "infected", 2), ("pern", "clean", 70)):
        row = {"day": FIRST, "app": app, "verdict": verdict, "attachments": count, "size_bytes": 1000 * count}
        world.add(AttachmentsDaily, row | {"processing_median_seconds": 0.25 * count})
    page = world.page("openchat", FIRST, FIRST)
    assert page.tables["Attachments by verdict"] == [
        ["day", "clean", "infected", "together"],
        ["2020-03-01", "5", "2", "7"],
    ]
    assert page.values("Attachments: size") == [[7000]]
    assert page.tables["Attachments: time to a clean verdict"][1] == ["2020-03-01", "1.2 s", "–"]


def test_hours_are_means_of_closed_hours(world: World) -> None:
    # Two Sundays and the Monday between them; the second Sunday is closed up to 3:00.
    room = uuid4()
    world.rolled("echoroom.daily")
    state = {"name": "echoroom.hourly", "zone": "UTC", "covered_from": at(FIRST, 1)}
    world.add(RollupState, state | {"watermark": at(FIRST + 7 * DAY, 3)})
    for hour, count in ((at(FIRST, 2), 10), (at(FIRST + DAY, 2), 4), (at(FIRST + 7 * DAY, 3), 99)):
        world.add(EchoroomHourly, {"room_id": room, "hour": hour, "participants": count})
        world.add(EchoroomHourly, {"room_id": uuid4(), "hour": hour, "participants": 1, "messages": count})
    page = world.page("echoroom", FIRST, FIRST + 7 * DAY)
    heat = {
        (one["d"], one["h"]): (one["v"], one["n"])
        for one in page.drawn("When people are there")["data"]["values"]
    }
    # Before 1:00 only the second Sunday is covered, and the first row is of 2:00; from then on an hour
    # without a row counts 0.
    assert [heat["Sunday", hour] for hour in range(4)] == [(0, 1), (0, 1), (5.5, 2), (0, 1)]
    assert heat["Monday", 2] == (5, 1)
    assert table(page, "When people write")["Sunday"]["02"] == "5.0"


def test_rooms_that_are_gone_or_called_the_same_are_told_apart(world: World) -> None:
    world.rolled("echoroom.daily")
    rooms = [UUID(int=number << 96) for number in range(1, 4)]
    for room, category in zip(rooms, ("Calm", "Calm", None), strict=True):
        if category:
            world.add(echoroom.ChatSession, {"id": room, "category": category})
        world.add(
            EchoroomDaily, {"room_id": room, "day": FIRST, "messages": room.int >> 96, "messages_text": 1}
        )
    page = world.page("echoroom", FIRST, FIRST)
    assert [row[1] for row in page.tables["Busiest rooms"][1:]] == [
        "gone (00000003)",
        "Calm (00000002)",
        "Calm (00000001)",
    ]
    # Three have a type, three more have none.
    assert page.values("Messages by type") == [[3], [0], [0], [0], [3]]


# -- what is known of a day ------------------------------------------------------------------------------


def test_days_are_closed_provisional_or_without_figures(world: World) -> None:
    world.rolled("openchat.daily", covered=FIRST + DAY, closed=FIRST + 3 * DAY, ticked=at(FIRST + 3 * DAY, 9))
    for number in range(5):
        world.add(OpenchatDaily, {"day": FIRST + number * DAY, "messages": 1, "active_users": 10 + number})
    page = world.page("openchat", FIRST, FIRST + 5 * DAY)
    # The first was not made by us, the last two were not computed: gaps, whatever the table says.
    assert page.values("Active users") == [[None, 11, 12, 13, None, None]]
    assert [row[0] for row in page.tables["Active users"][1:]] == [
        "2020-03-06 (no statistics)",
        "2020-03-05 (no statistics)",
        "2020-03-04 (provisional)",
        "2020-03-03",
        "2020-03-02",
        "2020-03-01 (no statistics)",
    ]
    day_ms = 86_400_000
    start = int(at(FIRST).timestamp() * 1000)
    bands = [layer["data"]["values"] for layer in page.drawn("Active users")["layer"] if "data" in layer]
    assert bands[0] == [
        {"a": start, "b": start + day_ms},
        {"a": start + 4 * day_ms, "b": start + 6 * day_ms},
    ]
    assert {"a": start + 3 * day_ms, "b": start + 4 * day_ms} in [one for band in bands for one in band]
    assert f"datum.t >= {start + 3 * day_ms}" in json.dumps(page.drawn("Active users"))
    assert "not closed yet: provisional" in page.words
    # The other rollups have not begun at all.
    assert "No statistics." in page.words
    assert not any("Messages by type" in one["description"] for one in page.charts.values())
    report = world.tell("openchat", "--from", "2020-03-01", "--to", "2020-03-06").out
    assert "provisional: 4 Mar 2020; no statistics: 3 days" in report
    (line,) = (line for line in report.splitlines() if line.startswith("active users"))
    assert re.fullmatch(r"active users   ▇██   +12 +13", line.rstrip())


def test_days_before_the_first_row_have_no_figures(world: World) -> None:
    """The rollup covers them, but the application was not in use yet."""
    world.rolled("openchat.daily", "openchat.messages_daily", closed=FIRST + 5 * DAY)
    for number, users in ((2, 7), (4, 3)):
        world.add(OpenchatDaily, {"day": FIRST + number * DAY, "messages": 9, "active_users": users})
    world.add(
        OpenchatMessagesDaily,
        {"day": FIRST + 3 * DAY, "content_type": "text", "messages": 5},
        {"day": FIRST + 4 * DAY, "content_type": "image", "messages": 1},
    )
    page = world.page("openchat", FIRST, FIRST + 4 * DAY)
    assert page.values("Active users") == [[None, None, 7, 0, 3]]
    # Each chart has a first row of its own; its series have it in common.
    assert page.values("Messages by type") == [[None, None, None, 5, 0], [None, None, None, 0, 1]]
    assert page.tables["Messages by type"] == [
        ["day", "text", "image", "together"],
        ["2020-03-05", "0", "1", "1"],
        ["2020-03-04", "5", "0", "5"],
        *([f"2020-03-0{number} (no statistics)", "–", "–", "–"] for number in (3, 2, 1)),
    ]
    assert "no statistics: before the first row" in page.words
    # Pointing at such a day shows what the table has.
    assert "isValid(datum[0]) || isValid(datum[1]) ?" in json.dumps(page.drawn("Messages by type"))
    lines = world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST + 4 * DAY)).out.splitlines()
    shown = {line[:14].rstrip(): line[14:].rstrip() for line in lines}
    assert shown["active users"].startswith("  █▁▄ ")
    assert shown["together"].startswith("   █▃ ")
    assert [line for line in lines if line.startswith("no statistics")][:4] == [
        "no statistics: 1–3 Mar 2020",
        "no statistics: 1–2 Mar 2020",
        "no statistics: 1–2 Mar 2020",
        "no statistics: 1–2 Mar 2020",
    ]


def test_an_application_without_any_row_has_no_figures(world: World) -> None:
    world.rolled("pern.daily", "openchat.daily", "roomkeeper.attachments_daily")
    outcome = world.tell("pern", "--from", str(FIRST), "--to", str(FIRST))
    assert (outcome.code, outcome.err) == (
        1,
        "There are no statistics of pern for 1 Mar 2020 yet; see: roomkeeper rollup list\n",
    )
    # Where one chart has statistics, the page and the terminal name the others.
    world.add(OpenchatDaily, {"day": FIRST, "messages": 1, "active_users": 1})
    page = world.page("openchat", FIRST, FIRST)
    assert "Attachments by verdict" not in page.tables
    out = world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST)).out
    assert page.words.count("No statistics.") == out.count("No statistics.") > 0


PROGRESS = RollupCoverage("x", "UTC", at(FIRST), at(FIRST + 2 * DAY), at(FIRST + 2 * DAY))


@pytest.mark.parametrize(
    ("day", "first", "what"),
    [
        (FIRST, None, Known.NOTHING),
        (FIRST, FIRST + DAY, Known.NOTHING),
        (FIRST, FIRST, Known.CLOSED),
        (FIRST + 2 * DAY, FIRST + DAY, Known.PROVISIONAL),
        (FIRST + 2 * DAY, FIRST + 3 * DAY, Known.NOTHING),
    ],
)
def test_figures_begin_with_the_first_row(day: date, first: date | None, what: Known) -> None:
    assert known(day, PROGRESS, first) is what


@pytest.mark.parametrize(
    ("day", "state", "what"),
    [
        (FIRST, None, Known.NOTHING),
        (FIRST - DAY, PROGRESS, Known.NOTHING),
        (FIRST, PROGRESS, Known.CLOSED),
        (FIRST, replace(PROGRESS, covered_from=at(FIRST, 1)), Known.NOTHING),
        (FIRST + DAY, PROGRESS, Known.CLOSED),
        (FIRST + DAY, replace(PROGRESS, watermark=at(FIRST + DAY, 23)), Known.PROVISIONAL),
        (FIRST + 2 * DAY, PROGRESS, Known.PROVISIONAL),
        (FIRST + 2 * DAY, replace(PROGRESS, ticked_at=at(FIRST + DAY, 23)), Known.NOTHING),
        (FIRST + 2 * DAY, replace(PROGRESS, ticked_at=None), Known.NOTHING),
        # Midnight in Berlin is an hour earlier.
        (FIRST, replace(PROGRESS, zone="Europe/Berlin"), Known.NOTHING),
        (FIRST + DAY, replace(PROGRESS, zone="Europe/Berlin", watermark=at(FIRST + DAY, 23)), Known.CLOSED),
    ],
)
def test_what_is_known_of_a_day(day: date, state: RollupCoverage | None, what: Known) -> None:
    assert known(day, state, date.min) is what


def test_a_zone_is_told(world: World) -> None:
    world.rolled("openchat.daily", covered=FIRST - DAY, zone="Europe/Berlin")
    world.add(OpenchatDaily, {"day": FIRST})
    page = world.page("openchat", FIRST, FIRST)
    assert "1 day of Europe/Berlin" in page.words
    assert "Days of Europe/Berlin." in page.words


# -- the page --------------------------------------------------------------------------------------------

#: A chart of one series, to be drawn with statistics of a test's own.
PROFILE = PAGES["openchat"].charts[1]


def filled(world: World, days: int = 30, types: list[str] | None = None) -> None:
    """Fill `openchat` with statistics."""
    world.rolled("openchat.daily", "openchat.messages_daily", closed=FIRST + days * DAY)
    for number in range(days):
        day = FIRST + number * DAY
        columns = {"messages": 5000 + number, "active_users": 100 + number, "conversations": 9}
        quantiles = {"delivery_median_seconds": 1.5, "delivery_p95_seconds": 4321.0 + number}
        world.add(OpenchatDaily, {"day": day, **columns, **quantiles})
        world.add(
            OpenchatMessagesDaily,
            *(
                {"day": day, "content_type": kind, "messages": 1000 + number}
                for kind in types or ["text", "image", "file", "audio", "video", "code", "poll", "system"]
            ),
        )


def test_the_page_loads_nothing(world: World) -> None:
    filled(world)
    page = world.page("openchat")
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "srcset", "action", "data", "poster", "background"}:
                assert (tag, name, value) == ("link", "href", "data:,")
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in {"iframe", "object", "embed", "base", "img"}
    assert not re.search(r"url\(|@import", "".join(page.styles))
    (policy,) = (
        str(attributes["content"])
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    hashes = " ".join(
        f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'" for script in page.scripts
    )
    assert len(page.scripts) == 2
    assert policy == (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:")
    assert page.text.startswith('<!doctype html>\n<html lang="en">')


def test_the_page_is_there_for_everybody(world: World) -> None:
    filled(world)
    page = world.page("openchat")
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("h1"), tags.count("main"), tags.count("title")) == (1, 1, 1)
    assert "openchat, 1–30 Mar 2020" in page.words
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    names = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    charts = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert charts
    assert all(one["aria-labelledby"] in names for one in charts)
    # Each chart has a place, and each place a table that says the same.
    assert page.charts.keys() <= names
    assert tags.count("details") == len(page.charts)
    assert "prefers-color-scheme: dark" in "".join(page.styles)


def test_legends_have_the_colours_of_the_charts() -> None:
    style = (Path(vega.__file__).parent / "page.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    dark = light + dark
    for theme, colours in ((light, vega.LIGHT | vega.OTHERS_LIGHT), (dark, vega.DARK | vega.OTHERS_DARK)):
        css_colours = dict(re.findall(r"--(\w+): (#\w+);", theme))
        drawn = {str(name): value for name, value in colours.items() if name not in {"surface", "ink"}}
        assert {name: css_colours[name] for name in drawn} == drawn
        assert (css_colours["card"], css_colours["quiet"]) == (colours["surface"], colours["ink"])


def test_what_strangers_write_stays_text(world: World) -> None:
    filled(world, 2, HOSTILE)
    world.add(
        JobRun,
        {
            "job": "openchat.daily",
            "started_at": datetime.now(UTC),
            "finished_at": datetime.now(UTC),
            "outcome": "failed",
            "error": HOSTILE[1],
        },
    )
    page = world.page("openchat", FIRST, FIRST + DAY)
    heads = page.tables["Messages by type"][0][1:-1]
    shown = [one.replace("\x1b", "�").replace("\x07", "�").replace("\u2028", "�") for one in HOSTILE]
    assert sorted(heads) == sorted(one if len(one) <= 40 else f"{one[:39]}…" for one in shown)
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == ["script"] * 2
    # Browsers end a script at less than Python's parser does.
    given = page.scripts[1].splitlines()[:2]
    assert not set("<>&") & set("".join(given))
    assert len(page.charts) == 4
    drawn = page.drawn("Messages by type")
    # Not even a title of a tooltip is theirs: it would take one for the address of a picture.
    titles = [one["title"] for one in drawn["layer"][-1]["encoding"]["tooltip"]]
    lines = drawn["usermeta"]["lines"]
    assert titles == ["day", *lines, "together"]
    assert [line["name"] for line in lines.values()] == heads
    assert list(lines) == [f"f{number}" for number in range(len(heads))]
    # No expression has a stranger's word in it.
    assert "alert" not in json.dumps([page.drawn("Messages by type")["layer"][-1]["transform"]])
    out = world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST + DAY)).out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("days", "most"), [(1, 1_000_000), (30, 1_050_000), (400, 1_300_000)])
def test_any_number_of_days(world: World, days: int, most: int) -> None:
    filled(world, days)
    last = FIRST + (days - 1) * DAY
    page = world.page("openchat", FIRST, last)
    assert len(page.text.encode()) < most
    assert page.values("Active users") == [[100 + number for number in range(days)]]
    assert len(page.tables["Messages by type"]) == 1 + days
    assert ("1 day of UTC" if days == 1 else f"{days} days of UTC") in page.words
    for spec in page.charts.values():
        assert len(drawn_by_vega(spec)) > 3000
    out = world.tell("openchat", "--from", str(FIRST), "--to", str(last)).out
    assert ("Each sign is 14 days: the highest of them." in out) is (days == 400)
    assert max(map(len, out.splitlines())) <= 80


def drawn_by_vega(spec: dict[str, Any]) -> str:
    """Return a chart as Vega draws it."""
    return str(vl_convert.vegalite_to_svg(spec | {"width": 600}))


@pytest.mark.parametrize(
    ("unit", "highest", "labels"),
    [
        (Unit.NUMBER, 0, ["0", "1"]),
        (Unit.NUMBER, 1, ["0", "1"]),
        (Unit.NUMBER, 3, ["0", "1", "2", "3"]),
        (Unit.NUMBER, 40_000, ["0", "10,000", "20,000", "30,000", "40,000"]),
        (Unit.NUMBER, 1_500_000, ["0", "500 k", "1 M", "1.5 M"]),
        (Unit.NUMBER, 4_000_000_000, ["0", "1 bn", "2 bn", "3 bn", "4 bn"]),
        (Unit.MINUTES, 1, ["0", "1"]),
        (Unit.BYTES, 1, ["0 B", "1 B"]),
        (Unit.BYTES, 3000, ["0 B", "1 kB", "2 kB", "3 kB"]),
        (Unit.SPENT, 0, ["0 h", "0.1 h"]),
        (Unit.SPENT, 3600, ["0 h", "0.2 h", "0.4 h", "0.6 h", "0.8 h", "1 h"]),
        (Unit.SHARE, 0.02, ["0 %", "0.5 %", "1 %", "1.5 %", "2 %"]),
    ],
)
@pytest.mark.parametrize("shape", Shape)
def test_an_axis_reads_as_people_write(unit: Unit, highest: float, labels: list[str], shape: Shape) -> None:
    figure = replace(PROFILE.figures[0], unit=unit)
    chart = replace(PROFILE, series=(Series("one", figure),), shape=shape)
    lines = (Line("one", Colour.BLUE, (0, highest)),)
    drawn = Drawn(chart, (FIRST, FIRST + DAY), (Known.CLOSED,) * 2, FIRST, "UTC", lines)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn_by_vega(vega.chart(drawn)))
    assert [one for one in texts if not one.endswith(" Mar")] == labels


@pytest.mark.parametrize("number", range(4))
def test_vega_draws_what_it_is_given(world: World, number: int) -> None:
    filled(world, 5)
    spec = world.page("openchat", FIRST, FIRST + 4 * DAY).charts[f"chart-{number}"]
    values = [value for one in spec["data"]["values"] for value in one["v"]]
    colours = [one["expr"].removeprefix("c_") for one in spec["encoding"]["color"]["scale"]["range"]]
    svg = drawn_by_vega(spec)
    # A bar, or a point, for each.
    painted = [svg.count(f'fill="{vega.LIGHT[Colour(colour)]}"') for colour in colours]
    assert painted == [5] * len(colours)
    assert sum(painted) == len(values)


# -- where it is written ---------------------------------------------------------------------------------


def test_the_file_is_written_as_a_whole_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    filled(world, 2)
    path, link = world.folder / "page.html", world.folder / "link.html"
    path.write_text("before")
    path.chmod(0o640)
    link.symlink_to(path)
    arguments = ("openchat", "--from", str(FIRST), "--to", str(FIRST + DAY), "--html", str(link))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        outcome = world.tell(*arguments)
    assert refused(outcome, str(link), "No space left on device", link=link) == snapshot(name="full")
    assert path.read_text() == "before"
    assert sorted(one.name for one in world.folder.iterdir()) == ["link.html", "page.html"]

    outcome = world.tell(*arguments)
    size = f"{path.stat().st_size / 1000:.1f} kB"
    assert outcome.code == 0
    assert size in outcome.out
    assert stable(outcome, link=link, size=size) == snapshot(name="written")
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(one.name for one in world.folder.iterdir()) == ["link.html", "page.html"]


def test_a_new_file_has_the_rights_that_files_get(world: World) -> None:
    filled(world, 1)
    before = os.umask(0o027)
    try:
        world.page("openchat", FIRST, FIRST)
    finally:
        os.umask(before)
    assert stat.S_IMODE((world.folder / "page.html").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "path",
    # Like a device, but harmless to overwrite, should the rule be broken.
    ["{folder}", "{folder}/pipe", "{folder}/not/there.html"],
)
def test_where_no_file_can_be_is_said(world: World, path: str, snapshot: SnapshotAssertion) -> None:
    filled(world, 1)
    pipe = world.folder / "pipe"
    os.mkfifo(pipe)
    path = path.format(folder=world.folder)
    outcome = world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST), "--html", path)
    assert refused(outcome, f"--html {path} ", folder=world.folder) == snapshot
    assert pipe.is_fifo()


# -- the terminal ----------------------------------------------------------------------------------------


def test_the_terminal_says_the_same(world: World, snapshot: SnapshotAssertion) -> None:
    days = [FIRST + DAY * number for number in range(3)]
    world.rolled("audiorooms.room_analytics", closed=days[2], ticked=at(days[2], 5))
    world.room("AAAAAA", {days[0]: (5, 1100, 9), days[1]: (3, 550, 4), days[2]: (1, 7, 1)})
    world.room("BBBBBB", {days[0]: (8, 90, 20)})
    outcome = world.tell("audiorooms", "--from", str(days[0]), "--to", str(days[2]))
    assert (outcome.code, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        # The last day that is closed, and all of them.
        "AAAAAA █▅▂ 550 min 1,657 min",
        "BBBBBB █▁▁ 0 min 90 min",
        "together █▅▂ 550 min 1,747 min",
        "fullest room █▄▂ 3 8",
        "AAAAAA 1,657 min 5 9 3",
    ):
        assert line in lines
    assert "\x1b" not in outcome.out
    assert timeless(stable(outcome)) == snapshot


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_terminal_may_be_narrow(world: World, columns: int) -> None:
    filled(world)
    outcome = world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST + 29 * DAY), columns=columns)
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= columns


def test_where_letters_are_all_there_is_digits_do(world: World) -> None:
    world.rolled("echoroom.daily")
    room = uuid4()
    world.add(echoroom.ChatSession, {"id": room, "category": "Schön 日本"})
    for number in range(3):
        world.add(EchoroomDaily, {"room_id": room, "day": FIRST + number * DAY, "reactions": 10 * number})
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command(("report", "echoroom", "--from", str(FIRST), "--to", str(FIRST + 2 * DAY))),
        env=plain | {"DATABASE_URL": world.url},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [" ".join(line.split()) for line in done.stdout.decode("ascii").splitlines()]
    assert "reactions 059 20 30" in lines
    assert "1-3 Mar 2020" in lines[1]
    assert any(line.startswith("|Sch?n ??") for line in lines)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([None, None], "  "),
        ([0, 0], "▁▁"),
        ([0, 0.001, 100], "▁▂█"),
        ([1, None, 2], "▅ █"),
        ([3], "█"),
    ],
)
def test_a_line_of_bars(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line


def test_a_line_that_is_too_long_shows_the_highest_of_some_days() -> None:
    assert narrowed([1, 2, 3], 3) == [1, 2, 3]
    assert narrowed([9, 1, 2, None, None, 4, 3], 3) == [9, 2, 4]
    assert narrowed([9, 1, 2, 5, None, None], 3) == [9, 5, None]
    assert len(narrowed(list(range(400)), 30)) <= 30


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, Unit.NUMBER, "–"),
        (1234567, Unit.NUMBER, "1,234,567"),
        (4.666, Unit.NUMBER, "4.67"),
        (0, Unit.SECONDS, "0 s"),
        (0.0004, Unit.SECONDS, "<1 ms"),
        (0.25, Unit.SECONDS, "250 ms"),
        (59.94, Unit.SECONDS, "59.9 s"),
        (60, Unit.SECONDS, "1 min"),
        (5400, Unit.SECONDS, "1.5 h"),
        (86400, Unit.SECONDS, "1 d"),
        (9000, Unit.SPENT, "2.5 h"),
        (1500, Unit.MINUTES, "1,500 min"),
        (1500, Unit.BYTES, "1.5 kB"),
        (0.1234, Unit.SHARE, "12.3 %"),
    ],
)
def test_a_figure_is_told_with_its_unit(value: float | None, unit: Unit, text: str) -> None:
    assert with_unit(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (99_999, Unit.NUMBER, "99,999"),
        (123_456, Unit.NUMBER, "123 k"),
        (999_999, Unit.NUMBER, "1 M"),
        (1_234_567, Unit.NUMBER, "1.23 M"),
        (30, Unit.MINUTES, "30 min"),
        (12_000, Unit.MINUTES, "200 h"),
        (151_700_000_000, Unit.BYTES, "152 GB"),
        (999, Unit.BYTES, "999 bytes"),
    ],
)
def test_a_figure_is_told_in_short(value: float, unit: Unit, text: str) -> None:
    assert short_with_unit(value, unit) == text


# -- jobs ------------------------------------------------------------------------------------------------


def test_jobs_are_told_by_the_ledger(world: World) -> None:
    filled(world, 1)
    now = datetime.now(UTC)

    def ran(job: str, ago: timedelta, outcome: str = "done", seconds: float = 2, **more: Any) -> None:
        started = now - ago
        run = {"job": job, "started_at": started, "finished_at": started + timedelta(seconds=seconds)}
        world.add(JobRun, run | {"outcome": outcome, "rows": 3} | more)

    minute = timedelta(minutes=1)
    ran("openchat.daily", minute, seconds=1)
    ran("openchat.daily", 2 * minute, "failed", seconds=9, error="OperationalError: away")
    ran("openchat.daily", 3 * minute, "skipped", seconds=0)
    ran("openchat.daily", 4 * minute, seconds=2)
    ran("openchat.daily", timedelta(days=8), seconds=500)
    ran("openchat.sessions", timedelta(days=3), "failed", error="boom")
    ran("openchat.daily_of_others", minute)
    page = world.page("openchat", FIRST, FIRST)
    jobs = table(page, "Jobs")
    assert jobs["openchat.daily"] == {
        "job": "openchat.daily",
        "last run (UTC)": f"{now - minute:%Y-%m-%d %H:%M:%S}",
        "outcome": "✓ done",
        "all its runs": "2 done, 1 skipped, 1 failed",
        "runs": "4",
        "rows": "12",
        # Of 1, 2 and 9: who was skipped took no time.
        "median": "2 s",
        "longest": "9 s",
    }
    assert jobs["openchat.sessions"]["outcome"] == "✗ failed, overdue"
    assert jobs["openchat.presence"]["last run (UTC)"] == "never"
    assert "openchat.daily_of_others" not in jobs
    assert not [name for name in jobs if not name.startswith(("openchat.", "roomkeeper.attachments_daily"))]
    assert ("span", {"class": "bad", "title": "boom"}) in page.tags
    out = [
        " ".join(line.split())
        for line in world.tell("openchat", "--from", str(FIRST), "--to", str(FIRST)).out.splitlines()
    ]
    assert f"openchat.daily {now - minute:%m-%d %H:%M} done 4 1 2 s" in out
    progress = table(page, "How far the statistics are")
    assert progress["openchat.daily"]["closed up to"] == "2020-03-02 00:00 UTC"


# -- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("openchatt",), "'openchat'"),
        (("pern", "--from", "yesterday"), "'yesterday'"),
        (("pern", "--to", "2020-02-30"), "'2020-02-30'"),
        (("pern", "--from", "2020-03-02", "--to", "2020-03-01"), "--from 2020-03-02 "),
        (("pern", "--to", "9999-12-31"), "--to 9999-12-31 "),
        (("pern", "--from", "9999-12-31"), "--from 9999-12-31 "),
        (("pern", "--from", "0001-01-01"), "3,660 days"),
        (("pern", "--to", "0001-01-02"), "pern"),
        (("pern",), "pern"),
    ],
    ids=[
        "no application",
        "no day",
        "no such day",
        "backwards",
        "to come",
        "all to come",
        "too far back",
        "long ago",
        "none yet",
    ],
)
def test_what_cannot_be_shown_is_a_sentence(
    world: World, arguments: tuple[str, ...], name: str, snapshot: SnapshotAssertion
) -> None:
    path = world.folder / "page.html"
    outcome = world.tell(*arguments, "--html", str(path))
    assert refused(outcome, name, today=datetime.now(UTC).date()) == snapshot
    assert not path.exists()


def test_days_before_the_first_figures_are_a_sentence(world: World, snapshot: SnapshotAssertion) -> None:
    world.rolled("pern.daily", covered=FIRST - 2 * DAY)
    world.add(PernDaily, {"day": FIRST})
    outcome = world.tell("pern", "--from", "2019-12-30", "--to", "2020-01-02")
    assert refused(
        outcome, " 2020-03-01.", "backfill pern.daily --from 2019-12-30 --to 2020-02-29"
    ) == snapshot(name="before")
    # The rollup is behind.
    outcome = world.tell("pern", "--from", "2020-04-01", "--to", "2020-04-02")
    assert refused(outcome) == snapshot(name="behind")


def test_an_application_that_is_not_enabled_is_named(world: World, snapshot: SnapshotAssertion) -> None:
    world.settings = {"ROOMKEEPER_APPS": "connect"}
    assert refused(world.tell("pern"), "ROOMKEEPER_APPS") == snapshot
    # What was made before is shown.
    world.rolled("pern.daily")
    world.add(PernDaily, {"day": FIRST})
    assert world.tell("pern", "--from", str(FIRST), "--to", str(FIRST)).code == 0


def test_thirty_days_are_shown_if_nobody_says_which(world: World) -> None:
    today = datetime.now(UTC).date()
    world.rolled("openchat.daily", covered=today - 40 * DAY, closed=today, ticked=datetime.now(UTC))
    world.add(OpenchatDaily, {"day": today - 40 * DAY})
    path = world.folder / "page.html"
    assert world.tell("openchat", "--html", str(path)).code == 0
    page = Page(path.read_text(encoding="utf-8"))
    days = [row[0] for row in page.tables["Active users"][1:]]
    assert (days[0], days[-1], len(days)) == (f"{today} (provisional)", str(today - 29 * DAY), 30)


def test_a_renamed_schema_is_read(world: World) -> None:
    world.room("AAAAAA", {FIRST: (1, 2, 3)})
    with world.engine.begin() as connection:
        connection.exec_driver_sql("ALTER SCHEMA audiorooms RENAME TO rooms")
    world.settings = {"ROOMKEEPER_SCHEMAS": "audiorooms=rooms"}
    world.rolled("audiorooms.room_analytics")
    assert world.page("audiorooms", FIRST, FIRST).values("Room listeners") == [[3]]


def test_a_database_that_will_not_do_is_a_sentence(world: World) -> None:
    world.rolled("audiorooms.room_analytics")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audiorooms.room_analytics RENAME TO figures")
    outcome = world.tell("audiorooms")
    assert outcome.code == 1
    ((sentence, _),) = outcome.faults
    assert "audiorooms.room_analytics" in sentence
    # Others do without it.
    world.rolled("pern.daily")
    world.add(PernDaily, {"day": FIRST})
    assert world.tell("pern", "--from", str(FIRST), "--to", str(FIRST)).code == 0
    with environment({"DATABASE_URL": f"postgresql://ada:geheim@localhost:{free_port()}/chat"}):
        outcome = roomkeeper("report", "pern")
    assert (outcome.code, outcome.out) == (1, "")
    ((_, advice),) = outcome.faults
    assert "DATABASE_URL" in advice
    assert "geheim" not in outcome.err
