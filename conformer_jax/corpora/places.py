"""Where the audio of a clip lies, and how to get at it: files, Parquet, tar archives, HDF5.

A place is a tuple that JSON can hold, so that a worker on another machine finds the audio:

  ("file", path)                      a file of its own
  ("file", path, start, end)          a part of one, in s; an end of None is the file's
  ("parquet", path, row group, row)   bytes in a column `audio` (of a struct: its `bytes`)
  ("tar", path, offset, size)         bytes of a member, by position: no name is ever unpacked
  ("h5", path, row)                   bytes in a data set `mp3`
"""

import contextlib
import os
import tempfile

from conformer_jax.data.sound_file import BadAudio

AUDIO_COLUMNS = ("audio", "flac", "mp3", "wav", "bytes")  # of a Parquet file, the first there is


def part(place) -> tuple:
    """(start, end) in s of the part of a file that a place is; (0.0, None) of all else."""
    return tuple(place[2:]) if place and place[0] == "file" and place[2:] else (0.0, None)


def state(place) -> tuple | None:
    """(size, time of change in ns) of the file that holds it; None where there is none."""
    try:
        found = os.stat(place[1])
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class Reader:
    """Opens places, one after the other; remembers the last row group. For one thread."""

    def __init__(self):
        self._group = (None, None, None)  # path, row group, column

    @contextlib.contextmanager
    def path(self, place):
        """A context: the path of a file with the audio. Raises BadAudio: there is none."""
        if place is None:
            raise BadAudio("missing")
        if place[0] == "file":
            yield place[1]
            return
        content = self._bytes(place)
        # libsndfile reads files; a temporary one is mostly memory that is never written to disk.
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name

    def _bytes(self, place) -> bytes:
        kind, path, *where = place
        try:
            if kind == "tar":
                with open(path, "rb") as file:
                    file.seek(where[0])
                    content = file.read(where[1])
                if len(content) < where[1]:
                    raise BadAudio(f"truncated: {os.path.basename(path)} ends within it")
                return content
            if kind == "parquet":
                return self._parquet(path, *where)
            return self._h5(path, *where)
        except OSError as e:
            raise BadAudio(f"{os.path.basename(path)} cannot be read: {e}") from None

    def _parquet(self, path, group, row) -> bytes:
        import pyarrow.parquet as pq

        if self._group[:2] != (path, group):
            with pq.ParquetFile(path) as file:
                column = next(c for c in AUDIO_COLUMNS if c in file.schema_arrow.names)
                table = file.read_row_group(group, columns=[column])
            self._group = (path, group, table.column(column))
        content = self._group[2][row].as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        if not content:
            raise BadAudio("no audio in its row")
        return content

    def _h5(self, path, row) -> bytes:
        import h5py

        with h5py.File(path, "r") as file:
            return file["mp3"][row].tobytes()
