"""python -m conformer_jax.scores FILE.npz [--resamples=1000] [--per_class] [--csv=TABLE.csv]

Prints the metrics of a file of predictions, each with its bootstrap interval.
"""

import argparse
import csv
import math
import sys

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.evaluation.predictions import Predictions, load
from conformer_jax.steps import metrics

_FEW_POSITIVES = 50  # a class; the bootstrap of a low mAP is visibly off


def describe(found: Predictions, resamples: int, *, per_class: bool) -> str:
    """The command's table; ValueError as metrics.whole_set and metrics.bootstrap."""
    scores, labels = found.logits, found.labels
    whole, figures = metrics.whole_set(scores, labels, multi_label=True), metrics.figures
    values = lambda scores, labels: list(figures(scores, labels).values())
    bounds = metrics.bootstrap(values, scores, labels, resamples=resamples, seed=0)
    positives = labels.sum(0)
    lines = [
        f"step {found.step}, {len(scores)} clips, {scores.shape[1]} classes, "
        f"{(positives == 0).sum()} of them without a clip",
        f"{'':<10} {'':>7}  95 % interval ({resamples} bootstrap resamples of the clips)",
    ]
    lines += [
        f"{name:<10} {value:7.3f}  {low:.3f} to {high:.3f}"
        for (name, value), low, high in zip(figures(scores, labels).items(), *bounds, strict=True)
    ]
    lines += [f"chance: accuracy {whole['chance_accuracy']:.3f}, mAP {whole['chance_mAP']:.3f}"]
    if np.median(positives[positives > 0]) < _FEW_POSITIVES:
        lines += [
            "few clips a class: the interval of a low mAP is too high (see metrics.bootstrap)"
        ]
    if per_class:
        each = metrics.average_precision(scores, labels)
        width = max(map(len, [*found.label_names, "class"]))
        lines += ["", f"{'class':<{width}}  {'AP':>5}  positives"]
        lines += [
            f"{found.label_names[c]:<{width}}  {each[c]:5.3f}  {positives[c]:9}"
            for c in np.argsort(each, kind="stable")  # NaN, of no positives, comes last
        ]
    return "\n".join(lines)


def write_csv(path, found: Predictions) -> None:
    """Writes class, average precision ('' of a class without a clip) and positives, in the order of
    the classes.

    Raises:
      UserError: it cannot be written.
    """
    each = metrics.average_precision(found.logits, found.labels)
    positives = found.labels.sum(0)
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "average_precision", "positives"))
            writer.writerows(
                (name, "" if math.isnan(value) else f"{value:.6f}", int(count))
                for name, value, count in zip(found.label_names, each, positives, strict=True)
            )
    except OSError as error:
        raise UserError(f"cannot write --csv={path}: {error.strerror}") from error


def main(argv=None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m conformer_jax.scores",
        description="Print the metrics of a file of predictions with their bootstrap intervals.",
    )
    parser.add_argument("file", metavar="FILE.npz", help="<workdir>/predictions.npz")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--per_class", action="store_true", help="AP of each class, worst first")
    parser.add_argument("--csv", metavar="FILE.csv", help="write AP and positives of each class")
    args = parser.parse_args(argv)
    try:
        found = load(args.file)
        print(describe(found, args.resamples, per_class=args.per_class))
        if args.csv:
            write_csv(args.csv, found)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
