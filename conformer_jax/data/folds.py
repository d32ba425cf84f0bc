"""Deals the rows of a manifest to folds, and the groups that stay together."""

import collections
import hashlib
import re

from conformer_jax.data.audio import DataError
from conformer_jax.data.holdout import name_hash


def deal(names, labels, groups, folds) -> list[int]:
    """The fold of each row, 1 to `folds`.

    Each label is spread over the folds as evenly as its groups allow, and what remains of one label
    goes to the folds that have least so far: without groups, no two folds differ by more than one
    row, neither of a label nor of all with a label. Rows without a label are dealt last.

    Args:
      names: of the rows; their hashes fix the order, so that the same rows are dealt the same in
        whatever order they are listed. One row more may move many others, of other labels, too.
      labels: of the rows, '' for none.
      groups: rows with the same group come to lie in one fold; None of a row: in any.
      folds: how many.

    Raises DataError: fewer groups than folds.
    """
    members = collections.defaultdict(list)
    for i, group in enumerate(groups):
        members[("row", i) if group is None else ("group", group)].append(i)
    if len(members) < folds:
        what = "files" if len(members) == len(names) else "groups of files"
        raise DataError(f"--folds={folds}: {len(members)} {what} cannot fill them; ask for fewer")
    of_label = collections.Counter(labels)
    units = sorted(
        members.values(),
        key=lambda unit: (
            all(not labels[i] for i in unit),
            -len(unit),
            min(labels[i] for i in unit),
            min((name_hash(names[i]), names[i]) for i in unit),
        ),
    )
    dealt = [collections.Counter() for _ in range(folds)]
    result = [0] * len(names)
    for unit in units:
        counts = collections.Counter(labels[i] for i in unit)

        def load(fold, counts=counts):
            squares = sum(n * dealt[fold][x] / of_label[x] for x, n in counts.items())
            return squares, dealt[fold].total(), fold

        fold = min(range(folds), key=load)
        dealt[fold].update(counts)
        for i in unit:
            result[i] = fold + 1
    return result


def united(*columns) -> list[int]:
    """One number for the rows that have the same in one of the columns, or that other rows link in
    this way. None is the same as nothing."""
    count = len(columns[0])
    above = list(range(count))

    def top(i):
        while above[i] != i:
            above[i] = i = above[above[i]]
        return i

    for column in columns:
        first = {}
        for i, value in enumerate(column):
            if value is not None:
                above[top(i)] = top(first.setdefault(value, i))
    return [top(i) for i in range(count)]


def groups_by_pattern(pattern, names) -> list[str | None]:
    """What `pattern` finds in each name (its first parenthesis, if it has one); None for nothing.

    Raises DataError: not a regular expression, or one that fits no name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise DataError(f"--group={pattern} is no regular expression: {e}") from None
    matches = [compiled.search(name) for name in names]
    which = 1 if compiled.groups else 0
    found = [(match.group(which) or None) if match else None for match in matches]
    if not any(found):
        raise DataError(
            f"--group={pattern}: no such column of your own in the manifest to replace; as a "
            f"regular expression it finds nothing in any path, such as {names[0]}"
        )
    return found


def folder_name(fold) -> str:
    """A name for the folder of a fold, which stays one folder whatever the fold is called.

    The same for no two folds: a name that has to be changed ends in '~' and a hash, and one with
    a '~' is changed.
    """
    kept = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|~\ud800-\udfff]', "_", fold)[:40]
    if kept != fold:
        kept += "~" + hashlib.sha256(fold.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"fold_{kept}"
