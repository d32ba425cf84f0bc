"""What a corpus is: its classes in order, its splits and folds, and which clips there should be."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from conformer_jax.data.audio import DataError


class Clip(NamedTuple):
    """A clip as its corpus lists it, whether or not there is audio.

    source: the recording that it was cut from, as far as the corpus tells; clips of one source
    belong on one side of a split. place: where audio lies (places.py), or None.
    """

    id: str
    split: str
    labels: tuple[str, ...] = ()
    fold: str = ""
    source: str = ""
    place: tuple | None = None


class Listing(NamedTuple):
    """All clips of a corpus. classes: names in order; () of a corpus without labels."""

    clips: list[Clip]
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that is known by name.

    Attributes:
      name: as it is typed, and as TFDS calls it.
      about: one sentence.
      licence: of the audio as a whole.
      metric: what papers report on it.
      protocol: how splits and folds are to be used.
      facts: where licence, splits and counts were read.
      listing: function of an opened source (sources.py) -> Listing. Raises DataError.
      multi_label: whether a clip may have several labels.
      expected: published number of clips by split; {} where it was not confirmed.
    """

    name: str
    about: str
    licence: str
    metric: str
    protocol: str
    facts: str
    listing: Callable
    multi_label: bool = False
    expected: dict[str, int] = dataclasses.field(default_factory=dict)


def named(entry, columns: Sequence[str], classes: Sequence[str], ignored=()) -> tuple | None:
    """The labels of an Entry (sources.py), in the first of the columns that it has; None where one
    of `ignored` is among them.

    Raises DataError: a label that is none of the classes; a number, too, since copies of a corpus
    number its classes in orders of their own.
    """
    found = next((entry.fields[c] for c in columns if entry.fields.get(c) not in (None, "")), ())
    found = found if isinstance(found, list | tuple) else [found]
    labels = tuple(str(one).strip() for one in found)
    if set(labels) & set(ignored):
        return None
    for label in labels:
        if label in classes:
            continue
        where = f"{entry.where}, {entry.name}: {label!r} in column {'/'.join(columns)}"
        if label.lstrip("-").isdecimal():
            raise DataError(f"{where} is a number, and nothing says of which class: {NUMBERS}")
        raise DataError(f"{where} is no class of this corpus")
    return labels


NUMBERS = (
    "give Parquet files whose metadata names the classes, as the Hugging Face hub writes them, or "
    "labels in words"
)
