"""Whether the probabilities of held-out clips hold: a table and a figure."""

import numpy as np

from conformer_jax.evaluation import calibration
from conformer_jax.reporting.classes import bar
from conformer_jax.reporting.markup import Markup, join, number, table, tag


def section(predictions, *, multi_label: bool) -> Markup:
    """The calibration curve, bin by bin, and the expected calibration error.

    Args:
      predictions: of the held-out clips.
      multi_label: config.classifier.multi_label.
    """
    found = calibration.reliability(predictions.logits, predictions.labels, multi_label=multi_label)
    what = "every label of every clip" if multi_label else "the likeliest label of every clip"
    about = tag(
        "p",
        f"Of {what} on the {len(predictions.ids):,} held-out clips: expected calibration error "
        f"{number(found.error)} (0 is perfect: of what is given 0.8, 8 of 10 are right). The line "
        "across each bar is the probability that was given, the bar the share that was right: a "
        "bar that stays left of its line was too sure.",
    )
    rows = [
        [
            f"{i / calibration.BINS:.1f} to {(i + 1) / calibration.BINS:.1f}",
            f"{found.count[i]:,}",
            f"{found.said[i]:.3f}",
            bar(found.true[i], mark=found.said[i]),
        ]
        for i in np.flatnonzero(found.count)
    ]
    head = ["probability", "statements", "given, mean", "right"]
    return join(about, table("Calibration curve", head, rows, words=(0, 3)))
