"""Makes a manifest of the audio files below a folder."""

import collections
import concurrent.futures
import csv
import os
from pathlib import Path
from typing import NamedTuple

from conformer_jax.data.audio import BadAudio, DataError, audio_length
from conformer_jax.data.holdout import name_hash


class _Found(NamedTuple):
    """Of a folder: rows of the manifest, (path, reason) of files that cannot be read."""

    rows: list[list[str]]
    unreadable: list[tuple[str, str]]
    seconds: float  # of all rows


def write_manifest(folder, output=None, folds=0) -> str:
    """Writes a manifest of the audio below `folder`; returns a summary to print.

    A file's label is the first folder on its way below `folder`. Files whose headers cannot be
    read go to a second CSV (path, reason) beside `output`; hidden files are passed over.

    Args:
      folder: to search.
      output: CSV to write (an existing one is replaced); None for manifest.csv in `folder`.
      folds: fill `fold` with 1 to this many, equally often within a label; 0 leaves it empty.

    Raises DataError: one fold, no such folder, no audio in it, or `output` cannot be written.
    """
    if folds < 0 or folds == 1:
        raise DataError(f"--folds={folds}: two are the least")
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name one that contains audio files")
    output = Path(output) if output else folder / "manifest.csv"
    unreadable_list = output.with_name(f"{output.stem}_unreadable.csv")
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} does not exist: create it or choose another --output")
    statistics = output.with_name(output.name + ".statistics.json")
    own = {output.resolve(), unreadable_list.resolve(), statistics.resolve()}
    found = _look_through(folder, output.parent, own)
    if folds:
        _assign_folds(found.rows, folds)
    try:
        if found.unreadable:
            _write_csv(unreadable_list, ("path", "reason"), found.unreadable)
        else:
            unreadable_list.unlink(missing_ok=True)  # of an earlier run
        if found.rows:
            _write_csv(output, ("path", "label", "fold", "duration_s"), found.rows)
    except OSError as e:
        raise DataError(f"cannot write {e.filename}: {e.strerror}; choose another --output") from e
    if not found.rows:
        reasons = f"; what it contains is listed in {unreadable_list}" if found.unreadable else ""
        raise DataError(f"{folder} contains no readable audio{reasons}")
    return _summary(found, output, unreadable_list, folds)


def _look_through(folder, beside, own):
    """What lies below `folder`, with paths as seen from `beside`; the files in `own` do not."""
    paths = [path for path in _visible_files(folder) if path.resolve() not in own]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(_length_or_reason, paths))
    found = _Found([], [], 0.0)
    for path, length in zip(paths, lengths, strict=True):
        name = Path(os.path.relpath(path, beside)).as_posix()
        if isinstance(length, str):
            found.unreadable.append((name.encode("utf-8", "backslashreplace").decode(), length))
            continue
        duration = length[0] / length[1]
        parents = path.relative_to(folder).parts[:-1]
        found.rows.append([name, parents[0] if parents else "", "", f"{duration:.3f}"])
        found = found._replace(seconds=found.seconds + duration)
    return found


def _summary(found, output, unreadable_list, folds):
    rows, unreadable = found.rows, found.unreadable
    classes = sorted({row[1] for row in rows} - {""})
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    lines = [
        f"Wrote {output}",
        f"  files       {len(rows)}, {found.seconds / 3600:.2f} h",
        f"  classes     {len(classes)}" + (f": {shown}" if classes else ""),
        f"  unreadable  {len(unreadable)}" + (f", see {unreadable_list}" if unreadable else ""),
        *([f"  folds       {folds}, each label spread over them"] if folds else []),
        *_next(output, len(classes), folds),
    ]
    return "\n".join(lines)


def _next(manifest, num_classes, folds):
    """The commands to type next: labels are worth a look at once, hours of sound a pre-training."""
    probe = f"--config=configs/finetune.py:probe --config.data.manifest={manifest}"
    lines = []
    if num_classes > 1:
        module = "cross_validate" if folds else "main"
        lines.append(
            f"Next, what the shipped encoder makes of it: python -m conformer_jax.{module} {probe}"
        )
    lines.append(
        "Next, with an hour of sound or more: python -m conformer_jax.main "
        f"--config=configs/pretrain.py:tiny --config.data.manifest={manifest}"
    )
    return lines


def _visible_files(folder):
    """Regular files below `folder`, sorted by path; nothing whose name begins with a dot."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.is_file() or path.is_symlink())


def _length_or_reason(path) -> tuple[int, int] | str:
    try:
        str(path).encode("utf-8")
        return audio_length(path)
    except BadAudio as e:
        return str(e)
    except UnicodeEncodeError:
        return "file name is not UTF-8"


def _assign_folds(rows, folds) -> None:
    by_label = collections.defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    for group in by_label.values():
        for i, row in enumerate(sorted(group, key=lambda row: (name_hash(row[0]), row[0]))):
            row[2] = str(i % folds + 1)


def _write_csv(path, columns, rows) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
