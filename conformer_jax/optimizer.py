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

    Args:
      config: config.optimizer.
      num_steps: length of the run, config.train.num_steps.
      depth: params -> tree of ints like it: 0 for the head, counted up from there to the input;
        None for a model without a head.

    Raises:
      ValueError: a field out of range, or one that needs a depth where there is none.
    """
    _check(config, depth)
    schedule = make_schedule(config, num_steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts += [
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            # Decay shrinks matrices; on a bias, a norm or an embedding it only does harm.
            mask=_is_matrix,
        )
    ]
    if _depth_counts(config):
        parts.append(_by_depth(config, round(config.freeze_encoder_share * num_steps), depth))
    return optax.chain(*parts), schedule


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
    problems = {
        "layer_decay": not 0 < config.layer_decay <= 1,
        "head_multiplier": config.head_multiplier <= 0,
        "freeze_encoder_share": not 0 <= config.freeze_encoder_share <= 1,
    }
    for field, wrong in problems.items():
        if wrong:
            raise ValueError(
                f"config.optimizer.{field} = {config[field]} is out of range (see its comment in "
                f"configs/base.py)"
            )
    if depth is None and _depth_counts(config):
        fields = ", ".join(field for field in _BY_DEPTH if config[field] != _BY_DEPTH[field])
        raise ValueError(f"config.optimizer: {fields}: for fine-tuning only, leave the default")


def _is_matrix(params):
    """True for every leaf called a kernel; its shape does not tell: a bias may have axes, too."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).endswith("kernel"), params
    )
