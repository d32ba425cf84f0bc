"""Reads manifests, and writes one from a folder: `python -m conformer_jax.data.manifest DIR`.

A manifest is a CSV file (UTF-8) with the columns path[,label][,fold] and any others, which are
ignored. Paths are relative to the CSV; several labels are separated by ';'.
"""

import argparse
import collections
import concurrent.futures
import csv
import difflib
import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

from conformer_jax.data.audio import BadAudio, DataError, audio_length


class Row(NamedTuple):
    """One file of a manifest."""

    path: str  # absolute
    labels: tuple[str, ...]  # () where there is none
    fold: str  # '' where there is none
    name: str  # the path as the manifest writes it: the example's id


def read_manifest(path) -> list[Row]:
    """Returns a manifest's rows in its order; whether the audio exists is not looked at.

    Raises DataError: no such file, not a UTF-8 CSV, no `path` column, no rows, an empty path or
    one that occurs twice.
    """
    folder = os.path.dirname(os.path.abspath(path))
    rows, lines = [], {}
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [(c or "").strip() for c in reader.fieldnames or ()]
            if "path" not in columns:
                raise DataError(_no_path_column(path, columns))
            reader.fieldnames = columns
            for record in reader:
                name = (record["path"] or "").strip()
                if not name:
                    raise DataError(f"{path}, line {reader.line_num}: the path is empty")
                full = os.path.normpath(os.path.join(folder, name))
                if full in lines:
                    raise DataError(
                        f"{path}, line {reader.line_num}: {name} occurs already on line "
                        f"{lines[full]}; remove one of the two"
                    )
                lines[full] = reader.line_num
                parts = [part.strip() for part in (record.get("label") or "").split(";")]
                labels = tuple(dict.fromkeys(part for part in parts if part))
                rows.append(Row(full, labels, (record.get("fold") or "").strip(), name))
    except OSError as e:
        raise DataError(_unreadable(path, e)) from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} is not a CSV file in UTF-8: {e}") from None
    if not rows:
        raise DataError(f"{path} lists no files: add a line per file below the column names")
    return rows


def check_exists(path) -> None:
    """Raises the DataError of `read_manifest` for a file that is not there."""
    try:
        os.stat(path)
    except OSError as e:
        raise DataError(_unreadable(path, e)) from None


def _unreadable(path, error) -> str:
    return (
        f"cannot read the manifest {path} (config.data.manifest): {error.strerror}; "
        "`python -m conformer_jax.data.manifest DIR` writes one for a folder of audio"
    )


def split_rows(rows, manifest, train_folds, eval_folds, eval_share) -> tuple[list, list]:
    """Rows to train on and rows to evaluate on.

    Args:
      rows: list of `Row`.
      manifest: its path, for messages.
      train_folds, eval_folds: values of `fold`, compared as strings. Without `train_folds` all
        but `eval_folds` are trained on; without `eval_folds` a share of those is held out.
      eval_share: share of the files of each label that is held out (files of several labels count
        for the first), at least one and not all of two or more, chosen by a hash of their paths: it
        depends neither on their order nor on any seed, and is the same with and without unlabelled
        files. A label's only file is trained on; where all labels have one, they count as one.

    Raises DataError: a fold no row has, or nothing left on one side.
    """
    train_folds, eval_folds = [str(f) for f in train_folds], [str(f) for f in eval_folds]
    known = sorted({row.fold for row in rows if row.fold})
    for field, folds in (("train_folds", train_folds), ("eval_folds", eval_folds)):
        for fold in folds:
            if fold not in known:
                found = ", ".join(known) or "none: it has no filled `fold` column"
                raise DataError(
                    f"config.data.{field}: {manifest} has no fold '{fold}' (folds: {found})"
                )
    if both := sorted(set(train_folds) & set(eval_folds)):
        logging.warning("folds trained on and evaluated on: %s", ", ".join(both))
    if train_folds:
        train = [row for row in rows if row.fold in train_folds]
    else:
        train = [row for row in rows if row.fold not in eval_folds]
    if eval_folds:
        held_out = [row for row in rows if row.fold in eval_folds]
        if not train:
            raise DataError(f"config.data.eval_folds takes every file of {manifest}: name fewer")
        return train, held_out
    if known and not train_folds:
        logging.info(
            "%s has folds (%s): --config.data.eval_folds=\"('%s',)\" holds one out; now a share of "
            "%g of the clips is held out",
            manifest,
            ", ".join(known),
            known[0],
            eval_share,
        )
    by_label = collections.defaultdict(list)
    for i, row in enumerate(train):
        by_label[row.labels[:1]].append(i)
    groups = [indices for indices in by_label.values() if len(indices) > 1]
    chosen = set()
    for indices in groups or [range(len(train))]:
        names = [train[i].name for i in indices]
        chosen |= {indices[j] for j in hold_out(names, eval_share, manifest)}
    if len(chosen) > 3 * max(1, eval_share * len(train)):
        logging.warning(
            "WARNING %d of %d files are held out, one of each of many labels: where the folders "
            "are no classes, empty the column 'label'",
            len(chosen),
            len(train),
        )
    return (
        [row for i, row in enumerate(train) if i not in chosen],
        [row for i, row in enumerate(train) if i in chosen],
    )


def hold_out(names, share, whole) -> set[int]:
    """Indices of the `share` of `names` (at least one, not all) whose hashes are lowest.

    `whole` names the data set in the DataError that is raised where none would be left.
    """
    if len(names) < 2 or not 0 <= share < 1:
        raise DataError(
            f"{whole}: holding out {share:g} of {len(names)} file(s) leaves none to train on; add "
            "files or lower config.data.eval_share"
        )
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(range(len(names)), key=lambda i: (_hash(names[i]), names[i]))[:count])


def _hash(name) -> bytes:
    return hashlib.sha256(name.replace("\\", "/").encode("utf-8", "surrogateescape")).digest()


def _no_path_column(path, columns) -> str:
    found = ", ".join(c for c in columns if c) or "none"
    near = difflib.get_close_matches("path", [c.lower() for c in columns], n=1, cutoff=0.5)
    near = near or [c for c in columns if c.lower() in ("file", "filename", "name", "audio")][:1]
    hint = f"; rename '{near[0]}'?" if near else "; its first line must name the columns"
    return f"{path} has no column 'path' (columns: {found}){hint}"


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
    paths = [path for path in _visible_files(folder) if path.resolve() not in own]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(_length_or_reason, paths))

    rows, unreadable, seconds = [], [], 0.0
    for path, length in zip(paths, lengths, strict=True):
        name = Path(os.path.relpath(path, output.parent)).as_posix()
        if isinstance(length, str):
            unreadable.append((name.encode("utf-8", "backslashreplace").decode(), length))
            continue
        parents = path.relative_to(folder).parts[:-1]
        rows.append([name, parents[0] if parents else "", "", f"{length[0] / length[1]:.3f}"])
        seconds += length[0] / length[1]
    if folds:
        _assign_folds(rows, folds)
    try:
        if unreadable:
            _write_csv(unreadable_list, ("path", "reason"), unreadable)
        else:
            unreadable_list.unlink(missing_ok=True)  # of an earlier run
        if rows:
            _write_csv(output, ("path", "label", "fold", "duration_s"), rows)
    except OSError as e:
        raise DataError(f"cannot write {e.filename}: {e.strerror}; choose another --output") from e
    if not rows:
        reasons = f"; what it contains is listed in {unreadable_list}" if unreadable else ""
        raise DataError(f"{folder} contains no readable audio{reasons}")

    classes = sorted({row[1] for row in rows} - {""})
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    lines = [
        f"Wrote {output}",
        f"  files       {len(rows)}, {seconds / 3600:.2f} h",
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
        for i, row in enumerate(sorted(group, key=lambda row: (_hash(row[0]), row[0]))):
            row[2] = str(i % folds + 1)


def _write_csv(path, columns, rows) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def main(argv=None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m conformer_jax.data.manifest",
        description="Write a manifest (CSV) of the audio files in a folder, one subfolder a class.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder to search")
    parser.add_argument("--output", metavar="FILE", help="default: DIR/manifest.csv; replaced")
    parser.add_argument("--folds", type=int, default=0, metavar="K", help="assign folds 1 to K")
    args = parser.parse_args(argv)
    try:
        print(write_manifest(args.folder, args.output, args.folds))
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
