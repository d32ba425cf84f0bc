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

    def with_params(self, params):
        """The state with other parameters, from which the average starts, too."""
        ema = None if self.ema is None else jax.tree.map(jnp.copy, params)
        return self.replace(params=params, ema=ema)

    @jax.named_scope("optimizer")
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

        def choose(new, old):
            """The one place where a step that is not finite is left out."""
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        updates, opt_state = self.optimizer.update(
            grads, self.opt_state, self.params, choose=choose
        )
        params = choose(optax.apply_updates(self.params, updates), self.params)
        ema = self.ema
        if ema is not None:
            ema = choose(optax.incremental_update(params, ema, 1.0 - self.ema_decay), ema)
        state = self.replace(
            step=self.step + 1,
            params=params,
            opt_state=opt_state,
            ema=ema,
            skipped=jnp.where(finite, 0, self.skipped + 1),
        )
        return state, norm, finite


@jax.named_scope("dropout")
def clip_keys(key: jax.Array, size: int) -> jax.Array:
    """One random key for each of `size` clips: it follows from `key` and the clip's row."""
    return keys_of(key, jnp.arange(size))


def keys_of(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """One random key for each of the integers [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def gradients(loss_fn, params, batch, *, passes: int):
    """Loss and gradient of a batch, in one pass or accumulated over several.

    Each pass holds the activations of B / passes clips only.

    Args:
      loss_fn: (params, batch) -> (sum over what counts, pairs), where pairs["loss"] is that sum
        and the count.
      params: tree.
      batch: tree of arrays [B, ...].
      passes: divides B.

    Returns:
      the mean loss; pairs, of the whole batch; the gradient of the mean loss.
    """

    def mean_loss(params, batch):
        total, pairs = loss_fn(params, batch)
        return total / jnp.maximum(pairs["loss"][1], 1.0), pairs

    if passes == 1:
        # The mean is what is differentiated: dividing the gradients would read them once more.
        (loss, pairs), grads = jax.value_and_grad(mean_loss, has_aux=True)(params, batch)
        return loss, pairs, grads

    def one(batch):
        return jax.value_and_grad(loss_fn, has_aux=True)(params, batch)

    # Every passes-th clip to the same pass: no clip leaves its device.
    parts = jax.tree.map(lambda x: x.reshape(-1, passes, *x.shape[1:]).swapaxes(0, 1), batch)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, part):
        return jax.tree.map(jnp.add, total, one(part)), None

    ((_, pairs), grads), _ = jax.lax.scan(add, zeros, parts)
    with jax.named_scope("optimizer"):
        total, count = pairs["loss"]
        count = jnp.maximum(count, 1.0)
        return total / count, pairs, jax.tree.map(lambda g: g / count, grads)


def create(params, model, optimizer, options, *, ema_decay: float) -> TrainState:
    """State at step 0; keeps an exponential moving average where ema_decay > 0.

    `optimizer` must take `choose`: optimizer.make_optimizer's, or another in optimizer.choosing.
    """
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
