"""The rows of another manifest, to be listed beside those of a folder."""

import collections
import math
import os
from pathlib import Path

from conformer_jax.data.audio import BadAudio, DataError, audio_length
from conformer_jax.data.clips import Clip, Sound
from conformer_jax.data.manifest import read_manifest, read_records
from conformer_jax.data.overwriting import key
from conformer_jax.data.tree import identity


def rows_of(other, output, listed, column):
    """The rows of another manifest as Clips, but of files that are listed already.

    Args:
      other: the manifest.
      output: the one to come, which paths become relative to.
      listed: the clips that are.
      column: of `other`, with the groups of its rows, if there is one.

    Raises DataError: it is none, a file whose length it does not say cannot be read, or two rows
      are of one part.
    """
    listed = {identity(key(output, clip)[0]) for clip in listed}
    records = [record for _, record in read_records(other, "--add")]
    clips = []
    for row, record in zip(read_manifest(other), records, strict=True):
        name = Path(os.path.relpath(row.path, output.parent)).as_posix()
        if identity(row.path) in listed:
            continue
        start, end = (t and round(t, 6) for t in (row.start, row.end))  # as they are written
        if end is not None and end <= start:
            raise DataError(f"{other}: {row.name}: a part of no length: remove it")
        seconds = _length(record.get("duration_s"))
        to_the_end = end is None and start > 0  # duration_s may be the file's or the part's
        if seconds is None or to_the_end:
            try:
                frames, rate = audio_length(row.path)
            except BadAudio as e:
                raise DataError(f"{other}: {row.name}: {e}") from None
            seconds = frames / rate
        if to_the_end:
            end = seconds
            if start > end - 1e-3:
                raise DataError(
                    f"{other}: {row.name}: the part begins at {start:g} s of {end:.3f} s"
                )
        group = (record.get(column) or "").strip()
        clips.append(Clip(Sound(name, (), seconds), row.labels, start, end, row.fold, group))
    twice = collections.Counter(key(output, clip) for clip in clips)
    if again := next((at for at, count in twice.items() if count > 1), None):
        raise DataError(f"{other}: {again[0]}: two rows are of its part from {again[1]:g} s on")
    return clips


def _length(text):
    """None for what is none, so that it is measured."""
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < math.inf else None
