"""Metrics: (sum, count) pairs while running, whole-set figures on numpy at the end.

The whole-set figures take `scores` [n, C], of which only the order matters (logits or
probabilities), and `labels` [n, C] of 0 and 1. Equal scores count as one threshold, so no figure
depends on the order of clips or classes. They raise ValueError where the two differ in shape or are
empty, where a score is NaN or infinite, and where a label is neither 0 nor 1.
"""

import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 2**18  # scores compared at once


@jax.named_scope("loss")
def weighted(values, weights):
    """The pair (sum, count) of `values` under `weights`, of the same shape; unweighted ones may
    be NaN or infinite."""
    values = jnp.where(weights > 0, values, 0.0)
    return (values * weights).sum(), weights.sum()


def single(value):
    """The pair of one value that counts once a step."""
    return jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32)


def add(total, pairs):
    """Adds two dicts of pairs; `total` None is the empty sum.

    The names are those of `pairs`: a sum that an earlier version has left in a checkpoint may have
    others.
    """
    if total is None:
        return pairs
    add_to = lambda name, pair: jax.tree.map(jnp.add, total[name], pair) if name in total else pair
    return {name: add_to(name, pair) for name, pair in pairs.items()}


def to_json(pairs):
    """Pairs as JSON holds them, None for the empty sum; float32 survives it exactly."""
    return pairs and {k: [np.asarray(part).tolist() for part in v] for k, v in pairs.items()}


def from_json(pairs):
    """The inverse of `to_json`."""
    return pairs and {
        k: tuple(np.asarray(part, np.float32) for part in v) for k, v in pairs.items()
    }


def means(pairs) -> dict[str, float | np.ndarray]:
    """sum / count of every pair, 0 where the count is 0."""
    pairs = jax.device_get(pairs)
    result = {}
    for name, (total, count) in pairs.items():
        mean = np.asarray(total, np.float64) / max(float(count), 1e-9)
        result[name] = float(mean) if mean.ndim == 0 else mean
    return result


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips whose highest score is one of their labels; of equal scores the first counts.

    Args:
      scores: [n, C].
      labels: [n, C] of 0 and 1.
    """
    scores, labels = _check(scores, labels)
    return float(labels[np.arange(len(labels)), scores.argmax(1)].mean())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class, NaN for a class without positives.

    The mean, over the positives of a class, of the share of positives among the clips that score at
    least as much; equal to scikit-learn's average_precision_score.

    Returns:
      [C] float64.
    """
    return _by_class(*_check(scores, labels))[0]


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Macro mAP over the classes with a positive (AudioSet's definition); NaN where none has."""
    return _macro(average_precision(scores, labels))


def auc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class; NaN for one without positives or negatives.

    The share of pairs of a positive and a negative clip in which the positive scores more, equal
    scores counting half (Mann-Whitney); equal to scikit-learn's roc_auc_score.

    Returns:
      [C] float64.
    """
    return _by_class(*_check(scores, labels))[1]


def mean_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Macro AUC over the classes with both positives and negatives; NaN where none has them."""
    return _macro(auc(scores, labels))


def d_prime(area: float) -> float:
    """d' of an AUC: sqrt(2) times the inverse of the normal distribution function at `area`.

    By AudioSet's convention `area` is the macro AUC; d' of each class is not averaged. An area of 1
    gives inf, 0 gives -inf, NaN gives NaN. Raises ValueError outside [0, 1].
    """
    if not (0 <= area <= 1 or math.isnan(area)):
        raise ValueError(f"an AUC lies in [0, 1], not {area}")
    if 0 < area < 1:
        return math.sqrt(2) * NormalDist().inv_cdf(area)
    return {0.0: -math.inf, 1.0: math.inf}.get(area, math.nan)


def lwlrap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Label-weighted label-ranking average precision, NaN where no clip has a label.

    Over all labels of all clips, the mean share of the clip's labels among the classes that score
    at least as much as that label (Fonseca et al., "Audio tagging with noisy labels and minimal
    supervision", DCASE 2019, the metric of FSDKaggle2019). With one label a clip it is the mean
    reciprocal rank.
    """
    each, weights = lwlrap_per_class(scores, labels)
    return float(np.nansum(each * weights)) if weights.any() else math.nan


def lwlrap_per_class(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of lwlrap, which is the sum of their products over the classes with a label.

    Returns:
      each: [C] float64, the mean over the labels of one class, NaN for a class without any.
      weights: [C] float64, its share of all labels.
    """
    scores, labels = _check(scores, labels)
    clips, classes = np.nonzero(labels)
    precision, many = np.empty(len(clips)), max(1, _BLOCK // labels.shape[1])
    for start in range(0, len(clips), many):
        part = slice(start, start + many)
        clip, label = clips[part], classes[part]
        above = scores[clip] >= scores[clip, label][:, None]
        precision[part] = (above & labels[clip]).sum(1) / above.sum(1)
    total = np.bincount(classes, precision, minlength=labels.shape[1])
    count = labels.sum(0)
    each = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return each, count / max(count.sum(), 1)


def chance(labels: np.ndarray) -> dict[str, float]:
    """What guessing scores on labels [n, C]: the accuracy of the best constant guess, and the mAP
    that random scores have on average.

    That is more than the share of positives, the less of them the more: a single positive among n
    clips lies at each rank alike, with an average precision of 1 / rank.
    """
    count, n = labels.sum(0, dtype=np.float64), len(labels)
    expected = random_average_precision(count[count > 0], n)
    return {"chance_accuracy": float(count.max() / n), "chance_mAP": float(expected.mean())}


def random_average_precision(positives, n: int):
    """The expected average precision of n random scores without ties, of so many positives.

    A positive of p lies at rank k with probability 1 / n, and of the k - 1 above it (k - 1) (p - 1)
    / (n - 1) are expected to be positives; the mean over k of (1 + those) / k, H_n the harmonic
    number:
      (p - 1) / (n - 1) + (n - p) / (n (n - 1)) H_n

    Args:
      positives: p, 1 to n, a number or an array.
      n: clips.
    """
    if n == 1:
        return np.ones_like(positives, np.float64)
    harmonic = (1 / np.arange(1, n + 1)).sum()
    return (positives - 1) / (n - 1) + (n - positives) / (n * (n - 1)) * harmonic


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy, mAP, AUC, d_prime (of the macro AUC) and lwlrap; NaN and infinite as each says."""
    scores, labels = _check(scores, labels)
    precisions, areas = map(_macro, _by_class(scores, labels))
    return {
        "accuracy": accuracy(scores, labels),
        "mAP": precisions,
        "AUC": areas,
        "d_prime": d_prime(areas),
        "lwlrap": lwlrap(scores, labels),
    }


def whole_set(scores: np.ndarray, labels: np.ndarray, *, multi_label: bool) -> dict[str, float]:
    """What is reported of a held-out set, as JSON holds it.

    accuracy, mAP, chance_accuracy and chance_mAP; with `multi_label` all `figures`. Left out are
    AUC where no class has both positives and negatives (a single clip), and d_prime there and where
    it is infinite (an AUC of 0 or 1).

    Raises:
      ValueError: as all here, and where no clip has a label.
    """
    scores, labels = _check(scores, labels)
    if not labels.any():
        raise ValueError(f"none of the {len(labels)} clips has a label")
    found = figures(scores, labels)
    if not multi_label:
        found = {name: found[name] for name in ("accuracy", "mAP")}
    found |= chance(labels)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def bootstrap(
    metric,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int,
    confidence: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a metric over clips drawn with replacement (Efron 1979).

    It tells how far the figure would move with other clips of the same kind, not with another seed
    of training. The interval of a low mAP of few clips is too high, since a positive drawn twice
    ranks better: with 8 positives a class, normal scores and a mAP of 0.38 it held the expected
    figure in 85 % of 60 sets. The bounds are order statistics, so that infinite values may be among
    them; resamples in which the metric is NaN (of a class that was not drawn) have no part.

    Args:
      metric: function (scores, labels) -> float or array.
      scores: [n, C].
      labels: [n, C].
      resamples: how many times n clips are drawn.
      seed: of the draws, from 0; the same seed draws the same clips, on any version of numpy.
      confidence: share of the resamples between the bounds, in (0, 1).

    Returns:
      low, high: float64 of the shape that `metric` returns; NaN where it always is.

    Raises:
      ValueError: as all here, and for `resamples` or `confidence` out of range.
    """
    scores, labels = _check(scores, labels)
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"resamples {resamples} must be positive, confidence {confidence} in (0, 1)"
        )
    bits, n = np.random.Philox(key=seed), len(scores)
    draws = (bits.random_raw(n) % np.uint64(n) for _ in range(resamples))
    values = np.asarray([np.asarray(metric(scores[i], labels[i]), float) for i in draws])
    return _middle(values, confidence)


def _middle(values, share):
    """The least and the greatest [...] of the middle `share` of values [n, ...], without NaN."""
    values = np.sort(values, axis=0)
    defined = (~np.isnan(values)).sum(0)  # NaN is sorted to the end
    last = np.maximum(defined - 1, 0)
    low = np.floor((1 - share) / 2 * last).astype(np.int64)
    low, high = (np.take_along_axis(values, i[None], 0)[0] for i in (low, last - low))
    return low, high


def _by_class(scores, labels):
    """Average precision and AUC of each class, from one sort: two arrays [C]."""
    precisions, areas = np.full((2, labels.shape[1]), np.nan)
    columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(labels.T)
    for c, (clips, hits) in enumerate(zip(*columns, strict=True)):
        positives, clips = np.sort(clips[hits]), np.sort(clips)
        if not len(positives):
            continue
        negatives = len(clips) - len(positives)
        # Of each positive: clips, and positives, that score at least as much, and more.
        rank = len(clips) - np.searchsorted(clips, positives)
        true = len(positives) - np.searchsorted(positives, positives)
        rank_above = len(clips) - np.searchsorted(clips, positives, "right")
        true_above = len(positives) - np.searchsorted(positives, positives, "right")
        precisions[c] = (true / rank).mean()
        if negatives:
            lost = (rank - true) + (rank_above - true_above)  # halves of pairs
            areas[c] = 1 - lost.mean() / (2 * negatives)
    return precisions, areas


def _macro(values):
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _check(scores, labels):
    """Scores as floating numbers and labels as bool, or ValueError."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or scores.shape != labels.shape or not scores.size:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape}: need the same [n, C]")
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: the model has diverged")
    if labels.dtype != bool:
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0 or 1")
        labels = labels.astype(bool)
    return scores, labels
