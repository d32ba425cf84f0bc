"""Annotations beside recordings: label tracks of Audacity, selection tables of Raven.

  Audacity   start<TAB>end<TAB>label; a line that begins with a backslash holds the frequencies of
             the selection before it
  Raven      tab-separated columns `Begin Time (s)`, `End Time (s)`, a label, and, where a table is
             of several files, `Begin File` and `File Offset (s)`

What `conformer_jax.predict --format=audacity` and `=raven` writes is read as it was heard.
"""

import collections
import csv
import io
from typing import NamedTuple

from conformer_jax.data.audio import END_TOLERANCE_S, DataError

FORMATS = ("audacity", "raven")
_BEGIN, _END, _FILE, _OFFSET = (
    "Begin Time (s)", "End Time (s)", "Begin File", "File Offset (s)",
)  # fmt: skip
_LABELS = ("Label", "Labels", "Annotation", "Annotations", "Tag", "Tags", "Species", "Class")
_SUFFIX = {"audacity": (".txt",), "raven": (".txt", ".tsv", ".selections")}


class Mark(NamedTuple):
    """What one line says. file: that the line names, '' for the one beside the table; line: where
    it stands, in words."""

    file: str
    start: float  # s
    end: float
    label: str
    line: str


class Part(NamedTuple):
    """A part of a recording, and its labels."""

    sound: int  # which recording
    start: float  # s
    end: float
    labels: tuple[str, ...]


class Read(NamedTuple):
    """parts: in order of recordings and time; tables: how many files of annotations were read;
    skipped: {reason: places}; overlapping: places of parts that share time with another label."""

    parts: list[Part]
    tables: int
    skipped: dict[str, list[str]]
    overlapping: list[str]


def read_beside(paths, seconds, form: str, column: str = "") -> Read:
    """The annotations in the folders of the recordings.

    A file of annotations belongs to the recording whose name it bears, up to a dot: `a.txt`,
    `a.wav.txt` or `a.Table.1.selections.txt` to `a.wav`. Lines of a selection table that name a
    file belong to the recording of this name, in the folder of the table or, if there is one only,
    elsewhere.

    Args:
      paths: of the recordings.
      seconds: how long they are.
      form: one of FORMATS.
      column: that holds the labels of selection tables; '' for a usual one.

    Raises:
      DataError: a table has no such columns, or its lines are none.
    """
    skipped, tables = collections.defaultdict(list), 0
    seconds = [round(length, 6) for length in seconds]  # times as a manifest writes them
    spans = collections.defaultdict(dict)  # of a recording: (start, end) -> {label: place}
    find = _Recordings(paths)
    for folder in sorted({path.parent for path in paths}):
        for table in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIX[form]):
            beside = find.beside(table)
            if form == "audacity" and beside is None:
                continue
            marks = (_audacity if form == "audacity" else _raven)(table, skipped, column)
            if marks is None:  # some other text
                continue
            tables += 1
            for mark in marks:
                mark = mark._replace(start=round(mark.start, 6), end=round(mark.end, 6))
                sound = find.named(mark.file, folder) if mark.file else beside
                if (reason := _reason(mark, sound, seconds)) is not None:
                    skipped[reason].append(mark.line)
                    continue
                # Views of one selection, and labels of one span, are one clip.
                span = mark.start, min(mark.end, seconds[sound])
                spans[sound].setdefault(span, {}).setdefault(mark.label, mark.line)
    parts = [
        Part(sound, *span, tuple(labels))
        for sound in sorted(spans)
        for span, labels in sorted(spans[sound].items())
    ]
    return Read(parts, tables, dict(skipped), _overlaps(spans))


class _Recordings:
    """Which recording a name means."""

    def __init__(self, paths):
        self._beside, self._by_name = {}, collections.defaultdict(list)
        for i, path in enumerate(paths):
            self._beside.setdefault((path.parent, path.stem), i)
            self._beside[path.parent, path.name] = i
            self._by_name[path.name].append((path.parent, i))

    def beside(self, table):
        """Of a file of annotations; None where there is none."""
        name = table.name
        while "." in name:
            name = name.rpartition(".")[0]
            if (found := self._beside.get((table.parent, name))) is not None:
                return found
        return None

    def named(self, file, folder):
        """Of a name in a table that lies in `folder`; None where there is none, or several."""
        found = self._by_name.get(file.replace("\\", "/").rpartition("/")[2], [])
        here = [i for parent, i in found if parent == folder]
        if here:
            return here[0]
        return found[0][1] if len(found) == 1 else None


def _reason(mark, sound, seconds):
    """Why a line is of no use; None where it is."""
    if sound is None:
        return "of a recording that is not here"
    if not mark.label:
        return "without a label"
    if not mark.end > mark.start >= 0:
        return "that end where they begin, or before"
    if mark.start >= seconds[sound] or mark.end > seconds[sound] + END_TOLERANCE_S:
        return "beyond the end of the recording"
    return None


def _audacity(path, skipped, column):
    marks = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        where, cells = f"{path}, line {number}", line.split("\t")
        if not line.strip():
            continue
        if line.startswith("\\"):
            skipped["of frequencies, which are not used"].append(where)
            continue
        times = _numbers((*cells, "")[:2])
        if times is None:
            raise DataError(
                f"{where}: no label of Audacity, which is start, tab, end, tab, label: mend it, or "
                f"give {path.name} another name"
            )
        marks.append(Mark("", *times, " ".join(cells[2].split()) if cells[2:] else "", where))
    return marks


def _raven(path, skipped, column):
    text = _text(path)
    first = text.partition("\n")[0].rstrip("\r").split("\t")
    if _BEGIN not in first:
        return None
    wanted = column or next((name for name in _LABELS if name in first), "")
    for name in (_END, wanted):
        if name not in first:
            missing = name or "that holds labels"
            raise DataError(
                f"{path} has no column {missing} (columns: {', '.join(first)}): name the one with "
                f"the labels by --label_column"
            )
    marks, without = [], []
    records = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, record in enumerate(records, 2):
        where = f"{path}, line {number}"
        times = _numbers((record[_BEGIN], record[_END]))
        offset = _numbers((record.get(_OFFSET) or "0",))
        if times is None or offset is None:
            raise DataError(f"{where}: its times are no numbers: mend it or remove the line")
        start, end = times
        file = (record.get(_FILE) or "").strip()
        if file and record.get(_OFFSET):  # the times count through all files of the table
            start, end = offset[0], round(offset[0] + end - start, 6)
        label = " ".join((record[wanted] or "").split())
        marks.append(Mark(file, start, end, label, where))
        without += [where] if file and not record.get(_OFFSET) else []
    if without and len({mark.file for mark in marks if mark.file}) > 1:
        raise DataError(
            f"{without[0]}: the table is of several files, and where in its own this selection "
            f"lies is not said: save it from Raven with the column '{_OFFSET}'"
        )
    return marks


def _numbers(cells):
    """None unless all are numbers; some programs write a comma."""
    try:
        return [float((cell or "").replace(",", ".")) for cell in cells]
    except ValueError:
        return None


def _text(path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _overlaps(spans):
    """Places of the parts that begin before another with other labels has ended."""
    found = []
    for of_span in spans.values():
        latest, its_labels = 0.0, None
        for (start, end), labels in sorted(of_span.items()):
            if its_labels is not None and start < latest and set(labels) != its_labels:
                found.append(next(iter(labels.values())))
            if end > latest:
                latest, its_labels = end, set(labels)
    return found
