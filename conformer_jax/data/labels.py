"""Labels before training: which rows have any, whether classes can be told apart, which are known.

A class is known where a training clip has it. Held-out clips of others cannot be right.
"""

import difflib
import logging
from typing import NamedTuple

import numpy as np

from conformer_jax.data.audio import DataError

_SHOWN = 10  # names in a warning


class Labels(NamedTuple):
    """Of n examples at once. numbers: int32 [m], those of all, one after the other; starts: int64
    [n + 1], where each example's begin."""

    numbers: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [n], how many each example has."""
        return np.diff(self.starts)

    def take(self, examples) -> "Labels":
        """Of these examples alone."""
        counts = self.counts[examples]
        starts = np.concatenate([[0], np.cumsum(counts)])
        first = np.repeat(self.starts[:-1][examples] - starts[:-1], counts)
        return Labels(self.numbers[first + np.arange(starts[-1])], starts)


def labels_of(examples) -> Labels:
    """From a sequence of tuples."""
    counts = np.fromiter(map(len, examples), np.int64, len(examples))
    starts = np.concatenate([[0], np.cumsum(counts)])
    numbers = (number for of_one in examples for number in of_one)
    return Labels(np.fromiter(numbers, np.int32, starts[-1]), starts)


def joined(parts) -> Labels:
    """Of several sources, one after the other."""
    counts = np.concatenate([part.counts for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    return Labels(numbers, np.concatenate([[0], np.cumsum(counts)]))


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


def slips(rare, known):
    """Yields lines on labels of `rare` that another one of `known` nearly is."""
    for label in rare:
        others = [other for other in known if other != label]
        for near in difflib.get_close_matches(label, others, n=1, cutoff=0.8):
            yield f"              '{label}' is nearly '{near}': is it a slip?"


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
    of_train, of_held_out = train.all_labels(), held_out.all_labels()
    if _all_alike(train, of_train):
        same = ";".join(names[c] for c in train.labels(0))
        raise DataError(
            f"all {len(train)} clips to train on have the same label, '{same}', so there is "
            f"nothing to tell apart: add clips of another to the column 'label', or train on "
            f"other folds"
        )
    trained, heard = (
        np.bincount(labels.numbers, minlength=len(names)) for labels in (of_train, of_held_out)
    )
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


def _all_alike(source, labels):
    # Nearly always the second differs: nobody looks at millions.
    first = frozenset(source.labels(0))
    if (labels.counts != len(source.labels(0))).any():
        return False
    return all(frozenset(source.labels(i)) == first for i in range(len(source)))


def _listed(names):
    names = list(names)
    more = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
