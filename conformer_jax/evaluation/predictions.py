"""What a model said of every held-out clip, as a file: `<workdir>/predictions.npz`.

Written at every evaluation of fine-tuning; any figure can be computed from it again
(`python -m conformer_jax.scores FILE.npz`). It is a plain .npz without pickle:

  format       int             1
  step         int             training steps before this evaluation
  ids          str [n]         names of the clips as the manifest writes them, in its order
  label_names  str [C]
  logits       float32 [n, C]
  labels       uint8 [n, C]    1 where the clip has the label
"""

import io
import os
import pathlib
from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError

_FORMAT = 1


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


def _check(arrays):
    n, classes = len(arrays.ids), len(arrays.label_names)
    if not arrays.logits.shape == arrays.labels.shape == (n, classes):
        raise ValueError(
            f"logits {arrays.logits.shape} and labels {arrays.labels.shape} of {n} clips and "
            f"{classes} classes"
        )
    if not ((arrays.labels == 0) | (arrays.labels == 1)).all():
        raise ValueError("labels must be 0 or 1")
