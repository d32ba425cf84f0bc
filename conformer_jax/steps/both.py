"""Clip contrast and the masked objective on one forward pass a view, their losses summed.

  loss = clip contrast + weight x masked contrast / ln(1 + K)

The first view goes through wav2vec 2.0's mask instead of having blocks of time hidden, and is
pooled over the tokens that are not masked. After EAT (Chen et al. 2024, arXiv 2401.03497), where a
clip's loss beside that of its frames was worth 1.3 points of mAP.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax.sharding import NamedSharding

from conformer_jax.models import clip_contrast as model_of_clips
from conformer_jax.models.classifier import pool
from conformer_jax.models.clip_contrast import ClipSpec, ProjectionHead
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.models.wav2vec2 import Wav2Vec2
from conformer_jax.steps import clip_contrast, masked_contrast, views
from conformer_jax.steps.views import ViewSpec

WHOLE_BATCH = True
TELLS = ("tokens", "clips")
whole_set = clip_contrast.whole_set


@dataclasses.dataclass(frozen=True)
class Options:
    """What the steps need beside the model."""

    views: ViewSpec
    weight: float
    temperature: float
    diversity_weight: float
    accumulate: int
    rows: NamedSharding | None = None  # where the rows of a batch lie, of several devices
    objective: str = "both"


def losses_of(config) -> dict[str, float]:
    """Metrics that a checkpoint is ranked by, with their weights."""
    chance = math.log(1 + config.wav2vec2.num_distractors)
    return {"clip_loss": 1.0, "contrastive_loss": config.losses.masked_weight / chance}


class Both(Wav2Vec2):
    """Encoder, mask embedding, target branch and projection head."""

    clip: ClipSpec
    view_frames: int  # log-mel frames of a view

    def setup(self):
        super().setup()
        self.head = ProjectionHead(self.clip)

    def __call__(self, audio, num_samples, keys, *, train: bool, step=0):
        """Makes all parameters, as Wav2Vec2."""
        width = 2 * self.encoder_spec.width
        self.head(jnp.zeros((len(audio), 2, width)), jnp.ones(len(audio)))
        return super().__call__(audio, num_samples, keys, train=train, step=step)

    def from_views(self, features, shown, keys, *, train: bool, step):
        """As ClipContrast.from_views, with the PretrainOutput of the first views beside it."""
        tokens = model_of_clips.tokens_of_views(self.encoder, features)
        whole = jnp.ones(tokens.shape[:3], bool)
        hidden, task, own = self.hide(tokens[:, 0], whole[:, 0], keys)
        seen = jnp.stack([hidden, tokens[:, 1]], axis=1)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        view_keys = model_of_clips.view_keys(own[:, 2])
        context = self.encoder(flat(seen), flat(whole), view_keys, train=train)
        kept = flat(jnp.stack([~task.masked, shown[:, 1]], axis=1))
        pooled = pool(context, kept, "statistics").reshape(*features.shape[:2], -1)
        context = context.reshape(*seen.shape[:3], -1)[:, 0]
        out = self.predict(tokens[:, 0], context, task, own, train=train, step=step)
        return pooled, out

    def project(self, pooled, counts):
        """As ClipContrast.project."""
        return self.head(pooled, counts)


def make_model(config) -> Both:
    """From the full config; a ValueError or TypeError for a field that does not fit."""
    return Both(
        FeatureSpec(**config.features),
        EncoderSpec(**config.conformer),
        masked_contrast.objective_spec(config),
        ClipSpec(**config.clip),
        clip_contrast.view_spec(config).frames,
    )


def make_options(config) -> Options:
    """From the full config."""
    masked = masked_contrast.make_options(config)
    return Options(
        views=clip_contrast.view_spec(config),
        weight=config.losses.masked_weight,
        temperature=masked.temperature,
        diversity_weight=masked.diversity_weight,
        accumulate=masked.accumulate,
    )


def forward(train_state, params, batch, *, train):
    """As clip_contrast.forward."""
    model, options = train_state.model, train_state.options
    made = views.make(batch, model.features, options.views, mix=train)
    pooled, out = model.apply(
        {"params": params},
        made.features,
        made.shown,
        batch["keys"],
        train=train,
        step=train_state.step,
        method="from_views",
    )
    total, pairs = masked_contrast.loss_of(out, made.counts, options, model.objective.num_entries)
    masked = total / jnp.maximum(pairs.pop("loss")[1], 1.0)
    if not train:
        return 0.0, pairs, clip_contrast.outputs(pooled, made.counts, batch)
    loss, clip_pairs = clip_contrast.loss_of(
        model, params, pooled, made.counts, batch, options.rows
    )
    loss = loss + options.weight * masked / math.log(1 + model.objective.num_distractors)
    pairs |= clip_pairs | clip_contrast.of_views(made, batch)
    count = made.counts.sum()
    return loss * count, pairs | {"loss": (loss * count, count)}, None
