"""What a manifest that is about to be replaced says and the new one would not."""

import os
from pathlib import Path

from conformer_jax.data.audio import DataError
from conformer_jax.data.manifest import read_manifest, read_records

_MEASURED = {"path", "start", "end", "duration_s", "label", ""}  # or looked at apart


def check_nothing_lost(output, columns, rows, *, asked, annotated) -> None:
    """Refuses to lose what was filled in by hand, or by other arguments than those of now.

    A label that a folder of the file gives is no loss, nor is a part whose label comes from
    annotations, where these are read anew.

    Args:
      output: the file, which may not be there yet.
      columns, rows: of the table to come.
      asked: columns that are made anew at the user's wish, such as 'fold'.
      annotated: whether the rows are annotated parts.

    Raises:
      DataError: something would be lost, or `output` cannot be read as a manifest.
    """
    if not output.exists() or not output.stat().st_size:
        return
    instead = "--overwrite replaces it, --output=FILE writes another"
    try:
        old = list(zip(read_manifest(output), read_records(output), strict=True))
    except DataError as e:
        raise DataError(f"{e}: it is not replaced unasked; {instead}") from None
    new = _by_clip(output, columns, rows)
    lost, relabelled = {}, 0
    for row, (_, record) in old:
        now = new.get((row.path, row.start, row.end), {})
        for column, value in record.items():
            if column in _MEASURED or column in asked or not (value or "").strip():
                continue
            if str(now.get(column) or "").strip() != value.strip():
                lost[column] = lost.get(column, 0) + 1
        folders = {part.strip() for part in Path(row.path).parts[:-1]}
        read_anew = annotated and (row.end is not None or row.start)
        if not read_anew and not {*row.labels} <= {*now.get("labels", ()), *folders}:
            relabelled += 1
    told = [f"{count} values of the column {column}" for column, count in lost.items()]
    told += [f"{relabelled} labels that no folder gives"] if relabelled else []
    if told:
        raise DataError(f"{output} has what would be lost: {', '.join(told)}. {instead}")


def _by_clip(output, columns, rows):
    """(absolute path, start, end) -> a row of the new table, its labels beside it."""
    found = {}
    for clip, values in rows:
        path = os.path.normpath(os.path.join(os.path.abspath(output.parent), clip.sound.name))
        start, end = (round(t, 6) if t else t for t in (clip.start, clip.end))
        found[path, start, end] = {**dict(zip(columns, values, strict=True)), "labels": clip.labels}
    return found
