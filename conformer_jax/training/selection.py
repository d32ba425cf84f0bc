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
    recordings, where clips are parts of some. Of a mixture the first corpus is split, and what the
    others have of these clips or recordings is not trained on.

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
    copies = _copies(source, chosen)
    if len(copies):
        logging.info(
            "%d clips of the other corpora are copies or parts of these and left out", len(copies)
        )
    kept = np.setdiff1d(np.arange(len(source)), np.concatenate([chosen, copies]))
    return Carved(Subset(source, kept), Subset(source, chosen))


def _copies(source, chosen):
    """Which clips of added corpora are copies of the chosen ones, or parts of their recordings."""
    # As `sources.open_split` looks for what is held out.
    known = np.stack([source.contents(), source.wholes()])
    return np.flatnonzero((source.corpora() > 0) & np.isin(known, known[:, chosen]).any(0))


class Drawn(NamedTuple):
    """Contents of the clips that a run trains on and of those that it validates with, where either
    are drawn from the training clips; uint64 [n], ascending."""

    trained: np.ndarray
    validated: np.ndarray

    def with_gone(self, before, gone):
        """With what was drawn `before` of the contents that are gone, which may come back."""
        both = zip(self, before, strict=True)
        return Drawn(*(np.union1d(now, np.intersect1d(then, gone)) for now, then in both))

    def check(self, before, there, *, same=True) -> None:
        """Raises UserError where one of the clips `there` was drawn for another use `before`; where
        that is not recorded, unless what is drawn from is the `same`."""
        if before is None:
            if not same:
                raise UserError(
                    "the clips to train on have changed since the checkpoint, which does not say "
                    "which of them were drawn by config.data.validation_share, label_share or "
                    "labels_per_class: begin in another --workdir, or go on with the manifest as "
                    "it was"
                )
            return
        changed = np.zeros(len(there), bool)
        for now, then in zip(self, before, strict=True):
            changed |= np.isin(there, now) != np.isin(there, then)
        if changed.any():
            raise UserError(
                f"the clips, their labels or groups have changed since the checkpoint, so that "
                f"config.data.validation_share, label_share or labels_per_class would draw others: "
                f"{changed.sum()} clips would be trained on, validated with or left out that were "
                f"not. Begin in another --workdir, or go on with the manifest as it was (if it is, "
                f"an earlier version drew otherwise)"
            )


def drawn(data, carved: Carved) -> Drawn | None:
    """What is drawn by config.data; None where all training clips are trained on."""
    if not data.validation_share and data.label_share >= 1 and not data.labels_per_class:
        return None
    validated = [] if carved.validation is None else carved.validation.contents()
    return Drawn(np.unique(carved.train.contents()), np.unique(np.array(validated, np.uint64)))


def _chosen(source, own, share, seed):
    """Positions in `own` of the clips to validate with: a recording's parts lie together, and so
    do copies and the clips of a group, where a label is not lost by it (`sampling.units`)."""
    labels = [source.labels(i) for i in own.tolist()]
    num_classes = len(source.label_names)
    groups, recordings = source.groups()[own], source.wholes()[own]
    levels = groups, recordings, source.contents()[own]
    chosen = sampling.stratified_units(labels, levels, num_classes, share, seed)
    _say_torn(groups, recordings, chosen)
    if len(chosen) > 2 * max(share * len(own), num_classes):
        logging.warning(
            "WARNING %d of %d clips are kept for validation, so that recordings and groups stay "
            "whole: more of them, or smaller ones, would leave more to train on",
            len(chosen),
            len(own),
        )
    return chosen


def _say_torn(groups, recordings, chosen):
    torn, torn_groups = (
        np.intersect1d(numbers[chosen], np.delete(numbers, chosen))
        for numbers in (recordings, groups)
    )
    # What is in no group has the number of its recording.
    torn_groups = np.setdiff1d(torn_groups, recordings)
    for count, what in (
        (len(torn), "parts of %d recording(s)"),
        (len(torn_groups), "clips of %d group(s)"),
    ):
        if count:
            logging.warning(
                f"WARNING {what} are trained on and validated with, since there is no second one "
                f"of their label: they are easier than another would be",
                count,
            )


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
