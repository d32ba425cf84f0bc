"""Embeddings of many files in a folder that grows: `embeddings.npy` and `embeddings.csv`.

  embeddings.npy  float32 [rows, E], readable by memory map at any time
  embeddings.csv  file, start, end (s), row: one line a window; file relative to the folder heard
  state.json      how many rows and bytes of the two are whole, what they were made with, and where
                  the model and the recordings lay

A file's windows are added all or not at all: what lies behind the counts of state.json, left by a
kill, is cut off by the next start.
"""

import contextlib
import csv
import io
import json
import os
import pathlib

import numpy as np

from conformer_jax.errors import UserError

VECTORS, TABLE, STATE = "embeddings.npy", "embeddings.csv", "state.json"
PARQUET = "embeddings.parquet"
_COLUMNS = ("file", "start", "end", "row")
_OURS = {VECTORS, TABLE, STATE, STATE + ".tmp", PARQUET, PARQUET + ".tmp"}


class Store:
    """The folder, opened by one process to add to it.

    Args:
      folder: made where it is absent.
      made_with: what the rows follow from; JSON. It must be the same at every start.
      width: E.
      origin: where model and recordings lie; JSON. It may change from start to start.

    Raises:
      UserError: the folder holds other things, or embeddings made otherwise.
    """

    def __init__(self, folder, made_with: dict, width: int, origin: dict | None = None):
        self.folder = pathlib.Path(folder)
        self._made_with, self._width, self._origin = made_with, width, origin or {}
        check_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self._state_of_the_same()
        if state is None:
            self.rows, table = 0, ",".join(_COLUMNS) + "\n"
            self._bytes = len(table)
            (self.folder / TABLE).write_text(table)
            (self.folder / VECTORS).write_bytes(self._header())
            self._write_state()
        else:
            self.rows, self._bytes = state["rows"], state["bytes"]
        self._mend()
        self._write_state()
        self.files = self._known_files()

    def add(self, name: str, vectors, start, end) -> None:
        """Adds a file: vectors [W, E] of windows from start to end [W] in s.

        Raises:
          OSError: no room; what was there before is still whole.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        name = written(name)
        for i in range(len(vectors)):
            writer.writerow((name, f"{start[i]:.3f}", f"{end[i]:.3f}", self.rows + i))
        text = lines.getvalue().encode()
        try:
            _append(self.folder / VECTORS, vectors.tobytes())
            _append(self.folder / TABLE, text)
            self.rows += len(vectors)
            self._bytes += len(text)
            _overwrite(self.folder / VECTORS, self._header())
            self._write_state()
        except OSError:
            with contextlib.suppress(OSError):
                self._mend()
            raise
        self.files.add(name)

    def _header(self) -> bytes:
        """Of the .npy; numpy leaves room in it for the number of rows to grow."""
        memory = io.BytesIO()
        shape = (self.rows, self._width)
        np.lib.format.write_array_header_1_0(
            memory, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        return memory.getvalue()

    def _mend(self):
        """Cuts both files to what state.json says."""
        header = self._header()
        wanted = {
            VECTORS: len(header) + 4 * self.rows * self._width,
            TABLE: self._bytes,
        }
        for name, size in wanted.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < size:
                raise UserError(f"{path} is shorter than it was: delete {self.folder}, embed again")
            os.truncate(path, size)
        _overwrite(self.folder / VECTORS, header)

    def _known_files(self):
        return _files_of(self.folder, self._bytes)

    def _state_of_the_same(self):
        state = read_state(self.folder)
        if state is None:
            return None
        other = [n for n in self._made_with if state["made_with"].get(n) != self._made_with[n]]
        if other or state["width"] != self._width:
            raise UserError(
                f"{self.folder} holds embeddings made with another {' and '.join(other)}: choose "
                f"another --output"
            )
        return state

    def _write_state(self):
        state = {
            "rows": self.rows,
            "bytes": self._bytes,
            "width": self._width,
            "made_with": self._made_with,
            "origin": self._origin,
        }
        temporary = self.folder / (STATE + ".tmp")
        temporary.write_text(json.dumps(state, indent=1) + "\n")
        os.replace(temporary, self.folder / STATE)


def written(name: str) -> str:
    """A file's name as the table has it: bytes of it that are no text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_recordings(folder, recordings, names) -> None:
    """Raises UserError where the folder holds embeddings of another folder's recordings.

    Where all the files that they are of lie in `recordings`, too, these have only been moved.

    Args:
      folder: of the embeddings; there may be none.
      recordings: the folder that is to be heard.
      names: of its files, relative to it.
    """
    state = read_state(folder)
    before = state and state["origin"].get("recordings")
    if not before or os.path.realpath(before) == os.path.realpath(recordings):
        return
    try:
        stored = _files_of(pathlib.Path(folder), state["bytes"])
    except OSError as error:
        raise UserError(f"{folder} is damaged ({error}): delete it, embed again") from error
    if gone := sorted(stored - set(map(written, names))):
        raise UserError(
            f"{folder} holds embeddings of {before}, {len(gone)} of whose {len(stored)} files are "
            f"not in {recordings}, such as {gone[0]}: choose another --output, or say --moved if "
            f"these are the same recordings in another place"
        )


def check_folder(folder) -> None:
    """Raises UserError where the folder holds something else than embeddings."""
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose a folder")
    if not folder.exists() or (folder / STATE).exists():
        return
    left = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    if other := [name for name in left if name not in _OURS]:
        raise UserError(f"{folder} holds other files ({other[0]}): choose another")


def read_state(folder) -> dict | None:
    """What state.json says; None where there is none; a UserError where it is damaged."""
    path = pathlib.Path(folder, STATE)
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_bytes())
        counts = [state["rows"], state["bytes"], state["width"]]
        if not all(isinstance(n, int) and n >= 0 for n in counts):
            raise ValueError("its counts are no numbers")
        if not all(isinstance(state.setdefault(n, {}), dict) for n in ("made_with", "origin")):
            raise ValueError("it does not say what made them")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete the folder, embed again") from error
    return state


def _files_of(folder, size) -> set[str]:
    """Names in the first `size` bytes of the table, which are whole."""
    with open(folder / TABLE, "rb") as file:
        text = file.read(size).decode("utf-8", "replace")
    return {record["file"] for record in csv.DictReader(io.StringIO(text, newline=""))}


def _append(path, content: bytes):
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _overwrite(path, start: bytes):
    with open(path, "r+b") as file:
        file.write(start)
