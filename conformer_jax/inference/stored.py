"""Reads what `embeddings.Store` keeps: to search in, to draw, to choose from."""

import csv
import io
import os
import pathlib
from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.inference import embeddings


class Stored(NamedTuple):
    """Windows of recordings and their vectors.

    folder: the store; vectors: [N, E] float32, mapped from disk; files: N names, relative to
    `recordings`; start, end: [N] s; digest: of the model; model: where it lay, or None; recordings:
    the folder heard, or None; window_s, hop_s: s; sample_rate: Hz, the model's.
    """

    folder: pathlib.Path
    vectors: np.ndarray
    files: list[str]
    start: np.ndarray
    end: np.ndarray
    digest: str
    model: str | None
    recordings: pathlib.Path | None
    window_s: float
    hop_s: float
    sample_rate: int

    def path(self, row: int) -> pathlib.Path:
        """The file of a row; a UserError where nothing is known of where it lies."""
        if self.recordings is None:
            raise UserError(
                f"{self.folder} does not say where the recordings lie: --recordings=DIR"
            )
        return self.recordings / self.files[row]


def read(folder) -> Stored:
    """Opens a folder that `conformer_jax.embed` wrote, also while it grows.

    Raises:
      UserError: it is none, it is damaged, or the model was none that can be named.
    """
    folder = pathlib.Path(folder)
    state = embeddings.read_state(folder)
    if state is None:
        raise UserError(
            f"{folder} holds no embeddings: python -m conformer_jax.embed MODEL DIR "
            f"--output={folder} writes them"
        )
    files, start, end = _table(folder, state)
    origin, made_with = state["origin"], state["made_with"]
    try:
        rate = int(origin.get("sample_rate", 16000))
        window_s, hop_s = made_with["window"] / rate, made_with["hop"] / rate
        digest = str(made_with["model"])
        recordings = origin.get("recordings")
        recordings = None if recordings is None else pathlib.Path(recordings)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _damaged(folder, embeddings.STATE, error) from error
    model = origin.get("model")
    vectors = _vectors(folder, state)
    return Stored(
        folder, vectors, files, start, end, digest, model, recordings, window_s, hop_s, rate
    )


def _vectors(folder, state):
    path = folder / embeddings.VECTORS
    if not state["rows"]:  # nothing to map
        return np.zeros((0, state["width"]), np.float32)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype != np.float32 or found.ndim != 2 or found.shape[1] != state["width"]:
            raise ValueError(f"{found.dtype} of shape {found.shape}")
        if len(found) < state["rows"]:
            raise ValueError(f"{len(found)} rows of {state['rows']}")
    except (OSError, ValueError) as error:
        raise _damaged(folder, embeddings.VECTORS, error) from error
    return found[: state["rows"]]


def _table(folder, state):
    try:
        with open(folder / embeddings.TABLE, "rb") as file:
            text = file.read(state["bytes"])
        if len(text) < state["bytes"]:
            raise ValueError("it is shorter than it was")
        rows = csv.DictReader(io.StringIO(text.decode(), newline=""))
        names, files, times = {}, [], []
        for number, row in enumerate(rows):
            if int(row["row"]) != number:
                raise ValueError(f"row {number} is missing")
            files.append(names.setdefault(row["file"], row["file"]))
            times.append((float(row["start"]), float(row["end"])))
        if len(files) != state["rows"]:
            raise ValueError(f"{len(files)} rows of {state['rows']}")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _damaged(folder, embeddings.TABLE, error) from error
    times = np.array(times, float).reshape(-1, 2)
    return files, times[:, 0], times[:, 1]


def _damaged(folder, name, error):
    reason = " ".join(str(error).split())
    where = os.path.join(folder, name)
    return UserError(f"{where} is damaged ({reason}): delete {folder} and embed again")
