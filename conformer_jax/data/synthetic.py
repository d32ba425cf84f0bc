"""A corpus of synthetic sound events, made by numpy alone: nothing to download, no files.

A clip holds one or more of the classes in `CLASS_NAMES` (sound_events.py), each drawn anew in
pitch, tempo, timbre, loudness and onset times, in a random room and over coloured noise. A clip
takes about 6 ms.
"""

import dataclasses
import threading

import numpy as np

from conformer_jax.data.content import of_name
from conformer_jax.data.sound_events import (
    CLASSES,
    Scene,
    band_gain,
    coloured_noise,
    gain_curve,
    random_drift,
    unit_rms,
)
from conformer_jax.data.source import Source
from conformer_jax.errors import UserError

CORPUS_SEED = 2110_07313  # fixed: runs with different config.seed share one corpus
CACHED_CLIPS = 2048  # kept by a source, int16: 160 kB a clip of 5 s at 16 kHz, 330 MB in all
SPLITS = ("train", "eval")
CLASS_NAMES: tuple[str, ...] = tuple(function.__name__ for function in CLASSES)


def _generator(seed: int, split: str, stream: int, index: int) -> np.random.Generator:
    """Philox keyed by its arguments: every (split, stream, index) is a random stream of its own."""
    words = (seed, SPLITS.index(split), stream, index)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def clip_labels(seed: int, split: str, index: int, *, max_classes: int) -> tuple[int, ...]:
    """Classes of a clip, sorted, without rendering it.

    The first goes through all classes once in every block of len(CLASS_NAMES) clips, in an order
    of the block's own; 0 to max_classes - 1 others, equally likely, join it.
    """
    num = len(CLASS_NAMES)
    if not 1 <= max_classes <= num:
        raise UserError(f"config.synthetic.max_classes must be 1 to {num}, got {max_classes}")
    block, place = divmod(index, num)
    first = int(_generator(seed, split, 0, block).permutation(num)[place])
    rng = _generator(seed, split, 1, index)
    others = [label for label in rng.permutation(num).tolist() if label != first]
    return tuple(sorted([first, *others[: rng.integers(max_classes)]]))


def _active_level(scene: Scene, sound: np.ndarray) -> float:
    """Root mean square over the 50 ms frames within 20 dB of the loudest."""
    frame = min(scene.size, scene.rate // 20)
    whole = sound[: scene.size // frame * frame].reshape(-1, frame)
    power = np.einsum("tn,tn->t", whole, whole) / frame
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean())) + 1e-9


def _room(scene: Scene, sound: np.ndarray) -> np.ndarray:
    """Room and microphone [N]: an echo, a reverberant tail, a tilt and roll-offs of the spectrum.

    The filter is circular: what rings past the end of the clip returns, faint, at its start.
    """
    rng, num = scene.rng, min(scene.size, scene.rate * 2 // 5)
    decay = np.exp(-np.arange(num, dtype=np.float32) / (scene.log(0.01, 0.06) * scene.rate))
    response = rng.standard_normal(num, np.float32) * decay
    response *= np.float32(scene.log(0.03, 0.5) / np.sqrt(np.sum(response**2)))
    response[0] = 1
    response[int(scene.log(0.0005, 0.02) * scene.rate) % num] += rng.uniform(-0.5, 0.5)
    band = band_gain(scene, scene.log(20, 120), scene.log(4000, 12000), rng.uniform(-0.2, 0.2))
    return np.fft.irfft(np.fft.rfft(sound) * np.fft.rfft(response, scene.size) * band, scene.size)


def render_clip(
    seed: int,
    split: str,
    index: int,
    *,
    max_classes: int,
    snr_db: tuple[float, float],
    sample_rate: int,
    num_samples: int,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Renders clip `index` of a split: a pure function of its arguments.

    The classes' levels lie within 10 dB of one another; the background's lies below their sum by
    an SNR drawn from `snr_db` (dB), levels being measured where the events sound. The peak is
    drawn from -13 to -1 dB of full scale.

    Returns:
        Audio, float32 [N], multiples of 2 ** -15 in [-1, 1], and the sorted labels. Hosts draw
        the same random numbers; where their CPUs round sines differently, a sample may differ by
        2 ** -15.

    Raises:
        UserError: `max_classes` is not from 1 to len(CLASS_NAMES).
    """
    labels = clip_labels(seed, split, index, max_classes=max_classes)
    scene = Scene(_generator(seed, split, 2, index), sample_rate, num_samples)
    events = np.zeros(num_samples, np.float32)
    for label in labels:
        sound = CLASSES[label](scene)
        events += sound * np.float32(scene.log(10**-0.5, 1) / _active_level(scene, sound))
    events = _room(scene, events)
    background = coloured_noise(scene, 20, sample_rate, scene.rng.uniform(0.3, 0.8))
    background *= gain_curve(scene, np.exp(scene.rng.uniform(0, 0.5) * random_drift(scene, 0.7)))
    snr = 10 ** (scene.rng.uniform(*snr_db) / 20)
    mixed = events / np.float32(_active_level(scene, events)) + unit_rms(background) / np.float32(
        snr
    )
    peak = 10 ** (scene.rng.uniform(-13, -1) / 20)
    mixed *= np.float32(peak * 32768 / np.abs(mixed).max())
    return np.rint(mixed) / np.float32(32768), labels


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
    """The fields of config.synthetic."""

    num_train: int
    num_eval: int
    max_classes: int
    snr_db: tuple[float, float]


class SyntheticSource(Source):
    """One split of the corpus, by position.

    The corpus is the same for every config.seed (`CORPUS_SEED` fixes it), so that runs with
    several seeds share their data. 'train' and 'eval' are separate random streams. Where not
    `labelled` no label is shown: `label_names` and `labels(i)` are empty.

    The first `CACHED_CLIPS` clips read stay in memory as int16 (330 MB for clips of 5 s at
    16 kHz); the others are rendered at every read. Threads may share a source.

    Raises:
        ValueError: the split is not 'train' or 'eval'.
    """

    def __init__(
        self,
        spec: SyntheticSpec,
        split: str,
        *,
        sample_rate: int,
        num_samples: int,
        labelled: bool,
    ):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        self.sample_rate = sample_rate  # Hz
        self.label_names = CLASS_NAMES if labelled else ()
        self._split = split
        self._length = spec.num_train if split == "train" else spec.num_eval
        self._max_classes = spec.max_classes
        self._snr_db = tuple(spec.snr_db)
        self._num_samples = num_samples
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def example_id(self, i: int) -> str:
        return f"synthetic/{self._split}/{self._check(i):06d}"

    def content(self, i: int) -> int:
        return of_name(self.example_id(i))

    def whole(self, i: int) -> int:
        return self.content(i)

    def labels(self, i: int) -> tuple[int, ...]:
        """Sorted classes of clip `i`, without rendering it; () for pre-training."""
        labels = clip_labels(
            CORPUS_SEED, self._split, self._check(i), max_classes=self._max_classes
        )
        return labels if self.label_names else ()

    def read(self, i: int, num_samples: int, position: float | None) -> np.ndarray:
        """Audio of clip `i`: float32 [n], n = min(num_samples, its length).

        A longer clip is cropped from floor(position x (length - num_samples + 1)), position in
        [0, 1), or from the middle where it is None.
        """
        audio = self._clip(self._check(i))
        spare = max(len(audio) - num_samples, 0)
        start = spare // 2 if position is None else int(position * (spare + 1))
        return audio[start : start + num_samples].astype(np.float32) / np.float32(32768)

    def _check(self, i: int) -> int:
        if not 0 <= i < self._length:
            raise IndexError(f"clip {i} of synthetic/{self._split}, which has {self._length}")
        return i

    def _clip(self, i: int) -> np.ndarray:
        if i in self._cache:
            return self._cache[i]
        audio, _ = render_clip(
            CORPUS_SEED,
            self._split,
            i,
            max_classes=self._max_classes,
            snr_db=self._snr_db,
            sample_rate=self.sample_rate,
            num_samples=self._num_samples,
        )
        clip = (audio * 32768).astype(np.int16)
        with self._lock:
            if len(self._cache) < CACHED_CLIPS:
                self._cache[i] = clip
        return clip
