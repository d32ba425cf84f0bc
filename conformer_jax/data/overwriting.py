"""What a manifest that is about to be replaced says and the new one would not."""

import os
from collections import Counter

from conformer_jax.data.audio import DataError
from conformer_jax.data.folder_summary import folder_label
from conformer_jax.data.manifest import read_manifest, read_records

OWN = (
    "path",
    "label",
    "fold",
    "duration_s",
    "start",
    "end",
)  # columns that every manifest may have
_MEASURED = {"path", "start", "end", "duration_s", "label"}  # or looked at apart


def old_rows(output):
    """[(Row, {column: text})] of the manifest that is replaced; [] where there is none."""
    if not output.exists() or not output.stat().st_size:
        return []
    records = [record for _, record in read_records(output)]
    return list(zip(read_manifest(output), records, strict=True)) if records else []


def key(output, clip):
    """(absolute path, start, end) of a clip of the new table, as those of a Row."""
    path = os.path.normpath(os.path.join(os.path.abspath(output.parent), clip.sound.name))
    return path, *(round(t, 6) if t else t for t in (clip.start, clip.end))


def check_nothing_lost(output, folder, columns, rows, *, asked, annotated) -> None:
    """Refuses to lose what was filled in by hand, or by other arguments than those of now.

    It is no loss where all labels are those of one level of folders, and others are asked for; nor
    are, where annotations are read anew, the parts of a recording that has some.

    Args:
      output: the file, which may not be there yet.
      folder: that was searched.
      columns, rows: of the table to come, rows beside their clips.
      asked: columns that are made anew at the user's wish, such as 'fold'.
      annotated: whether the rows are annotated parts.

    Raises:
      DataError: something would be lost, or `output` cannot be read as a manifest.
    """
    instead = "--overwrite replaces it, --output=FILE writes another"
    try:
        old = old_rows(output)
    except DataError as e:
        raise DataError(f"{e}: it is not replaced unasked; {instead}") from None
    new, of_file, cut = {}, {}, set()
    for clip, values in rows:
        at = key(output, clip)
        new[at] = dict(zip(columns, values, strict=True)) | {"labels": clip.labels}
        of_file.setdefault(at[0], set()).update(clip.labels)
        if clip.end is not None:
            cut.add(at[0])
    by_folder, lost = _of_one_level(old, folder), Counter()
    for row, record in old:
        at = (row.path, row.start, row.end)
        now, part = new.get(at, {}), row.start or row.end is not None
        lost.update(
            f"values of the column {column}" if column else "values of a column without a name"
            for column, value in record.items()
            if column not in _MEASURED | asked
            and (value or "").strip()
            and str(now.get(column) or "").strip() != value.strip()
        )
        if part and annotated and row.path in cut:
            continue
        if not now and os.path.exists(row.path):
            lost["parts"] += bool(part)
            lost["files from elsewhere"] += row.path not in of_file and _outside(row.path, folder)
        if not by_folder:
            labels = now["labels"] if now else of_file.get(row.path, ())
            lost["labels"] += not {*row.labels} <= {*labels}
    told = [f"{what} ({count})" for what, count in lost.items() if count]
    if told:
        raise DataError(f"{output} has what would be lost: {', '.join(told)}. {instead}")


def _outside(path, folder):
    return os.path.relpath(path, os.path.abspath(folder)).split(os.sep)[0] == os.pardir


def _of_one_level(old, folder):
    """Whether the labels of all rows are what one `label_from` gives; where there is none it may
    have been taken out."""
    below = [
        os.path.relpath(row.path, os.path.abspath(folder)).split(os.sep)[:-1] for row, _ in old
    ]
    deepest = max(map(len, below), default=0)
    return any(
        all(
            not row.labels or row.labels == (folder_label(folders, level),)
            for (row, _), folders in zip(old, below, strict=True)
        )
        for level in ("parent", *map(str, range(1, deepest + 1)))
    )
