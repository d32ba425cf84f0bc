"""Whether a probability means what it says: of the clips given 0.8, do 8 of 10 have the label?"""

from typing import NamedTuple

import numpy as np

BINS = 10


class Reliability(NamedTuple):
    """In bins of equal width: count; said: the mean probability; true: the share that was right,
    both NaN where the bin is empty, [B]. error: the expected calibration error, the mean of
    |said - true| weighted by the counts (Guo et al. 2017, arXiv 1706.04599, section 2)."""

    count: np.ndarray
    said: np.ndarray
    true: np.ndarray
    error: float


def probabilities(logits, *, multi_label: bool) -> np.ndarray:
    """Logits [n, C] -> probabilities [n, C]: each its own, or a share of one."""
    logits = np.asarray(logits, np.float64)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * logits))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def reliability(logits, labels, *, multi_label: bool) -> Reliability:
    """Of predictions of clips that nothing was trained on.

    Args:
      logits: [n, C].
      labels: [n, C] of 0 and 1.
      multi_label: whether every label of every clip is a statement (sigmoid), or the likeliest
        label of a clip is (softmax).
    """
    p, right = probabilities(logits, multi_label=multi_label), np.asarray(labels) > 0
    if not multi_label:
        rows, top = np.arange(len(p)), p.argmax(1)
        p, right = p[rows, top], right[rows, top]
    p, right = p.ravel(), right.ravel()
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        said = np.bincount(place, p, BINS) / count
        true = np.bincount(place, right, BINS) / count
    error = float(np.nansum(count * np.abs(said - true)) / max(count.sum(), 1))
    return Reliability(count, said, true, error)
