"""The masked contrastive objective of wav2vec 2.0 in a training step."""

import dataclasses

import jax
import jax.numpy as jnp

from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.models.wav2vec2 import ObjectiveSpec, Wav2Vec2
from conformer_jax.steps import losses, metrics

WHOLE_BATCH = False  # every clip has a loss of its own
TELLS = ("tokens",)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the steps need beside the model."""

    temperature: float
    diversity_weight: float
    accumulate: int
    objective: str = "wav2vec2"


def losses_of(config) -> dict[str, float]:
    """Metrics that a checkpoint is ranked by, with their weights."""
    del config
    return {"contrastive_loss": 1.0}


def make_model(config) -> Wav2Vec2:
    """From the full config; a ValueError or TypeError for a field that does not fit."""
    return Wav2Vec2(
        FeatureSpec(**config.features), EncoderSpec(**config.conformer), objective_spec(config)
    )


def objective_spec(config) -> ObjectiveSpec:
    """From the full config; a ValueError for fields that do not fit each other."""
    quantizer = config.quantizer
    if (
        config.target == "gumbel"
        and quantizer.init == "clusters"
        and (quantizer.logits != "distance")
    ):
        raise ValueError(
            f"config.quantizer.logits = {quantizer.logits!r}, but config.quantizer.init = "
            f"'clusters': only entries that are compared with tokens start from them; set "
            f"config.quantizer.init='random' (as wav2vec 2.0 is), or logits='distance'"
        )
    return ObjectiveSpec(
        target=config.target,
        mask_probability=config.masking.probability,
        mask_length=config.masking.span_length,
        num_distractors=config.wav2vec2.num_distractors,
        projection_dim=config.wav2vec2.projection_dim,
        num_groups=config.quantizer.num_groups,
        num_entries=config.quantizer.num_entries,
        code_dim=config.quantizer.code_dim,
        code_logits=config.quantizer.logits,
        sharpness=config.quantizer.sharpness,
        temperature_start=config.quantizer.temperature_start,
        temperature_end=config.quantizer.temperature_end,
        anneal_steps=config.quantizer.temperature_anneal_share * config.train.num_steps,
    )


def make_options(config) -> Options:
    """From the full config."""
    return Options(
        temperature=config.wav2vec2.temperature,
        diversity_weight=config.losses.diversity_weight,
        accumulate=config.train.accumulate,
    )


def forward(train_state, params, batch, *, train):
    """Of one batch with its `keys` [B].

    Returns:
      the loss, a sum over masked tokens; metrics; None, for there is nothing to judge as a whole.
    """
    options, model = train_state.options, train_state.model
    out = model.apply(
        {"params": params},
        batch["audio"],
        batch["num_samples"],
        batch["keys"],
        train=train,
        step=train_state.step,
    )
    loss, pairs = loss_of(out, batch["valid"], options, model.objective.num_entries)
    return loss, pairs, None


def loss_of(out, valid, options, num_entries: int):
    """The loss of a PretrainOutput, a sum over masked tokens of the rows with valid [B] 1; pairs.

    `options` has the fields `temperature` and `diversity_weight` of Options.
    """
    logits = losses.contrastive_logits(
        out.predicted, out.targets, out.negatives, temperature=options.temperature
    )
    item_loss, correct, usable = losses.contrastive(logits)
    weights = out.weights * usable * valid[:, None]
    contrastive = metrics.weighted(item_loss, weights)
    loss, count = contrastive
    similarity = jnp.maximum(logits * options.temperature, -1.0)  # an excluded one is -inf
    finite = jnp.isfinite(logits[..., 1:]) * weights[..., None]
    pairs = {
        "contrastive_loss": contrastive,
        "contrastive_accuracy": metrics.weighted(correct.astype(jnp.float32), weights),
        "chance_accuracy": metrics.weighted(_chance(out.weights, logits), weights),
        "similarity_positive": metrics.weighted(similarity[..., 0], weights),
        "similarity_negative": metrics.weighted(similarity[..., 1:], finite),
        "target_deviation": (_spread(out.targets, weights) * count, count),
    }
    if out.quantizer is not None:
        idle = losses.diversity(out.quantizer["soft_perplexity"], num_entries)
        loss = loss + options.diversity_weight * idle * count
        one_hot = jax.nn.one_hot(out.quantizer["indices"], num_entries)
        pairs |= {
            "diversity_loss": metrics.single(idle),
            "gumbel_temperature": metrics.single(out.quantizer["temperature"]),
            "code_use": ((one_hot * weights[..., None, None]).sum((0, 1)), weights.sum()),
        }
    return loss, pairs | {"loss": (loss, count)}


@jax.named_scope("loss")
def _chance(masked, logits):
    """[B, M]: accuracy of guessing, 1 / (1 + distinct distractors expected).

    A clip has only as many distractors as other masked tokens, however often each is drawn, and
    those equal to the target (frequent with a codebook that is little used) are excluded.

    Args:
      masked: [B, M], 1 where a token is masked; logits: [B, M, 1 + K].
    """
    drawn = jnp.isfinite(logits[..., 1:]).sum(-1)
    share = drawn / (logits.shape[-1] - 1)
    others = jnp.maximum((masked.sum(-1, keepdims=True) - 1.0) * share, 1.0)
    return 1.0 / (1.0 + others * (1.0 - (1.0 - 1.0 / others) ** drawn))


@jax.named_scope("loss")
def _spread(targets, weights):
    """Deviation of the unit targets over all masked tokens: 1 in every direction, 0 collapsed."""
    unit = targets / jnp.maximum(jnp.linalg.norm(targets, axis=-1, keepdims=True), 1e-8)
    share = (weights / jnp.maximum(weights.sum(), 1.0))[..., None]
    mean = (unit * share).sum((0, 1))
    return jnp.sqrt(jnp.maximum(1.0 - jnp.square(mean).sum(), 0.0))
