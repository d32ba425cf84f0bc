"""Sound of any length as windows of one length, in memory bounded by a block and a window."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soxr

from conformer_jax.data.audio import resample
from conformer_jax.data.sound_file import HIGHEST_RATE, LOWEST_RATE, BadAudio, OpenSound
from conformer_jax.errors import UserError

_MOST_CHANNELS = 64
_LOUDEST = 1e3  # in floats, where 1 is full scale
_BLOCK = 1 << 20  # samples resampled at once


class Window(NamedTuple):
    """start: samples from the beginning; audio: float32 [n], shorter than a window only where the
    whole sound is."""

    start: int
    audio: np.ndarray


class Sound(NamedTuple):
    """A sound at the model's rate. total: samples, as its header says; blocks: of float32 [n]."""

    total: int
    blocks: Iterable[np.ndarray]


def starts(total: int, size: int, hop: int) -> list[int]:
    """Where windows start: every `hop` samples, and the last one ends with the sound."""
    last = max(total - size, 0)
    return [*range(0, last, hop), last]


def cut(sound: Sound, size: int, hop: int) -> Iterator[Window]:
    """The sound's windows of `size` samples, in order."""
    blocks = iter(sound.blocks)
    held, first, ended = np.zeros(0, np.float32), 0, False  # `held` starts at sample `first`
    for start in starts(sound.total, size, hop):
        parts = [held[start - first :]] if start < first + len(held) else []
        skip = max(start - first - len(held), 0)
        length = sum(map(len, parts))
        while length < size and not ended:
            block = next(blocks, None)
            if block is None:
                ended = True
                continue
            parts.append(block[skip:])
            skip = max(skip - len(block), 0)
            length += len(parts[-1])
        held, first = np.concatenate(parts or [held[:0]]), start
        if len(held):  # a resampler may round the length down by one
            yield Window(start, held[:size].copy())  # a view would keep the whole block
    for _ in blocks:  # to its end: that it is truncated shows there
        pass


def open_file(path, sample_rate: int) -> Sound:
    """A file, decoded and resampled as its blocks are asked for.

    Args:
      path: the file.
      sample_rate: Hz of the result.

    Raises:
      BadAudio: the file cannot be used; also later, by its blocks.
    """
    with OpenSound(path) as opened:
        frames, rate = opened.frames, opened.rate
    total = max(1, (2 * frames * sample_rate + rate) // (2 * rate))  # rounded, as soxr does

    def blocks():
        with OpenSound(path) as opened:
            yield from _resampled(opened.stream(0, opened.frames), rate, sample_rate)

    return Sound(total, blocks())


def read_part(path, sample_rate: int, start: float = 0.0, end: float = math.inf) -> np.ndarray:
    """A part of a file, from start to end in s, or to its end: float32 [n] at `sample_rate` Hz.

    Raises:
      UserError: the file cannot be used, or ends before the part begins.
    """
    try:
        with OpenSound(path) as opened:
            rate = opened.rate
            first = round(start * rate)
            last = opened.frames if math.isinf(end) else min(round(end * rate), opened.frames)
            if last <= first:
                raise BadAudio(f"ends before {start:g} s")
            return resample(opened.read(first, last - first), rate, sample_rate)
    except BadAudio as error:
        raise UserError(f"{path}: {error}") from error


def of_samples(samples, rate, sample_rate: int) -> Sound:
    """An array of samples as a Sound.

    Args:
      samples: [n] or [n, channels], which are averaged; int16, int32, int8 and uint8 are scaled to
        -1 to 1, floats are there already.
      rate: Hz of the array.
      sample_rate: Hz of the result.

    Raises:
      UserError: no rate or an impossible one, nothing in it, not finite, or of another shape, type
        or scale.
    """
    if rate is None:
        raise UserError("samples without a rate: give sample_rate=, in Hz, of this array")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number):
        raise UserError(f"sample_rate={rate!r}: a number, in Hz")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or int(rate) != rate:
        raise UserError(f"sample_rate={rate}: a whole number from 1 kHz to 1 MHz, in Hz")
    audio = _mono(np.asarray(samples))
    try:
        audio = resample(audio, int(rate), sample_rate)
    except BadAudio as error:
        raise UserError(f"the samples: {error}") from error
    return Sound(len(audio), [audio])


def _mono(samples) -> np.ndarray:
    if samples.ndim not in (1, 2):
        raise UserError(f"samples of shape {samples.shape}: give [n] or [n, channels]")
    if not samples.size:
        raise UserError("no samples: the array is empty")
    if samples.ndim == 2 and samples.shape[1] > _MOST_CHANNELS:
        n, channels = samples.shape
        raise UserError(f"{channels} channels of {n} samples: give [n, channels], transposed")
    if samples.dtype == np.uint8:
        audio = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype in (np.int8, np.int16, np.int32):
        audio = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    elif np.issubdtype(samples.dtype, np.floating):
        audio = samples.astype(np.float32)
        if not np.isfinite(audio).all():
            raise UserError("the samples contain NaN or infinity")
        if np.abs(audio).max() > _LOUDEST:
            raise UserError(
                f"samples of up to {np.abs(audio).max():.3g}, where full scale is 1: divide by it, "
                f"or give integers"
            )
    else:
        raise UserError(
            f"samples of type {samples.dtype}: give floats, int16, int32, int8 or uint8"
        )
    return audio.mean(1) if audio.ndim == 2 else audio


def _resampled(blocks, rate, sample_rate):
    """The blocks at another rate, as if resampled at once."""
    if rate == sample_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    made = 0
    for block in blocks:
        for i in range(0, len(block), _BLOCK):
            part = stream.resample_chunk(block[i : i + _BLOCK])
            made += len(part)
            yield part
    end = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    # soxr makes nothing of a file shorter than half an output sample.
    yield end if made + len(end) else np.zeros(1, np.float32)
