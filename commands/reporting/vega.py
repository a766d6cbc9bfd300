"""Charts as Vega-Lite has them: plain JSON, that Vega draws in the browser.

Strings that strangers have written are data and titles here, never part of an expression or a field's name:
series differ by their number.
"""

from datetime import date

from commands.reporting import axes
from commands.reporting.axes import DAY_MS, Spec, ms
from commands.reporting.charts import Drawn, Heat, Known
from commands.reporting.records import Colour, Shape
from commands.reporting.units import WEEKDAYS

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
    """Return a chart of daily statistics."""
    count = len(drawn.lines)
    start = ms(drawn.days[0])
    end = ms(drawn.days[-1]) + DAY_MS
    opened = next((day for day, one in _known(drawn) if one is Known.PROVISIONAL), None)
    since = end if opened is None else ms(opened)
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
            {"calculate": f"{start} + (datum.i - 1) * {DAY_MS}", "as": "t"},
        ],
        "encoding": {
            "x": axes.of_days(drawn.days),
            "y": axes.of_values(drawn),
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


def _known(drawn: Drawn) -> list[tuple[date, Known]]:
    return list(zip(drawn.days, drawn.known, strict=True))


def _bands(drawn: Drawn) -> list[Spec]:
    """Return what lies behind days without statistics, and behind those that are not closed."""
    layers: list[Spec] = []
    for kind, colour in ((Known.NOTHING, "c_nothing"), (Known.PROVISIONAL, "c_open")):
        bands: list[Spec] = []
        for day, one in _known(drawn):
            if one is not kind:
                continue
            at = ms(day)
            if bands and bands[-1]["b"] == at:
                bands[-1]["b"] = at + DAY_MS
            else:
                bands.append({"a": at, "b": at + DAY_MS})
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
        named = [band for band in bands if band["b"] - band["a"] > len(drawn.days) * DAY_MS * 0.25]
        if named and kind is Known.NOTHING:
            layers.append(
                {
                    "data": {"values": [{"m": (band["a"] + band["b"]) / 2} for band in named]},
                    "mark": {
                        "type": "text",
                        "fill": {"expr": "c_ink"},
                        "text": "no statistics",
                        "aria": False,
                    },
                    "encoding": {
                        "x": {"field": "m", "type": "quantitative"},
                        "y": {"value": {"expr": "height / 2"}},
                        "color": {"value": None},
                    },
                }
            )
    return layers


def _stack(drawn: Drawn, since: int) -> list[Spec]:
    margin = 0.12 if len(drawn.days) <= axes.GAPS else 0
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
                {"calculate": f"datum.t + {margin * DAY_MS:.0f}", "as": "x"},
                {"calculate": f"datum.t + {(1 - margin) * DAY_MS:.0f}", "as": "x2"},
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
        {"calculate": f"datum.t + {DAY_MS // 2}", "as": "x"},
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
        late = {"filter": f"datum.t >= {since - DAY_MS}"}
        layers.append({"transform": [*place, late], "mark": line | {"strokeDash": [3, 3]}})
    # A value between two gaps has no line.
    if len(drawn.days) <= axes.POINTS or any(alone):
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
    """Return what is shown of a day when the user points at it, or touches it."""
    shown = axes.IN_TOOLTIP[drawn.chart.unit]
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
        present = " || ".join(f"isValid(datum[{at}])" for at in range(count))
        texts += [
            {"calculate": total, "as": "all"},
            {"calculate": f"{present} ? ({shown.format('datum.all')}) : '–'", "as": "together"},
        ]
        tooltip.append({"field": "together", "type": "nominal", "title": "together"})
    late = f"datum.t >= {since} ? ' (provisional)' : ''"
    return {
        "transform": [
            {"pivot": "o", "value": "v", "op": "max", "groupby": ["t"]},
            {"calculate": f"utcFormat(datum.t, '%a %-d %b %Y') + ({late})", "as": "day"},
            *texts,
            {"calculate": "datum.t", "as": "x"},
            {"calculate": f"datum.t + {DAY_MS}", "as": "x2"},
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
            {"calculate": "format(datum.v, ',.1f')", "as": "mean"},
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
                {"field": "mean", "type": "nominal", "title": "mean"},
                {"field": "n", "type": "quantitative", "title": "hours"},
            ],
        },
    }
