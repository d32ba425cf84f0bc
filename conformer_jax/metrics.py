"""Metrics: (sum, count) pairs while running, whole-set figures on numpy at the end."""

import jax
import jax.numpy as jnp
import numpy as np


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
    """Adds two dicts of pairs; `total` None is the empty sum."""
    return pairs if total is None else jax.tree.map(jnp.add, total, pairs)


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
    """Share of clips whose highest score is one of their labels.

    Args:
      scores: [n, C].
      labels: [n, C] of 0 and 1.
    """
    _check(scores, labels)
    return float(labels[np.arange(len(labels)), scores.argmax(1)].mean())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class, NaN for a class without positives.

    Equal scores count as one threshold, as in scikit-learn's average_precision_score.

    Args:
      scores: [n, C].
      labels: [n, C] of 0 and 1.

    Returns:
      [C] float64.
    """
    _check(scores, labels)
    result = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        order = np.argsort(-scores[:, c], kind="stable")
        ranked, hits = scores[order, c], labels[order, c].astype(np.float64)
        if not hits.any():
            continue
        last = np.append(ranked[1:] != ranked[:-1], True)  # the end of each group of ties
        true = hits.cumsum()[last]
        precision = true / (np.flatnonzero(last) + 1)
        recall_gain = np.diff(true, prepend=0.0) / true[-1]
        result[c] = (precision * recall_gain).sum()
    return result


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Macro mAP over the classes with a positive (AudioSet's definition)."""
    return float(np.nanmean(average_precision(scores, labels)))


def chance(labels: np.ndarray) -> dict[str, float]:
    """What guessing scores on labels [n, C]: the accuracy of the best constant guess, and the mAP
    of random scores, which is the mean share of positives."""
    present = labels.mean(0)
    return {
        "chance_accuracy": float(present.max()),
        "chance_mAP": float(present[present > 0].mean()),
    }


def _check(scores, labels):
    if scores.shape != labels.shape or not len(scores):
        raise ValueError(f"scores {scores.shape} and labels {labels.shape}: need the same [n, C]")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: the model has diverged")
