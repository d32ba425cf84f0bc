"""Pre-training: the model's state, the training step, the evaluation step."""

import dataclasses

import jax
import jax.numpy as jnp

from conformer_jax.models.wav2vec2 import Wav2Vec2
from conformer_jax.steps import losses, metrics, state


@dataclasses.dataclass(frozen=True)
class Options:
    """What the steps need beside the model."""

    temperature: float
    diversity_weight: float
    accumulate: int


def init(
    model: Wav2Vec2, options: Options, optimizer, key: jax.Array, *, ema_decay: float
) -> state.TrainState:
    """State at step 0, parameters from scratch."""
    # Half a second is enough for shapes: no parameter depends on the length.
    samples = model.features.sample_rate // 2
    audio, num_samples = jnp.zeros((1, samples)), jnp.full((1,), samples)
    params = model.init(key, audio, num_samples, state.clip_keys(key, 1), train=False)["params"]
    return state.create(params, model, optimizer, options, ema_decay=ema_decay)


def _forward(train_state, params, batch, *, train):
    """(loss, metrics) of one batch with its `keys` [B]; the loss is a sum over masked tokens."""
    options, model = train_state.options, train_state.model
    out = model.apply(
        {"params": params},
        batch["audio"],
        batch["num_samples"],
        batch["keys"],
        train=train,
        step=train_state.step,
    )
    logits = losses.contrastive_logits(
        out.predicted, out.targets, out.negatives, temperature=options.temperature
    )
    item_loss, correct, usable = losses.contrastive(logits)
    weights = out.weights * usable * batch["valid"][:, None]
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
        num_entries = model.objective.num_entries
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


def pretrain_step(train_state: state.TrainState, batch, key: jax.Array):
    """One optimizer step of the masked contrastive objective.

    Args:
      train_state: from `init`.
      batch: audio [B, N], num_samples [B], valid [B].
      key: root key of the run; the step folds its own number into it.

    Returns:
      the next state; metrics, a dict of (sum, count) pairs.
    """
    key = jax.random.fold_in(key, train_state.step)
    keys = state.clip_keys(key, batch["valid"].shape[0])

    def loss_fn(params, batch):
        return _forward(train_state, params, batch, train=True)

    loss, pairs, grads = state.gradients(
        loss_fn,
        train_state.params,
        {**batch, "keys": keys},
        passes=train_state.options.accumulate,
    )
    train_state, norm, finite = train_state.apply_gradients(grads, loss)
    pairs |= {"gradient_norm": metrics.single(norm), "finite": metrics.single(finite)}
    return train_state, pairs


def pretrain_eval_step(train_state: state.TrainState, batch, key: jax.Array):
    """Metrics of one held-out batch: no dropout, hard codes.

    Masks and distractors of a clip come from `key` and its `index` [B] in the source, so with the
    same key checkpoints are compared on the same task, however the clips are batched.
    """
    batch = {**batch, "keys": state.keys_of(key, batch["index"])}
    _, pairs = _forward(train_state, train_state.eval_params, batch, train=False)
    return pairs
