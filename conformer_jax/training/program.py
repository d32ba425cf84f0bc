"""What a config compiles to: the mesh, the initial state and the two jitted steps of its task.

Several runs of one shape (folds, seeds, a control from scratch) can share a Program and so its
compilations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from conformer_jax import fields
from conformer_jax.errors import UserError
from conformer_jax.steps import finetune, optimizer, pretrain
from conformer_jax.steps.state import TrainState
from conformer_jax.training import sharding

# What XLA is told about the training step beyond its own defaults, by platform.
COMPILER_OPTIONS = {
    # Operations in an order that frees memory early instead of one that has many ready to run: a
    # step has one after the other anyway, and takes a third less memory (docs/performance.md).
    "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
}


@dataclasses.dataclass(frozen=True)
class Program:
    """init(key) -> state; train_step(state, batch, key) -> (state, metrics);
    eval_step(state, batch, key) -> metrics[, outputs]; embed_step(state, batch) -> outputs, None of
    pre-training. train_step cannot be called inside another jit (of COMPILER_OPTIONS)."""

    init: Callable
    train_step: Callable
    eval_step: Callable
    embed_step: Callable | None
    abstract_state: TrainState  # shapes and shardings
    schedule: Callable  # step -> learning rate
    mesh: Mesh
    batch_sharding: NamedSharding
    key: str  # what it was built from

    def put_batch(self, batch):
        """This process's part of a batch, put together with those of the others on the mesh."""
        return sharding.put_batch(batch, self.batch_sharding)


def without_statistics(config):
    """A copy for runs that learn nothing: feature statistics that are not known are taken as 0 and
    1, which changes no shape and no time."""
    config = config.copy_and_resolve_references()
    if not config.features.mean:
        bins = config.features.num_mels
        config.features.update(mean=(0.0,) * bins, deviation=(1.0,) * bins)
    return config


def check(config) -> None:
    """Raises UserError for a value out of range, and for a head that the task has no use for."""
    fields.check(config)
    probes = config.task in ("linear_probe", "knn") or (
        config.task == "finetune" and config.classifier.init == "probe"
    )
    if probes and config.classifier.pooling == "linear_softmax":
        raise UserError(
            "config.classifier.pooling = 'linear_softmax' pools probabilities, and a probe needs "
            "vectors: choose another pooling"
        )


def build(config, num_classes: int = 0, devices=None, prepared: Program | None = None) -> Program:
    """Builds the task's program; nothing is compiled before its first call.

    Args:
      config: the full config, features.mean and .deviation filled in.
      num_classes: C, of a fine-tuning run.
      devices: to compile for; all of this machine's by default.
      prepared: of another run; returned, with all that it has compiled, where this config would
        build the same.

    Raises:
      UserError: a field that does not fit.
    """
    check(config)
    key = _key(config, num_classes)
    same = prepared is not None and prepared.key == key
    mesh = prepared.mesh if same else sharding.make_mesh(config.sharding, devices)
    sharding.check_batch_size(
        mesh, config.data.batch_size, "config.data.batch_size", config.train.accumulate
    )
    sharding.check_batch_size(mesh, config.data.eval_batch_size, "config.data.eval_batch_size")
    if same:
        return prepared
    try:
        depth = None if config.task == "pretrain" else finetune.depth
        transform, schedule = optimizer.make_optimizer(
            config.optimizer, config.train.num_steps, depth
        )
        if config.task == "pretrain":
            model = pretrain.make_model(config)
            steps: Any = (pretrain.init, pretrain.pretrain_step, pretrain.pretrain_eval_step)
            embed = None
        else:
            model = finetune.make_model(config, num_classes)
            steps = (finetune.init, finetune.finetune_step, finetune.finetune_eval_step)
            embed = finetune.finetune_embed_step
        init = functools.partial(steps[0], config, model, transform)
        shapes = jax.eval_shape(init, jax.random.key(0))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    shardings = sharding.state_shardings(mesh, shapes)
    compiler_options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    return Program(
        init=jax.jit(init, out_shardings=shardings),
        train_step=jax.jit(
            steps[1],
            in_shardings=(shardings, batch, whole),
            out_shardings=(shardings, whole),
            donate_argnums=0,
            compiler_options=compiler_options,
        ),
        eval_step=jax.jit(steps[2], in_shardings=(shardings, batch, whole), out_shardings=whole),
        embed_step=embed and jax.jit(embed, in_shardings=(shardings, batch), out_shardings=whole),
        abstract_state=jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            shardings,
        ),
        schedule=schedule,
        mesh=mesh,
        batch_sharding=batch,
        key=key,
    )


def _key(config, num_classes):
    """All of a config that enters its program, and a little more."""
    content = config.to_dict()
    for field in ("name", "seed", "init_from", "next_command", "compare_with_scratch"):
        del content[field]
    for section in ("checkpoint", "data", "synthetic", "probe"):
        del content[section]
    train = {field: content["train"][field] for field in ("num_steps", "accumulate")}
    task = "pretrain" if config.task == "pretrain" else "labels"
    return repr((num_classes, {**content, "train": train, "task": task}))
