"""The training state and the one place where gradients become parameters."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """All that changes in a run; no random key, which follows from (seed, step).

    step: int32; params, opt_state: trees; ema: tree like params, or None;
    skipped: int32, steps in a row left out because they were not finite.
    model, optimizer, options: static.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    skipped: jax.Array
    model: nn.Module = flax.struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    options: Any = flax.struct.field(pytree_node=False)  # the task's own settings, hashable
    ema_decay: float = flax.struct.field(pytree_node=False, default=0.0)

    @property
    def eval_params(self):
        """The parameters to evaluate with: the average where one is kept."""
        return self.params if self.ema is None else self.ema

    def apply_gradients(self, grads, loss):
        """Takes one optimizer step, unless loss or gradients are not finite.

        A step that is not finite changes nothing but the counters, so a single bad batch costs
        one step and not the run.

        Args:
          grads: tree like params.
          loss: scalar.

        Returns:
          the next state; the global gradient norm; finite, a bool scalar.
        """
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = self.optimizer.update(grads, self.opt_state, self.params)
        params = optax.apply_updates(self.params, updates)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        params = keep(params, self.params)
        ema = self.ema
        if ema is not None:
            ema = keep(optax.incremental_update(params, ema, 1.0 - self.ema_decay), ema)
        state = self.replace(
            step=self.step + 1,
            params=params,
            opt_state=keep(opt_state, self.opt_state),
            ema=ema,
            skipped=jnp.where(finite, 0, self.skipped + 1),
        )
        return state, norm, finite


def create(params, model, optimizer, options, *, ema_decay: float) -> TrainState:
    """State at step 0; keeps an exponential moving average where ema_decay > 0."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema_decay else None,
        skipped=jnp.zeros((), jnp.int32),
        model=model,
        optimizer=optimizer,
        options=options,
        ema_decay=ema_decay,
    )
