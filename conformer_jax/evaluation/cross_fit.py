"""Labelled clips that tell each other: what embeddings are worth where none is set aside."""

import numpy as np

from conformer_jax.evaluation import probe

_PARTS = 5


def neighbors_accuracy(x, labels, groups, *, neighbors: int, temperature: float) -> float:
    """Share of clips that their nearest neighbours name, those of the same fifth left out.

    All clips of a group lie in one fifth, so none is told by its own.

    Args:
      x: [n, E] embeddings.
      labels: int [n].
      groups: int [n], which group a clip is of.
      neighbors, temperature: as of probe.find_neighbours.

    Returns:
      0 to 1; NaN where an embedding is not finite, or all clips are of one group.
    """
    part = np.unique(groups, return_inverse=True)[1] % _PARTS
    if not np.isfinite(x).all() or len(np.unique(part)) < 2:
        return float("nan")
    one_hot = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    right = 0
    for own in np.unique(part):
        told = part == own
        found = probe.find_neighbours(
            x[~told],
            one_hot[~told],
            neighbors=neighbors,
            temperature=temperature,
            multi_label=False,
        )
        right += (found.votes(x[told]).argmax(1) == labels[told]).sum()
    return float(right / len(x))
