"""Fine-tuning: the classifier's state, the training step, the evaluation step."""

import dataclasses

import jax
import jax.numpy as jnp

from conformer_jax.models.classifier import Classifier
from conformer_jax.models.features import log_mel
from conformer_jax.steps import augment, losses, metrics, state, views
from conformer_jax.steps.views import ViewSpec


@dataclasses.dataclass(frozen=True)
class Options:
    """What the steps need beside the model."""

    multi_label: bool
    label_smoothing: float
    augment: augment.AugmentSpec
    accumulate: int
    view: ViewSpec | None = None  # what a clip is made to sound like
    view_share: float = 0.0  # how often


def init(
    model: Classifier, options: Options, optimizer, key: jax.Array, *, ema_decay: float
) -> state.TrainState:
    """State at step 0, parameters from scratch."""
    samples = model.features.sample_rate // 2
    params = model.init(key, jnp.zeros((1, samples)), jnp.full((1,), samples), train=False)[
        "params"
    ]
    return state.create(params, model, optimizer, options, ema_decay=ema_decay)


def depth(params):
    """How deep each parameter lies below the head, for the optimizer.

    Returns:
      tree of ints like params: 0 for what is not of the encoder; 1 for its last block, n for the
      first of n; n + 1 for what makes and projects the tokens.
    """
    prefix = "block_"
    blocks = sum(name.startswith(prefix) for name in params["encoder"])

    def of(path, _):
        part, name = path[0].key, path[1].key
        if part != "encoder":
            return 0
        return blocks - int(name.removeprefix(prefix)) if name.startswith(prefix) else blocks + 1

    return jax.tree_util.tree_map_with_path(of, params)


def _targets(batch, options, num_classes):
    """Labels as [B, C] float32."""
    if options.multi_label:
        return batch["labels"].astype(jnp.float32)
    return jax.nn.one_hot(batch["labels"], num_classes)


def _loss(logits, labels, options, *, train):
    item_loss = losses.binary_cross_entropy if options.multi_label else losses.cross_entropy
    return item_loss(logits, labels, smoothing=options.label_smoothing if train else 0.0)


def _item_correct(logits, labels):
    """[B] 1 where the highest logit is one of the labels (of mixed clips: the larger share)."""
    best = jax.nn.one_hot(logits.argmax(-1), labels.shape[-1])
    return ((best * labels).sum(-1) >= 0.5).astype(jnp.float32)


def finetune_step(train_state: state.TrainState, batch, key: jax.Array):
    """One optimizer step of supervised training.

    Args:
      train_state: from `init`.
      batch: audio [B, N], num_samples [B], labels [B] or [B, C], valid [B].
      key: root key of the run; the step folds its own number into it.

    Returns:
      the next state; metrics, a dict of (sum, count) pairs.
    """
    options, model = train_state.options, train_state.model
    key = jax.random.fold_in(key, train_state.step)
    mix_key, mask_key, dropout_key = jax.random.split(key, 3)
    batch = {**batch, "labels": _targets(batch, options, model.num_classes)}
    size = batch["valid"].shape[0]
    # Cut and turned before they are mixed, so that two clips meet at any offset; amplified
    # afterwards, so that their powers keep the proportion of their labels.
    shift_keys, gain_keys, crop_keys, stretch_keys, view_keys = (
        state.clip_keys(jax.random.fold_in(key, number), size) for number in (3, 4, 5, 6, 7)
    )
    batch = augment.crop(crop_keys, batch, options.augment)
    batch = augment.shift(shift_keys, batch, options.augment)
    batch = augment.mixup(mix_key, batch, options.augment)
    batch = augment.between_class(mix_key, batch, options.augment)
    batch = augment.gain(gain_keys, batch, options.augment)
    features, valid_frames = log_mel(batch["audio"], batch["num_samples"], model.features)
    features, valid_frames = augment.stretch(stretch_keys, features, valid_frames, options.augment)
    if options.view_share:
        features = views.recolour(
            view_keys, features, valid_frames, options.view, share=options.view_share
        )
    features = augment.spec_augment(mask_key, features, valid_frames, options.augment)

    def loss_fn(params, part):
        logits = model.apply(
            {"params": params},
            part["features"],
            part["valid_frames"],
            part["keys"],
            train=True,
            method="from_features",
        )
        pair = metrics.weighted(_loss(logits, part["labels"], options, train=True), part["valid"])
        correct = metrics.weighted(_item_correct(logits, part["labels"]), part["valid"])
        return pair[0], {"loss": pair, "accuracy": correct}

    whole = {
        "features": features,
        "valid_frames": valid_frames,
        "keys": state.clip_keys(dropout_key, size),
        "labels": batch["labels"],
        "valid": batch["valid"],
    }
    loss, pairs, grads = state.gradients(
        loss_fn, train_state.params, whole, passes=options.accumulate
    )
    train_state, norm, finite = train_state.apply_gradients(grads, loss)
    pairs |= {"gradient_norm": metrics.single(norm), "finite": metrics.single(finite)}
    return train_state, pairs


def finetune_eval_step(train_state: state.TrainState, batch, key: jax.Array):
    """Metrics of one held-out batch, and its logits.

    Returns:
      pairs; `logits` [B, C], `labels` [B, C] and `valid` [B], from which the whole-set metrics
      are computed.
    """
    del key  # nothing is drawn
    options, model = train_state.options, train_state.model
    labels = _targets(batch, options, model.num_classes)
    logits = model.apply(
        {"params": train_state.eval_params}, batch["audio"], batch["num_samples"], train=False
    )
    pairs = {
        "loss": metrics.weighted(_loss(logits, labels, options, train=False), batch["valid"]),
        "accuracy": metrics.weighted(_item_correct(logits, labels), batch["valid"]),
    }
    return pairs, {"logits": logits, "labels": labels, "valid": batch["valid"]}


def finetune_embed_step(train_state: state.TrainState, batch):
    """Embeddings of one batch, as evaluation/probe.py takes them.

    Returns:
      `embedding` [B, E] float32, `labels` [B, C]; `valid` [B] and `index` [B] of the batch.
    """
    model = train_state.model
    embedding = model.apply(
        {"params": train_state.eval_params}, batch["audio"], batch["num_samples"], method="embed"
    )
    labels = _targets(batch, train_state.options, model.num_classes)
    passed_on = {name: batch[name] for name in ("valid", "index")}
    return {"embedding": embedding, "labels": labels, **passed_on}
