"""Manifests: which files there are, and their labels and folds.

A manifest is a CSV file (UTF-8) with the columns path[,label][,fold] and any others, which are
ignored. ',', ';' or a tab separates the columns, which of them the first line tells. Paths are
relative to the CSV. Several labels are separated by ';'; a ';' that belongs to a label is written
'\\;' and a '\\' before ';' or '\\' is written twice (`join_labels`, `split_labels`).
"""

import csv
import difflib
import os
import re
from typing import NamedTuple

from conformer_jax.data.audio import DataError


class Row(NamedTuple):
    """One file of a manifest."""

    path: str  # absolute
    labels: tuple[str, ...]  # () where there is none
    fold: str  # '' where there is none
    name: str  # the path as the manifest writes it: the example's id
    content: int | None = None  # content.py: digest of what the file holds, where it was looked at


def read_manifest(path) -> list[Row]:
    """Returns a manifest's rows in its order; whether the audio exists is not looked at.

    But for a path that begins or ends with a space: the space counts where there is such a file.

    Raises DataError: no such file, not a UTF-8 CSV, no `path` column, no rows, a quote that is not
    closed, more fields than columns, an empty path or one that occurs twice.
    """
    folder = os.path.dirname(os.path.abspath(path))
    rows, lines = [], {}
    for line, record in read_records(path):
        name = _name(record["path"] or "", folder)
        if not name:
            raise DataError(f"{path}, line {line}: the path is empty")
        full = os.path.normpath(os.path.join(folder, name))
        if full in lines:
            raise DataError(
                f"{path}, line {line}: {name} occurs already on line {lines[full]}; remove one of "
                "the two"
            )
        lines[full] = line
        labels = split_labels(record.get("label") or "")
        rows.append(Row(full, labels, (record.get("fold") or "").strip(), name))
    if not rows:
        raise DataError(f"{path} lists no files: add a line per file below the column names")
    return rows


def read_records(path):
    """Yields (line number, {column: text or None}) of each row; errors as `read_manifest`."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            line = 1
            try:
                columns = [(c or "").strip() for c in reader.fieldnames or ()]
                if "path" not in columns:
                    raise DataError(_no_path_column(path, columns))
                reader.fieldnames = columns
                line = reader.line_num + 1
                for record in reader:
                    if any(record.pop(None, ())):
                        raise DataError(
                            f"{path}, line {line}: more fields than the {len(columns)} columns of "
                            f"the first line; put quotes around what contains '{separator}'"
                        )
                    yield reader.line_num, record
                    line = reader.line_num + 1
            except csv.Error as e:
                raise DataError(
                    f"{path}, line {line}: a quote that is opened here is not closed, or more "
                    f"follows it ({e}): close it, or double quotes that belong to a name"
                ) from None
    except OSError as e:
        raise DataError(_unreadable(path, e)) from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not a CSV file in UTF-8: {e}") from None


def split_labels(text) -> tuple[str, ...]:
    """The distinct labels of a field of the column `label`, without the spaces around them."""
    parts = re.findall(r"(?:\\[\\;]|[^;])+", text)
    labels = (re.sub(r"\\([\\;])", r"\1", part).strip() for part in parts)
    return tuple(dict.fromkeys(label for label in labels if label))


def join_labels(labels) -> str:
    """A field of the column `label`, from which `split_labels` gives the same labels again."""
    return ";".join(re.sub(r"([\\;])", r"\\\1", label) for label in labels)


def _separator(first_line) -> str:
    for separator in (",", ";", "\t"):
        if "path" in [column.strip(' "\r\n') for column in first_line.split(separator)]:
            return separator if separator in first_line else ","
    return ","


def _name(text, folder) -> str:
    name = text.strip()
    if text != name and name and os.path.lexists(os.path.join(folder, text)):
        return text
    return name


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
