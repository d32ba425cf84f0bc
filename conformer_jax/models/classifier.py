"""The fine-tuned model: the pre-training Encoder, pooling over valid tokens, a linear head.

The pooled vector [B, E] of a clip is its embedding, which a linear probe or its nearest neighbours
classify as well (evaluation/probe.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from conformer_jax.models.conformer import Encoder, EncoderSpec
from conformer_jax.models.dropout import dropout, fold, seeds_of
from conformer_jax.models.features import FeatureSpec, log_mel, silence

POOLINGS = ("mean", "max", "statistics", "attention", "linear_softmax")
LAYERS = ("last", "all")
_HEAD = 1_000_000  # the head's dropout; the encoder's are numbered from 0


def pool(x, valid, pooling: str):
    """Pools the valid tokens: x [B, T, D], valid [B, T] -> [B, D]; 0 where none is valid.

    'statistics' is mean and deviation side by side, [B, 2 D] (Snyder et al. 2018, x-vectors): the
    blocks end in a LayerNorm, whose mean over time alone says little of a sound. Besides, there are
    'mean' and 'max'; ValueError for any other word.
    """
    real = valid[..., None]
    if pooling == "max":
        top = jnp.where(real, x, -jnp.inf).max(1)
        return jnp.where(valid.any(-1, keepdims=True), top, 0.0)
    count = jnp.maximum(real.sum(1), 1)
    mean = jnp.where(real, x, 0.0).sum(1) / count
    if pooling == "mean":
        return mean
    if pooling != "statistics":
        raise ValueError(f"pooling {pooling!r}: 'mean', 'max' or 'statistics'")
    variance = jnp.where(real, jnp.square(x - mean[:, None]), 0.0).sum(1) / count
    # The slope of a root at 0, of a clip of one token, would be infinite.
    return jnp.concatenate([mean, jnp.sqrt(variance + 1e-8) - 1e-4], axis=-1)


def attention_pool(x, scores, valid):
    """Pools the valid tokens by the softmax of their scores, the same weights for all classes.

    One learned query; Kong et al. 2018 (arXiv 1711.00927) weigh the tokens of each class apart.

    Args:
      x: [B, T, D]; scores: [B, T]; valid: [B, T].

    Returns:
      [B, D]; 0 where no token is valid.
    """
    weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(scores.dtype).min))
    return (jnp.where(valid, weights, 0.0)[..., None] * jnp.where(valid[..., None], x, 0.0)).sum(1)


def linear_softmax_pool(logits, valid):
    """Linear softmax pooling (Wang, Li & Metze 2019, arXiv 1810.09050), as a logit.

    A clip's probability is P = sum p^2 / sum p over the probabilities p = sigmoid(logits) of its
    valid tokens. Since 1 - P = sum p (1 - p) / sum p, its logit is a difference of two
    log-sum-exps, which neither underflows nor saturates.

    Args:
      logits: [B, T, C]; valid: [B, T], at least one of each clip.

    Returns:
      logit(P) [B, C].
    """
    present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    lowest = jnp.finfo(logits.dtype).min
    for_, against = (
        jax.nn.logsumexp(jnp.where(valid[..., None], present + other, lowest), axis=1)
        for other in (present, absent)
    )
    return for_ - against


def cut_crops(features, valid, *, count: int, length: int, low):
    """`count` stretches of `length` frames of each clip, evenly spaced from its first to its last.

    Args:
      features: [B, T, F]; valid: [B, T] bool, valid frames first; low: [F], silence.

    Returns:
      features [B count, length, F], valid [B count, length], of a clip side by side; weights
      [B, count] that sum to 1, and are 0 for silence beside sound.
    """
    batch, frames = valid.shape
    room = jnp.maximum(valid.sum(-1, keepdims=True) - length, 0)  # [B, 1]
    starts = jnp.arange(count) * room // max(count - 1, 1) if count > 1 else room // 2
    places = (starts[..., None] + jnp.arange(length)).reshape(batch, -1)  # [B, count length]
    at = jnp.minimum(places, frames - 1)
    # Along an axis: with indices of rows, too, XLA would gather the batch on every device.
    cut = jnp.take_along_axis(features, at[..., None], axis=1)
    seen = jnp.take_along_axis(valid, at, axis=1) & (places < frames)
    sounds = ((cut > low).any(-1) & seen).reshape(batch, count, length).any(-1)
    weights = jnp.where(sounds.any(-1, keepdims=True), sounds, True).astype(jnp.float32)
    weights /= weights.sum(-1, keepdims=True)
    cut = jnp.where(seen[..., None], cut, 0.0).reshape(batch * count, length, -1)
    return cut, seen.reshape(batch * count, length), weights


class Classifier(nn.Module):
    """Clips to class logits (the paper, section 3: a linear head).

    With 'linear_softmax' the head classifies every token, and the clip's logits are those of the
    pooled probabilities. They enter any loss as other logits do: with one label a clip the softmax
    normalises the odds P / (1 - P) of the classes, for a single token exactly the usual softmax.
    """

    features: FeatureSpec
    encoder_spec: EncoderSpec
    num_classes: int
    pooling: str = "mean"
    layers: str = "last"
    dropout: float = 0.1
    crop_frames: int = 0  # a training step hears so many, 0: the clip
    crops: int = 0  # except in training a clip is the mean of so many; 0: it is heard whole

    def __post_init__(self):
        super().__post_init__()
        if self.crops and not self.crop_frames:
            raise ValueError(
                f"config.classifier.crops = {self.crops}, but config.classifier.crop_s, their "
                f"length, is 0 or less than a frame"
            )
        if self.crops and self.pooling in ("max", "linear_softmax"):
            raise ValueError(
                f"config.classifier.crops = {self.crops} takes the mean of crops, and "
                f"config.classifier.pooling = {self.pooling!r} looks for the one place where "
                f"something is: set crops to 0, or choose another pooling"
            )

    def setup(self):
        for field, known in (("pooling", POOLINGS), ("layers", LAYERS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.classifier.{field} = {getattr(self, field)!r}: choose one of {known}"
                )
        self.encoder = Encoder(self.encoder_spec)
        self.head = nn.Dense(self.num_classes)
        if self.pooling == "attention":  # from zeros: it begins as the mean
            self.query = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)

    def __call__(self, audio, num_samples, keys=None, *, train: bool):
        """Audio [B, N] of num_samples [B] -> logits [B, C] float32; `train` needs keys [B]."""
        features, valid_frames = log_mel(audio, num_samples, self.features)
        return self.from_features(features, valid_frames, keys, train=train)

    def from_features(self, features, valid_frames, keys=None, *, train: bool):
        """Normalised log-mel features [B, frames, F] -> logits [B, C] float32."""
        if self.crops and not train:  # linear: of a mean of vectors, what it says of each
            return self.head(self._clip_vector(features, valid_frames))
        x, valid = self._tokens(features, valid_frames, keys, train=train)
        seeds = fold(seeds_of(keys), _HEAD) if train and self.dropout else None
        drop = lambda x: dropout(x, seeds, self.dropout)
        if self.pooling == "linear_softmax":
            # A clip without a valid token keeps one, of zeros: it gets the bias of the head.
            first = jnp.arange(valid.shape[1]) == 0
            some = valid | (first & ~valid.any(-1, keepdims=True))
            return linear_softmax_pool(self.head(drop(jnp.where(valid[..., None], x, 0.0))), some)
        return self.head(drop(self._pool(x, valid)))

    def embed(self, audio, num_samples):
        """Audio [B, N] of num_samples [B] -> the pooled vectors [B, E] float32.

        Raises ValueError with 'linear_softmax', which pools no vectors.
        """
        if self.pooling == "linear_softmax":
            raise ValueError(
                "config.classifier.pooling = 'linear_softmax' pools probabilities: choose another "
                "one for embeddings"
            )
        return self._clip_vector(*log_mel(audio, num_samples, self.features))

    def outputs(self, audio, num_samples, *, head: bool):
        """All that a trained model says of clips; audio [B, N] of num_samples [B].

        Returns:
          `embedding` [B, E], with 'linear_softmax' the mean of the tokens; `frames` [B, T, D], the
          last block's output of the whole clip; `valid` [B, T]; where `head`, `logits` [B, C].
        """
        features, valid_frames = log_mel(audio, num_samples, self.features)
        x, valid = self._tokens(features, valid_frames, None, train=False)
        found = {"frames": x[..., -self.encoder_spec.width :], "valid": valid}
        if self.pooling == "linear_softmax":
            found["embedding"] = pool(x, valid, "mean")
        elif self.crops:  # not the frames: what nobody asks for is not computed under jit
            found["embedding"] = self._clip_vector(features, valid_frames)
        else:
            found["embedding"] = self._pool(x, valid)
        if head and self.pooling == "linear_softmax":
            found["logits"] = self.from_features(features, valid_frames, train=False)
        elif head:
            found["logits"] = self.head(found["embedding"])
        return found

    def _clip_vector(self, features, valid_frames):
        """Features [B, frames, F] -> pooled [B, E]: of the clip, or the mean of its crops."""
        frames = features.shape[1]
        whole = isinstance(frames, int) and frames <= self.crop_frames  # all crops are the same
        if not self.crops or whole:
            return self._pool(*self._tokens(features, valid_frames, None, train=False))
        features, valid_frames, weights = cut_crops(
            features,
            valid_frames,
            count=self.crops,
            length=self.crop_frames,
            low=silence(self.features),
        )
        vectors = self._pool(*self._tokens(features, valid_frames, None, train=False))
        return jnp.einsum("bkd,bk->bd", vectors.reshape(*weights.shape, -1), weights)

    def _tokens(self, features, valid_frames, keys, *, train):
        """What is pooled: [B, T, D], or all layers side by side; and which tokens are valid."""
        tokens, valid = self.encoder.tokens(features, valid_frames)
        if self.layers == "last":
            return self.encoder(tokens, valid, keys, train=train), valid
        blocks = self.encoder.every_block(tokens, valid, keys, train=train)
        return jnp.concatenate([tokens, *blocks], axis=-1), valid

    def _pool(self, x, valid):
        if self.pooling == "attention":
            return attention_pool(x, self.query(x)[..., 0], valid)
        return pool(x, valid, self.pooling)
