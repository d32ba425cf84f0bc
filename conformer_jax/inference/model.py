"""A trained model: sound in, tags and embeddings out.

Sound is heard in windows of the length that the model was trained on. Shorter sound is padded to
one of a few lengths, each compiled once; padding and neighbours in a batch change nothing.
"""

import functools
import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conformer_jax import fields
from conformer_jax.data.sound_file import BadAudio
from conformer_jax.errors import UserError
from conformer_jax.inference import ahead, trained, windows
from conformer_jax.inference.ahead import End
from conformer_jax.models.features import log_mel

_SHORTEST_S = 0.5  # of what is compiled; longer ones are twice that, four times, up to the window
_LONGEST_S = 3600.0  # window


class Tags(NamedTuple):
    """What is heard when. label_names [C]; probabilities [W, C]; start, end [W] in s."""

    label_names: tuple[str, ...]
    probabilities: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Embedding(NamedTuple):
    """clip [E], the mean of windows [W, E], weighted by length; start, end [W] in s; frames [T, D],
    the encoder's last block, and the middle of each, frame_times [T], in s."""

    clip: np.ndarray
    windows: np.ndarray
    start: np.ndarray
    end: np.ndarray
    frames: np.ndarray
    frame_times: np.ndarray


class Features(NamedTuple):
    """log_mel [T, F], normalised; times [T], the middle of each frame, in s."""

    log_mel: np.ndarray
    times: np.ndarray


class Part(NamedTuple):
    """One window. start, end: in s; values: `logits` [C], `embedding` [E], `frames` [T, D]."""

    start: float
    end: float
    values: dict[str, np.ndarray]


class Model:
    """From `conformer_jax.load`.

    Attributes:
      meta: what the model's file says of it (training/model_file.py).
      name: where it came from.
      label_names: C names in the order of the head, () without one.
      sample_rate: Hz that sound is resampled to.
      window_s: s of the windows that it was trained on.
      multi_label: whether several labels may hold at once (sigmoid), or one does (softmax).
      thresholds: float32 [C], chosen on validation clips, or None.
      digest: of all that it is, 16 characters.
      width: E of its embeddings.
      feature_spec: of its log-mel.
      batch: windows that it hears at once.
    """

    def __init__(self, found: trained.Trained, name: str):
        self.meta, self.name = found.meta, name
        self.label_names = tuple(found.meta["label_names"])
        self._classifier = trained.make_classifier(found.meta)
        self.feature_spec = self._features = self._classifier.features
        self.sample_rate = self._features.sample_rate
        config = fields.with_defaults(found.meta["config"])
        self.window_s = float(config["data"]["clip_s"])
        self.multi_label = config["classifier"]["multi_label"]
        thresholds = found.meta["thresholds"]
        self.thresholds = None if thresholds is None else np.asarray(thresholds, np.float32)
        self._neighbours = trained.neighbours(found)
        self._params = jax.device_put(trained.tree(found.tensors))
        self.digest = _digest(found)
        self.width = self._width()
        self.batch = _batch()

    def __repr__(self):
        labels = f"{len(self.label_names)} labels" if self.label_names else "no labels"
        return f"<conformer_jax model {self.name}: {labels}, windows of {self.window_s:g} s>"

    def tag(self, sound, sample_rate=None, *, window_s=None, hop_s=None) -> Tags:
        """Probability of every label in every window.

        Args:
          sound: a file, or samples [n] or [n, channels] of any kind.
          sample_rate: Hz of the samples.
          window_s, hop_s: s; by default as long as in training, and side by side.

        Raises:
          UserError: the model has no head, or the sound cannot be used.
        """
        self.check_head()
        parts = list(self.parts(sound, sample_rate, "logits", window_s=window_s, hop_s=hop_s))
        logits = np.stack([part.values["logits"] for part in parts])
        return Tags(self.label_names, self.probabilities(logits), *_times(parts))

    def embed(self, sound, sample_rate=None, *, window_s=None, hop_s=None) -> Embedding:
        """Vectors of the clip, of its windows and of its frames; arguments and errors as `tag`.

        Where windows overlap, a frame is taken from the first that has it.
        """
        parts = list(self.parts(sound, sample_rate, "frames", window_s=window_s, hop_s=hop_s))
        start, end = _times(parts)
        vectors = np.stack([part.values["embedding"] for part in parts])
        frames, times = [], []
        spacing = self._classifier.encoder_spec.stride * self._features.hop_s
        middle = (spacing - self._features.hop_s) / 2
        for part in parts:
            here = part.start + middle + spacing * np.arange(len(part.values["frames"]))
            new = here >= times[-1][-1] + spacing / 2 if times else np.ones(len(here), bool)
            if new.any():
                frames.append(part.values["frames"][new])
                times.append(here[new])
        clip = np.average(vectors, axis=0, weights=end - start).astype(np.float32)
        return Embedding(clip, vectors, start, end, np.concatenate(frames), np.concatenate(times))

    def features(self, sound, sample_rate=None) -> Features:
        """The log-mel of the whole sound, in memory; arguments and errors as `tag`."""
        opened = self._open(sound, sample_rate)
        audio = np.concatenate(list(_readable(opened.blocks, sound)))
        size = _bucket(len(audio), 1 << 62, self.sample_rate)
        found, valid = _log_mel(_padded([audio], size, 1), np.int32([len(audio)]), self._features)
        found = np.asarray(found[0])[np.asarray(valid[0])]
        hop = self._features.hop_s
        offset = 0.0 if self._features.center else self._features.fft_size / 2 / self.sample_rate
        return Features(found, offset + hop * np.arange(len(found)))

    def parts(
        self, sound, sample_rate, want: str, *, window_s=None, hop_s=None, skip=0
    ) -> Iterator[Part]:
        """The windows one after the other, in bounded memory.

        Args:
          sound, sample_rate, window_s, hop_s: as `tag`.
          want: 'logits', 'embedding', or 'frames', with the embedding.
          skip: windows left out at the beginning: known already.

        Raises:
          UserError: as `tag`.
        """
        size, hop = self.window_samples(window_s, hop_s)
        one = functools.partial(self._cut, sound, sample_rate, size, hop, skip)
        for _, part in self._heard([one], want, size):
            if not isinstance(part, End):
                yield part
            elif part.error:
                raise part.error

    def parts_of_files(
        self, files: Iterable, want: str, *, window_s=None, hop_s=None
    ) -> Iterator[tuple[int, Part | End]]:
        """The windows of many files, faster than one by one: read ahead, in batches over files.

        Args:
          files: pairs of a path and of how many windows are left out at its beginning, as `skip`
            of `parts`; a path None is a file without windows. Taken as they are needed.
          want, window_s, hop_s: as `parts`.

        Yields:
          (number, Part) of each file in order, numbered from 0, and (number, End) after each, which
          has the UserError of one that cannot be used.
        """
        size, hop = self.window_samples(window_s, hop_s)
        yield from self._heard(
            (functools.partial(self._cut, path, None, size, hop, skip) for path, skip in files),
            want,
            size,
        )

    def _cut(self, sound, rate, size, hop, skip):
        """Windows of a sound; runs where they are read."""
        if sound is None:
            return
        opened = self._open(sound, rate)
        cut = windows.cut(opened._replace(blocks=_readable(opened.blocks, sound)), size, hop)
        yield from itertools.islice(cut, skip, None)

    def _heard(self, sounds, want, size):
        window_bytes = 4 * size
        return ahead.hear(
            ahead.read(sounds, window_bytes=window_bytes),
            functools.partial(self._run, want=want),
            lambda window: _bucket(len(window.audio), size, self.sample_rate),
            batch=self.batch,
            window_bytes=window_bytes,
        )

    def probabilities(self, logits) -> np.ndarray:
        """Logits [W, C] -> probabilities [W, C] float32."""
        if self.multi_label:
            return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)

    def logits_of(self, embeddings) -> np.ndarray | None:
        """Logits [W, C] of embeddings [W, E] of windows; None of a head that hears tokens."""
        self.check_head()
        if self._neighbours is not None:
            return self._neighbours(embeddings)
        if self._classifier.pooling == "linear_softmax":
            return None
        head = self._params["head"]
        return np.asarray(embeddings) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])

    def check_head(self) -> None:
        """Raises UserError unless the model knows labels."""
        if not self.label_names:
            raise UserError(
                f"{self.name} has no labels to tag with: it is an encoder; probe or fine-tune it "
                f"first (--config=configs/finetune.py:probe), or embed with it"
            )

    def window_samples(self, window_s=None, hop_s=None) -> tuple[int, int]:
        """Samples of a window and from one to the next; a UserError where they make no sense."""
        window_s = self.window_s if window_s is None else window_s
        hop_s = window_s if hop_s is None else hop_s
        if not 0 < window_s <= _LONGEST_S:
            raise UserError(f"a window of {window_s} s: above 0, at most {_LONGEST_S:.0f}")
        if not 0 < hop_s <= window_s:
            raise UserError(f"a hop of {hop_s} s: above 0, at most the window of {window_s:g} s")
        return tuple(max(1, round(s * self.sample_rate)) for s in (window_s, hop_s))

    def _width(self):
        audio, count = np.zeros((1, self.sample_rate), np.float32), np.ones(1, np.int32)
        options = {"model": self._classifier, "head": False, "frames": False}
        traced = functools.partial(_outputs, **options)
        return jax.eval_shape(traced, self._params, audio, count)["embedding"].shape[1]

    def _open(self, sound, rate):
        if isinstance(sound, str | os.PathLike):
            if rate is not None:
                raise UserError("sample_rate= is for arrays: a file says its own")
            try:
                return windows.open_file(sound, self.sample_rate)
            except BadAudio as error:
                raise UserError(f"{sound}: {error}") from error
        return windows.of_samples(sound, rate, self.sample_rate)

    def _run(self, batch, size, want):
        """Parts of at most `batch` windows, each padded to `size` samples."""
        rows = 1 if len(batch) == 1 else self.batch
        counts = np.ones(rows, np.int32)
        counts[: len(batch)] = [len(w.audio) for w in batch]
        head = want == "logits" and self._neighbours is None
        found = _outputs(
            self._params,
            _padded([w.audio for w in batch], size, rows),
            counts,
            model=self._classifier,
            head=head,
            frames=want == "frames",
        )
        found = {name: np.asarray(value)[: len(batch)] for name, value in found.items()}
        if want == "logits" and not head:
            found["logits"] = self._neighbours(found["embedding"])
        if want == "logits":  # what is kept of ten hours is small
            del found["embedding"]
        return [self._part(window, found, i) for i, window in enumerate(batch)]

    def _part(self, window, found, i):
        # Copied: a view would keep all of the batch.
        values = {name: value[i].copy() for name, value in found.items()}
        if "frames" in values:
            values["frames"] = values["frames"][values.pop("valid")]
        first = window.start / self.sample_rate
        return Part(first, first + len(window.audio) / self.sample_rate, values)


def load(origin) -> Model:
    """As `conformer_jax.load`."""
    return Model(trained.find(origin), str(origin))


@functools.partial(jax.jit, static_argnames=("model", "head", "frames"))
def _outputs(params, audio, num_samples, *, model, head, frames):
    found = model.apply({"params": params}, audio, num_samples, head=head, method="outputs")
    wanted = {"embedding", "logits"} | ({"frames", "valid"} if frames else set())
    return {name: value for name, value in found.items() if name in wanted}


@functools.partial(jax.jit, static_argnames="spec")
def _log_mel(audio, num_samples, spec):
    return log_mel(jnp.asarray(audio), num_samples, spec)


def _batch() -> int:
    """What is fastest (docs/performance.md): one core likes what stays in its cache. On
    accelerators a guess."""
    if jax.default_backend() != "cpu":
        return 64
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if cores == 1 else 16


def _bucket(length, window, sample_rate) -> int:
    """The length that is compiled for so many samples."""
    shortest = round(_SHORTEST_S * sample_rate)
    doubled = shortest << max(0, math.ceil(math.log2(max(length, 1) / shortest)))
    return min(window, doubled) if length <= window else doubled


def _padded(clips, size, rows) -> np.ndarray:
    audio = np.zeros((rows, size), np.float32)
    for row, clip in zip(audio, clips, strict=False):
        row[: len(clip)] = clip
    return audio


def _readable(blocks, sound):
    """The blocks; a UserError that names the file where one cannot be read."""
    try:
        yield from blocks
    except BadAudio as error:
        raise UserError(f"{sound}: {error}") from error


def _times(parts):
    return tuple(np.array([getattr(p, name) for p in parts]) for name in ("start", "end"))


def _digest(found) -> str:
    """What the model is, in 16 characters."""
    whole = hashlib.sha256(repr(sorted(found.meta.items())).encode())
    for name in sorted(found.tensors):
        whole.update(name.encode())
        whole.update(np.ascontiguousarray(found.tensors[name]))
    return whole.hexdigest()[:16]
