"""The pre-training model: hide spans of tokens and tell the true one from distractors.

tokens   = LayerNorm(Linear(stacked log-mel frames))          never masked for the targets
context  = Encoder(tokens, masked ones replaced by one learned vector)
targets  = Linear(tokens)                                     target='linear', the paper
         | Linear(quantizer(tokens))                          target='gumbel', wav2vec 2.0
loss     = contrastive(context[masked], targets[masked])      steps/losses.py
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from conformer_jax.models import masking
from conformer_jax.models.conformer import Encoder, EncoderSpec
from conformer_jax.models.features import FeatureSpec, log_mel
from conformer_jax.models.quantizer import GumbelQuantizer, gumbel_temperature

TARGETS = ("linear", "gumbel")


@dataclasses.dataclass(frozen=True)
class ObjectiveSpec:
    """Settings of the objective: fields of config.masking, .wav2vec2, .quantizer and .target."""

    target: str = "linear"
    mask_probability: float = 0.3
    mask_length: int = 3
    num_distractors: int = 100
    projection_dim: int = 256
    num_groups: int = 2
    num_entries: int = 320
    code_dim: int = 256
    code_logits: str = "linear"
    sharpness: float = 30.0
    temperature_start: float = 2.0
    temperature_end: float = 0.5
    anneal_steps: float = 280_000.0

    def __post_init__(self):
        if self.target not in TARGETS:
            raise ValueError(f"config.target = {self.target!r}: choose one of {TARGETS}")
        if self.code_logits == "linear" and self.code_dim % self.num_groups:
            raise ValueError(
                f"config.quantizer.code_dim = {self.code_dim} is not divisible by "
                f"config.quantizer.num_groups = {self.num_groups}"
            )


@flax.struct.dataclass
class PretrainOutput:
    """What the losses need; M masked positions a clip.

    predicted, targets: [B, M, D'] float32; negatives: [B, M, K] indices into M;
    weights: [B, M], 0 where a place holds no masked token; quantizer: statistics or None.
    """

    predicted: jax.Array
    targets: jax.Array
    negatives: jax.Array
    weights: jax.Array
    quantizer: dict[str, Any] | None = None


class Task(NamedTuple):
    """masked [B, T] bool; positions, weights [B, M] and negatives [B, M, K]: models/masking.py."""

    masked: jax.Array
    positions: jax.Array
    weights: jax.Array
    negatives: jax.Array


class Wav2Vec2(nn.Module):
    """Encoder, mask embedding and target branch."""

    features: FeatureSpec
    encoder_spec: EncoderSpec
    objective: ObjectiveSpec

    def setup(self):
        spec, objective = self.encoder_spec, self.objective
        self.encoder = Encoder(spec)
        self.mask_embedding = self.param(
            "mask_embedding", nn.initializers.uniform(1.0), (spec.feature_dim,)
        )
        if objective.target == "gumbel":
            if objective.code_logits == "distance" and spec.feature_dim % objective.num_groups:
                raise ValueError(
                    f"config.conformer.feature_dim = {spec.feature_dim} is not divisible by "
                    f"config.quantizer.num_groups = {objective.num_groups}"
                )
            self.quantizer = GumbelQuantizer(
                objective.num_groups,
                objective.num_entries,
                objective.code_dim,
                logits=objective.code_logits,
                sharpness=objective.sharpness,
            )
            self.target_projection = nn.Dense(objective.projection_dim)
            self.context_projection = nn.Dense(objective.projection_dim)
        else:
            self.target_projection = nn.Dense(spec.width)

    def __call__(self, audio, num_samples, keys, *, train: bool, step=0) -> PretrainOutput:
        """From audio [B, N] of num_samples [B]; keys [B], one random key a clip.

        All that is drawn for a clip follows from its own key, so it does not depend on the batch
        that the clip is in.
        """
        features, valid_frames = log_mel(audio, num_samples, self.features)
        return self.from_features(features, valid_frames, keys, train=train, step=step)

    def from_features(self, features, valid_frames, keys, *, train: bool, step=0) -> PretrainOutput:
        """From normalised log-mel features [B, frames, F], valid_frames [B, frames]."""
        tokens, valid = self.encoder.tokens(features, valid_frames)
        hidden, task, keys = self.hide(tokens, valid, keys)
        context = self.encoder(hidden, valid, keys[:, 2], train=train)
        return self.predict(tokens, context, task, keys, train=train, step=step)

    def hide(self, tokens, valid, keys) -> tuple[jax.Array, Task, jax.Array]:
        """The tokens [B, T, feature_dim] with some of the valid ones replaced, and what is asked.

        Returns:
          hidden, like tokens; the Task; keys [B, 4], of which `predict` needs the last and the
          encoder the last but one.
        """
        objective = self.objective
        span = {"probability": objective.mask_probability, "length": objective.mask_length}
        size = masking.max_masked(tokens.shape[1], **span)
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
        masked = masking.span_mask(keys[:, 0], valid, **span)
        positions, weights = masking.masked_positions(masked, size)
        negatives = masking.sample_negatives(
            keys[:, 1],
            masked.sum(-1),
            num_positions=size,
            num_distractors=objective.num_distractors,
        )
        hidden = jnp.where(masked[..., None], self.mask_embedding, tokens)
        return hidden, Task(masked, positions, weights, negatives), keys

    def predict(self, tokens, context, task: Task, keys, *, train, step) -> PretrainOutput:
        """From the tokens as they were and what the encoder made of the hidden ones [B, T, D]."""
        predicted = jnp.take_along_axis(context, task.positions[..., None], axis=1)
        unmasked = jnp.take_along_axis(tokens, task.positions[..., None], axis=1)
        targets, statistics = self._targets(
            unmasked, task.weights, keys[:, 3], train=train, step=step
        )
        if self.objective.target == "gumbel":
            predicted = self.context_projection(predicted)
        return PretrainOutput(predicted, targets, task.negatives, task.weights, statistics)

    def _targets(self, unmasked, weights, keys, *, train, step):
        objective = self.objective
        if objective.target == "linear":
            return self.target_projection(unmasked), None
        temperature = gumbel_temperature(
            step,
            start=objective.temperature_start,
            end=objective.temperature_end,
            anneal_steps=objective.anneal_steps,
        )
        codes, statistics = self.quantizer(
            unmasked, weights, keys, temperature=temperature, train=train
        )
        statistics["temperature"] = jnp.asarray(temperature, jnp.float32)
        return self.target_projection(codes), statistics
