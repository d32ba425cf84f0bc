"""Manifests: which files there are, and their labels and folds.

A manifest is a CSV file (UTF-8) with the columns path[,label][,fold][,start][,end][,group] and any
others, which are ignored. ',', ';' or a tab separates the columns, which of them the first line
tells. Paths are relative to the CSV. Several labels are separated by ';'; a ';' that belongs to a
label is written '\\;' and a '\\' before ';' or '\\' is written twice (`join_labels`,
`split_labels`). With `start` or `end` (s) a row is a part of its file, a clip of its own; where one
of them is empty, the part begins or ends as the file does.
"""

import csv
import difflib
import errno
import glob
import itertools
import math
import os
import re
import stat
from typing import NamedTuple

from conformer_jax.data.audio import DataError
from conformer_jax.data.tree import as_written


class Row(NamedTuple):
    """One file of a manifest, or a part of one."""

    path: str  # absolute
    labels: tuple[str, ...]  # () where there is none
    fold: str  # '' where there is none
    name: str  # the example's id: the path as the manifest writes it, of a part with '#t=start,end'
    content: int | None = None  # content.py: digest of what the clip is, where it was looked at
    start: float = 0.0  # s
    end: float | None = None  # s; None: the file's
    whole: int | None = None  # digest of the whole file
    group: str = ""  # what it shares with the rows that are to lie on its side; '' for nothing


def read_manifest(path) -> list[Row]:
    """Returns a manifest's rows in its order; whether the audio exists is not looked at.

    But for a path that begins or ends with a space: the space counts where there is such a file.

    Raises DataError: no such file, not a UTF-8 CSV, no `path` column, no rows, a quote that is not
    closed, more fields than columns, an empty path or one that occurs twice (with the same start
    and end), or times that are none.
    """
    folder = os.path.abspath(as_written(os.path.dirname(path)))
    rows, lines = [], {}
    for line, record in read_records(path):
        name = _name(record["path"] or "", folder)
        if not name:
            raise DataError(f"{path}, line {line}: the path is empty")
        full = os.path.normpath(os.path.join(folder, name))
        start, end = _times(record, f"{path}, line {line}")
        name += part_suffix(start, end)
        if (full, start, end) in lines:
            raise DataError(
                f"{path}, line {line}: {name} occurs already on line "
                f"{lines[full, start, end]}; remove one of the two"
            )
        lines[full, start, end] = line
        labels = split_labels(record.get("label") or "")
        fold = (record.get("fold") or "").strip()
        group = (record.get("group") or "").strip()
        rows.append(Row(full, labels, fold, name, start=start, end=end, group=group))
    if not rows:
        raise DataError(f"{path} lists no files: add a line per file below the column names")
    return rows


def read_records(path, field="manifest"):
    """Yields (line number, {column: text or None}) of each row; errors as `read_manifest`; field:
    of config.data that names the file, or an option, for the message."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            line = 1
            try:
                columns = _distinct([(c or "").strip() for c in reader.fieldnames or ()])
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
        raise DataError(_unreadable(path, e, field)) from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not a CSV file in UTF-8: {e}") from None


def _distinct(columns):
    """Of equal names the first as it is, the others with a number."""
    before = [columns[:i].count(column) for i, column in enumerate(columns)]
    return [f"{c} ({n + 1})" if n else c for c, n in zip(columns, before, strict=True)]


def split_labels(text) -> tuple[str, ...]:
    """The distinct labels of a field of the column `label`, without the spaces around them."""
    parts = re.findall(r"(?:\\[\\;]|[^;])+", text)
    labels = (re.sub(r"\\([\\;])", r"\1", part).strip() for part in parts)
    return tuple(dict.fromkeys(label for label in labels if label))


def join_labels(labels) -> str:
    """A field of the column `label`, from which `split_labels` gives the same labels again."""
    return ";".join(re.sub(r"([\\;])", r"\\\1", label) for label in labels)


def part_suffix(start, end) -> str:
    """What follows the path in the name of a part from `start` to `end` (None: the file's end) in
    s, as addresses of parts on the web are written; '' of a whole file."""
    if not start and end is None:
        return ""
    return f"#t={_seconds(start)}" + ("" if end is None else f",{_seconds(end)}")


def _seconds(value):
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _times(record, where):
    """The start and the end of a row."""
    found = []
    for column, default in (("start", 0.0), ("end", None)):
        text = (record.get(column) or "").strip()
        try:
            value = float(text) if text else default
        except ValueError:
            value = math.nan
        if value is not None and not 0 <= value < math.inf:
            raise DataError(f"{where}: {column} is '{text}': seconds from the file's beginning on")
        found.append(value)
    start, end = found
    if end is not None and end <= start:
        raise DataError(
            f"{where}: it ends at {end:g} s and begins at {start:g} s: mend one of both"
        )
    return start, end


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


def check_exists(path, field="manifest", *, or_folder=False) -> None:
    """Raises the DataError of `read_manifest` for a file that is not there; field: of config.data,
    or with its section, for the message; or_folder: whether it may be a prepared corpus."""
    try:
        status = os.stat(path)
    except OSError as e:
        raise DataError(_unreadable(path, e, field)) from None
    inside = os.path.join(path, "manifest.csv")
    meant = os.path.isfile(inside)
    if or_folder and meant:  # where prepared.py looks
        deep = (glob.iglob(f"{glob.escape(str(path))}/{d}summary.json") for d in ("", "*/", "*/*/"))
        meant = not any(itertools.chain(*deep))
    if stat.S_ISDIR(status.st_mode) and (meant or not or_folder):
        hint = f"; {inside} is there: is that meant?" if meant else ""
        e = OSError(errno.EISDIR, os.strerror(errno.EISDIR) + hint)
        raise DataError(_unreadable(path, e, field)) from None


def _unreadable(path, error, field="manifest") -> str:
    if not field.startswith("--"):
        field = f"config.{field}" if "." in field else f"config.data.{field}"
    return (
        f"cannot read the manifest {path} ({field}): {error.strerror}; "
        "`python -m conformer_jax.manifest DIR` writes one for a folder of audio"
    )


def _no_path_column(path, columns) -> str:
    found = ", ".join(c for c in columns if c) or "none"
    near = difflib.get_close_matches("path", [c.lower() for c in columns], n=1, cutoff=0.5)
    near = near or [c for c in columns if c.lower() in ("file", "filename", "name", "audio")][:1]
    hint = f"; rename '{near[0]}'?" if near else "; its first line must name the columns"
    return f"{path} has no column 'path' (columns: {found}){hint}"
