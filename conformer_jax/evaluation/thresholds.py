"""From which probability on a label counts, chosen on clips that nothing else was chosen on."""

import numpy as np


def choose(probabilities, labels) -> list[float]:
    """The threshold of each class with the best F1 on these clips; 0.5 where it has no positives.

    Halfway between the two probabilities that it separates.

    Args:
      probabilities: [n, C].
      labels: [n, C] of 0 and 1.
    """
    chosen = []
    for p, y in zip(np.asarray(probabilities, np.float64).T, np.asarray(labels).T, strict=True):
        if not y.any():
            chosen.append(0.5)
            continue
        order = np.argsort(-p, kind="stable")
        p, y = p[order], y[order]
        hits, taken = np.cumsum(y), np.arange(1, len(y) + 1)
        f1 = 2 * hits / (taken + y.sum())
        f1[:-1][p[:-1] == p[1:]] = -1.0  # no threshold separates equal ones
        best = int(f1.argmax())
        chosen.append(float((p[best] + (p[best + 1] if best + 1 < len(p) else 0.0)) / 2))
    return chosen
