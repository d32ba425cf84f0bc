"""What is in one recording: loudness, silence, clipping, and a trace to find its like by."""

import functools
import hashlib
from typing import NamedTuple

import librosa
import numpy as np

from conformer_jax.data.audio import resample

SILENT_DB = -60.0  # of full scale, root mean square of a frame: below it there is nothing to hear
_FRAME_S = 0.02
_RATE, _BANDS, _WINDOW, _HOP = 16000, 48, 512, 256  # of a trace
_TRACE_S = 5.0  # of a longer clip the middle
_SPECTRUM, _SLOWEST, _FASTEST = 640, 1, 48  # points, and the modulations that are compared
# On ESC-50 the two pairs known to be near-duplicates (cat, clock_alarm) have 0.85 and 0.81, and of
# 51,000 other pairs of its eight most alike classes none has more than 0.73.
ALIKE = 0.78
_WORTH_A_LOOK = 0.92
_LEAST_S = 1.0  # of shorter clips, many of them single knocks, too many would be alike by chance


class Heard(NamedTuple):
    """loudness_db, peak_db: of full scale. silent: share of frames below SILENT_DB. clipped: share
    of samples that lie at full scale in runs of three or more. audio: hash of the samples.
    trace: see there; None where it is not wanted."""

    seconds: float
    rate: int
    loudness_db: float
    peak_db: float
    silent: float
    clipped: float
    audio: int
    trace: np.ndarray | None


def hear(audio: np.ndarray, rate: int, *, traced: bool = True) -> Heard:
    """Of float32 [n] in [-1, 1], at its own rate."""
    size = max(1, min(len(audio), round(_FRAME_S * rate)))
    frames = audio[: len(audio) // size * size].reshape(-1, size)
    levels = _decibels(np.sqrt(np.square(frames, dtype=np.float64).mean(1)))
    digest = hashlib.blake2b(str(rate).encode() + b"\n", digest_size=8)
    digest.update(np.rint(audio * np.float32(32768)).astype("<i4").tobytes())
    return Heard(
        len(audio) / rate,
        rate,
        float(_decibels(np.sqrt(np.square(audio, dtype=np.float64).mean()))),
        float(_decibels(np.abs(audio).max())),
        float((levels < SILENT_DB).mean()),
        _clipped(audio),
        int.from_bytes(digest.digest(), "big"),
        trace(audio, rate) if traced else None,
    )


def trace(audio, rate) -> np.ndarray:
    """The log-mel spectrogram, without the mean of each frame and of each band: float16 [T, 48].

    So level, equalisation and format change it little, and what is left of steady noise is alike
    only in copies of the very same noise.
    """
    count = min(len(audio), round(_TRACE_S * rate))
    start = (len(audio) - count) // 2
    audio = resample(audio[start : start + count], rate, _RATE)
    padded = np.pad(audio, (0, max(0, _WINDOW - len(audio))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32))))
    mel = np.log(power @ _filters() + 1e-6)
    mel = np.maximum(mel, mel.max() - 12)
    mel -= mel.mean(1, keepdims=True)
    return (mel - mel.mean(0)).astype(np.float16)


def alike(traces: list[np.ndarray], block: int = 1024) -> list[tuple[int, int, float]]:
    """Pairs i < j of traces whose highest cross-correlation is ALIKE or more, and that.

    Traces of less than a second are like no other. All pairs are compared by what no shift in time
    changes, how strongly each band varies how fast; only those that agree in it are shifted along
    each other.
    """
    if not traces:
        return []
    shapes = np.stack([_modulation(one) for one in traces])
    found = []
    for start in range(0, len(shapes), block):
        cosine = shapes[start : start + block] @ shapes[start:].T
        rows, columns = np.nonzero(cosine >= _WORTH_A_LOOK)
        for i, j in zip(rows + start, columns + start, strict=True):
            if i < j and (best := _correlation(traces[i], traces[j])) >= ALIKE:
                found.append((int(i), int(j), best))
    return found


def _modulation(one):
    """float32, of unit length; zeros where nothing varies, or too little is heard."""
    if len(one) < _LEAST_S * _RATE / _HOP - _WINDOW / _HOP:
        one = np.zeros_like(one)
    spectrum = np.abs(np.fft.rfft(one.astype(np.float32), _SPECTRUM, axis=0))
    shape = spectrum[_SLOWEST:_FASTEST].ravel().astype(np.float32)
    length = np.linalg.norm(shape)
    return shape / length if length > 1e-3 else np.zeros_like(shape)


def _correlation(a, b) -> float:
    a, b = a.astype(np.float32), b.astype(np.float32)
    spectra = [np.fft.rfft(one, _SPECTRUM, axis=0) for one in (a, b)]
    best = np.fft.irfft((spectra[0] * spectra[1].conj()).sum(1), _SPECTRUM).max()
    return float(best / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


@functools.cache
def _filters():
    return librosa.filters.mel(sr=_RATE, n_fft=_WINDOW, n_mels=_BANDS).T.astype(np.float32)


def _decibels(amplitude):
    return 20 * np.log10(np.maximum(amplitude, 1e-6))


def _clipped(audio):
    full = np.abs(audio) >= 1 - 2**-14
    if not full.any():
        return 0.0
    runs = full[:-2] & full[1:-1] & full[2:]
    marked = np.zeros(len(full), bool)
    for shift in range(3):
        marked[shift : len(full) - 2 + shift] |= runs
    return float(marked.mean())
