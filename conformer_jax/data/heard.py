"""Which clips an encoder was trained on: a set of their contents (content.py), kept small.

As bytes it is the distances from each to the next, compressed: 8 bytes a clip at most. Where that
is to fit into less, only the leading bits of each content are kept, and another clip may share them
by chance: one in 2^bits / clips, which is 1 in 9000 of 2 million clips in 4 MB.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np


class Heard(NamedTuple):
    """clips: uint64, ascending, each once, the leading `bits` of a content. whole: whether these
    are all, not so for an encoder that began as one of which it is not known."""

    clips: np.ndarray
    bits: int = 64
    whole: bool = True

    def has(self, contents) -> np.ndarray:
        """bool [n]: which of the contents [n] it holds."""
        if not len(self.clips):
            return np.zeros(np.shape(contents), bool)
        wanted = _leading(contents, self.bits)
        place = np.searchsorted(self.clips, wanted)
        return self.clips[np.minimum(place, len(self.clips) - 1)] == wanted

    def chance(self) -> float:
        """How probable it is that a clip that was never heard is taken for one that was."""
        return 0.0 if self.bits == 64 else len(self.clips) / 2.0**self.bits


def of_contents(contents, *, whole: bool = True) -> Heard:
    """The set of these contents."""
    return Heard(_distinct(np.asarray(contents, np.uint64)), whole=whole)


def union(*parts: Heard) -> Heard:
    """All of the parts, with as many bits as the shortest of those that hold something."""
    bits = min((part.bits for part in parts if len(part.clips)), default=64)
    shortened = [_shortened(part, bits) for part in parts if len(part.clips)]
    clips = _distinct(np.concatenate([*shortened, np.empty(0, np.uint64)]))
    return Heard(clips, bits, all(part.whole for part in parts))


def pack(heard: Heard, limit: int | None = None) -> tuple[np.ndarray, int]:
    """(uint8, bits): what `unpack` reads, with as many bits as fit into `limit` bytes."""
    count = max(len(heard.clips), 1)
    for bits in (64, 48, *range(40, 14, -2)):
        bits = min(bits, heard.bits)
        if limit is not None and count * (bits - math.log2(count)) / 8 > limit and bits > 16:
            continue  # no code of the distances is shorter
        packed = _pack(_shortened(heard, bits))
        if limit is None or len(packed) <= limit:
            break
    return packed, bits


def unpack(packed, bits: int, *, whole: bool) -> Heard:
    """Raises ValueError: not what `pack` has made."""
    try:
        planes = np.frombuffer(zlib.decompress(np.asarray(packed, np.uint8).tobytes()), np.uint8)
        steps = np.ascontiguousarray(planes.reshape(8, -1).T).view("<u8").ravel()
    except (zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"its record of what was heard is damaged: {error}") from error
    if not 1 <= bits <= 64:
        raise ValueError(f"its record of what was heard has {bits} bits")
    return Heard(np.cumsum(steps, dtype=np.uint64), bits, whole)


def _pack(clips):
    steps = np.diff(clips, prepend=np.uint64(0)).astype("<u8")
    # Byte by byte of all: the leading ones are nearly all 0.
    planes = steps.view(np.uint8).reshape(-1, 8).T
    return np.frombuffer(zlib.compress(planes.tobytes(), 1), np.uint8)


def _shortened(heard, bits):
    return _distinct(_leading(heard.clips, 64 - heard.bits + bits))


def _distinct(values):
    """Ascending, each once: np.unique, whose table of hashes takes seconds for millions."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]])]


def _leading(values, bits):
    return np.asarray(values, np.uint64) >> np.uint64(64 - bits)
