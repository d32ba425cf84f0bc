"""AdamW with a warm-up and cosine schedule, from config.optimizer."""

import jax
import optax


def make_schedule(config, num_steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 to the peak, then cosine down to the end share."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=max(1, round(config.warmup_share * num_steps)),
        decay_steps=num_steps,
        end_value=config.end_share * config.learning_rate,
    )


def make_optimizer(config, num_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transform and its schedule.

    Args:
      config: config.optimizer.
      num_steps: length of the run, config.train.num_steps.
    """
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
    return optax.chain(*parts), schedule


def _is_matrix(params):
    """True for every leaf called a kernel; its shape does not tell: a bias may have axes, too."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key).endswith("kernel"), params
    )
