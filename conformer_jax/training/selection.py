"""Which step's parameters a fine-tuning run ends with: those that did best on a validation split.

The split is carved from the training clips, so the held-out ones choose nothing and are evaluated
once, at the end. How a run stands follows from the validation records of its metrics.jsonl, which
are there again after any kill.
"""

import logging
from typing import NamedTuple

import numpy as np

from conformer_jax.data import sampling
from conformer_jax.data.sources import Source, Subset
from conformer_jax.errors import UserError

_WORST = -1e30
_FEW_CLIPS = 10  # they choose hardly better than chance


class Carved(NamedTuple):
    """What is left to train on; the validation split, None where the share is 0."""

    train: Source
    validation: Source | None


def carve(data, source: Source, *, task: str, patience: int, seed: int) -> Carved:
    """Splits data.validation_share off the training clips: of each class so many clips, or so many
    recordings, where clips are parts of some.

    Args:
      data: config.data.
      source: the training clips.
      task: config.task.
      patience: config.train.early_stopping.
      seed: config.seed.

    Raises:
      UserError: the fields do not fit the task, each other or the clips.
    """
    share = data.validation_share
    if patience and not share:
        raise UserError(
            "config.train.early_stopping needs clips to judge by that are not the held-out ones: "
            "set --config.data.validation_share=0.1, or so"
        )
    if not share:
        return Carved(source, None)
    if task != "finetune":
        raise UserError("config.data.validation_share is for fine-tuning only: leave it 0")
    # Of a mixture the first corpus, which is the one that is evaluated.
    own = np.flatnonzero(source.corpora() == 0)
    chosen = own[_chosen(source, own, share, seed)]
    if not len(chosen):
        raise UserError(
            "config.data.validation_share: no class has a second clip to validate with; leave it 0"
        )
    if len(chosen) < _FEW_CLIPS:
        logging.warning(
            "WARNING %d clips to validate with tell little: raise --config.data.validation_share",
            len(chosen),
        )
    logging.info("%d of the training clips are kept for validation", len(chosen))
    kept = np.setdiff1d(np.arange(len(source)), chosen)
    return Carved(Subset(source, kept), Subset(source, chosen))


def refuse_other_draws(data, before, now) -> None:
    """What is drawn from the clips by their places would be drawn anew where they have changed.

    Args:
      data: config.data.
      before, now: contents [n] of the clips to train on, in order, as a run began and goes on.

    Raises:
      UserError: they differ, and the run trains or validates on some of them alone.
    """
    drawn = {
        "validation_share": data.validation_share > 0,
        "label_share": data.label_share < 1,
        "labels_per_class": data.labels_per_class > 0,
    }
    fields = [f"config.data.{name}" for name, some in drawn.items() if some]
    if fields and not np.array_equal(before, now):
        raise UserError(
            f"the clips to train on have changed since the checkpoint ({len(before)} then, "
            f"{len(now)} now, or another order), and {' and '.join(fields)} would draw others of "
            f"them: begin in another --workdir, or go on with the manifest as it was"
        )


def _chosen(source, own, share, seed):
    """Positions in `own` of the clips to validate with: a recording's parts lie together, and so
    do copies, unless that leaves nothing to choose."""
    labels = [source.labels(i) for i in own.tolist()]
    num_classes = len(source.label_names)
    _, first, recording = np.unique(source.groups()[own], return_index=True, return_inverse=True)
    if len(first) == len(own):
        return sampling.stratified(labels, num_classes, share, seed)
    # In the order of the clips, which is one that the seed alone shuffles.
    rank = np.argsort(np.argsort(first))[recording]
    of_recording = [set() for _ in first]
    for position, of_clip in zip(rank.tolist(), labels, strict=True):
        of_recording[position].update(of_clip)
    wanted = [tuple(sorted(found)) for found in of_recording]
    kept = sampling.stratified(wanted, num_classes, share, seed)
    if len(kept):
        return np.flatnonzero(np.isin(rank, kept))
    logging.warning(
        "WARNING no label has a second recording to validate with: parts of the same ones are "
        "kept, which are easier than another recording"
    )
    return sampling.stratified(labels, num_classes, share, seed)


class Standing(NamedTuple):
    """How a run stands after its newest validation."""

    best_step: int
    improved: bool  # whether the newest validation is better than all before
    over: bool  # whether early stopping ends the run here
    rank: float  # of the newest checkpoint: its value where it improved, else worse than any


def judged_by(multi_label: bool) -> str:
    """The metric that chooses: mAP where clips have several labels, else accuracy."""
    return "mAP" if multi_label else "accuracy"


def judge(records: list[dict], metric: str, patience: int) -> Standing:
    """How a run stands by its validation records; of equally good ones the first is the best.

    Args:
      records: oldest first, at least one; None in them is a value that was not finite.
      metric: from `judged_by`.
      patience: config.train.early_stopping, 0 for none.
    """
    values = _values(records, metric)
    best = values.index(max(values))
    stale = len(values) - 1 - best
    return Standing(
        best_step=records[best]["step"],
        improved=stale == 0,
        over=0 < patience <= stale,
        rank=values[-1] if stale == 0 else _WORST,
    )


def ranking(records: list[dict], metric: str) -> list[int]:
    """The steps of validation records, best first; of equally good ones the first comes first."""
    values = _values(records, metric)
    order = sorted(range(len(records)), key=lambda i: -values[i])
    return [records[i]["step"] for i in order]


def _values(records, metric):
    return [_WORST if r[metric] is None else r[metric] for r in records]
