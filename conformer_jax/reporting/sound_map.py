"""The page that draws many windows in two dimensions, to point at and to listen to."""

import colorsys
import json
from typing import NamedTuple

import numpy as np

from conformer_jax.reporting import document
from conformer_jax.reporting.document import Section
from conformer_jax.reporting.markup import Markup, join, tag
from conformer_jax.reporting.player import clock

POINTS = 3000  # drawn
SOUNDS = 600  # of them that can be played
SOUND_S = 3.0  # of each
_WIDTH, _HEIGHT, _MARGIN = 1000, 700, 24
_LABELS = 60  # that have a colour of their own, the most frequent; others are grey
_OUTLIERS = 0.5  # % of points on each side that the picture's scale need not reach


class Point(NamedTuple):
    """A window. x, y: where; name: of the file; start, end: s; label: or ''; sound: data URI, or
    None."""

    x: float
    y: float
    name: str
    start: float
    end: float
    label: str
    sound: str | None


def page(title: str, points: list[Point], method: str, notes=()) -> str:
    """The page.

    Args:
      title: the heading.
      points: those drawn.
      method: how, a sentence.
      notes: sentences on what is left out.
    """
    colours = _colours([p.label for p in points if p.label])
    about = (
        "Windows of sound that the model finds alike lie close together. Point at one to see what "
        "it is, click or tap it to hear it. By keyboard: the arrow keys go to the next point in "
        "that direction, Enter plays."
    )
    paragraphs = [tag("p", text, class_="left-out") for text in notes]
    left = len({p.label for p in points if p.label}) - len(colours)
    if left > 0:
        paragraphs.append(tag("p", f"{left} rarer labels are grey.", class_="left-out"))
    content = join(
        tag("p", f"{about} {method}"),
        *paragraphs,
        tag("div", _drawing(points, colours), _legend(points, colours), class_="map-and-labels"),
    )
    section = Section(f"{len(points)} windows", content)
    return document.render(title, document.made(), [section], ("page", "player", "sound_map"))


def _colours(labels):
    """#rrggbb of the most frequent labels; neighbours in the list differ in hue and lightness."""
    names, counts = np.unique(np.array(labels, object), return_counts=True) if labels else ([], [])
    kept = [str(names[i]) for i in np.argsort(-np.asarray(counts), kind="stable")[:_LABELS]]
    found = {}
    for i, name in enumerate(sorted(kept)):
        lightness = (0.42, 0.58, 0.5)[i % 3]
        rgb = colorsys.hls_to_rgb(i / max(len(kept), 1), lightness, 0.65)
        found[name] = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
    return found


def _legend(points, colours):
    if not colours:
        return None
    count = {}
    for point in points:
        count[point.label] = count.get(point.label, 0) + 1
    buttons = [
        tag(
            "button",
            f"{name} ({count[name]})",
            type="button",
            aria_pressed="false",
            data_label=name,
            style=f"--dot:{colour}",
        )
        for name, colour in colours.items()
    ]
    return tag("div", *buttons, class_="labels", role="group", aria_label="Show one label alone")


def _drawing(points, colours):
    where = _scaled(np.array([(p.x, p.y) for p in points], float).reshape(-1, 2))
    dots = []
    for point, (x, y) in zip(points, where, strict=True):
        colour = colours.get(point.label)
        dots.append(
            tag(
                "circle",
                cx=f"{x:.1f}",
                cy=f"{y:.1f}",
                r="6" if point.sound else "4",
                class_=None if point.sound else "silent-point",
                style=f"--dot:{colour}" if colour else None,
            )
        )
    described = [
        [f"{p.name}, {clock(p.start)} to {clock(p.end)}", p.label, p.sound] for p in points
    ]
    data = json.dumps(described, ensure_ascii=False)
    return tag(
        "div",
        tag("p", class_="reading", role="status"),
        tag("audio", controls="", aria_label="The window that was chosen"),
        tag(
            "svg",
            *dots,
            class_="map",
            viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
            tabindex="0",
            role="application",
            aria_label="Map of windows: arrow keys go from point to point, Enter plays",
        ),
        # Neither a tag nor a comment can begin in it.
        tag("script", Markup(data.replace("<", "\\u003c")), type="application/json"),
        class_="sound-map",
    )


def _scaled(where):
    """Into the picture; the few that lie far out are drawn at its edge."""
    if not len(where):
        return where
    low, high = np.percentile(where, [_OUTLIERS, 100 - _OUTLIERS], axis=0)
    share = np.clip((where - low) / np.maximum(high - low, 1e-9), 0, 1)
    size = np.array([_WIDTH, _HEIGHT]) - 2 * _MARGIN
    return _MARGIN + share * size * [1, -1] + [0, size[1]]
