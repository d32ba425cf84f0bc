"""Several corpora in one run: config.data.mixture, 'PATH=SHARE' of each that is added.

The first corpus is config.data.manifest or .prepared; it alone has the held-out clips that are
evaluated. Of each other one the clips are trained on that a run of it alone would train on: what
is held out of it by its contents or its splits is heard by no run. SHARE is its share of the clips
of every batch (sampling.mixed_batch), what the shares leave is that of the first corpus.
"""

import os
from typing import NamedTuple

import numpy as np

from conformer_jax.data import prepared
from conformer_jax.data.audio import BadAudio, DataError, to_pcm16
from conformer_jax.data.labels import joined
from conformer_jax.data.source import Source


class Part(NamedTuple):
    """path: of a manifest, or the folder of a prepared corpus; share: over 0 and below 1."""

    path: str
    share: float

    @property
    def is_prepared(self) -> bool:
        """Whether it is a folder and no manifest."""
        return os.path.isdir(self.path)

    @property
    def prefix(self) -> str:
        """Before the names of its clips, which may be those of another corpus's."""
        return os.path.join(self.path if self.is_prepared else os.path.dirname(self.path), "")

    @property
    def fields(self) -> dict[str, str]:
        """What config.data has in a run of it alone."""
        manifest, prepared = ("", self.path) if self.is_prepared else (self.path, "")
        return {"manifest": manifest, "prepared": prepared}


def parts(mixture) -> tuple[Part, ...]:
    """config.data.mixture, a tuple of 'PATH=SHARE' or one of them.

    Raises DataError: it is none, or the shares leave nothing.
    """
    found = []
    for entry in filter(None, (mixture,) if isinstance(mixture, str) else mixture):
        path, _, share = str(entry).rpartition("=")
        try:
            found.append(Part(path, float(share)))
        except ValueError:
            found.append(Part("", 0.0))
        if not found[-1].path or not 0 < found[-1].share < 1:
            raise DataError(
                f"config.data.mixture: '{entry}' is no PATH=SHARE with a share over 0 and below 1, "
                f"such as prepared/audioset=0.3"
            )
    total = sum(part.share for part in found)
    if total >= 1:
        raise DataError(
            f"config.data.mixture: shares of {total:g} in all leave nothing for "
            f"config.data.manifest or .prepared: below 1 together"
        )
    return tuple(found)


def shares(mixture) -> tuple[float, ...]:
    """Of the first corpus and of those that are added, in order; () without a mixture."""
    return shares_of(parts(mixture))


def shares_of(found) -> tuple[float, ...]:
    """`shares` of what `parts` gives."""
    added = [part.share for part in found]
    return (1 - sum(added), *added) if added else ()


def cite(data) -> str:
    """Which clips the prepared corpora of a config.data have, in a line; '' where none is one.

    Raises DataError as `prepared.cite`.
    """
    added = [(part.path, part.share) for part in parts(data.mixture) if part.is_prepared]
    lines = [prepared.cite(data.prepared)] if data.prepared else []
    lines += [f"{prepared.cite(path)} ({share:.3g} of every batch)" for path, share in added]
    return "; ".join(lines)


class Joined(Source):
    """The clips of several sources, one after the other, of the same rate and label names."""

    def __init__(self, sources, prefixes):
        """prefixes: what stands before the names of each source's clips, to tell them apart."""
        self._sources, self._prefixes = list(sources), list(prefixes)
        self._starts = np.cumsum([0, *map(len, self._sources)])
        self.sample_rate = self._sources[0].sample_rate
        self.label_names = self._sources[0].label_names
        self.at_once = any(source.at_once for source in self._sources)

    def __len__(self):
        return int(self._starts[-1])

    def corpora(self):
        return np.repeat(np.arange(len(self._sources)), np.diff(self._starts))

    def example_id(self, i):
        number, source, inner = self._find(i)
        return self._prefixes[number] + source.example_id(inner)

    def ids(self):
        pairs = zip(self._prefixes, self._sources, strict=True)
        return [prefix + name for prefix, source in pairs for name in source.ids()]

    def contents(self):
        return np.concatenate([source.contents() for source in self._sources])

    def wholes(self):
        return np.concatenate([source.wholes() for source in self._sources])

    def groups(self):
        return np.concatenate([source.groups() for source in self._sources])

    def all_labels(self):
        return joined([source.all_labels() for source in self._sources])

    def content(self, i):
        _, source, inner = self._find(i)
        return source.content(inner)

    def whole(self, i):
        _, source, inner = self._find(i)
        return source.whole(inner)

    def labels(self, i):
        _, source, inner = self._find(i)
        return source.labels(inner)

    def read(self, i, num_samples, position):
        _, source, inner = self._find(i)
        return source.read(inner, num_samples, position)

    def read_pcm(self, indices, num_samples, positions):
        found = [None] * len(indices)
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            inner = np.asarray(indices)[rows] - self._starts[number]
            where = [positions[row] for row in rows]
            read = _read_pcm(self._sources[number], inner, num_samples, where)
            for row, one in zip(rows, read, strict=True):
                found[row] = one
        return found

    def _find(self, i):
        """Which source, and which of its examples."""
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        return number, self._sources[number], int(i - self._starts[number])


def _read_pcm(source, indices, num_samples, positions):
    if source.at_once:
        return source.read_pcm(indices, num_samples, positions)
    found = []
    for i, position in zip(indices, positions, strict=True):
        try:
            found.append(to_pcm16(source.read(int(i), num_samples, position)))
        except BadAudio as error:
            found.append(error)
    return found
