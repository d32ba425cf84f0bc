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
from conformer_jax.training import distributed

_WORST = -1e30
_FEW_CLIPS = 10  # they choose hardly better than chance


def carve(config, source: Source) -> tuple[Source, Source | None]:
    """Splits config.data.validation_share off the training clips.

    Returns:
      what is left to train on; the validation split, None where the share is 0.

    Raises:
      UserError: the fields do not fit the task, each other or the clips.
    """
    share, patience = config.data.validation_share, config.train.early_stopping
    if patience and not share:
        raise UserError(
            "config.train.early_stopping needs clips to judge by that are not the held-out ones: "
            "set --config.data.validation_share=0.1, or so"
        )
    if not share:
        return source, None
    if config.task != "finetune":
        raise UserError("config.data.validation_share is for fine-tuning only: leave it 0")
    labels = [source.labels(i) for i in range(len(source))]
    chosen = sampling.stratified(labels, len(source.label_names), share, config.seed)
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
    return Subset(source, kept), Subset(source, chosen)


class Standing(NamedTuple):
    """How a run stands after its newest validation."""

    best_step: int
    improved: bool  # whether the newest validation is better than all before
    over: bool  # whether early stopping ends the run here
    rank: float  # of the newest checkpoint: its value where it improved, else worse than any


def judge(config, records: list[dict]) -> Standing:
    """Judges by mAP where clips have several labels, else by accuracy; of equals the first is best.

    Args:
      config: of the run.
      records: its validation records, oldest first, at least one; None in them is a value that was
        not finite. Of several processes the first one's count.
    """
    metric = "mAP" if config.classifier.multi_label else "accuracy"
    history = [(r["step"], _WORST if r[metric] is None else r[metric]) for r in records]
    history = distributed.on_first(lambda: history)
    values = [value for _, value in history]
    best = values.index(max(values))
    stale = len(values) - 1 - best
    return Standing(
        best_step=history[best][0],
        improved=stale == 0,
        over=0 < config.train.early_stopping <= stale,
        rank=values[-1] if stale == 0 else _WORST,
    )
