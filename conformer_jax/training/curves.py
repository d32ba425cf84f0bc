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
_CLIP_PANELS = (
    ("clip loss", ("clip_loss",)),
    ("accuracy among a batch's views", ("clip_accuracy",)),
    ("retrieval at 1, held out", ("retrieval_at_1",)),
    (
        "cosine of views",
        ("clip_similarity_positive", "clip_similarity_negative", "clip_similarity_deviation"),
    ),
    ("spread of the embeddings", ("embedding_deviation",)),
    ("uniformity, held out", ("uniformity",)),
    ("effective rank, held out", ("effective_rank",)),
    ("pooled rank, held out", ("pooled_rank",)),
    ("local dimension, held out", ("local_dimension",)),
    ("clips that make a pair", ("clips_paired",)),
    ("digital silence in the views", ("view_silence",)),
)
_OF_LABELLED = {"neighbors_accuracy": "all layers", "neighbors_accuracy_last": "last block"}
_LABELLED_PANEL = ("labelled clips told by neighbours", tuple(_OF_LABELLED))
_CODE_PANEL = ("codebook perplexity", ("code_perplexity",))


class Heading(NamedTuple):
    """title: of the picture; guess: of a pre-training run, else None."""

    title: str
    guess: diagnostics.Guess | None


def heading_of(config) -> Heading:
    """From the full config."""
    guess = diagnostics.guess_of(config)
    title = config.name
    if guess is not None and guess.masked and guess.clip is None:
        title += f", target {config.target}"
    elif guess is not None:
        title += f", objective {config.objective}"
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
    panels = _panels(guess)
    if any(_LABELLED_PANEL[1][0] in record for record in records):
        panels = [*panels, _LABELLED_PANEL]
    columns = 3 if len(panels) > 4 else 2
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.8 * rows), squeeze=False)
    chances = ("chance_accuracy", "clip_chance")
    newest = next((r for r in reversed(records) if any(r.get(c) for c in chances)), None)
    told = next((r for r in reversed(records) if r.get("neighbors_chance")), None)
    ranges = diagnostics.healthy_ranges(guess, newest) if pretrain and newest else {}
    for axis, (title, names) in zip(axes.flat, panels, strict=False):
        _panel(axis, title, names, records, ranges)
        if control:
            _lines(axis, names, control, ", from scratch", color="tab:red")
        chance = _chance(guess, names[0], told if names == _LABELLED_PANEL[1] else newest)
        if chance is not None:
            line = axis.axhline(chance, color="grey", linestyle=":")
            bottom, top = axis.get_ylim()  # the legend names what is seen
            line.set_label("chance" if bottom <= chance <= top else None)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes.flat:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.suptitle(heading.title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(guess):
    if guess is None:
        return _FINETUNE_PANELS
    if not guess.masked and guess.clip is None:
        return _FINETUNE_PANELS[:1] + _PRETRAIN_PANELS[-2:]
    panels = list(_PRETRAIN_PANELS if guess.masked else _PRETRAIN_PANELS[-2:])
    if guess.num_entries is not None:
        panels[-1] = _CODE_PANEL
    return panels if guess.clip is None else [*_CLIP_PANELS, *panels]


def _chance(guess, name, newest):
    """What guessing scores of a metric, or None; newest: a record, or None."""
    if newest is None:
        return None
    if guess is None:
        return newest.get(f"chance_{name}")
    if name == "clip_loss" and guess.clip.is_nt_xent:
        return guess.clip.chance
    if name == "contrastive_loss":
        return math.log(1 + guess.num_distractors)
    of = {
        "contrastive_accuracy": "chance_accuracy",
        "clip_accuracy": "clip_chance",
        "retrieval_at_1": "retrieval_chance",
        "neighbors_accuracy": "neighbors_chance",
    }
    return newest.get(of.get(name))


def _panel(axis, title, names, records, ranges):
    values = _lines(axis, names, records)
    if values and names[0] in ranges:
        healthy = ranges[names[0]]
        bottom, top = axis.get_ylim()
        bottom, top = min(bottom, *values), max(top, *values)
        if math.isfinite(healthy.low):  # not where it starts from what was not finite
            # Matplotlib cannot draw what has no end.
            high = healthy.high if math.isfinite(healthy.high) else max(top, healthy.low)
            span = axis.axhspan(healthy.low, high, color="tab:green", alpha=0.12)
            span.set_label("healthy" if healthy.low <= top and high >= bottom else None)
        axis.set_ylim(bottom, top)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def _lines(axis, names, records, whose="", **look):
    """Draws a line for each name and split that was logged; returns their values."""
    values = []
    words = [name.rsplit("_", 1) for name in names]
    telling = 0 if len({word[-1] for word in words}) < len(words) else -1
    for name, word in zip(names, words, strict=True):
        for split, style in (("train", "-"), ("validation", "s--"), ("eval", "o--")):
            points = [
                (r["step"], r[name])
                for r in records
                if r["split"] == split and r.get(name) is not None
            ]
            if not points:
                continue
            label = {"train": "training", "eval": "held out"}.get(split, split)
            if name in _OF_LABELLED:  # which are not the held-out ones
                label = _OF_LABELLED[name]
            elif len(names) > 1:
                label = f"{word[telling]}, {label}"
            label += whose
            axis.plot(
                *zip(*points, strict=True), style, markersize=3, linewidth=1.2, label=label, **look
            )
            values += [value for _, value in points]
    return values
