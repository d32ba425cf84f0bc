"""Pre-training: the model's state, the training step, the evaluation step, whatever the objective.

An objective is a module with
  make_model(config), make_options(config)   the model, with an `encoder` and what it needs beside;
                                             the options, hashable, with `objective`, `accumulate`
  forward(state, params, batch, train=...)   (loss, a sum over what counts; pairs, with "loss";
                                             outputs for the whole held-out set, or None)
  WHOLE_BATCH                                whether the loss of a clip depends on the others
  TELLS                                      what it tells apart and has the metrics of, which says
                                             what is healthy: "tokens", "clips", both, or neither
  losses_of(config)                          metrics with their weights: a checkpoint is ranked by
                                             their sum over the held-out clips, lower is better
  whole_set(state, outputs)                  of all outputs of an evaluation: arrays to judge by;
                                             only where `forward` has outputs
"""

import dataclasses

import jax
import jax.numpy as jnp

from conformer_jax.steps import both, clip_contrast, masked_contrast, metrics, state

OBJECTIVES = {
    "wav2vec2": masked_contrast,
    "clip": clip_contrast,
    "both": both,
}


def tells(config, what: str) -> bool:
    """Whether a config pre-trains with an objective that tells these ("tokens", "clips") apart."""
    # Runs of before had no other; one may be of an objective that is not known here.
    known = OBJECTIVES.get(config.get("objective", "wav2vec2"))
    return config.task == "pretrain" and known is not None and what in known.TELLS


def whole_batch(config) -> bool:
    """Whether a config pre-trains by telling the clips of a batch apart."""
    return config.task == "pretrain" and OBJECTIVES[config.objective].WHOLE_BATCH


def losses_of(config) -> dict[str, float]:
    """Of a config that pre-trains: metrics, with weights, whose sum ranks checkpoints."""
    return OBJECTIVES[config.objective].losses_of(config)


def on_mesh(options, rows):
    """The options of an objective with where the rows of a batch lie, if it needs to know."""
    if not OBJECTIVES[options.objective].WHOLE_BATCH:
        return options
    return dataclasses.replace(options, rows=rows)


def init(model, options, optimizer, key: jax.Array, *, ema_decay: float) -> state.TrainState:
    """State at step 0, parameters from scratch."""
    # Half a second is enough for shapes: no parameter depends on the length.
    samples = model.features.sample_rate // 2
    audio, num_samples = jnp.zeros((1, samples)), jnp.full((1,), samples)
    params = model.init(key, audio, num_samples, state.clip_keys(key, 1), train=False)["params"]
    return state.create(params, model, optimizer, options, ema_decay=ema_decay)


def pretrain_step(train_state: state.TrainState, batch, key: jax.Array):
    """One optimizer step of the objective.

    Args:
      train_state: from `init`.
      batch: audio [B, N], num_samples [B], valid [B], index [B]; of an objective with WHOLE_BATCH
        also file [B] int32.
      key: root key of the run; the step folds its own number into it.

    Returns:
      the next state; metrics, a dict of (sum, count) pairs.
    """
    key = jax.random.fold_in(key, train_state.step)
    keys = state.clip_keys(key, batch["valid"].shape[0])

    def loss_fn(params, batch):
        return _forward(train_state)(train_state, params, batch, train=True)[:2]

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
    """Metrics of one held-out batch: no dropout, hard codes; and the objective's outputs, if any.

    Masks, distractors and views of a clip come from `key` and its `index` [B] in the source, so
    with the same key checkpoints are compared on the same task, however the clips are batched.
    """
    batch = {**batch, "keys": state.keys_of(key, batch["index"])}
    _, pairs, out = _forward(train_state)(train_state, train_state.eval_params, batch, train=False)
    return pairs if out is None else (pairs, out)


def whole_set(train_state: state.TrainState, found):
    """Arrays to judge by, of the `outputs` of all held-out batches, one after the other."""
    return OBJECTIVES[train_state.options.objective].whole_set(train_state, found)


def _forward(train_state):
    return OBJECTIVES[train_state.options.objective].forward
