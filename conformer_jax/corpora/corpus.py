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


def numbered(record: dict, columns: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """The labels of a record: names, or numbers of `classes`, in the first column that it has.

    Raises DataError: a name or number that is none of the classes.
    """
    found = next((record[c] for c in columns if record.get(c) not in (None, "")), ())
    found = found if isinstance(found, list | tuple) else [found]
    labels = []
    for one in found:
        text = str(one).strip()
        if text in classes:
            labels.append(text)
        elif text.isdecimal() and int(text) < len(classes):
            labels.append(classes[int(text)])
        else:
            raise DataError(f"{text!r} in column {'/'.join(columns)} is no class of this corpus")
    return tuple(labels)
