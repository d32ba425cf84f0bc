"""An exported file beside the model: the same clips through both, and how long they take."""

import functools
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from conformer_jax.data import synthetic
from conformer_jax.errors import UserError
from conformer_jax.exporting.portable import Portable

LARGEST = 1e-4  # difference that may be
_LONG_S, _LONGER_S = 10.0, 12.0
_REPEATS = 5


class Case(NamedTuple):
    """name, in words; audio [B, N]; num_samples [B]."""

    name: str
    audio: np.ndarray
    num_samples: np.ndarray


class Result(NamedTuple):
    """differences: the largest of each case; seconds a clip of `clip_s`, of the file and of JAX."""

    differences: dict[str, float]
    clip_s: float
    seconds: float
    jax_seconds: float

    @property
    def largest(self) -> float:
        """Of all cases; not finite where the file's answer is not."""
        return float(np.max(list(self.differences.values())))


def sound(sample_rate: int) -> np.ndarray:
    """float32 [n] of 10 s: two scenes of the synthetic corpus, which come with the package."""
    options = {"max_classes": 3, "snr_db": (0.0, 20.0), "sample_rate": sample_rate}
    half = round(_LONG_S / 2 * sample_rate)
    parts = [
        synthetic.render_clip(synthetic.CORPUS_SEED, "eval", i, num_samples=half, **options)[0]
        for i in range(2)
    ]
    return np.concatenate(parts).astype(np.float32)


def cases(model: Portable, audio, shape=None) -> list[Case]:
    """Clips of five lengths.

    Args:
      model: whose rate and tokens they are for.
      audio: float32 [n], 10 s or more.
      shape: (B, N) of a file that takes no other: longer clips are cut there, shorter padded.
    """
    rate, spec = model.sample_rate, model.classifier.encoder_spec
    token = spec.stride * model.classifier.features.hop_length
    lengths = {
        "1 sample": 1,
        f"{token // 2} samples, shorter than a token": token // 2,
        "2 s": 2 * rate,
        "10 s": round(_LONG_S * rate),
    }
    found = [_case(name, audio, [length], shape) for name, length in lengths.items()]
    longer = shape or (3, round(_LONGER_S * rate))
    together = [round(_LONG_S * rate), 3 * rate, 1][: longer[0]]
    return [*found, _case("10 s, padded, in a batch", audio, together, longer)]


def _case(name, audio, lengths, shape):
    rows, size = shape or (1, lengths[0])
    batch, counts = np.zeros((rows, size), np.float32), np.zeros(rows, np.int32)
    for i, length in enumerate(lengths):
        kept = min(length, size)
        batch[i, :kept] = audio[:kept]
        batch[i, kept:] = 0.5  # what lies past the end must not be heard
        counts[i] = kept
        if kept < length:
            name = f"{name} (its first {size} samples)"
    return Case(name, batch, counts)


def run(model: Portable, exported, clips: list[Case]) -> Result:
    """Both on every case.

    Args:
      model: the model.
      exported: (audio, num_samples) -> dict of arrays, from `read` of a format.
      clips: from `cases`.

    Raises:
      UserError: the file's outputs are not those of the model.
    """
    in_jax, differences = _Reference(model), {}
    for case in clips:
        found = exported(case.audio, case.num_samples)
        wanted = in_jax(case)
        shapes = {name: value.shape for name, value in found.items()}
        if shapes != {name: value.shape for name, value in wanted.items()}:
            raise UserError(f"the exported file gives {shapes}: not what the model gives")
        real = case.num_samples > 0
        apart = [np.abs(found[name] - wanted[name])[real].max() for name in wanted]
        differences[case.name] = float(np.max(apart))
    long = clips[3]
    one = Case(long.name, long.audio[:1], long.num_samples[:1])
    seconds = _median(lambda: exported(long.audio, long.num_samples))
    return Result(
        differences,
        float(long.num_samples[0]) / model.sample_rate,
        seconds / len(long.num_samples),
        _median(lambda: in_jax(one)),
    )


class _Reference:
    """The model in JAX on one clip at a time, without its padding."""

    def __init__(self, model):
        self._rate = model.sample_rate
        self._run = jax.jit(functools.partial(Portable.__call__, model))

    def __call__(self, case):
        rows = [self._one(row[:n]) for row, n in zip(case.audio, case.num_samples, strict=True)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _one(self, audio):
        padded = np.zeros((1, max(len(audio), self._rate // 2)), np.float32)
        padded[0, : len(audio)] = audio
        found = self._run(padded, np.int32([len(audio)]))
        return {name: np.asarray(value) for name, value in found.items()}


def _median(work):
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
