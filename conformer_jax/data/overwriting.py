"""What a manifest that is about to be replaced says and the new one would not.

Where something of a kind goes altogether (a column, parts, labels given by hand, another folder's
files), or parts of a file that --segment did not make, it is refused, for that is hardly meant.
Where rows change otherwise, the old file is kept.
"""

import collections
import functools
import itertools
import os
import re

from conformer_jax.data.audio import DataError
from conformer_jax.data.folder_summary import folder_label
from conformer_jax.data.manifest import read_manifest, read_records

# Columns that every manifest may have.
OWN = ("path", "label", "fold", "duration_s", "start", "end")
_APART = {"path", "label", "duration_s", "start", "end"}  # looked at apart, or measured
_INSTEAD = "--overwrite replaces it and keeps a copy, --output=FILE writes another"


def old_rows(output):
    """[(Row, {column: text})] of the manifest that is replaced, [] where there is none; raises
    DataError for what is none."""
    if not output.exists() or not output.stat().st_size:
        return []
    try:
        records = [record for _, record in read_records(output, "--output")]
        return list(zip(read_manifest(output), records, strict=True)) if records else []
    except DataError as e:
        raise DataError(f"{e}: it is not replaced unasked; {_INSTEAD}") from None


def key(output, clip):
    """(absolute path, start, end) of a clip of the new table, as those of a Row."""
    path = os.path.normpath(os.path.join(os.path.abspath(output.parent), clip.sound.name))
    return path, *(round(t, 6) if t else t for t in (clip.start, clip.end))


def what_to_keep(output, folder, columns, rows, *, anew, annotated, overwrite):
    """What must happen so that nothing is lost when `output` is replaced.

    Args:
      output: the file, which may not be there yet.
      folder: that was searched.
      columns, rows: of the table to come, rows beside their clips.
      anew: columns that are made anew at the user's wish, such as 'fold'.
      annotated: whether the rows are annotated parts.
      overwrite: whether it may be replaced whatever it says.

    Returns:
      where the old file is to be kept, since rows of it are not in the new table as they were, or
      None; and what is to be said of it.

    Raises:
      DataError: what was filled in by hand, or came by other arguments, goes altogether; or
        `output` cannot be read as a manifest.
    """
    if not rows:  # there will be no new table
        return None, []
    try:
        old = old_rows(output)
    except DataError:
        if not overwrite:
            raise
        copy = _free(output)
        return copy, [f"  before      no manifest, kept as {copy}"]
    new = [
        (key(output, clip), clip, dict(zip(columns, values, strict=True))) for clip, values in rows
    ]
    told = _goes(old, new, folder, anew, annotated)
    if told and not overwrite:
        raise DataError(f"{output} has what would be lost: {', '.join(told)}. {_INSTEAD}")
    said = {at: (values, {*clip.labels}) for at, clip, values in new}
    changed = sum(not _contains(said, row, record) for row, record in old)
    if not changed:
        return None, []
    copy = _free(output)
    return copy, [f"  before      rows that said something else: {changed}, kept in {copy}"]


def _goes(old, new, folder, anew, annotated):
    """What goes altogether, and labels that are others now, in words."""
    before = {name for _, record in old for name, value in record.items() if (value or "").strip()}
    filled = {name for _, _, values in new for name, value in values.items() if value}
    gone = sorted(before - filled - anew - _APART)
    told = [f"the column {name}" if name else "a column without a name" for name in gone]
    below = _below([row.path for row, _ in old], folder)
    here = [row for (row, _), folders in zip(old, below, strict=True) if folders is not None]
    if any(_part(row) for row, _ in old) and not any(_part(clip) for _, clip, _ in new):
        told.append("parts")
    elif not annotated and (files := _cut_by_hand(here, new)):
        told.append(f"parts (of {files} files)")
    elsewhere = {folders is None for folders in below} == {True, False}  # renamed, where all are
    if elsewhere and None not in _below([at[0] for at, *_ in new], folder):
        told.append("files from elsewhere")
    again = _of_one_level(old, below)  # as the folders say, and these are read anew
    rows = [row for (row, _), f in zip(old, below, strict=True) if f is None or not again]
    if lost := _relabelled(rows, new, annotated):
        told.append(f"labels ({lost})")
    return told


def _relabelled(rows, new, annotated):
    """Of how many rows the labels are others now, or all of them where there are none at all."""
    now, of_file = {}, {}
    for at, clip, _ in new:
        now[at] = {*clip.labels}
        of_file.setdefault(at[0], set()).update(clip.labels)
    if not any(now.values()):
        return sum(bool(row.labels) for row in rows)
    count = 0
    for row in rows:
        labels = now.get((row.path, row.start, row.end), of_file.get(row.path))
        read_anew = annotated and _part(row)
        count += labels is not None and not read_anew and not {*row.labels} <= labels
    return count


def _cut_by_hand(rows, new):
    """Of how many files that stay listed parts go that --segment does not make."""
    now, ends, before = set(), collections.Counter(), collections.defaultdict(list)
    for at, clip, _ in new:
        now.add(at)
        ends[at[0]] = max(ends[at[0]], round(clip.end or clip.sound.seconds, 6))
    for row in rows:
        if _part(row) and row.path in ends:
            end = ends[row.path] if row.end is None else row.end
            before[row.path].append((row.start, end))
    return sum(
        any((path, *span) not in now for span in spans) and not _in_equal_parts(spans, ends[path])
        for path, spans in before.items()
    )


def _in_equal_parts(spans, seconds):
    """Whether they are all of a file, of one length but for the last, which is up to half shorter
    or longer."""
    starts, ends = zip(*sorted(spans), strict=True)
    length, near = ends[0], 2e-6  # s: as exactly as times are written
    return (
        all(abs(start - i * length) < (i + 1) * near for i, start in enumerate(starts))
        and all(abs(t - u) < near for t, u in zip(ends, [*starts[1:], seconds], strict=True))
        and abs((seconds - starts[-1]) / length - 1) < 0.5 + 1e-3
    )


def _part(clip):
    return bool(clip.start) or clip.end is not None


def _below(paths, folder):
    """The folders between `folder` and each file, by name or, of a link, by where it leads; None
    for one that lies elsewhere."""
    real, top = functools.cache(os.path.realpath), os.path.realpath(folder)
    found = []
    for path in map(os.path.dirname, paths):
        parts = os.path.relpath(path, os.path.abspath(folder)).split(os.sep)
        if parts[0] == os.pardir:
            parts = os.path.relpath(real(path), top).split(os.sep)
        found.append(None if parts[0] == os.pardir else [p for p in parts if p != os.curdir])
    return found


def _of_one_level(old, below):
    """Whether the labels of what lies below the folder are those that one `label_from` gives, so
    that another one is asked for; some may have been taken out."""
    named = [
        (row.labels, folders)
        for (row, _), folders in zip(old, below, strict=True)
        if row.labels and folders is not None
    ]
    deepest = max((len(folders) for _, folders in named), default=0)
    return any(
        all(labels == (folder_label(folders, level),) for labels, folders in named)
        for level in ("parent", *map(str, range(1, deepest + 1)))
    )


def _contains(said, row, record):
    """Whether the new table says of a clip what its old row does."""
    now, labels = said.get((row.path, row.start, row.end), (None, ()))
    if now is None or {*row.labels} != labels:
        return False
    return all(
        str(now.get(column) or "").strip() == (value or "").strip()
        for column, value in record.items()
        if column not in _APART and (value or "").strip()
    )


def copies(output):
    """The files that are kept of what `output` was."""
    name = re.compile(rf"{re.escape(output.stem)}_before\d*{re.escape(output.suffix)}")
    there = output.parent.iterdir() if output.parent.is_dir() else ()
    return sorted(path for path in there if name.fullmatch(path.name))


def _free(output):
    taken = {path.name for path in copies(output)}
    names = (f"{output.stem}_before{n or ''}{output.suffix}" for n in itertools.count())
    return output.with_name(next(name for name in names if name not in taken))
