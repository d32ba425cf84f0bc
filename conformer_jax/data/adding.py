"""The rows of another manifest, to be listed beside those of a folder."""

import collections
import os
from pathlib import Path

from conformer_jax.data.audio import BadAudio, DataError, audio_length
from conformer_jax.data.clips import Clip, Sound
from conformer_jax.data.manifest import read_manifest, read_records
from conformer_jax.data.overwriting import key
from conformer_jax.data.tree import identity


def rows_of(other, output, listed):
    """The rows of another manifest as Clips, but of the files of those that are listed; paths
    become relative to `output`."""
    listed = {identity(key(output, clip)[0]) for clip in listed}
    lengths = {line: record.get("duration_s") for line, record in read_records(other)}
    clips = []
    for row, length in zip(read_manifest(other), lengths.values(), strict=True):
        name = Path(os.path.relpath(row.path, output.parent)).as_posix()
        if identity(row.path) in listed:
            continue
        end, seconds = row.end, _as_number(length)
        to_the_end = end is None and row.start > 0  # duration_s may be the file's or the part's
        if seconds is None or to_the_end:
            try:
                frames, rate = audio_length(row.path)
            except BadAudio as e:
                raise DataError(f"{other}: {row.name}: {e}") from None
            seconds = frames / rate
        if to_the_end:
            end = seconds
            if row.start > end - 1e-3:
                raise DataError(
                    f"{other}: {row.name}: the part begins at {row.start:g} s of {end:.3f} s"
                )
        clips.append(Clip(Sound(name, (), seconds), row.labels, row.start, end, row.fold))
    twice = collections.Counter(key(output, clip) for clip in clips)
    if again := next((at for at, count in twice.items() if count > 1), None):
        raise DataError(f"{other}: {again[0]}: two rows are of its part from {again[1]:g} s on")
    return clips


def _as_number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
