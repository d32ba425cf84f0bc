"""Labels of stored windows, from a manifest or from the folders that their files lie in."""

import os
import pathlib

from conformer_jax.data import manifest
from conformer_jax.errors import UserError


def of(store, path=None, *, folders: bool, longest: bool = False) -> list[str]:
    """The label of every row of a store, '' where there is none; several are joined by ';'.

    Args:
      store: stored.Stored.
      path: a manifest; by default `manifest.csv` of the folder of recordings, if it is there. Rows
        with `start` and `end` (s) label the windows that they overlap, others all of their file.
      longest: whether of several only the one is given that holds longest in the window.
      folders: whether, without a manifest, the name of the folder that holds a file is its label.

    Raises:
      UserError: the manifest cannot be read, or is of none of these files.
    """
    given = path is not None
    if not given and store.recordings is not None:
        path = store.recordings / "manifest.csv"
        path = path if path.exists() else None
    if path is None:
        return [_folder(name) if folders else "" for name in store.files]
    if given and store.recordings is None:
        raise UserError(f"{store.folder} does not say where the recordings lie: --recordings=DIR")
    parts = _parts(path)
    found, met = [], False
    paths = {name: os.path.realpath(store.recordings / name) for name in set(store.files)}
    for name, start, end in zip(store.files, store.start, store.end, strict=True):
        here = parts.get(paths[name])
        met |= here is not None
        held = {}
        for first, last, label in here or ():
            if first < end and last > start:
                held[label] = held.get(label, 0.0) + min(last, end) - max(first, start)
        labels = [max(held, key=held.get)] if longest and held else held
        found.append(";".join(labels))
    if given and not met:
        raise UserError(f"{path} lists none of the files below {store.recordings}")
    return found


def _parts(path):
    """path of a file -> [(start, end, label)] of its rows that have labels."""
    folder, found = os.path.dirname(os.path.abspath(path)), {}
    for line, record in manifest.read_records(path):
        name = os.path.realpath(os.path.join(folder, (record["path"] or "").strip()))
        parts = found.setdefault(name, [])
        try:
            start = float((record.get("start") or "").strip() or 0)
            end = float((record.get("end") or "").strip() or "inf")
        except ValueError:
            raise UserError(f"{path}, line {line}: start or end is no number of seconds") from None
        parts += [(start, end, label) for label in manifest.split_labels(record.get("label") or "")]
    return found


def _folder(name):
    folder = pathlib.PurePosixPath(name).parent.name
    return folder if folder != "." else ""
