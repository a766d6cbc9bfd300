"""Charts as Vega-Lite has them: plain JSON, that Vega draws in the browser.

Strings that strangers have written are data and titles here, never part of an expression or a field's name:
series are told apart by their number.
"""

from datetime import UTC, date, datetime
from math import floor, log10
from typing import Any

from commands.reporting.figures import Drawn, Heat, Known, Number
from commands.reporting.records import Colour, Shape, Unit
from commands.reporting.wording import WEEKDAYS

Spec = dict[str, Any]

#: From so many days on, lines are too dense for points, and bars for gaps.
POINTS, GAPS = 62, 120
#: A scale that shows small and large alike is taken where the large ones are so many times larger.
WIDE_APART = 60
_DAY_MS = 86_400_000
#: Steps of an axis of seconds that people know.
_STEPS = (
    *(
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
    ),
    *(3600, 7200, 14400, 28800, 43200, 86400, 172800, 604800, 1209600, 2419200, 7257600, 31536000),
)
_DECADES = (0, 0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 21600, 86400, 604800, 2592000)
_SECONDS = (
    "{0} >= 86400 ? format({0} / 86400, '.3~r') + ' d' : {0} >= 3600 ? format({0} / 3600, '.3~r') + ' h'"
    " : {0} >= 60 ? format({0} / 60, '.3~r') + ' min' : {0} >= 1 || {0} == 0 ? format({0}, '.3~r') + ' s'"
    " : format({0} * 1000, '.3~r') + ' ms'"
)
_ON_AXIS = {
    Unit.NUMBER: "format({0}, '~s')",
    Unit.MINUTES: "format({0}, '~s')",
    Unit.SECONDS: _SECONDS,
    Unit.SPENT: "format({0} / 3600, ',.0f') + ' h'",
    Unit.BYTES: "format({0}, '.3~s') + 'B'",
    Unit.SHARE: "format({0}, '.0%')",
}
_IN_TOOLTIP = {
    Unit.NUMBER: "format({0}, ',.2~f')",
    Unit.MINUTES: "format({0}, ',.0f') + ' min'",
    Unit.SECONDS: _SECONDS,
    Unit.SPENT: "format({0} / 3600, ',.1f') + ' h'",
    Unit.BYTES: "format({0}, '.3~s') + 'B'",
    Unit.SHARE: "format({0}, '.1%')",
}
#: Colours by name for light and for dark; the style sheet has the same for legends. The seven are Paul Tol's
#: 'bright', made for eyes that see fewer colours.
LIGHT = {
    Colour.BLUE: "#4477aa",
    Colour.RED: "#ee6677",
    Colour.GREEN: "#228833",
    Colour.YELLOW: "#ccbb44",
    Colour.CYAN: "#66ccee",
    Colour.PURPLE: "#aa3377",
    Colour.GREY: "#a3a8b0",
}
DARK = LIGHT | {
    Colour.BLUE: "#6c9fd4",
    Colour.GREEN: "#43b05c",
    Colour.PURPLE: "#cf5fa0",
    Colour.GREY: "#7d8590",
}
OTHERS_LIGHT = {
    "surface": "#ffffff",
    "nothing": "#eef0f3",
    "open": "#f6f1dc",
    "ink": "#5b6470",
    "low": "#e9eff6",
}
OTHERS_DARK = {
    "surface": "#161b22",
    "nothing": "#21272f",
    "open": "#2b2819",
    "ink": "#9aa4b0",
    "low": "#1d2836",
}


def params(colours: dict[Colour, str], others: dict[str, str]) -> list[Spec]:
    """Return a theme's colours as parameters of a chart."""
    named = {str(name): value for name, value in colours.items()} | others
    return [{"name": f"c_{name}", "value": value} for name, value in named.items()]


def chart(drawn: Drawn) -> Spec:
    """Return a chart of daily figures."""
    count = len(drawn.lines)
    start = _ms(drawn.days[0])
    end = _ms(drawn.days[-1]) + _DAY_MS
    opened = next((day for day, one in _known(drawn) if one is Known.PROVISIONAL), None)
    since = end if opened is None else _ms(opened)
    wide = wide_apart(drawn)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{drawn.chart.title}. {drawn.chart.says}",
        # For the tooltip.
        "usermeta": {
            "lines": {
                f"f{at}": {"name": line.name, "colour": line.colour} for at, line in enumerate(drawn.lines)
            }
        },
        "width": "container",
        "height": 210,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": params(LIGHT, OTHERS_LIGHT),
        "data": {"values": [{"o": at, "v": line.values} for at, line in enumerate(drawn.lines)]},
        "transform": [
            {"flatten": ["v"]},
            {"window": [{"op": "row_number", "as": "i"}], "groupby": ["o"]},
            {"calculate": f"{start} + (datum.i - 1) * {_DAY_MS}", "as": "t"},
        ],
        "encoding": {
            "x": {
                "field": "x",
                # Milliseconds of UTC. What Vega-Lite calls temporal is of the browser's own zone.
                "type": "quantitative",
                "scale": {"domain": [start, end], "zero": False, "nice": False},
                "axis": _days_axis(drawn.days),
            },
            "y": {
                "field": "y",
                "type": "quantitative",
                "scale": {"type": "symlog", "constant": _constant(drawn)}
                if wide
                else {"zero": True, "nice": True},
                "axis": _axis(drawn, wide=wide),
            },
            "color": {
                "field": "o",
                "type": "ordinal",
                "scale": {
                    "domain": list(range(count)),
                    "range": [{"expr": f"c_{line.colour}"} for line in drawn.lines],
                },
                "legend": None,
            },
        },
        "layer": [
            *_bands(drawn),
            *(_stack(drawn, since) if drawn.chart.shape is Shape.STACK else _lines(drawn, since)),
            _hover(drawn, since),
        ],
    }


def wide_apart(drawn: Drawn) -> bool:
    """Return whether small values would vanish beside the large ones."""
    if drawn.chart.unit is not Unit.SECONDS or drawn.chart.shape is not Shape.LINES:
        return False
    highest = [max((v for v in line.values if v is not None), default=0) for line in drawn.lines]
    above = [one for one in highest if one > 0]
    return bool(above) and max(above) > WIDE_APART * min(above)


def _known(drawn: Drawn) -> list[tuple[date, Known]]:
    return list(zip(drawn.days, drawn.known, strict=True))


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _values(drawn: Drawn) -> list[Number]:
    values = (
        drawn.whole()
        if drawn.chart.shape is Shape.STACK
        else [v for line in drawn.lines for v in line.values]
    )
    return [value for value in values if value is not None]


def _constant(drawn: Drawn) -> float:
    """Where the scale turns from linear to logarithmic: at the smallest value there is."""
    return max(min((value for value in _values(drawn) if value > 0), default=1), 0.001)


def _axis(drawn: Drawn, *, wide: bool) -> Spec:
    unit = drawn.chart.unit
    axis: Spec = {"title": None, "labelExpr": _ON_AXIS[unit].format("datum.value"), "tickCount": 4}
    highest = max(_values(drawn), default=0)
    if unit is Unit.SECONDS:
        if wide:
            least = _constant(drawn)
            axis["values"] = [0, *(one for one in _DECADES if least / 3 <= one <= highest)]
        else:
            step = next((one for one in _STEPS if highest / one <= 5), _STEPS[-1])
            axis["values"] = [round(step * at, 3) for at in range(int(highest / step) + 2)]
    elif unit is Unit.SPENT:
        # Hours as one counts, not as a clock does.
        power = 10 ** floor(log10(max(highest / 3600, 1)))
        step = next(power * one for one in (0.2, 0.5, 1, 2, 5) if highest / 3600 / power / one <= 5)
        axis["values"] = [3600 * step * at for at in range(int(highest / 3600 / step) + 2)]
    elif unit is not Unit.SHARE:
        axis["tickMinStep"] = 1
    return axis


def _days_axis(days: tuple[date, ...]) -> Spec:
    """Say where days are written: each, each Monday, or the first of each month or quarter."""
    shown = "utcFormat(datum.value, '%-d %b')"
    if len(days) <= 10:
        ticks = list(days)
    elif len(days) <= GAPS:
        ticks = [day for day in days if day.weekday() == 0]
    else:
        months = (1, 4, 7, 10) if len(days) > 800 else range(1, 13)
        ticks = [day for day in days if day.day == 1 and day.month in months]
        shown = "utcFormat(datum.value, month(datum.value) == 0 ? '%b %Y' : '%b')".replace(
            "month(", "utcmonth("
        )
    return {
        "title": None,
        "values": [_ms(day) + _DAY_MS // 2 for day in ticks],
        "labelExpr": shown,
        "labelOverlap": "parity",
        "labelSeparation": 8,
        "grid": False,
    }


def _bands(drawn: Drawn) -> list[Spec]:
    """Return what lies behind days without figures, and behind those that are not closed."""
    layers: list[Spec] = []
    for kind, colour in ((Known.NOTHING, "c_nothing"), (Known.PROVISIONAL, "c_open")):
        bands: list[Spec] = []
        for day, one in _known(drawn):
            if one is not kind:
                continue
            at = _ms(day)
            if bands and bands[-1]["b"] == at:
                bands[-1]["b"] = at + _DAY_MS
            else:
                bands.append({"a": at, "b": at + _DAY_MS})
        if not bands:
            continue
        x = {"field": "a", "type": "quantitative"}
        layers.append(
            {
                "data": {"values": bands},
                "mark": {"type": "rect", "fill": {"expr": colour}, "aria": False},
                "encoding": {
                    "x": x,
                    "x2": {"field": "b"},
                    "y": {"value": 0},
                    "y2": {"value": {"expr": "height"}},
                    "color": {"value": None},
                },
            }
        )
        named = [band for band in bands if band["b"] - band["a"] > len(drawn.days) * _DAY_MS * 0.25]
        if named and kind is Known.NOTHING:
            layers.append(
                {
                    "data": {"values": [{"m": (band["a"] + band["b"]) / 2} for band in named]},
                    "mark": {"type": "text", "fill": {"expr": "c_ink"}, "text": "no figures", "aria": False},
                    "encoding": {
                        "x": {"field": "m", "type": "quantitative"},
                        "y": {"value": {"expr": "height / 2"}},
                        "color": {"value": None},
                    },
                }
            )
    return layers


def _stack(drawn: Drawn, since: int) -> list[Spec]:
    margin = 0.12 if len(drawn.days) <= GAPS else 0
    return [
        {
            "transform": [
                {"filter": "isValid(datum.v) && datum.v > 0"},
                {
                    "stack": "v",
                    "groupby": ["t"],
                    "sort": [{"field": "o", "order": "ascending"}],
                    "as": ["y", "y2"],
                },
                {"calculate": f"datum.t + {margin * _DAY_MS:.0f}", "as": "x"},
                {"calculate": f"datum.t + {(1 - margin) * _DAY_MS:.0f}", "as": "x2"},
            ],
            "mark": {"type": "rect", "aria": False},
            "encoding": {
                "x2": {"field": "x2"},
                "y2": {"field": "y2"},
                "opacity": {"condition": {"test": f"datum.t >= {since}", "value": 0.5}, "value": 1},
            },
        }
    ]


def _lines(drawn: Drawn, since: int) -> list[Spec]:
    place = [
        {"calculate": f"datum.t + {_DAY_MS // 2}", "as": "x"},
        {"calculate": "datum.v", "as": "y"},
    ]
    line = {"type": "line", "strokeWidth": 2, "strokeJoin": "round", "aria": False}
    alone = [
        value is not None
        and (at == 0 or line_.values[at - 1] is None)
        and (at + 1 == len(line_.values) or line_.values[at + 1] is None)
        for line_ in drawn.lines
        for at, value in enumerate(line_.values)
    ]
    layers: list[Spec] = []
    if Known.CLOSED in drawn.known:
        layers.append({"transform": [*place, {"filter": f"datum.t < {since}"}], "mark": line})
    if Known.PROVISIONAL in drawn.known:
        late = {"filter": f"datum.t >= {since - _DAY_MS}"}
        layers.append({"transform": [*place, late], "mark": line | {"strokeDash": [3, 3]}})
    # A value between two gaps has no line.
    if len(drawn.days) <= POINTS or any(alone):
        layers.append(
            {
                "transform": [*place, {"filter": "isValid(datum.v)"}],
                "mark": {"type": "point", "size": 22, "strokeWidth": 1.5, "filled": False, "aria": False},
                "encoding": {
                    "fill": {
                        "condition": {"test": f"datum.t >= {since}", "value": {"expr": "c_surface"}},
                        "field": "o",
                        "type": "ordinal",
                        "scale": {
                            "domain": list(range(len(drawn.lines))),
                            "range": [{"expr": f"c_{one.colour}"} for one in drawn.lines],
                        },
                        "legend": None,
                    }
                },
            }
        )
    return layers


def _hover(drawn: Drawn, since: int) -> Spec:
    """Return what is seen of a day when somebody points at it, or touches it."""
    shown = _IN_TOOLTIP[drawn.chart.unit]
    count = len(drawn.lines)
    texts: list[Spec] = [
        {
            "calculate": f"isValid(datum[{at}]) ? ({shown.format(f'datum[{at}]')}) : '–'",
            "as": f"f{at}",
        }
        for at in range(count)
    ]
    tooltip: list[Spec] = [
        {"field": "day", "type": "nominal", "title": "day"},
        # By numbers too: what shows a tooltip takes one called 'image' for the address of a picture.
        *({"field": f"f{at}", "type": "nominal", "title": f"f{at}"} for at in range(count)),
    ]
    if drawn.chart.shape is Shape.STACK and count > 1:
        total = " + ".join(f"(datum[{at}] || 0)" for at in range(count))
        texts += [
            {"calculate": total, "as": "all"},
            {"calculate": shown.format("datum.all"), "as": "told"},
        ]
        tooltip.append({"field": "told", "type": "nominal", "title": "together"})
    late = f"datum.t >= {since} ? ' (provisional)' : ''"
    return {
        "transform": [
            {"pivot": "o", "value": "v", "op": "max", "groupby": ["t"]},
            {"calculate": f"utcFormat(datum.t, '%a %-d %b %Y') + ({late})", "as": "day"},
            *texts,
            {"calculate": "datum.t", "as": "x"},
            {"calculate": f"datum.t + {_DAY_MS}", "as": "x2"},
        ],
        "params": [
            {"name": "hover", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}
        ],
        "mark": {
            "type": "rect",
            "fill": {"expr": "c_ink"},
            "aria": False,
            "tooltip": {"content": "encoding"},
        },
        "encoding": {
            "x2": {"field": "x2"},
            "y": {"value": 0},
            "y2": {"value": {"expr": "height"}},
            "color": {"value": None},
            "opacity": {"condition": {"param": "hover", "empty": False, "value": 0.12}, "value": 0},
            "tooltip": tooltip,
        },
    }


def heat(made: Heat) -> Spec:
    """Return a chart by weekday and hour."""
    values = [
        {"d": WEEKDAYS[day], "h": hour, "v": round(mean, 3), "n": made.counts[day][hour]}
        for day, row in enumerate(made.means)
        for hour, mean in enumerate(row)
        if mean is not None
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{made.hours.title}. {made.hours.says}",
        "width": "container",
        "height": 210,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": params(LIGHT, OTHERS_LIGHT),
        "data": {"values": values},
        "transform": [
            {"calculate": "pad(datum.h, 2, '0', 'left') + ':00'", "as": "hour"},
            {"calculate": "datum.d + ', ' + datum.hour + ' UTC'", "as": "when"},
            {"calculate": "format(datum.v, ',.1~f')", "as": "told"},
        ],
        "mark": {"type": "rect", "aria": False, "cornerRadius": 2},
        "encoding": {
            "x": {
                "field": "h",
                "type": "ordinal",
                "scale": {"domain": list(range(24)), "paddingInner": 0.08},
                "axis": {
                    "title": None,
                    "labelAngle": 0,
                    "values": [0, 3, 6, 9, 12, 15, 18, 21],
                    "labelExpr": "pad(datum.value, 2, '0', 'left') + ':00'",
                    "labelOverlap": "parity",
                },
            },
            "y": {
                "field": "d",
                "type": "nominal",
                "scale": {"domain": list(WEEKDAYS), "paddingInner": 0.12},
                "axis": {
                    "title": None,
                    "labelExpr": "slice(datum.value, 0, 3)",
                    "ticks": False,
                    "domain": False,
                },
            },
            "color": {
                "field": "v",
                "type": "quantitative",
                "scale": {"zero": True, "range": [{"expr": "c_low"}, {"expr": "c_blue"}]},
                "legend": None,
            },
            "tooltip": [
                {"field": "when", "type": "nominal", "title": "hour"},
                {"field": "told", "type": "nominal", "title": "mean"},
                {"field": "n", "type": "quantitative", "title": "hours"},
            ],
        },
    }
