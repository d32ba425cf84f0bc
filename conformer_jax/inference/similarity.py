"""What is near, what is far, and two dimensions of many: on vectors mapped from disk, in blocks."""

from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError

_BLOCK = 1 << 18  # floats of vectors at once: they stay in a cache, and no threads are woken
_TINY = 1e-12


class Near(NamedTuple):
    """rows [n], nearest first; similarity [n], cosines from -1 to 1."""

    rows: np.ndarray
    similarity: np.ndarray


def nearest(vectors, query, count: int, left_out=()) -> Near:
    """The `count` vectors of the largest cosine with a query: all are compared.

    Args:
      vectors: [N, E] float32.
      query: [E].
      count: at most so many are returned.
      left_out: rows that do not count.
    """
    found = cosines(vectors, query)
    found[list(left_out)] = -np.inf
    count = min(count, int(np.isfinite(found).sum()))
    some = np.argpartition(-found, count - 1)[:count] if count else np.zeros(0, int)
    order = some[np.lexsort((some, -found[some]))]
    return Near(order, found[order])


def cosines(vectors, query) -> np.ndarray:
    """Cosines [N] of the vectors [N, E] with a query [E]; 0 where one of the two is 0."""
    query = _unit(np.asarray(query, np.float32))
    found = np.empty(len(vectors), np.float32)
    for here, block in _blocks(vectors):
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        found[here] = block @ query / np.maximum(lengths, _TINY)
    return found


def spread(vectors, uncertainty, count: int, labelled=None) -> np.ndarray:
    """Rows to label next, the most useful first: greedy k-center, weighted by uncertainty.

    Each pick is the row of the largest d (1 + u): u its uncertainty, d its cosine distance from
    the nearest row that is labelled or picked already. So what is like a labelled clip comes late,
    as does what is like an earlier pick, and of equally far ones the less certain comes first.
    Without labels the first pick is the least certain row, and of equal ones the one nearest to
    the mean of all: the most ordinary, where otherwise it would be a freak.

    Args:
      vectors: [N, E] float32, in memory.
      uncertainty: [N], from 0 to 1.
      count: how many.
      labelled: [M, E] vectors that have labels, or None.

    Returns:
      rows [min(count, N)].
    """
    units = _unit(np.asarray(vectors, np.float32))
    weight = 1 + np.asarray(uncertainty, np.float32)
    if labelled is not None and len(labelled):
        distance = np.full(len(units), np.inf, np.float32)
        for _, block in _blocks(labelled):
            for some, rows in _blocks(units):  # of all at once, the products would be too many
                nearest_one = (rows @ _unit(block).T).max(1)
                distance[some] = np.minimum(distance[some], 1 - nearest_one)
        score = np.maximum(distance, 0) * weight
    else:
        distance = np.full(len(units), 2, np.float32)
        score = weight + 1e-3 * (units @ _unit(units.mean(0)))
    picked, free = [], np.ones(len(units), bool)
    for _ in range(min(count, len(units))):
        row = int(np.argmax(np.where(free, score, -np.inf)))
        picked.append(row)
        free[row] = False
        distance = np.minimum(distance, np.maximum(1 - units @ units[row], 0))
        score = distance * weight
    return np.array(picked, int)


def uncertainty(probabilities, *, single: bool) -> np.ndarray:
    """How unsure a model is, from 0 to 1.

    Args:
      probabilities: [N, C].
      single: whether one label holds at a time: then it is their entropy over that of C equal
        ones; else 1 - |2 p - 1| of the label whose p is nearest to one half.
    """
    p = np.asarray(probabilities, np.float64)
    if not single:
        return (1 - np.abs(2 * p - 1)).max(1)
    if p.shape[1] < 2:
        return np.zeros(len(p))
    return -(p * np.log(np.maximum(p, _TINY))).sum(1) / np.log(p.shape[1])


def principal(vectors, rows) -> np.ndarray:
    """Two dimensions by principal components of the unit vectors: [n, 2] of the rows [n].

    The components are those of all vectors; the signs are such that the largest entry is positive.
    """
    width = vectors.shape[1]
    few = len(vectors) < width
    total, products = np.zeros(width), np.zeros((width, width))
    for _, block in _blocks(vectors):
        units = _unit(block)
        total += units.sum(0, dtype=float)
        if not few:
            products += units.T @ units
    mean = total / max(len(vectors), 1)
    if few:  # the other way takes seconds
        axes = np.linalg.svd(_unit(np.asarray(vectors)) - mean, full_matrices=False)[2][:2].T
    else:
        _, axes = np.linalg.eigh(products / len(vectors) - np.outer(mean, mean))
        axes = axes[:, : -min(3, width + 1) : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    found = (_unit(np.asarray(vectors[rows])) - mean) @ axes
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def neighbourhoods(vectors, rows) -> np.ndarray:
    """Two dimensions by t-SNE of scikit-learn: [n, 2] of the rows [n].

    Raises:
      UserError: scikit-learn is not installed, or there are too few rows.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError(
            "--method=tsne needs scikit-learn (pip install scikit-learn); --method=pca does not"
        ) from None
    if len(rows) < 5:
        raise UserError(f"--method=tsne of {len(rows)} windows: take --method=pca")
    units = _unit(np.asarray(vectors[rows]))
    units = units - units.mean(0)
    _, _, axes = np.linalg.svd(units[:: max(1, len(units) // 2000)], full_matrices=False)
    perplexity = min(30, (len(rows) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(
        units @ axes[:50].T
    )


def evenly(total: int, count: int) -> np.ndarray:
    """At most `count` of the numbers below `total`, evenly over them."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(int))


def _blocks(vectors):
    """(slice, rows as an array) of all."""
    size = max(1, _BLOCK // max(vectors.shape[1], 1))
    for first in range(0, len(vectors), size):
        here = slice(first, first + size)
        yield here, np.asarray(vectors[here])


def _unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, _TINY)
