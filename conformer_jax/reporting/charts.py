"""Line charts as inline SVG: readable without scripts, coloured by the page's style sheet."""

import dataclasses
import itertools
import json
import math

from conformer_jax.reporting.markup import Markup, details, number, table, tag

WIDTH, HEIGHT = 330, 215  # of the drawing, about as many pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 16, 8, 36
_LETTER = 6.5  # width of one at most, at the style sheet's 11px
_MOST_POINTS = 500  # drawn of one line; what lies between is kept by its lowest and highest
_TABLE_ROWS = 20
COLOURS = 6  # classes c0 to c5 of the style sheet


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: points (x, y), a gap where y is None; `spread` is (x, lowest, highest)."""

    name: str
    points: tuple
    colour: int = 0
    dots: bool = False  # dashed with dots, rather than solid
    spread: tuple = ()
    scattered: tuple = ()  # further points (x, y), as dots only


@dataclasses.dataclass(frozen=True)
class Chart:
    """What `line_chart` draws.

    title: plain name; unit: of y; about: what it is and what a healthy curve looks like.
    band: (low, high, name) to shade; levels: [(name, y)] as dotted lines.
    ticks: x values to mark, on a logarithmic axis; () for a linear one with ticks of its own.
    """

    title: str
    unit: str
    about: str
    series: tuple[Series, ...]
    x_name: str = "step"
    band: tuple | None = None
    levels: tuple = ()
    ticks: tuple = ()
    percent: bool = False  # x is a share, written in %
    x_range: tuple = ()  # seen at least, of charts that stand side by side


def line_chart(chart: Chart) -> Markup:
    """A figure: title, legend, drawing, sentence, and the values as a table.

    The chart needs at least one point that is not None.
    """
    series = [s for s in chart.series if any(y is not None for _, y in s.points)]
    scale = _Scale(chart, series)
    label = (
        f"{chart.title} ({chart.unit}) by {chart.x_name}. "
        + " ".join(_in_words(s, chart) for s in series)
        + "".join(f" {name}: {number(y)}." for name, y in chart.levels)
        + _band_in_words(chart.band)
    )
    taken = [scale.at(*p) for s in series for p in s.points if p[1] is not None]
    # Long labels of the y axis get the room that they need.
    longest = max((len(_short(y)) for y in nice_ticks(*scale.y, most=5)), default=0)
    wider = max(0, math.ceil(longest * _LETTER) - (_LEFT - 6))
    drawing = tag(
        "svg",
        _axes(chart, scale),
        _band(chart, scale, taken),
        *(_level(name, y, scale, taken) for name, y in chart.levels),
        *(_line(s, scale) for s in series),
        tag("g", class_="cursor"),
        class_="chart",
        viewBox=f"{-wider} 0 {WIDTH + wider} {HEIGHT}",
        role="img",
        tabindex="0",
        aria_label=label,
        data_box=f"{_LEFT} {_TOP} {WIDTH - _LEFT - _RIGHT} {HEIGHT - _TOP - _BOTTOM}",
        data_x=f"{scale.x[0]} {scale.x[1]}",
        data_y=f"{scale.y[0]} {scale.y[1]}",
        data_log="yes" if scale.log else None,
        data_percent="yes" if chart.percent else None,
        data_name=chart.x_name,
    )
    return tag(
        "figure",
        tag("p", chart.title, " ", tag("span", chart.unit, class_="unit"), class_="title"),
        _legend(series),
        drawing,
        tag("output", class_="reading"),
        tag("figcaption", chart.about),
        details("Values", _values(chart, series)),
        class_="plot",
    )


class _Scale:
    """From values to the drawing's coordinates."""

    def __init__(self, chart, series):
        xs = [x for s in series for x, y in s.points if y is not None] + list(chart.x_range)
        ys = [y for s in series for _, y in s.points if y is not None]
        ys += [y for s in series for _, y in s.scattered]
        ys += [y for s in series for _, low, high in s.spread for y in (low, high)]
        ys += [y for _, y in chart.levels]
        if chart.band:  # at least its near edge is seen
            low, high, _ = chart.band
            ys += [low] if max(ys) < low else [high] if min(ys) > high else []
        self.log = bool(chart.ticks) and min(xs) > 0
        pad = 0.06 * (max(ys) - min(ys)) or 0.1 * abs(max(ys)) or 1.0
        low = min(ys) - pad
        self.y = (0.0 if low < 0 <= min(ys) else low), max(ys) + pad
        margin = 1.12 if self.log else 0.0
        first, last = min(xs), max(xs)
        if self.log:
            self.x = first / margin, last * margin
        else:
            self.x = (first, last) if last > first else (first - 1, first + 1)

    def at(self, x, y):
        across = [math.log(v) for v in (x, *self.x)] if self.log else [x, *self.x]
        share = (across[0] - across[1]) / (across[2] - across[1])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between low and high, at most so many, evenly spaced."""
    for exponent in itertools.count(math.floor(math.log10((high - low) / most)) - 1):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                digits = max(0, -exponent)
                return [round(i * step, digits) for i in range(first, last + 1)]
    raise AssertionError("not reached")


def _short(value):
    """A tick's label."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{value:g}"


def _x_text(value, percent):
    return f"{100 * value:.3g}\u00a0%" if percent else number(value)


def _axes(chart, scale):
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for y in nice_ticks(*scale.y, most=5):
        at = scale.at(scale.x[0], y)[1]
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=right, y1=at, y2=at))
        label = {"x": _LEFT - 6, "y": at + 4, "text_anchor": "end"}
        parts.append(tag("text", _short(y), **label))
    past = -math.inf
    for x in chart.ticks if scale.log else nice_ticks(*scale.x):
        at = scale.at(x, scale.y[0])[0]
        if at - past < 30:
            continue
        past = at
        parts.append(tag("line", class_="tick", x1=at, x2=at, y1=floor, y2=floor + 4))
        text = _x_text(x, True) if chart.percent else _short(x)
        parts.append(tag("text", text, x=at, y=floor + 16, text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=_LEFT, x2=right, y1=floor, y2=floor))
    middle = (_LEFT + right) / 2
    parts.append(tag("text", chart.x_name, x=middle, y=HEIGHT - 4, text_anchor="middle"))
    return tag("g", *parts, class_="axes")


def _band(chart, scale, taken):
    if not chart.band:
        return None
    low, high = max(chart.band[0], scale.y[0]), min(chart.band[1], scale.y[1])
    top, floor = scale.at(scale.x[0], high)[1], scale.at(scale.x[0], low)[1]
    if floor - top < 1:
        top, floor = (top - 2, floor) if low <= scale.y[0] else (top, floor + 2)
    label = tag("text", chart.band[2], **_place(top + 13, taken))
    width, height = WIDTH - _LEFT - _RIGHT, round(floor - top, 1)
    return tag(
        "g",
        tag("rect", x=_LEFT, y=top, width=width, height=height),
        label if height > 14 else None,
        class_="band",
    )


def _level(name, y, scale, taken):
    at = scale.at(scale.x[0], y)[1]
    return tag(
        "g",
        tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at),
        tag("text", name, **_place(at - 4 if at > 24 else at + 12, taken)),
        class_="level",
    )


def _place(y, taken):
    """Where a label stands at height y: right, or left where lines run through it there."""
    half = (WIDTH + _LEFT - _RIGHT) / 2

    def hidden(side):
        return sum(abs(py - y + 4) < 10 and side(px) for px, py in taken)

    right, left = hidden(lambda x: x > half + 70), hidden(lambda x: x < half - 70)
    if right <= left:
        return {"x": WIDTH - _RIGHT - 4, "y": round(y, 1), "text_anchor": "end"}
    return {"x": _LEFT + 5, "y": round(y, 1)}


def _line(series, scale):
    points = thin(series.points)
    runs = [
        [scale.at(*p) for p in run]
        for real, run in itertools.groupby(points, lambda p: p[1] is not None)
        if real
    ]
    alone = [run[0] for run in runs if len(run) == 1]
    dots = [p for run in runs for p in run] if series.dots else alone
    area = [scale.at(x, high) for x, _, high in series.spread]
    area += [scale.at(x, low) for x, low, _ in reversed(series.spread)]
    seeds = [scale.at(*p) for p in series.scattered]
    exact = [[x, float(f"{y:.4g}")] for x, y in points if y is not None]
    return tag(
        "g",
        tag("path", class_="spread", d=_path(area) + "Z") if area else None,
        tag("path", class_="line", d="".join(map(_path, runs))),
        *(tag("circle", cx=x, cy=y, r=2.6) for x, y in dots),
        *(tag("circle", class_="seed", cx=x, cy=y, r=2) for x, y in seeds),
        class_=f"series c{series.colour % COLOURS}" + (" dotted" if series.dots else ""),
        data_name=series.name,
        data_points=json.dumps(exact, separators=(",", ":")),
    )


def _path(points):
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def thin(points, most: int = _MOST_POINTS) -> list:
    """At most about so many points: the lowest and the highest of every stretch, in order."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = []
    for start in range(0, len(points), size):
        stretch = [(y, i) for i, (_, y) in enumerate(points[start : start + size]) if y is not None]
        if not stretch:
            kept.append(points[start])
            continue
        kept += [points[start + i] for i in sorted({min(stretch)[1], max(stretch)[1]})]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _legend(series):
    if len(series) == 1 and not series[0].spread:
        return tag("p", series[0].name, class_="legend")
    entries = []
    for s in series:
        key = tag(
            "svg",
            tag("path", class_="line", d="M0 5L24 5"),
            tag("circle", cx=12, cy=5, r=2.6) if s.dots else None,
            class_=f"key series c{s.colour % COLOURS}" + (" dotted" if s.dots else ""),
            viewBox="0 0 24 10",
            aria_hidden="true",
        )
        entries.append(tag("span", key, s.name))
    return tag("p", *entries, class_="legend")


def _in_words(series, chart):
    real = [p for p in series.points if p[1] is not None]
    (first, start), (last, end) = real[0], real[-1]
    if len(real) == 1:
        return f"{series.name}: {number(start)} at {_x_text(first, chart.percent)}."
    return (
        f"{series.name}: from {number(start)} at {_x_text(first, chart.percent)} to {number(end)} "
        f"at {_x_text(last, chart.percent)}."
    )


def _band_in_words(band):
    if not band:
        return ""
    high = f"to {number(band[1])}" if math.isfinite(band[1]) else "or more"
    return f" {band[2]}: {number(band[0])} {high}."


def _values(chart, series):
    values = [dict(s.points) for s in series]
    xs = sorted(set().union(*values))
    every = math.ceil(len(xs) / _TABLE_ROWS)
    # The last one always, and those before it evenly; and where few are held out, all of these.
    kept = set(xs[::-1][::every]) | {x for v in values if len(v) <= _TABLE_ROWS for x in v}
    rows = [
        [_x_text(x, chart.percent)] + [number(v[x]) if x in v else "" for v in values]
        for x in sorted(kept)
    ]
    note = f", one record in {every}" if every > 1 else ""
    head = [chart.x_name, *(s.name for s in series)]
    return table(f"{chart.title}, {chart.unit}{note}", head, rows, words=())
