"""Labels before training: which rows have any, whether classes can be told apart, which are known.

A class is known where a training clip has it. Held-out clips of others cannot be right.
"""

import difflib
import logging

import numpy as np

from conformer_jax.data.audio import DataError

_SHOWN = 10  # names in a warning


def usable(rows, manifest, multi_label, unlabelled):
    """The rows that labelled tasks train and evaluate on.

    Args:
      rows: list of manifest.Row.
      manifest: its path, for what is logged.
      multi_label: config.classifier.multi_label: no label is an answer, too.
      unlabelled: config.data.unlabelled.
    """
    found = used(rows, multi_label, unlabelled)
    if without := sum(not row.labels for row in rows):
        if len(found) == len(rows):
            logging.info(
                "%s: %d files without a label are negatives of every class "
                "(--config.data.unlabelled=skip leaves them out)",
                manifest,
                without,
            )
        else:
            logging.info("%s: %d files without a label skipped", manifest, without)
    return found


def used(rows, multi_label, unlabelled):
    """The same without a word."""
    if multi_label and unlabelled == "negatives":
        return rows
    return [row for row in rows if row.labels]


def check_names(found, known, where) -> None:
    """Raises DataError for a label of `found`, in the data set `where`, that is not in `known`."""
    for label in found:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1, cutoff=0.0)
            shown = ", ".join(known[:20]) + (f", ... ({len(known)})" if len(known) > 20 else "")
            raise DataError(
                f"{where}: label '{label}' is unknown to the checkpoint; nearest is "
                f"'{near[0] if near else ''}' (it knows {shown})"
            )


def known_classes(train, held_out, *, chosen: bool) -> np.ndarray:
    """Which classes training can learn, and what to expect of figures, as warnings.

    Args:
      train: Source, whose labels can be read without the audio; held_out: likewise.
      chosen: whether config.data asks for few clips a class.

    Returns:
      bool [C], whether a training clip has the class.

    Raises:
      DataError: all training clips have the same labels: there is nothing to tell apart.
    """
    names = train.label_names
    of_train, of_held_out = ([s.labels(i) for i in range(len(s))] for s in (train, held_out))
    if len({frozenset(of_clip) for of_clip in of_train}) == 1:
        same = ";".join(names[c] for c in of_train[0])
        raise DataError(
            f"all {len(of_train)} clips to train on have the same label, '{same}', so there is "
            f"nothing to tell apart: add clips of another to the column 'label', or train on "
            f"other folds"
        )
    trained, heard = (_counts(labels, len(names)) for labels in (of_train, of_held_out))
    unknown = np.flatnonzero((trained == 0) & (heard > 0))
    if len(unknown):
        logging.warning(
            "WARNING %d held-out clip(s) cannot be right: no clip to train on has the label(s) "
            "%s; the figures are given without them, too",
            heard[unknown].sum(),
            _listed(names[c] for c in unknown),
        )
    single = np.flatnonzero(trained == 1)
    if not chosen and 2 * len(single) > (trained > 0).sum():
        logging.warning(
            "WARNING %d of %d labels have one clip to train on (%s): the figures tell little; are "
            "the labels classes?",
            len(single),
            (trained > 0).sum(),
            _listed(names[c] for c in single),
        )
    return trained > 0


def _counts(labels, num_classes):
    return np.bincount(
        np.array([c for of_clip in labels for c in of_clip], np.int64), minlength=num_classes
    )


def _listed(names):
    names = list(names)
    more = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
