"""curves.png: the curves of one run, healthy ranges shaded."""

import math
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from conformer_jax.training import diagnostics

_PRETRAIN_PANELS = (
    ("contrastive loss", ("contrastive_loss",)),
    ("contrastive accuracy", ("contrastive_accuracy",)),
    ("cosine similarity", ("similarity_positive", "similarity_negative")),
    ("spread of the targets", ("target_deviation",)),
    ("gradient norm", ("gradient_norm",)),
    ("learning rate", ("learning_rate",)),
)
_FINETUNE_PANELS = (
    ("loss", ("loss",)),
    ("accuracy", ("accuracy",)),
    ("mAP", ("mAP",)),
    ("gradient norm", ("gradient_norm",)),
)
_CODE_PANEL = ("codebook perplexity", ("code_perplexity",))


class Heading(NamedTuple):
    """title: of the picture; guess: of a pre-training run, else None."""

    title: str
    guess: diagnostics.Guess | None


def heading_of(config) -> Heading:
    """From the full config."""
    guess = diagnostics.guess_of(config)
    title = config.name if guess is None else f"{config.name}, target {config.target}"
    return Heading(title, guess)


def draw(heading: Heading, records: list[dict], path, control: list[dict] | None = None) -> None:
    """Draws the records of metrics.jsonl to a PNG.

    Args:
      heading: of the run.
      records: [{'step': ..., 'split': 'train' | 'validation' | 'eval', name: value, ...}].
      path: of the PNG.
      control: records of the same from scratch, drawn beside them.
    """
    guess = heading.guess
    pretrain = guess is not None
    panels = list(_PRETRAIN_PANELS if pretrain else _FINETUNE_PANELS)
    if pretrain and guess.num_entries is not None:
        panels[-1] = _CODE_PANEL
    columns = 3 if len(panels) > 4 else 2
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.8 * rows), squeeze=False)
    newest = next((r for r in reversed(records) if r.get("chance_accuracy") is not None), None)
    ranges = diagnostics.healthy_ranges(guess, newest) if pretrain and newest else {}
    for axis, (title, names) in zip(axes.flat, panels, strict=False):
        _panel(axis, title, names, records, ranges)
        if control:
            _lines(axis, names, control, ", from scratch", color="tab:red")
        chance = None if pretrain or newest is None else newest.get(f"chance_{names[0]}")
        if chance is not None:
            axis.axhline(chance, color="grey", linestyle=":", label="chance")
    if ranges:
        loss = math.log(1 + guess.num_distractors)
        axes.flat[0].axhline(loss, color="grey", linestyle=":", label="chance")
        axes.flat[1].axhline(newest["chance_accuracy"], color="grey", linestyle=":", label="chance")
    for axis in axes.flat:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.suptitle(heading.title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, title, names, records, ranges):
    values = _lines(axis, names, records)
    if values and names[0] in ranges:
        healthy = ranges[names[0]]
        limits = axis.get_ylim()
        axis.axhspan(healthy.low, healthy.high, color="tab:green", alpha=0.12, label="healthy")
        axis.set_ylim(min(limits[0], *values), max(limits[1], *values))
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def _lines(axis, names, records, whose="", **look):
    """Draws a line for each name and split that was logged; returns their values."""
    values = []
    for name in names:
        for split, style in (("train", "-"), ("validation", "s--"), ("eval", "o--")):
            points = [
                (r["step"], r[name])
                for r in records
                if r["split"] == split and r.get(name) is not None
            ]
            if not points:
                continue
            label = {"train": "training", "eval": "held out"}.get(split, split)
            if len(names) > 1:
                label = f"{name.rsplit('_', 1)[-1]}, {label}"
            label += whose
            axis.plot(
                *zip(*points, strict=True), style, markersize=3, linewidth=1.2, label=label, **look
            )
            values += [value for _, value in points]
    return values
