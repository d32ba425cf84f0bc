"""What was heard of a file so far, kept so that a command that was stopped goes on from there."""

import hashlib
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError

_EVERY_S = 10.0  # between two saves of one file


class Known(NamedTuple):
    """logits [W, C], start, end [W] in s of the first windows; whole: whether of all."""

    logits: np.ndarray
    start: np.ndarray
    end: np.ndarray
    whole: bool


def hear(model, path, *, window_s, hop_s, folder=None, advance=lambda seconds: None) -> Known:
    """Logits of all windows of a file.

    Args:
      model: Model with a head.
      path: the file.
      window_s, hop_s: s.
      folder: where to keep what is known, and to look for it; None for nowhere.
      advance: told how many s of sound are done, in all.

    Raises:
      UserError: the file cannot be used.
    """
    file = None if folder is None else pathlib.Path(folder, _key(model, path, window_s, hop_s))
    known = _read(file, len(model.label_names))
    if known is not None and known.whole:
        return known
    rows = [] if known is None else list(zip(*known[:3], strict=True))
    saved = time.monotonic()
    parts = model.parts(path, None, "logits", window_s=window_s, hop_s=hop_s, skip=len(rows))
    for part in parts:
        rows.append((part.values["logits"], part.start, part.end))
        advance(part.end)
        if file is not None and time.monotonic() - saved > _EVERY_S:
            _write(file, rows, whole=False)
            saved = time.monotonic()
    if file is not None:
        _write(file, rows, whole=True)
    return _known(rows, whole=True)


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
