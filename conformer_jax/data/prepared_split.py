"""Which records of a prepared corpus are trained on, and which are held out."""

import numpy as np

from conformer_jax.data.audio import DataError
from conformer_jax.data.content import of_name
from conformer_jax.data.packed import text_of
from conformer_jax.data.prepared import HELD_OUT_SPLITS, Opened


def choose(
    opened: Opened, train_folds, eval_folds, eval_share, *, labelled_only: bool
) -> tuple[dict, dict]:
    """Records to train on and to evaluate on: by split int64 [n], ascending.

    `train_folds` and `eval_folds` name folds or splits. Without eval_folds the split 'validation'
    is held out where there is one; else 'test', else 'eval'; else a share of the clips by their
    contents, the same clips as of a manifest of the same files (holdout.py), but that clips of one
    source (a recording, a speaker) stay together. A split by which papers judge is trained on only
    where train_folds names it, and then the next one is held out. What is held out is not trained
    on, unless both name it.

    Args:
      labelled_only: leave out records without a label.

    Raises DataError: an unknown name, or nothing is left.
    """
    _check(opened, train_folds, eval_folds)
    judged = [s for s in HELD_OUT_SPLITS if s in opened.index and s not in train_folds]
    use_share = not eval_folds and not judged
    held_out_names = eval_folds or tuple(judged[:1])
    train, held_out = {}, {}
    for split, index in opened.index.items():
        usable = np.ones(len(index.content), bool)
        if labelled_only:
            usable = np.diff(index.label_starts) > 0
        is_eval = _named(split, index, held_out_names) & usable
        if train_folds:
            is_train = _named(split, index, train_folds) & usable
        else:
            is_train = usable & (split not in HELD_OUT_SPLITS)
        if not (train_folds and eval_folds):
            is_train &= ~is_eval
        train[split], held_out[split] = np.flatnonzero(is_train), np.flatnonzero(is_eval)
    if use_share:
        return _by_share(opened, train, eval_share)
    for field, part in (("train_folds", train), ("eval_folds", held_out)):
        if not any(map(len, part.values())):
            side = "train on" if part is train else "hold out"
            raise DataError(
                f"config.data.{field}: {opened.folder} has no clip left to {side}; held out is "
                f"{', '.join(held_out_names)}: name other folds or splits"
            )
    return train, held_out


def _named(split, index, names):
    """bool [n]: which records lie in a fold or a split of these names."""
    if split in names:
        return np.ones(len(index.fold), bool)
    return np.isin(index.fold, [i for i, fold in enumerate(index.folds.tolist()) if fold in names])


def _check(opened, train_folds, eval_folds):
    known = {str(fold) for index in opened.index.values() for fold in index.folds if fold}
    known = [*opened.index, *sorted(known)]
    for field, names in (("train_folds", train_folds), ("eval_folds", eval_folds)):
        for name in names:
            if name not in known:
                raise DataError(
                    f"config.data.{field}: {opened.folder} has no fold or split '{name}' (it has "
                    f"{', '.join(known)})"
                )


def _by_share(opened, records, share):
    """As holdout._split_by_share, of many clips at once."""
    whole = _numbers_of_groups(opened, records)
    count = len(np.unique(whole))
    if count < 2 or not 0 <= share < 1:
        what = "that belong together (copies, or of one source) " if count < len(whole) else ""
        raise DataError(
            f"{opened.folder}: holding out {share:g} of {len(whole)} clip(s) {what}leaves none to "
            "train on; add clips, lower config.data.eval_share or name config.data.eval_folds"
        )
    edges = np.cumsum([0, *map(len, records.values())])
    contents = {split: whole[edges[i] : edges[i + 1]] for i, split in enumerate(records)}
    edge = np.uint64(int(share * 2.0**64))
    below = int((whole < edge).sum())
    if not below:  # the lowest one
        edge = whole.min() + np.uint64(1)
    elif below == len(whole):  # all but the highest
        edge = whole.max()
    held_out = {s: part[contents[s] < edge] for s, part in records.items()}
    train = {s: part[contents[s] >= edge] for s, part in records.items()}
    return train, held_out


def _numbers_of_groups(opened, records):
    """uint64 [n]: of each record a number below 2^64 that decides its side, equal for all that
    share a source or their content, directly or through others; of one that stands alone its
    content."""
    content = np.concatenate([opened.index[s].content[part] for s, part in records.items()])
    groups = _sources(opened, records), np.unique(content, return_inverse=True)[1]
    lowest, before = content.copy(), None
    while before is None or not np.array_equal(lowest, before):
        before = lowest.copy()
        for members in groups:
            of_group = np.full(members.max(initial=0) + 1, 2**64 - 1, np.uint64)
            np.minimum.at(of_group, members, lowest)
            lowest = of_group[members]
    # The lowest of several is no fair draw: groups of many clips would be held out more often.
    mixed = set(np.unique(lowest[lowest != content]).tolist())
    number = {value: of_name(f"{value:016x}") for value in mixed}
    return np.fromiter((number.get(v, v) for v in lowest.tolist()), np.uint64, len(lowest))


def _sources(opened, records):
    """int64 [n]: equal numbers for records of one source; those without one have their own."""
    numbers, found = {}, []
    for split, part in records.items():
        index = opened.index[split]
        for i in part:
            text = text_of(index.sources, index.source_starts, i)
            found.append(numbers.setdefault(text or len(found), len(numbers)))
    return np.array(found, np.int64)
