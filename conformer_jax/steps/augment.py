"""Augmentation of labelled batches, on the device and keyed."""

import dataclasses

import jax
import jax.numpy as jnp

_LEVEL_S = 0.1  # s over which a level is taken
_SILENT = 1e-4  # a level below which there is nothing to be heard: 3 steps of 16 bits
_CANDIDATES = 4  # of a crop


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """Fields of config.augment, with lengths in frames or samples; 0 switches a part off."""

    crop_samples: int
    crop_frames: int
    speed: float
    gain_db: float
    shift_samples: int
    mixup_alpha: float
    mixup_share: float
    between_class: float
    level_samples: int
    time_masks: int
    time_mask_frames: int
    freq_masks: int
    freq_mask_bins: int


def check(a, *, crop_s: float) -> None:
    """Raises ValueError for two ways of mixing clips at once, or a speed of what is not cropped."""
    if a.mixup_alpha and a.between_class:
        raise ValueError(
            f"config.augment.mixup_alpha = {a.mixup_alpha} and config.augment.between_class = "
            f"{a.between_class}: a clip is mixed in one way; set one of them to 0"
        )
    if a.speed > 1 and not crop_s:
        raise ValueError(
            f"config.augment.speed = {a.speed}, but config.classifier.crop_s is 0: a clip changes "
            f"its speed where a stretch of it is cut out; give that a length"
        )


def make_spec(a, *, crop_s: float, sample_rate: int, hop_s: float) -> AugmentSpec:
    """From config.augment; the length (s) of a crop, 0 for the clip; the rate (Hz) of the audio,
    and the time (s) between frames."""
    return AugmentSpec(
        crop_samples=round(crop_s * sample_rate),
        crop_frames=round(crop_s / hop_s),
        speed=a.speed,
        gain_db=a.gain_db,
        shift_samples=round(a.shift_s * sample_rate),
        mixup_alpha=a.mixup_alpha,
        mixup_share=a.mixup_share,
        between_class=a.between_class,
        level_samples=round(_LEVEL_S * sample_rate),
        time_masks=a.time_masks,
        time_mask_frames=round(a.time_mask_s / hop_s),
        freq_masks=a.freq_masks,
        freq_mask_bins=a.freq_mask_bins,
    )


@jax.named_scope("augment")
def crop(keys, batch, spec: AugmentSpec):
    """A random stretch of each clip, long enough for `stretch` to make `spec.crop_frames` of it.

    Where a clip has digital silence in it, with which corpora fill up short files, the stretch is
    the first of some candidates in which there is sound.

    Args:
      keys: random keys [B], one a clip.
      batch: audio [B, N] float or int16, num_samples [B].

    Returns:
      the batch with audio [B, speed * crop_samples] float32 and num_samples at most that; what is
      shorter is taken whole.
    """
    if not spec.crop_samples:
        return batch
    width = round(spec.speed * spec.crop_samples)
    place = jnp.arange(batch["audio"].shape[1])
    real = place < batch["num_samples"][:, None]
    audio = jnp.where(real, _as_float(batch["audio"]), 0.0)
    audio = jnp.pad(audio, ((0, 0), (0, width)))

    def one(key, audio, length):
        sounding = jnp.cumsum(audio != 0)
        room = jnp.maximum(length - width, 0)
        starts = jax.random.randint(key, (_CANDIDATES,), 0, room + 1)
        heard = sounding[starts + width - 1] - sounding[starts] + (audio[starts] != 0) > 0
        start = starts[jnp.argmax(heard)]
        return jax.lax.dynamic_slice(audio, (start,), (width,)), jnp.minimum(length, width)

    sound, count = jax.vmap(one)(keys, audio, batch["num_samples"])
    return {**batch, "audio": sound, "num_samples": count}


@jax.named_scope("augment")
def stretch(keys, features, valid_frames, spec: AugmentSpec):
    """Makes each crop faster or slower, at the same pitch, by up to `spec.speed` (the time of
    BYOL-A's random resize crop, Niizumi et al. 2021): its frames are interpolated.

    Args:
      keys: random keys [B], one a clip.
      features: [B, T, F] of what `crop` returned; valid_frames: [B, T] bool, valid frames first.

    Returns:
      features [B, crop_frames, F] and valid_frames [B, crop_frames].
    """
    if not spec.crop_samples:
        return features, valid_frames
    frames = spec.crop_frames

    def one(key, x, length):
        speed = spec.speed ** jax.random.uniform(key, (), minval=-1.0)
        at = jnp.arange(frames) * speed
        before = jnp.floor(at).astype(jnp.int32)
        share = (at - before)[:, None]
        last = jnp.maximum(length - 1, 0)
        x = (1 - share) * x[jnp.minimum(before, last)] + share * x[jnp.minimum(before + 1, last)]
        valid = at < length
        return jnp.where(valid[:, None], x, 0.0), valid

    return jax.vmap(one)(keys, features, valid_frames.sum(-1))


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
def between_class(key, batch, spec: AugmentSpec):
    """Mixes two clips so that they are heard in the proportion r : 1 - r, r uniform, which is also
    that of their labels (Tokozume et al. 2018, 'Learning from between-class examples', eq. 2).

    `spec.between_class` is the probability that a clip is mixed. The level of a clip is that of
    its loudest 0.1 s; the paper weighs frequencies as hearing does, which is left out here.

    Args:
      key: random key.
      batch: audio [B, N] float or int16, num_samples [B], labels [B, C] float, valid [B].

    Returns:
      as `mixup`; what is silent is left alone, and so is what it would be mixed with.
    """
    size = batch["audio"].shape[0]
    if not spec.between_class or size < 2:
        return batch
    key_share, key_order, key_whether = jax.random.split(key, 3)
    audio, length, labels = _as_float(batch["audio"]), batch["num_samples"], batch["labels"]
    other = (jnp.arange(size) + jax.random.randint(key_order, (), 1, size)) % size
    share = jax.random.uniform(key_share, (size,), minval=1e-3, maxval=1 - 1e-3)
    mixed = jax.random.uniform(key_whether, (size,)) < spec.between_class
    level = _level(audio, spec.level_samples)
    loud = (level > _SILENT) & (batch["valid"] > 0)
    mixed &= loud & loud[other]
    own = 1.0 / (1.0 + level / level[other] * (1.0 - share) / share)
    own = jnp.where(mixed, own, 1.0)[:, None]
    power = jnp.sqrt(jnp.square(own) + jnp.square(1.0 - own))
    share = jnp.where(mixed, share, 1.0)[:, None]
    return {
        **batch,
        "audio": (own * audio + (1.0 - own) * audio[other]) / power,
        "num_samples": jnp.maximum(length, jnp.where(mixed, length[other], 0)),
        "labels": share * labels + (1.0 - share) * labels[other],
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


def _level(audio, window):
    """[B]: root of the power of the loudest `window` samples of audio [B, N]; never 0."""
    whole = jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % window)))
    power = jnp.square(whole).reshape(len(audio), -1, window).mean(-1).max(-1)
    return jnp.sqrt(power + 1e-10)


def _span(key, size, length, longest):
    """[B, size] bool: one span of 0 to `longest`, at most half of `length`, inside `length`."""
    key_width, key_start = jax.random.split(key)
    widest = jnp.minimum(longest, length // 2)
    width = jax.random.randint(key_width, length.shape, 0, widest + 1)
    start = jax.random.randint(key_start, length.shape, 0, jnp.maximum(length - width, 0) + 1)
    place = jnp.arange(size)
    return (place >= start[:, None]) & (place < (start + width)[:, None])
