"""python -m conformer_jax.predictions FILE.npz [--resamples=1000] [--per_class]

What a model said of every held-out clip, as a file: `<workdir>/predictions.npz`, written at every
evaluation of fine-tuning. Any figure can be computed from it again; the command prints those of
metrics.py, each with its bootstrap interval. The file is a plain .npz without pickle:

  format       int             1
  step         int             training steps before this evaluation
  ids          str [n]         names of the clips as the manifest writes them, in its order
  label_names  str [C]
  logits       float32 [n, C]
  labels       uint8 [n, C]    1 where the clip has the label
"""

import argparse
import io
import os
import pathlib
import sys
from typing import NamedTuple

import numpy as np

from conformer_jax import metrics
from conformer_jax.errors import UserError

_FORMAT = 1
_FEW_POSITIVES = 50  # a class; the bootstrap of a low mAP is visibly off


class Predictions(NamedTuple):
    """The file's arrays; `labels` of 0 and 1 in any type."""

    ids: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    label_names: np.ndarray
    step: int


def collect(outputs, source, step: int) -> Predictions:
    """Those of every clip that could be read, once and in order, the same on every process.

    Row i of all evaluation batches, one after the other, is example i (sampling.eval_batch), on any
    number of processes: each puts its own rows in, and eval_step gives all rows to all of them.

    Args:
      outputs: of finetune_eval_step, every batch of one evaluation.
      source: the held-out Source.
      step: training steps before.
    """
    whole = {name: np.concatenate([out[name] for out in outputs]) for name in outputs[0]}
    rows = np.flatnonzero(whole["valid"])  # not bad audio, nor what fills the last batch
    return Predictions(
        ids=np.array([source.example_id(int(i)) for i in rows], np.str_),
        logits=whole["logits"][rows],
        labels=whole["labels"][rows],
        label_names=np.array(source.label_names, np.str_),
        step=step,
    )


def save(path, ids, logits, labels, label_names, step) -> None:
    """Writes the file at once: a reader finds the one before, or this one, never a part.

    Args:
      path: of the file, replaced where it exists.
      ids: n names.
      logits: [n, C].
      labels: [n, C] of 0 and 1.
      label_names: C names.
      step: int.

    Raises:
      ValueError: the shapes do not fit, or a label is neither 0 nor 1.
      OSError: no room, no folder.
    """
    arrays = Predictions(
        np.asarray(ids, np.str_),
        np.asarray(logits, np.float32),
        np.asarray(labels),
        np.asarray(label_names, np.str_),
        np.int64(step),
    )
    _check(arrays)
    arrays = arrays._replace(labels=arrays.labels.astype(np.uint8))
    memory = io.BytesIO()  # a mounted bucket takes a file from its first byte to its last only
    np.savez(memory, format=np.int64(_FORMAT), **arrays._asdict())
    temporary = pathlib.Path(f"{path}.tmp")
    temporary.write_bytes(memory.getbuffer())
    os.replace(temporary, path)


def load(path) -> Predictions:
    """Reads what `save` wrote.

    Raises:
      UserError: it cannot be read, or is broken or of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            version = int(file["format"])
            if version != _FORMAT:
                raise UserError(
                    f"{path} has format {version}, this version reads {_FORMAT}: evaluate again"
                )
            loaded = Predictions(**{name: file[name] for name in Predictions._fields})
        loaded = loaded._replace(step=int(loaded.step))
        _check(loaded)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}): fine-tuning writes predictions.npz "
            f"to its workdir at every evaluation"
        ) from error
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds
        raise UserError(f"{path} is broken, or no file of predictions: evaluate again") from error
    return loaded


def drop_other(path, step: int | None) -> None:
    """Removes the file unless it is that of `step`: what a killed run has left is not logged."""
    path = pathlib.Path(path)
    if not path.exists():
        return
    try:
        if load(path).step == step:
            return
    except UserError:
        pass
    path.unlink()


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
            for c in np.argsort(-each, kind="stable")  # NaN, of no positives, comes last
        ]
    return "\n".join(lines)


def _check(arrays):
    n, classes = len(arrays.ids), len(arrays.label_names)
    if not arrays.logits.shape == arrays.labels.shape == (n, classes):
        raise ValueError(
            f"logits {arrays.logits.shape} and labels {arrays.labels.shape} of {n} clips and "
            f"{classes} classes"
        )
    if not ((arrays.labels == 0) | (arrays.labels == 1)).all():
        raise ValueError("labels must be 0 or 1")


def main(argv=None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m conformer_jax.predictions",
        description="Print the metrics of a file of predictions with their bootstrap intervals.",
    )
    parser.add_argument("file", metavar="FILE.npz", help="<workdir>/predictions.npz")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--per_class", action="store_true", help="AP of each class, best first")
    args = parser.parse_args(argv)
    try:
        print(describe(load(args.file), args.resamples, per_class=args.per_class))
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
