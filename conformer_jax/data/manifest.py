"""Manifests: which files there are, and their labels and folds.

A manifest is a CSV file (UTF-8) with the columns path[,label][,fold] and any others, which are
ignored. Paths are relative to the CSV; several labels are separated by ';'.
"""

import csv
import difflib
import os
from typing import NamedTuple

from conformer_jax.data.audio import DataError


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
        "`python -m conformer_jax.manifest DIR` writes one for a folder of audio"
    )


def _no_path_column(path, columns) -> str:
    found = ", ".join(c for c in columns if c) or "none"
    near = difflib.get_close_matches("path", [c.lower() for c in columns], n=1, cutoff=0.5)
    near = near or [c for c in columns if c.lower() in ("file", "filename", "name", "audio")][:1]
    hint = f"; rename '{near[0]}'?" if near else "; its first line must name the columns"
    return f"{path} has no column 'path' (columns: {found}){hint}"
