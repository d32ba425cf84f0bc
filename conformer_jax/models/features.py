"""Log-mel features in JAX, equal to librosa's on the same settings.

    S[t, f] = sum_k mel[f, k] |DFT(window * x[t hop : t hop + fft_size])[k]|^power
    features[t, f] = (log max(S[t, f], log_floor) - mean[f]) / deviation[f]

Padding with zeros changes no valid frame: what lies past the end of a clip counts as silence,
which is also what librosa pads with when `center=True`.
"""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import librosa
import numpy as np

MEL_SCALES = ("slaney", "htk")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """Settings of `log_mel`; the fields are those of `config.features` (conformer_jax/fields.py).

    Raises:
      ValueError: a field out of range, named.
    """

    sample_rate: int = 16000
    window_s: float = 0.025
    hop_s: float = 0.010
    fft_size: int = 512
    num_mels: int = 64
    fmin: float = 20.0
    fmax: float = 8000.0
    mel_scale: str = "slaney"
    power: float = 2.0
    center: bool = True
    log_floor: float = 1e-6
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self):
        problems = {
            "mel_scale": self.mel_scale not in MEL_SCALES,
            "fmax": not self.fmin < self.fmax <= self.sample_rate / 2,
            "fft_size": not 1 < self.window_length <= self.fft_size,
            "hop_s": self.hop_length < 1,
            "log_floor": self.log_floor <= 0,
            "mean": len(self.mean) not in (0, self.num_mels),
            "deviation": len(self.deviation) != len(self.mean),
        }
        for field, wrong in problems.items():
            if wrong:
                raise ValueError(
                    f"config.features.{field} = {getattr(self, field)!r} does not fit the other "
                    f"fields of config.features (see its comment in conformer_jax/fields.py)"
                )

    @property
    def window_length(self) -> int:
        """Window in samples."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop_length(self) -> int:
        """Hop in samples."""
        return round(self.hop_s * self.sample_rate)

    def num_frames(self, num_samples):
        """Frames of a clip of `num_samples` samples (an int or an integer array).

        A clip that is not empty has at least one frame.
        """
        covered = num_samples if self.center else num_samples - self.fft_size
        frames = 1 + covered // self.hop_length
        if isinstance(num_samples, int):
            return max(frames, 1) if num_samples else 0
        if jax.export.is_symbolic_dim(num_samples):  # a length that an export leaves open
            return frames if self.center else jax.core.max_dim(frames, 1)
        return jnp.where(num_samples > 0, jnp.maximum(frames, 1), 0)


@functools.lru_cache(maxsize=8)
def fourier_and_mel(spec: FeatureSpec) -> tuple[np.ndarray, np.ndarray]:
    """Windowed cosines and sines [window, 2 bins], mel filters [bins, F]; float32."""
    window = librosa.filters.get_window("hann", spec.window_length, fftbins=True)
    time, bins = np.arange(spec.window_length)[:, None], np.arange(spec.fft_size // 2 + 1)
    angle = 2 * np.pi * (time * bins % spec.fft_size) / spec.fft_size
    fourier = window[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    mel = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.fft_size,
        n_mels=spec.num_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
        htk=spec.mel_scale == "htk",
    )
    return fourier.astype(np.float32), mel.T.astype(np.float32)


def _frames(audio: jax.Array, length: int, hop: int, count: int) -> jax.Array:
    """Overlapping windows [B, count, length] of [B, N]: hop-long pieces side by side, no gather."""
    pieces = -(-length // hop)
    total = (count + pieces - 1) * hop
    # A negative pad cuts off: where an export leaves the length open its sign cannot be told.
    audio = jax.lax.pad(audio, 0.0, ((0, 0, 0), (0, total - audio.shape[1], 0)))
    chunks = audio.reshape(audio.shape[0], -1, hop)
    windows = [chunks[:, i : i + count] for i in range(pieces)]
    return jnp.concatenate(windows, axis=-1)[..., :length]


@jax.named_scope("features")
def log_mel(
    audio: jax.Array, num_samples: jax.Array, spec: FeatureSpec
) -> tuple[jax.Array, jax.Array]:
    """Log-mel features of a batch of clips.

    Args:
      audio: [B, N] float in [-1, 1], or int16 of full scale 32768.
      num_samples: [B] samples of each clip that are real; the rest is ignored.
      spec: settings; where `spec.mean` is set the features are normalised with it.

    Returns:
      features [B, T, F] float32, 0 where not valid; valid [B, T] bool.
    """
    fourier, mel = fourier_and_mel(spec)
    scale = 1.0 / 32768.0 if audio.dtype == jnp.int16 else 1.0
    real = jnp.arange(audio.shape[1]) < num_samples[:, None]
    audio = jnp.where(real, audio.astype(jnp.float32) * scale, 0.0)
    count = spec.num_frames(audio.shape[1])
    if spec.center:
        audio = jnp.pad(audio, ((0, 0), (spec.fft_size // 2, 0)))
    # The window is centred in the FFT's length; past it there are only zeros.
    start = (spec.fft_size - spec.window_length) // 2
    frames = _frames(audio[:, start:], spec.window_length, spec.hop_length, count)
    # A product and not an FFT, which XLA does not split over devices: it would gather the batch.
    real_part, imaginary = jnp.split(jnp.matmul(frames, fourier, precision="highest"), 2, axis=-1)
    energy = jnp.square(real_part) + jnp.square(imaginary)
    if spec.power != 2:
        energy = energy ** (spec.power / 2)
    energy = jnp.matmul(energy, mel, precision="highest")
    features = jnp.log(jnp.maximum(energy, spec.log_floor))
    if spec.mean:
        features = (features - jnp.array(spec.mean)) / jnp.array(spec.deviation)
    valid = jnp.arange(count) < spec.num_frames(num_samples)[:, None]
    return jnp.where(valid[..., None], features, 0.0), valid


def silence(spec: FeatureSpec) -> jax.Array:
    """[F] what lies at the floor, digital silence and its last bits, as a normalised feature, and a
    little more."""
    low = jnp.full((spec.num_mels,), jnp.log(spec.log_floor))
    if spec.mean:
        low = (low - jnp.array(spec.mean)) / jnp.array(spec.deviation)
    return low + 1e-3
