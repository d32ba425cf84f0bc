"""How good and how healthy the embeddings of clip contrast are, on the whole held-out set.

Everything is of the set, not of its batches: it is the same however the clips are batched. What a
training batch of N clips asks of the model is computed from the set, too, so that held-out loss and
accuracy compare with those of training.
"""

import numpy as np

MOST_CLIPS = 2048  # looked at: the work grows with their square
_NEIGHBORS = 32  # of the local dimension


def figures(found, *, temperature: float, batch_size: int) -> dict[str, float]:
    """Of held-out clips that make a pair, evenly spread where there are more than MOST_CLIPS.

    {} where they are of fewer than two files. Clips whose vectors are not finite are left out, and
    clips of one file are not told apart, as in training.

    Args:
      found: `pooled` [M, 2, 2 D], `projected` [M, 2, E], `counts` [M] and `file` [M]:
        clip_contrast.whole_set.
      temperature: divides the cosines in the loss.
      batch_size: N of training.

    Returns:
      clip_loss (NT-Xent), clip_accuracy: as of a batch of N of these clips
      clip_chance: accuracy of guessing in such a batch
      retrieval_at_1: share of views whose nearest among all others is the clip's other view
      retrieval_chance: of guessing
      clip_similarity_positive, clip_similarity_negative, clip_similarity_deviation: cosine to the
        pair; to views of other clips, its mean and deviation
      uniformity: log mean exp(-2 |u - v|^2) of views of different clips (Wang & Isola 2020)
      embedding_deviation: 1 where the unit vectors spread evenly over all dimensions, 0 collapsed
      effective_rank, pooled_rank: exp of the entropy of the singular values (Roy & Vetterli 2007)
        of the centred unit vectors, and of what the head is given
      local_dimension: of what the head is given (Levina & Bickel 2004)
      clips_judged: number of the clips
    """
    rows = _judged(found)
    files = np.asarray(found["file"])[rows]
    if len(np.unique(files)) < 2:
        return {}
    u = _unit(np.asarray(found["projected"], np.float64)[rows])
    pooled = np.asarray(found["pooled"], np.float64)[rows]
    pooled = pooled.reshape(-1, pooled.shape[-1])
    return {
        **_of_cosines(u @ u.T, files, temperature, batch_size),
        "embedding_deviation": float(np.sqrt(u.shape[1]) * u.std(0).mean()),
        "effective_rank": effective_rank(u),
        "pooled_rank": effective_rank(pooled),
        "local_dimension": local_dimension(pooled),
        "clips_judged": float(len(rows)),
    }


def _judged(found):
    """Rows [<= MOST_CLIPS] of the clips that are looked at."""
    finite = [np.isfinite(found[name]).all((1, 2)) for name in ("pooled", "projected")]
    rows = np.flatnonzero((np.asarray(found["counts"]) > 0) & finite[0] & finite[1])
    # Not the first: those of one class or recording often lie together.
    kept = min(len(rows), MOST_CLIPS)
    return rows[np.arange(kept) * len(rows) // max(kept, 1)]


def _of_cosines(cosine, files, temperature, batch_size):
    """Of cosines [2 M, 2 M], the views of clip i at 2 i and 2 i + 1, clip i of file `files`[i]."""
    row = np.arange(len(cosine))
    pair = cosine[row, row ^ 1]
    files = np.repeat(files, 2)
    other = files[:, None] != files
    others = other.sum(1)
    asked = np.minimum(2 * batch_size - 2, others)
    below = (other & (cosine < pair[:, None])).sum(1)
    # What is left of the exponentials after the largest, 1 / temperature, is taken out.
    exponentials = np.exp((cosine - 1) / temperature).mean(1, where=other) * (2 * batch_size - 2)
    own = np.exp((pair - 1) / temperature)
    negative = cosine[other]
    return {
        "clip_loss": float(np.log1p(exponentials / own).mean()),
        "clip_accuracy": float(_all_below(below, others, asked).mean()),
        "clip_chance": float((1 / (1 + asked)).mean()),
        "retrieval_at_1": float((below == others).mean()),
        "retrieval_chance": float((1 / (1 + others)).mean()),
        "clip_similarity_positive": float(pair.mean()),
        "clip_similarity_negative": float(negative.mean()),
        "clip_similarity_deviation": float(negative.std()),
        "uniformity": float(np.log(np.exp(4 * (negative - 1)).mean())),
    }


def _all_below(below, of, asked):
    """Probability that `asked` of `of` things, drawn without replacement, are all among `below`;
    all ints [n]."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, of.max() + 1)))])  # of factorials
    enough = below >= asked
    some = np.maximum(below, asked)
    chosen = logs[some] - logs[some - asked] - logs[of] + logs[of - asked]
    return np.where(enough, np.exp(chosen), 0.0)


def effective_rank(x: np.ndarray) -> float:
    """exp of the entropy of the singular values of x [n, E] without its mean; 0 for no spread."""
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    if values.sum() <= 1e-9:
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))


def local_dimension(x: np.ndarray, neighbors: int = _NEIGHBORS) -> float:
    """Mean over x [n, E] of the dimension that the distances to the nearest others speak of."""
    square = np.square(x).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * x @ x.T, 1e-18))
    np.fill_diagonal(distance, np.inf)
    k = min(neighbors, len(x) - 1)
    nearest = np.sort(distance, axis=1)[:, :k]
    spread = np.log(nearest[:, -1:] / nearest).mean(1)
    return float(1 / np.maximum(spread, 1e-3).mean())


def _unit(x):
    """[M, 2, E] -> unit vectors [2 M, E]."""
    x = x.reshape(-1, x.shape[-1])
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
