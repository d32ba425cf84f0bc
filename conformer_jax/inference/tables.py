"""Events as tables: to read, as CSV and JSON, and as Audacity and Raven open them."""

import csv
import io
import json
from typing import NamedTuple

from conformer_jax.inference.events import Event

_HIGH = "8000.0"  # Hz: Raven wants a band, and a tag has none


class Heard(NamedTuple):
    """Of one file. name: as it is written; duration: s."""

    name: str
    duration: float
    events: list[Event]


def text(heard: list[Heard], labels) -> str:
    """For the eye: file by file."""
    blocks = []
    for one in heard:
        lines = [f"{one.name}  ({clock(one.duration)})"]
        width = max([len(labels[event.label]) for event in one.events], default=0)
        lines += [
            f"  {clock(e.start):>9} to {clock(e.end):>9}  {labels[e.label]:<{width}}  "
            f"{e.probability:.2f}"
            for e in one.events
        ]
        blocks.append("\n".join(lines if one.events else [*lines, "  nothing above the threshold"]))
    return "\n\n".join(blocks) + "\n"


def as_csv(heard: list[Heard], labels) -> str:
    """Columns file, start, end (s), label, probability."""
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(("file", "start", "end", "label", "probability"))
    for one in heard:
        for e in one.events:
            times = f"{e.start:.3f}", f"{e.end:.3f}"
            writer.writerow((one.name, *times, labels[e.label], f"{e.probability:.4f}"))
    return memory.getvalue()


def as_json(heard: list[Heard], labels) -> str:
    """A list of files, each with its events."""
    files = [
        {
            "file": one.name,
            "duration": round(one.duration, 3),
            "events": [
                {
                    "start": round(float(e.start), 3),
                    "end": round(float(e.end), 3),
                    "label": labels[e.label],
                    "probability": round(e.probability, 4),
                }
                for e in one.events
            ],
        }
        for one in heard
    ]
    return json.dumps(files, indent=1, ensure_ascii=False) + "\n"


def audacity(heard: list[Heard], labels) -> str:
    """A label track (File > Import > Labels) of one file; of several, one after the other as they
    would lie on one track."""
    lines, offset = [], 0.0
    for one in heard:
        lines += [
            f"{offset + e.start:.6f}\t{offset + e.end:.6f}\t{_cell(labels[e.label])}\n"
            for e in one.events
        ]
        offset += one.duration
    return "".join(lines)


def raven(heard: list[Heard], labels) -> str:
    """A selection table; Begin Time counts through the files, opened together in this order."""
    columns = (
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
        "High Freq (Hz)", "Begin File", "File Offset (s)", "Label", "Probability",
    )  # fmt: skip
    lines, offset, number = ["\t".join(columns)], 0.0, 0
    for one in heard:
        for e in one.events:
            number += 1
            begin, end = f"{offset + e.start:.6f}", f"{offset + e.end:.6f}"
            file = _cell(one.name.replace("\\", "/").rpartition("/")[2])
            row = (number, "Spectrogram 1", 1, begin, end, "0.0", _HIGH, file)
            row += (f"{e.start:.6f}", _cell(labels[e.label]), f"{e.probability:.4f}")
            lines.append("\t".join(map(str, row)))
        offset += one.duration
    return "\n".join(lines) + "\n"


WRITERS = {"text": text, "csv": as_csv, "json": as_json, "audacity": audacity, "raven": raven}


def clock(seconds: float) -> str:
    """1:02:03.5 of 3723.5."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"


def _cell(value: str) -> str:
    """Tabs and ends of lines would be read as the next cell."""
    return " ".join(value.split())
