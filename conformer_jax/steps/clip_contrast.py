"""Clip contrast in a training step: views, encoder, head, loss (models/clip_contrast.py)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from conformer_jax.models import clip_contrast
from conformer_jax.models.clip_contrast import ClipContrast, ClipSpec
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.steps import metrics, views
from conformer_jax.steps.views import ViewSpec

WHOLE_BATCH = True  # the other clips of a batch are what a clip is told from
TELLS = ("clips",)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the steps need beside the model."""

    views: ViewSpec
    accumulate: int
    rows: NamedSharding | None = None  # where the rows of a batch lie, of several devices
    objective: str = "clip"


def losses_of(config) -> dict[str, float]:
    """Metrics that a checkpoint is ranked by, with their weights."""
    del config
    return {"clip_loss": 1.0}


def make_model(config) -> ClipContrast:
    """From the full config; a ValueError or TypeError for a field that does not fit."""
    return ClipContrast(
        FeatureSpec(**config.features),
        EncoderSpec(**config.conformer),
        ClipSpec(**config.clip),
        view_spec(config).frames,
    )


def make_options(config) -> Options:
    """From the full config."""
    return Options(view_spec(config), config.train.accumulate)


def view_spec(config) -> ViewSpec:
    """From the full config."""
    features, stride = config.features, config.conformer.stride
    return views.make_spec(
        config.views, hop_s=features.hop_s, stride=stride, num_mels=features.num_mels
    )


def forward(train_state, params, batch, *, train):
    """Of one batch with its `keys` [B] and `file` [B], which file a clip is of.

    Returns:
      the loss, a sum over the clips that count; metrics; outputs for `whole_set` where not `train`.
    """
    model, keys = train_state.model, batch["keys"]
    made = views.make(batch, model.features, train_state.options.views, mix=train)
    pooled = model.apply(
        {"params": params}, made.features, made.shown, keys, train=train, method="from_views"
    )
    if not train:
        return 0.0, {}, outputs(pooled, made.counts, batch)
    rows = train_state.options.rows
    loss, pairs = loss_of(model, params, pooled, made.counts, batch, rows)
    count = made.counts.sum()
    return loss * count, pairs | of_views(made, batch) | {"loss": (loss * count, count)}, None


def of_views(made, batch):
    """Pairs of what was drawn."""
    return {"view_silence": metrics.weighted(made.silence, batch["valid"])}


def outputs(pooled, counts, batch):
    """What `whole_set` needs of an evaluation batch."""
    return {"pooled": pooled, "counts": counts, "file": batch["file"]}


def loss_of(model, params, pooled, counts, batch, place):
    """The mean loss of the clips that count, and pairs, of pooled [B, 2, 2 D] and counts [B].

    `place` is where their rows lie, None of one device. Not told, XLA (of jax 0.10.2) took wrong
    gradients of the encoder on meshes whose axes `fsdp` and `tensor` are both over 1, at a right
    loss: tests/meshes.py.
    """
    if place is not None:
        pooled = jax.lax.with_sharding_constraint(pooled, place)
    z = model.apply({"params": params}, pooled, counts, method="project")
    u = clip_contrast.unit(z)
    cosine, other = clip_contrast.similarities(u, counts, batch["file"])
    losses, best, pair = clip_contrast.nt_xent(cosine, other, model.clip.temperature)
    rows = jnp.repeat(counts, 2)
    told = metrics.weighted(losses, rows)
    loss = told[0] / jnp.maximum(told[1], 1.0)
    if model.clip.loss == "barlow":
        loss = clip_contrast.barlow_twins(z, counts, model.clip.off_diagonal_weight)
        told = loss * rows.sum(), rows.sum()
    return loss, {
        "clip_loss": told,
        "clip_accuracy": metrics.weighted((pair > best).astype(jnp.float32), rows),
        "clip_chance": metrics.weighted(1.0 / (1.0 + other.sum(1)), rows),
        "clip_similarity_positive": metrics.weighted(pair, rows),
        "clip_similarity_negative": metrics.weighted(cosine, other.astype(jnp.float32)),
        "embedding_deviation": metrics.single(_deviation(u, counts)),
        "clips_paired": (counts.sum(), batch["valid"].sum()),
    }


@jax.named_scope("loss")
def _deviation(u, counts):
    """Spread of unit vectors u [N, 2, E]: 1 evenly over all dimensions, 0 collapsed."""
    share = (0.5 * counts / jnp.maximum(counts.sum(), 1.0))[:, None, None]
    variance = (jnp.square(u - (u * share).sum((0, 1))) * share).sum((0, 1))
    return jnp.sqrt(1.0 * u.shape[-1]) * jnp.sqrt(variance).mean()


def whole_set(train_state, found):
    """Of `outputs` of all held-out clips together: `pooled` [M, 2, 2 D], their `counts` and `file`
    [M], and `projected` [M, 2, E], the vectors z that the loss compares."""
    z = train_state.model.apply(
        {"params": train_state.eval_params}, found["pooled"], found["counts"], method="project"
    )
    return {**found, "projected": z}
