"""Two views of each clip for clip contrast, drawn on the device from normalised log-mel features.

What two views of a clip share should be what sounds, and not how loud, how filtered or how long it
is. In this order:
  a window of the clip, stretched in time and in frequency ("random resized crop", BYOL-A, Niizumi
  et al. 2021); a shorter clip goes round, since equal padding would give the pair away
  another clip of the batch softly behind it (mixup in power, BYOL-A)
  noise of the normalised features (BYOL-A adds it at the power of the mean, whatever its share:
    half of what sounds then drowns, and a run leaves chance hundreds of steps later)
  an equaliser, and everything above a cut-off gone: codecs and resampling mark a file
  a ramp of level over time (BYOL-A)
  of the first view blocks of tokens hidden, of the second bands (AudioMosaic)

All that is drawn for a clip follows from its own key; only the sound behind it is of the batch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from conformer_jax.models.features import log_mel, silence

_KNOTS = 5  # of the equaliser's curve


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """Fields of config.views, with lengths in frames; 0 switches a part off."""

    frames: int
    stride: int
    window: tuple[float, float]
    height: tuple[float, float]
    candidates: int
    mixup: float
    noise: float
    noise_share: float
    equaliser: float
    equaliser_share: float
    cutoff_share: float
    ramp: float
    hidden_time: float
    block_tokens: int
    hidden_bands: float
    bands: int


class Views(NamedTuple):
    """features [B, 2, L, F]; shown [B, 2, L // stride] bool, which tokens are heard; counts [B]
    float32, 0 for what makes no pair: rows that are not valid, and silence; silence [B], which
    share of their frames digital silence is."""

    features: jax.Array
    shown: jax.Array
    counts: jax.Array
    silence: jax.Array


def make_spec(v, *, hop_s: float, stride: int, num_mels: int) -> ViewSpec:
    """From config.views; the time (s) between frames, frames of a token, and bins of a frame.

    Raises:
      ValueError: a view shorter than one token, or bands of less than one bin.
    """
    frames = round(v.length_s / hop_s)
    if frames < stride:
        raise ValueError(f"config.views.length_s = {v.length_s} is less than one token")
    if v.hidden_bands and v.bands > num_mels:
        raise ValueError(
            f"config.views.bands = {v.bands} is more than config.features.num_mels = {num_mels}: "
            f"there is nothing to hide; take fewer bands"
        )
    return ViewSpec(
        frames=frames,
        stride=stride,
        window=tuple(v.window),
        height=tuple(v.height),
        candidates=v.candidates,
        mixup=v.mixup,
        noise=v.noise,
        noise_share=v.noise_share,
        equaliser=v.equaliser,
        equaliser_share=v.equaliser_share,
        cutoff_share=v.cutoff_share,
        ramp=v.ramp,
        hidden_time=v.hidden_time,
        block_tokens=v.block_tokens,
        hidden_bands=v.hidden_bands,
        bands=v.bands,
    )


@jax.named_scope("views")
def make(batch, features_spec, spec: ViewSpec, *, mix: bool) -> Views:
    """Views of a batch.

    Args:
      batch: audio [B, N], num_samples [B], valid [B], keys [B].
      features_spec: FeatureSpec.
      spec: see there.
      mix: whether other clips of the batch are put behind; without, a clip's views are the same in
        any batch.
    """
    features, valid = log_mel(batch["audio"], batch["num_samples"], features_spec)
    length = valid.sum(-1)
    keys = jax.vmap(lambda key: jax.random.split(key, 2))(batch["keys"])
    per_view = jax.vmap(_window, (None, None, None, 0, None))
    low = silence(features_spec)
    views, sounds = jax.vmap(per_view, (0, None, 0, 0, None))(features, low, length, keys, spec)
    counts = batch["valid"] * (sounds > 0).all(1) * (length > 0)
    if mix and spec.mixup and len(views) > 1:
        views = _mixed(views, keys, counts, spec)
    views = jax.vmap(jax.vmap(_coloured, (0, 0, None)), (0, 0, None))(views, keys, spec)
    shown = jax.vmap(_shown, (0, None))(keys[:, 0], spec)
    second = jax.vmap(_without_bands, (0, 0, None))(views[:, 1], keys[:, 1], spec)
    shown = jnp.stack([shown, jnp.ones_like(shown)], axis=1)
    return Views(jnp.stack([views[:, 0], second], axis=1), shown, counts, 1.0 - sounds.mean(1))


@jax.named_scope("views")
def recolour(keys, features, valid_frames, spec: ViewSpec, *, share: float):
    """Makes labelled clips sound as views do: of each a random band, with noise, equaliser, cut-off
    and ramp. An encoder of clip contrast knows them again.

    Args:
      keys: random keys [B], one a clip.
      features: [B, T, F]; valid_frames: [B, T] bool, which of them are of the clip.
      share: the probability of it.

    Returns:
      [B, T, F].
    """

    def one(key, x):
        made = _coloured(_band(x, key, spec), key, spec)
        return jnp.where(_draws(key, 15) < share, made, x)

    return jnp.where(valid_frames[..., None], jax.vmap(one)(keys, features), 0.0)


def _draws(key, part, shape=(), least=0.0, most=1.0):
    """Uniform numbers of one of the parts of a view, told apart by a number."""
    return jax.random.uniform(jax.random.fold_in(key, part), shape, minval=least, maxval=most)


def _window(x, low, length, key, spec):
    """A stretched window of one clip, x [T, F], of which `length` frames are real.

    Returns:
      [L, F]; the share of its frames that are above `low` [F], digital silence.
    """
    length = jnp.maximum(length, 1)
    width = spec.frames * _draws(key, 0, (), *spec.window)
    fits = length >= width
    starts = _draws(key, 1, (spec.candidates,)) * jnp.where(fits, length - width, length)
    # The loudest of some candidates: files have silence in them.
    level = jnp.concatenate([jnp.zeros(1), jnp.cumsum(x.mean(1))])
    ends = jnp.minimum(starts + width, length).astype(jnp.int32)
    means = (level[ends] - level[starts.astype(jnp.int32)]) / jnp.maximum(ends - starts, 1.0)
    start = jnp.where(fits, starts[jnp.argmax(means)], starts[0])
    place = start + (jnp.arange(spec.frames) + 0.5) * width / spec.frames - 0.5
    place = jnp.where(fits, jnp.clip(place, 0.0, length - 1.0), place % length)
    before = jnp.floor(place).astype(jnp.int32)
    share = (place - before)[:, None]
    x = (1 - share) * x[before % length] + share * x[(before + 1) % length]
    # Here, since stretching in frequency moves silence into bins that are normalised otherwise.
    sounds = (x > low).any(1).mean()
    return _band(x, key, spec), sounds


def _band(x, key, spec):
    """A random band of x [T, F], stretched to all bins."""
    bins = x.shape[1]
    height = bins * jnp.minimum(_draws(key, 2, (), *spec.height), 1.0)
    lowest = _draws(key, 3) * (bins - height)
    place = jnp.clip(lowest + (jnp.arange(bins) + 0.5) * height / bins - 0.5, 0.0, bins - 1.0)
    weights = jnp.maximum(1.0 - jnp.abs(place[:, None] - jnp.arange(bins)), 0.0)
    return jnp.einsum("tf,gf->tg", x, weights, precision="highest")


def _mixed(views, keys, counts, spec):
    """Puts other clips behind: views [B, 2, L, F].

    The batch is in random order, so neighbours are a random choice, and no device sends more than
    a row. The two views get different ones, or the sound behind would give the pair away.
    """
    other = jnp.stack([jnp.roll(views[:, 0], 1, 0), jnp.roll(views[:, 1], -1, 0)], axis=1)
    there = jnp.stack([jnp.roll(counts, 1), jnp.roll(counts, -1)], axis=1)
    draw = jax.vmap(jax.vmap(lambda key: _draws(key, 4, (), 0.0, spec.mixup)))
    share = (draw(keys) * there)[..., None, None]
    return jnp.logaddexp(views + jnp.log1p(-share), other + jnp.log(share))


def _coloured(x, key, spec):
    """Noise, equaliser, cut-off and ramp on one view [L, F]."""
    frames, bins = x.shape
    if spec.noise and spec.noise_share:
        share = _draws(key, 5, (), 0.0, spec.noise)
        noise = jax.random.normal(jax.random.fold_in(key, 6), x.shape)
        noisy = jnp.logaddexp(x + jnp.log1p(-share), noise + jnp.log(share))
        x = jnp.where(_draws(key, 7) < spec.noise_share, noisy, x)
    if spec.equaliser and spec.equaliser_share:
        knots = _draws(key, 8, (_KNOTS,), -spec.equaliser, spec.equaliser)
        curve = jnp.interp(jnp.linspace(0, _KNOTS - 1, bins), jnp.arange(_KNOTS), knots)
        x = x + jnp.where(_draws(key, 9) < spec.equaliser_share, curve, 0.0)
    if spec.cutoff_share:
        cutoff = _draws(key, 10, (), 0.5 * bins, 1.0 * bins)
        gone = (jnp.arange(bins) >= cutoff) & (_draws(key, 11) < spec.cutoff_share)
        x = jnp.where(gone, 0.0, x)
    if spec.ramp:
        first, last = _draws(key, 12, (2,), -spec.ramp, spec.ramp)
        x = x + jnp.linspace(0, 1, frames)[:, None] * (last - first) + first
    return x


def _shown(key, spec):
    """Which tokens of a first view are heard: [L // stride] bool."""
    tokens = spec.frames // spec.stride
    hidden = _some(key, 13, tokens // spec.block_tokens, spec.hidden_time)
    return ~jnp.pad(jnp.repeat(hidden, spec.block_tokens), (0, tokens % spec.block_tokens))


def _without_bands(x, key, spec):
    """A second view [L, F] with some bands set to 0, the mean."""
    size = x.shape[1] // spec.bands
    hidden = jnp.repeat(_some(key, 14, spec.bands, spec.hidden_bands), size)
    return jnp.where(jnp.pad(hidden, (0, x.shape[1] - len(hidden))), 0.0, x)


def _some(key, part, count, share):
    """`share` of `count` places, rounded and never all of them: [count] bool."""
    chosen = min(round(share * count), count - 1) if count else 0
    return jnp.argsort(jnp.argsort(_draws(key, part, (count,)))) < chosen
