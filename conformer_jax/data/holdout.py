"""Which rows of a manifest are trained on and which are held out."""

import collections
import hashlib
import json
import logging
import re
import shlex
from typing import NamedTuple

from conformer_jax.data.audio import DataError
from conformer_jax.data.manifest import Row


class Split(NamedTuple):
    """Rows to train on and rows to evaluate on."""

    train: list[Row]
    held_out: list[Row]


def split_rows(rows, manifest, train_folds, eval_folds, eval_share) -> Split:
    """Splits the rows of a manifest: by folds where `eval_folds` are given, else by a share.

    Args:
      rows: list of `Row`.
      manifest: its path, for messages.
      train_folds, eval_folds: values of `fold`, compared as strings. Without `train_folds` all
        but `eval_folds` are trained on; without `eval_folds` a share of those is held out.
      eval_share: share of the files of each label that is held out: see `_split_by_share`.

    Raises DataError: a fold no row has, or nothing left on one side.
    """
    train_folds, eval_folds = fold_names(train_folds), fold_names(eval_folds)
    known = sorted({row.fold for row in rows if row.fold})
    _check_folds(known, manifest, train_folds, eval_folds)
    if eval_folds:
        return _split_by_folds(rows, manifest, train_folds, eval_folds)
    if train_folds:
        rows = [row for row in rows if row.fold in train_folds]
    elif known:
        logging.info(
            "%s has folds (%s): --config.data.eval_folds=%s holds one out; now a share of %g "
            "of the clips is held out",
            manifest,
            ", ".join(known),
            _as_flag(known[0]),
            eval_share,
        )
    return _split_by_share(rows, manifest, eval_share)


def _check_folds(known, manifest, train_folds, eval_folds):
    for field, folds in (("train_folds", train_folds), ("eval_folds", eval_folds)):
        for fold in folds:
            if fold not in known:
                found = ", ".join(known) or "none: it has no filled `fold` column"
                raise DataError(
                    f"config.data.{field}: {manifest} has no fold '{fold}' (folds: {found})"
                )
    if both := sorted(set(train_folds) & set(eval_folds)):
        logging.warning("folds trained on and evaluated on: %s", ", ".join(both))


def _split_by_folds(rows, manifest, train_folds, eval_folds):
    if train_folds:
        train = [row for row in rows if row.fold in train_folds]
    else:
        train = [row for row in rows if row.fold not in eval_folds]
    if not train:
        raise DataError(f"config.data.eval_folds takes every file of {manifest}: name fewer")
    return Split(train, [row for row in rows if row.fold in eval_folds])


def _split_by_share(rows, manifest, share):
    """Holds out `share` of the files of each label (files of several count for the first).

    At least one and not all of two or more, chosen by a hash of their paths: that depends neither
    on their order nor on any seed, and is the same with and without unlabelled files. A label's
    only file is trained on; where all labels have one, they count as one.
    """
    by_label = collections.defaultdict(list)
    for i, row in enumerate(rows):
        by_label[row.labels[:1]].append(i)
    groups = [indices for indices in by_label.values() if len(indices) > 1]
    chosen = set()
    for indices in groups or [range(len(rows))]:
        names = [rows[i].name for i in indices]
        chosen |= {indices[j] for j in hold_out(names, share, manifest)}
    if len(chosen) > 3 * max(1, share * len(rows)):
        logging.warning(
            "WARNING %d of %d files are held out, one of each of many labels: where the folders "
            "are no classes, empty the column 'label'",
            len(chosen),
            len(rows),
        )
    return Split(
        [row for i, row in enumerate(rows) if i not in chosen],
        [row for i, row in enumerate(rows) if i in chosen],
    )


def fold_names(folds) -> tuple[str, ...]:
    """config.data.train_folds or .eval_folds as strings; a number or a word alone is one fold."""
    folds = folds if isinstance(folds, tuple | list) else (folds,)
    return tuple(str(fold) for fold in folds if fold != "")


def _as_flag(fold):
    """As it is typed after --config.data.eval_folds=."""
    plain = re.fullmatch(r"[A-Za-z_][\w-]*|\d+", fold)
    return fold if plain else shlex.quote(f"({json.dumps(fold, ensure_ascii=False)},)")


def hold_out(names, share, whole) -> set[int]:
    """Indices of the `share` of `names` (at least one, not all) whose hashes are lowest.

    `whole` names the data set in the DataError that is raised where none would be left.
    """
    if len(names) < 2 or not 0 <= share < 1:
        raise DataError(
            f"{whole}: holding out {share:g} of {len(names)} file(s) leaves none to train on; add "
            "files or lower config.data.eval_share"
        )
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(range(len(names)), key=lambda i: (name_hash(names[i]), names[i]))[:count])


def name_hash(name) -> bytes:
    return hashlib.sha256(name.replace("\\", "/").encode("utf-8", "surrogateescape")).digest()
