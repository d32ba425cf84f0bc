"""Augmentation of labelled batches, on the device and keyed."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """Fields of config.augment, with lengths in frames or samples; 0 switches a part off."""

    gain_db: float
    shift_samples: int
    mixup_alpha: float
    mixup_share: float
    time_masks: int
    time_mask_frames: int
    freq_masks: int
    freq_mask_bins: int


def make_spec(a, *, sample_rate: int, hop_s: float) -> AugmentSpec:
    """From config.augment; the rate (Hz) of the audio, and the time (s) between frames."""
    return AugmentSpec(
        gain_db=a.gain_db,
        shift_samples=round(a.shift_s * sample_rate),
        mixup_alpha=a.mixup_alpha,
        mixup_share=a.mixup_share,
        time_masks=a.time_masks,
        time_mask_frames=round(a.time_mask_s / hop_s),
        freq_masks=a.freq_masks,
        freq_mask_bins=a.freq_mask_bins,
    )


@jax.named_scope("augment")
def shift(keys, batch, spec: AugmentSpec):
    """Turns each clip in time, as a circle of its own samples; padding stays at the end.

    What a label says of a clip holds wherever in it the sound begins.

    Args:
      keys: random keys [B], one a clip.
      batch: audio [B, N], num_samples [B].

    Returns:
      the batch with audio turned by up to `spec.shift_samples` either way.
    """
    if not spec.shift_samples:
        return batch
    most = spec.shift_samples
    by = jax.vmap(lambda key: jax.random.randint(key, (), -most, most + 1))(keys)[:, None]
    length = batch["num_samples"][:, None]
    place = jnp.arange(batch["audio"].shape[1])
    source = jnp.where(place < length, (place - by) % jnp.maximum(length, 1), place)
    return {**batch, "audio": jnp.take_along_axis(batch["audio"], source, axis=1)}


@jax.named_scope("augment")
def gain(keys, batch, spec: AugmentSpec):
    """Makes each clip louder or softer by up to `spec.gain_db` decibels, uniformly drawn.

    Args:
      keys: random keys [B], one a clip.
      batch: audio [B, N] float or int16.

    Returns:
      the batch with audio float32; nothing is clipped at full scale.
    """
    if not spec.gain_db:
        return batch
    draw = lambda key: jax.random.uniform(key, (), minval=-spec.gain_db, maxval=spec.gain_db)
    factor = 10.0 ** (jax.vmap(draw)(keys)[:, None] / 20.0)
    return {**batch, "audio": _as_float(batch["audio"]) * factor}


@jax.named_scope("augment")
def mixup(key, batch, spec: AugmentSpec):
    """Mixes clips with another one of the batch (Zhang et al. 2018), in the power domain.

    `spec.mixup_share` is the probability that a clip is mixed (AST, Gong et al. 2021: 0.5).

    Amplitudes are weighed by the roots of lam and 1 - lam, so the powers of two unrelated sounds
    add up in the proportion lam : 1 - lam in which the labels are mixed.

    Args:
      key: random key.
      batch: audio [B, N] float or int16, num_samples [B], labels [B, C] float, valid [B].

    Returns:
      the batch with audio (float32 in [-1, 1]), num_samples and labels mixed. A clip is never
      mixed with one that does not count.
    """
    size = batch["audio"].shape[0]
    if not spec.mixup_alpha or size < 2:
        return batch
    key_weight, key_order = jax.random.split(key)
    # [B], from here to the end.
    lam = jax.random.beta(key_weight, spec.mixup_alpha, spec.mixup_alpha, (size,))
    lam = jnp.maximum(lam, 1.0 - lam)  # the clip itself stays the larger part
    # A random turn of the batch: no clip meets itself, which would only make it louder.
    other = (jnp.arange(size) + jax.random.randint(key_order, (), 1, size)) % size
    if spec.mixup_share < 1:
        stays = jax.random.uniform(jax.random.fold_in(key, 2), (size,)) >= spec.mixup_share
        lam = jnp.where(stays, 1.0, lam)
    lam = jnp.where(batch["valid"][other] > 0, lam, 1.0)
    audio, length, labels = _as_float(batch["audio"]), batch["num_samples"], batch["labels"]
    own, others = lam[:, None], 1.0 - lam[:, None]  # shares of the power
    return {
        **batch,
        "audio": jnp.sqrt(own) * audio + jnp.sqrt(others) * audio[other],
        "num_samples": jnp.maximum(length, jnp.where(lam < 1, length[other], 0)),
        "labels": own * labels + others * labels[other],
    }


@jax.named_scope("augment")
def spec_augment(key, features, valid_frames, spec: AugmentSpec):
    """Hides random stretches of time and of frequency (SpecAugment, Park et al. 2019).

    Hidden values become 0, the mean of normalised features.

    Args:
      key: random key.
      features: [B, T, F]; valid_frames: [B, T] bool, valid frames first.

    Returns:
      [B, T, F].
    """
    batch, num_frames, num_mels = features.shape
    length = valid_frames.sum(-1)
    bands = jnp.full((batch,), num_mels)
    for i in range(spec.time_masks):
        hide = _span(jax.random.fold_in(key, i), num_frames, length, spec.time_mask_frames)
        features = jnp.where(hide[:, :, None], 0.0, features)
    for i in range(spec.freq_masks):
        hide = _span(jax.random.fold_in(key, 1000 + i), num_mels, bands, spec.freq_mask_bins)
        features = jnp.where(hide[:, None, :], 0.0, features)
    return features


def _as_float(audio):
    """Full scale is 1, as float or 32768, as int16."""
    return audio.astype(jnp.float32) / 32768.0 if audio.dtype == jnp.int16 else audio


def _span(key, size, length, longest):
    """[B, size] bool: one span of 0 to `longest`, at most half of `length`, inside `length`."""
    key_width, key_start = jax.random.split(key)
    widest = jnp.minimum(longest, length // 2)
    width = jax.random.randint(key_width, length.shape, 0, widest + 1)
    start = jax.random.randint(key_start, length.shape, 0, jnp.maximum(length - width, 0) + 1)
    place = jnp.arange(size)
    return (place >= start[:, None]) & (place < (start + width)[:, None])
