"""What was heard of a file so far, kept so that a command that was stopped goes on from there."""

import collections
import hashlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.inference.ahead import End

_EVERY_S = 10.0  # between two saves of one file


class Known(NamedTuple):
    """logits [W, C], start, end [W] in s of the first windows; whole: whether of all."""

    logits: np.ndarray
    start: np.ndarray
    end: np.ndarray
    whole: bool


def hear(
    model, paths, *, window_s, hop_s, folder=None, advance=lambda number, seconds: None
) -> Iterator[Known | UserError]:
    """Logits of all windows of each file, in order; the error of one that cannot be used.

    Args:
      model: Model with a head.
      paths: the files.
      window_s, hop_s: s.
      folder: where to keep what is known, and to look for it; None for nowhere.
      advance: told the file's number and how many s of it are done.
    """
    files = collections.deque()  # begun, and not yet told

    def begin():
        for path in paths:
            files.append(_File(model, path, window_s, hop_s, folder))
            yield files[-1].wanted()

    for number, part in model.parts_of_files(begin(), "logits", window_s=window_s, hop_s=hop_s):
        if isinstance(part, End):
            yield files.popleft().end(part.error)
        else:
            files[0].add(part)
            advance(number, part.end)


class _File:
    """One file on its way."""

    def __init__(self, model, path, window_s, hop_s, folder):
        self._path, self._error, known = path, None, None
        self._kept = None
        try:
            if folder is not None:
                self._kept = pathlib.Path(folder, _key(model, path, window_s, hop_s))
                known = _read(self._kept, len(model.label_names))
        except UserError as error:
            self._error = error
        self._whole = known is not None and known.whole
        self._rows = [] if known is None else list(zip(*known[:3], strict=True))
        self._saved = time.monotonic()

    def wanted(self):
        """What `Model.parts_of_files` is asked for."""
        nothing = self._whole or self._error is not None
        return (None if nothing else self._path), len(self._rows)

    def add(self, part):
        self._rows.append((part.values["logits"], part.start, part.end))
        if self._kept is not None and time.monotonic() - self._saved > _EVERY_S:
            _write(self._kept, self._rows, whole=False)
            self._saved = time.monotonic()

    def end(self, error) -> Known | UserError:
        if error := error or self._error:
            return error
        if self._kept is not None and not self._whole:
            _write(self._kept, self._rows, whole=True)
        return _known(self._rows, whole=True)


def _known(rows, whole):
    logits, start, end = zip(*rows, strict=True)
    return Known(np.stack(logits), np.array(start), np.array(end), whole)


def _key(model, path, window_s, hop_s):
    """Another name as soon as anything differs that the result follows from."""
    path = os.path.realpath(path)
    try:
        status = os.stat(path)
    except OSError as error:  # a link to nothing
        raise UserError(f"{path}: {error.strerror}") from error
    what = (model.digest, path, status.st_size, status.st_mtime_ns, window_s, hop_s)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32] + ".npz"


def _write(file, rows, whole):
    known = _known(rows, whole)
    temporary = file.with_suffix(".tmp")
    with open(temporary, "wb") as opened:
        np.savez(opened, **known._asdict())
    os.replace(temporary, file)


def _read(file, classes) -> Known | None:
    """What a command before has kept; None where it cannot be read."""
    if file is None or not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as found:
            known = Known(**{name: found[name] for name in Known._fields})
        if known.logits.shape != (len(known.start), classes) or not len(known.start):
            return None
        return known._replace(whole=bool(known.whole))
    except Exception:  # zipfile, zlib and numpy raise a dozen kinds: it is heard again
        return None
