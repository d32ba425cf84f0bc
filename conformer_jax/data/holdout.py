"""Which rows of a manifest are trained on and which are held out."""

import collections
import functools
import hashlib
import json
import logging
import re
import shlex
from typing import NamedTuple

from conformer_jax.data.audio import DataError
from conformer_jax.data.content import of_groups, of_name
from conformer_jax.data.manifest import Row


class Split(NamedTuple):
    """Rows to train on and rows to evaluate on."""

    train: list[Row]
    held_out: list[Row]


def split_rows(
    rows,
    manifest,
    train_folds,
    eval_folds,
    eval_share,
    sides=None,
    *,
    by_name=False,
    say_folds=True,
) -> Split:
    """Splits the rows of a manifest: by folds where `eval_folds` are given, else by a share.

    Args:
      rows: list of `Row`, with their content (content.py).
      manifest: its path, for messages.
      train_folds, eval_folds: values of `fold`, compared as strings. Without `train_folds` all
        but `eval_folds` are trained on; without `eval_folds` a share of those is held out.
      eval_share: the share of the files that is held out: see `_split_by_share`.
      sides: of a run that goes on, {content: whether it was held out}. Clips that it knows stay
        on their side.
      by_name: the share is chosen as versions before content.py did.
      say_folds: whether to say that there are folds where none is named.

    Raises DataError: a fold no row has, or nothing left on one side.
    """
    train_folds, eval_folds = fold_names(train_folds), fold_names(eval_folds)
    known = sorted({row.fold for row in rows if row.fold})
    _check_folds(known, manifest, train_folds, eval_folds)
    if eval_folds:
        split = _split_by_folds(rows, manifest, train_folds, eval_folds)
        before = _as_before(split, rows, sides)
        _say_other_folds(split, before)
        return before
    if train_folds:
        rows = [row for row in rows if row.fold in train_folds]
    elif known and say_folds:
        say_there_are_folds(str(manifest), tuple(known), eval_share)
    if by_name:
        return _as_before(_split_by_name(rows, manifest, eval_share), rows, sides)
    return _split_by_share(rows, manifest, eval_share, sides)


def _as_before(split, rows, sides, units=None):
    """The split with every clip of it on the side where `sides` has it; no row joins it.

    Args:
      units: of each row the names of what it belongs to, the nearest first. A clip that `sides` has
        not lies with the clips that it has of the first unit of which there are any; where these
        lie on both sides, it is trained on.
    """
    if not sides:
        return split
    train, held_out = ({row.name for row in part} for part in split)
    units = [()] * len(rows) if units is None else units
    known = collections.defaultdict(set)
    for row, of_row in zip(rows, units, strict=True):
        if row.content in sides:
            for unit in of_row:
                known[unit].add(sides[row.content])

    def sides_of(row, of_row):
        now = row.name in train, row.name in held_out
        if not any(now):
            return now
        if row.content in sides:
            out = {sides[row.content]}
        else:
            out = next((known[unit] for unit in of_row if unit in known), None)
        return now if out is None else (not all(out), all(out))

    found = [(row, *sides_of(row, of_row)) for row, of_row in zip(rows, units, strict=True)]
    return Split(
        [row for row, is_train, _ in found if is_train],
        [row for row, _, is_held_out in found if is_held_out],
    )


def _say_other_folds(split, before):
    changed = set()
    for then, now in zip(before, split, strict=True):
        changed |= {row.name for row in then}.symmetric_difference(row.name for row in now)
    if changed := sorted(changed):
        logging.warning(
            "WARNING %d clips, such as %s, are of other folds than when the run began, and stay on "
            "the side that they were on: the column `fold` has changed",
            len(changed),
            changed[0],
        )


@functools.cache
def say_there_are_folds(where, known, share):
    """Where none is named; once a process: the control of a run opens the same clips."""
    logging.info(
        "%s has folds (%s): --config.data.eval_folds=%s holds one out; now a share of %g of the "
        "clips is held out",
        where,
        ", ".join(known),
        _as_flag(known[0]),
        share,
    )


def _check_folds(known, manifest, train_folds, eval_folds):
    for field, folds in (("train_folds", train_folds), ("eval_folds", eval_folds)):
        for fold in folds:
            if fold not in known:
                if known:
                    raise DataError(
                        f"config.data.{field}: {manifest} has no fold '{fold}' "
                        f"(folds: {', '.join(known)})"
                    )
                raise DataError(
                    f"config.data.{field} names fold '{fold}', and {manifest} has no filled `fold` "
                    f"column: `python -m conformer_jax.manifest DIR --folds=5` makes one, and "
                    f"--config.data.{field}= does without"
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


def _split_by_share(rows, manifest, share, sides=None):
    """Holds out the clips whose content, a number below 2^64, lies in the lowest `share` of them.

    So the side of a clip follows from the clip alone: in another manifest, under another name, with
    and without labels it is the same, and copies lie together. Of a hundred clips about a hundred
    times `share` are held out, not exactly. Where that would be none the lowest is held out, and
    where it would be all the highest is trained on: of few clips that is then no longer so. Parts
    of a file lie where the file lies, unless there is one file alone; rows of one `group` lie on
    one side, unless there is one group alone. Of a run that goes on new clips lie where those of
    their file, or else of their group, do.
    """
    contents = [_of_file(row) for row in rows]
    if len(rows) > 1 and len(set(contents)) == 1 and any(row.content != row.whole for row in rows):
        _say_one_file(str(manifest))
        contents = [row.content for row in rows]
    groups = {row.group for row in rows} - {""}
    linked = of_groups(rows, contents) if groups else contents
    alone = bool(groups) and len(set(linked)) == 1
    split = _lowest(rows, contents if alone else linked, manifest, share)
    ignored = alone and (len(groups) == 1 or not sides or _were_alone(rows, sides))
    units = [
        (file,) if ignored else (file, *filter(None, [row.group]), unit)
        for row, file, unit in zip(rows, contents, linked, strict=True)
    ]
    split = _as_before(split, rows, sides, units)
    if groups:
        torn = {row.group for row in split.train} & {row.group for row in split.held_out} - {""}
        _say_groups(str(manifest), len(groups), ignored, tuple(sorted(torn)))
    if groups and not alone and len(split.held_out) > 2 * max(share * len(rows), 1):
        _say_much(str(manifest), len(split.held_out), len(rows))
    return split


def _were_alone(rows, sides):
    """Whether a run began with what was of one group, or linked, so that it lies on both sides."""
    # A copy may have come since, so it says nothing.
    begun = list({row.content: row for row in reversed(rows) if row.content in sides}.values())
    linked = of_groups(begun, [_of_file(row) for row in begun])
    return len(set(linked)) == 1 and len({sides[row.content] for row in begun}) == 2


def _lowest(rows, numbers, manifest, share):
    """Holds out the rows with numbers in the lowest `share` of 2^64: some, but not all."""
    below = [number < share * 2.0**64 for number in numbers]
    if len(rows) < 2 or not 0 <= share < 1:
        raise DataError(_nothing_left(manifest, share, len(rows)))
    if all(below) or not any(below):
        edge = max(numbers) if all(below) else min(numbers)
        moved = {i for i, number in enumerate(numbers) if number == edge}
        if len(moved) == len(rows):  # copies of one clip
            moved = {min(range(len(rows)), key=lambda i: rows[i].name)}
        below = [(i in moved) != down for i, down in enumerate(below)]
    return Split(
        [row for row, down in zip(rows, below, strict=True) if not down],
        [row for row, down in zip(rows, below, strict=True) if down],
    )


@functools.cache
def _say_groups(manifest, count, ignored, torn):
    if ignored:
        logging.warning(
            "WARNING all clips of %s are of one group, or linked by what they share: the column "
            "`group` is ignored",
            manifest,
        )
    elif torn:
        logging.warning(
            "WARNING clips of %d of the %d groups of %s, such as '%s', are trained on and held "
            "out: they stay where they were when the run began, and new ones of these groups are "
            "trained on, but for parts of files that are held out",
            len(torn),
            count,
            manifest,
            torn[0],
        )
    else:
        logging.info("%s: the clips of each of %d groups lie on one side", manifest, count)


@functools.cache
def _say_much(manifest, held_out, count):
    logging.warning(
        "WARNING %d of the %d clips of %s are held out, so that groups stay whole: name folds "
        "(--config.data.eval_folds), or rename the column `group` if it is not meant so",
        held_out,
        count,
        manifest,
    )


@functools.cache
def _say_one_file(manifest):
    logging.warning(
        "WARNING %s has parts of one recording alone: some of them are held out, which are easier "
        "than another recording",
        manifest,
    )


def _of_file(row):
    content = row.content if row.whole is None else row.whole
    return of_name(row.name) if content is None else content


def say_labels_not_held_out(split: Split) -> None:
    """Warns of labels with clips to train on and none to judge by: of few clips chance may leave
    some out."""
    held_out = {label for row in split.held_out for label in row.labels}
    counts = collections.Counter(label for row in split.train for label in row.labels)
    if missing := sorted(name for name, n in counts.items() if n > 1 and name not in held_out):
        logging.warning(
            "WARNING no held-out clip has the label%s %s: nothing says how well %s told; raise "
            "--config.data.eval_share, name --config.data.eval_folds, or cross-validate",
            "" if len(missing) == 1 else "s",
            ", ".join(f"'{name}'" for name in missing[:3])
            + (f", ... ({len(missing)})" if len(missing) > 3 else ""),
            "it is" if len(missing) == 1 else "they are",
        )


def _split_by_name(rows, manifest, share):
    """As runs were split that were begun before content.py: `share` of the files of each label
    (files of several count for the first), at least one and not all of two or more, by a hash of
    their paths. Where all labels have one file, they count as one."""
    by_label = collections.defaultdict(list)
    for i, row in enumerate(rows):
        by_label[row.labels[:1]].append(i)
    groups = [indices for indices in by_label.values() if len(indices) > 1]
    chosen = set()
    for indices in groups or [range(len(rows))]:
        names = [rows[i].name for i in indices]
        chosen |= {indices[j] for j in hold_out(names, share, manifest)}
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
        raise DataError(_nothing_left(whole, share, len(names)))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(range(len(names)), key=lambda i: (name_hash(names[i]), names[i]))[:count])


def _nothing_left(whole, share, count):
    return (
        f"{whole}: holding out {share:g} of {count} file(s) leaves none to train on; add files, "
        "cut long ones into clips (python -m conformer_jax.manifest DIR --segment=10), or lower "
        "config.data.eval_share"
    )


def name_hash(name) -> bytes:
    return hashlib.sha256(name.replace("\\", "/").encode("utf-8", "surrogateescape")).digest()
