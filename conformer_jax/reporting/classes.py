"""Classes apart: average precision of each, and what is taken for what."""

import json

import numpy as np

from conformer_jax.reporting.markup import (
    Markup,
    details,
    join,
    number,
    percent,
    scrolling,
    table,
    tag,
)
from conformer_jax.reporting.media import png
from conformer_jax.steps import metrics

AS_TABLE = 30  # classes at most; more of them make a picture
_ENDS = 12  # best and worst classes shown where there are many
_CONFUSIONS = 12
_BLUE, _ORANGE = (23, 105, 170), (196, 78, 20)  # right and wrong, in both colour schemes


def confusions(predictions) -> np.ndarray:
    """int64 [C, C]: clips of the row's class whose highest score is the column's class.

    A clip with several labels counts once where the highest score is one of them, else once for
    each of its labels.
    """
    counts = np.zeros((len(predictions.label_names),) * 2, np.int64)
    top = predictions.logits.argmax(1)
    right = predictions.labels[np.arange(len(top)), top] > 0
    np.add.at(counts, (top[right], top[right]), 1)
    clips, truth = np.nonzero(predictions.labels[~right] > 0)
    np.add.at(counts, (truth, top[~right][clips]), 1)
    return counts


def average_precisions(predictions) -> Markup:
    """Average precision of each class as bars, best first."""
    scores = metrics.average_precision(predictions.logits, predictions.labels)
    clips = predictions.labels.sum(0).astype(int)
    order = [c for c in np.argsort(-scores, kind="stable") if clips[c]]
    rows = [[predictions.label_names[c], clips[c], bar(scores[c])] for c in order]
    head = ["class", "clips", "average precision"]
    absent = [name for name, n in zip(predictions.label_names, clips, strict=True) if not n]
    mean = number(metrics.mean_average_precision(predictions.logits, predictions.labels))
    accuracy = number(metrics.accuracy(predictions.logits, predictions.labels))
    parts = [
        tag(
            "p",
            f"Of {len(predictions.ids):,} held-out clips, at step {predictions.step:,}: accuracy "
            f"{accuracy}, mAP {mean} (the mean of the bars). Average precision is 1 "
            "where every clip of a class is ranked before all others, and near the class's share "
            "of the clips where the ranking is a guess.",
        )
    ]
    if len(rows) <= AS_TABLE:
        parts.append(table("All classes, best first", head, rows, words=(0, 2)))
    else:
        best, worst = rows[:_ENDS], rows[-_ENDS:]
        parts += [
            tag(
                "div",
                table(f"The {_ENDS} best classes", head, best, words=(0, 2)),
                table(f"The {_ENDS} worst classes", head, worst, words=(0, 2)),
                class_="side-by-side",
            ),
            details(
                f"All {len(rows)} classes",
                table("All classes, best first", head, rows, words=(0, 2)),
            ),
        ]
    if absent:
        shown = ", ".join(absent[:20]) + (", …" if len(absent) > 20 else "")
        parts.append(tag("p", f"Without a held-out clip, so not measured: {shown}."))
    return join(*parts)


def bar(value: float, mark: float | None = None) -> Markup:
    """A figure from 0 to 1 with a bar before it; `mark` is a line across it."""

    def at(share):
        return f"{100 * min(max(share, 0.0), 1.0):.1f}%"

    line = None if mark is None else tag("em", style=f"left:{at(mark)}")
    track = tag("span", tag("i", style=f"width:{at(value)}"), line, class_="track")
    return tag("span", track, tag("b", f"{value:.3f}"), class_="bar")


def confusion_matrix(names, counts: np.ndarray, *, several: bool) -> Markup:
    """The matrix, as a table or as a picture to point at, and the most frequent confusions.

    Args:
      names: of the classes.
      counts: of `confusions`.
      several: whether clips may have several labels.
    """
    note = (
        " A clip with several labels counts once if the highest score is one of them, else once "
        "for each of its labels."
        if several
        else ""
    )
    about = tag(
        "p",
        "Rows: what a clip is. Columns: the class with the highest score. Blue, on the diagonal, "
        "is right; orange is wrong; the darker, the larger the share of the row." + note,
    )
    draw = _as_table if len(names) <= AS_TABLE else _as_picture
    return join(about, draw(names, counts), _most_frequent(names, counts))


def _as_table(names, counts):
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def cell(row, column):
        n = counts[row, column]
        if not n:
            return tag("td")
        colour = _BLUE if row == column else _ORANGE
        opacity = 0.12 + 0.5 * shares[row, column]
        style = f"background:rgba({colour[0]},{colour[1]},{colour[2]},{opacity:.2f})"
        return tag("td", n, style=style, title=_cell_in_words(names, counts, row, column))

    head = tag(
        "tr",
        tag("td"),
        *(tag("th", tag("span", name), scope="col") for name in names),
    )
    rows = (
        tag("tr", tag("th", name, scope="row"), *(cell(i, j) for j in range(len(names))))
        for i, name in enumerate(names)
    )
    caption = tag("caption", "Clips of each class (rows) by what they were taken for (columns)")
    matrix = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="matrix")
    return scrolling("Confusion matrix", matrix)


def _as_picture(names, counts):
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    faintest = 30 if len(names) <= 100 else 64  # a small cell must be darker to be seen
    level = np.where(counts > 0, faintest + np.round((127 - faintest) * shares), 0)
    diagonal = np.eye(len(names), dtype=bool)
    indices = np.where(counts > 0, level + np.where(diagonal, 0, 128), 0)
    opacity = 2 * np.arange(128)[:, None]
    palette = np.concatenate(
        [np.hstack([np.tile(colour, (128, 1)), opacity]) for colour in (_BLUE, _ORANGE)]
    )
    right = int(np.trace(counts))
    cells = [[int(i), int(j), int(counts[i, j])] for i, j in zip(*np.nonzero(counts), strict=True)]
    data = json.dumps({"names": names, "cells": cells}, separators=(",", ":"))
    label = (
        f"Confusion matrix of {len(names)} classes: {right:,} of {int(counts.sum()):,} counts lie "
        "on the diagonal. The arrow keys go through the cells that are not empty."
    )
    return tag(
        "div",
        tag(
            "div",
            tag("img", src=png(indices, palette), alt="", width=len(names), height=len(names)),
            tag("span", class_="pointer"),
            # Neither a tag nor a comment can begin in it.
            tag("script", Markup(data.replace("<", "\\u003c")), type="application/json"),
            class_="heat",
            tabindex="0",
            role="application",
            aria_label=label,
        ),
        tag("output", "Point at a cell, or use the arrow keys.", class_="reading"),
        class_="heat-map",
    )


def _most_frequent(names, counts):
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    cells = [np.unravel_index(i, wrong.shape) for i in order]
    rows = [
        [names[i], names[j], counts[i, j], percent(counts[i, j] / counts[i].sum())]
        for i, j in cells
        if counts[i, j] and i != j
    ]
    if not rows:
        return tag("p", "No clip was taken for another class.")
    head = ["is", "taken for", "clips", "share of the class"]
    return table("The most frequent confusions", head, rows, words=(0, 1))


def _cell_in_words(names, counts, row, column):
    said = "right" if row == column else f"taken for {names[column]}"
    return f"{names[row]}, {said}: {counts[row, column]} of {counts[row].sum()}"
