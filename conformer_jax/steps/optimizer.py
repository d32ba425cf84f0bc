"""AdamW with a warm-up and cosine schedule, from config.optimizer."""

import jax
import jax.numpy as jnp
import optax

# What needs to know how deep a parameter lies; the values change nothing.
_BY_DEPTH = {"layer_decay": 1.0, "head_multiplier": 1.0, "freeze_encoder_share": 0.0}


def make_schedule(config, num_steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 to the peak, then cosine down to the end share."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=max(1, round(config.warmup_share * num_steps)),
        decay_steps=max(num_steps, 2),  # optax needs a step after the warm-up
        end_value=config.end_share * config.learning_rate,
    )


def make_optimizer(
    config, num_steps: int, depth=None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transform and its schedule.

    `update` takes `choose`, a function (new state, old state) -> the state to go on with, through
    which every part passes its own: TrainState.apply_gradients thus leaves a step out, whose
    updates are then not to be applied. Without it the new state is taken.

    Args:
      config: config.optimizer.
      num_steps: length of the run, config.train.num_steps.
      depth: params -> tree of ints like it: 0 for the head, counted up from there to the input;
        None for a model without a head.

    Raises:
      ValueError: a field that needs a depth where there is none.
    """
    _check(config, depth)
    schedule = make_schedule(config, num_steps)
    parts = [_clip(config.clip_norm)] if config.clip_norm else []
    # AdamW, with a state of the form of optax.adamw's: checkpoints of either resume.
    parts += [
        optax.chain(
            _adam(config.b1, config.b2, config.eps),
            # Decay shrinks matrices; on a bias, a norm or an embedding it only does harm.
            optax.add_decayed_weights(config.weight_decay, _is_matrix),
            choosing(optax.scale_by_learning_rate(schedule)),
        )
    ]
    if _depth_counts(config):
        frozen_steps = round(config.freeze_encoder_share * num_steps)
        parts.append(choosing(_by_depth(config, frozen_steps, depth)))
    return optax.chain(*parts), schedule


def _clip(max_norm):
    """optax.clip_by_global_norm as one factor, which XLA multiplies in where gradients are read."""

    def update(updates, state, params=None):
        del params
        factor = max_norm / jnp.maximum(optax.tree.norm(updates), max_norm)
        return jax.tree.map(lambda u: u * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(b1, b2, eps):
    """optax.scale_by_adam that passes its moments through `choose` before it uses them.

    Chosen after the step instead, old and new moments would exist side by side: memory for two more
    copies of the parameters, and the time to write them.
    """

    def update(updates, state, params=None, *, choose=_take_new):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        new = choose(optax.ScaleByAdamState(count=count, mu=mu, nu=nu), state)
        mu_hat = optax.tree.bias_correction(new.mu, b1, count)
        nu_hat = optax.tree.bias_correction(new.nu, b2, count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, new

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam().init, update)


def choosing(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`transform` with its state passed through `choose`."""

    def update(updates, state, params=None, *, choose=_take_new):
        updates, new = transform.update(updates, state, params)
        return updates, choose(new, state)

    return optax.GradientTransformationExtraArgs(transform.init, update)


def _take_new(new, old):
    del old
    return new


def _by_depth(config, frozen_steps, depth):
    """Scales updates by where a parameter lies, weight decay included.

    The head's by config.head_multiplier; those of depth d by config.layer_decay ** d (ELECTRA,
    Clark et al. 2020; BEiT, Bao et al. 2022), and by 0 in the first `frozen_steps` steps (wav2vec
    2.0, where they are 10k). Adam's moments are kept up meanwhile: the first free step is no leap.
    """
    head, decay = config.head_multiplier, config.layer_decay

    def update(updates, state, params):
        frozen = state.count < frozen_steps

        def scaled(update, d):
            return update * head if d == 0 else jnp.where(frozen, 0.0, update * decay**d)

        updates = jax.tree.map(scaled, updates, depth(params))
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
    )


def _depth_counts(config):
    return any(config[field] != neutral for field, neutral in _BY_DEPTH.items())


def _check(config, depth):
    if depth is None and _depth_counts(config):
        fields = ", ".join(field for field in _BY_DEPTH if config[field] != _BY_DEPTH[field])
        raise ValueError(f"config.optimizer: {fields}: for fine-tuning only, leave the default")


def _is_matrix(params):
    """True for every leaf called a kernel; its shape does not tell: a bias may have axes, too."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).endswith("kernel"), params
    )
