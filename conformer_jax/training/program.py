"""What a config compiles to: the mesh, the initial state and the two jitted steps of its task.

Several runs of one shape (folds, seeds, a control from scratch) can share a Program and so its
compilations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding

from conformer_jax import fields
from conformer_jax.data.host_loader import LoaderSpec, loader_spec
from conformer_jax.errors import UserError
from conformer_jax.models.classifier import Classifier
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.reading import FROZEN
from conformer_jax.steps import augment, clip_contrast, finetune, optimizer, pretrain
from conformer_jax.steps.state import TrainState
from conformer_jax.training import sharding


def _pretrain_model(config, num_classes):
    del num_classes  # there is no head
    return pretrain.OBJECTIVES[config.objective].make_model(config)


def _pretrain_options(config):
    return pretrain.OBJECTIVES[config.objective].make_options(config)


def _labels_model(config, num_classes):
    if config.classifier.crop_s > config.data.clip_s:
        raise ValueError(
            f"config.classifier.crop_s = {config.classifier.crop_s} is more than "
            f"config.data.clip_s = {config.data.clip_s}, of which it is a part"
        )
    return Classifier(
        FeatureSpec(**config.features),
        EncoderSpec(**config.conformer),
        num_classes,
        pooling=config.classifier.pooling,
        layers=config.classifier.layers,
        dropout=config.classifier.dropout,
        crop_frames=round(config.classifier.crop_s / config.features.hop_s),
        crops=config.classifier.crops,
    )


def _labels_options(config):
    features = config.features
    coloured = config.augment.views if config.task == "finetune" else 0.0
    if config.task == "finetune":  # what is frozen is not augmented
        augment.check(config.augment, crop_s=config.classifier.crop_s)
    return finetune.Options(
        multi_label=config.classifier.multi_label,
        label_smoothing=config.losses.label_smoothing,
        augment=augment.make_spec(
            config.augment,
            crop_s=config.classifier.crop_s,
            sample_rate=features.sample_rate,
            hop_s=features.hop_s,
        ),
        accumulate=config.train.accumulate,
        view=clip_contrast.view_spec(config) if coloured else None,
        view_share=coloured,
    )


class _Task(NamedTuple):
    """What a task is made of."""

    make_model: Callable  # (config, num_classes) -> model
    make_options: Callable  # config -> what its steps need beside the model
    init: Callable  # (model, options, optimizer, key, *, ema_decay) -> state
    train_step: Callable
    eval_step: Callable
    embed_step: Callable | None
    whole_set: Callable | None  # of pre-training: steps/pretrain.py
    depth: Callable | None  # params -> how deep each lies, for the optimizer


_PRETRAIN = _Task(
    make_model=_pretrain_model,
    make_options=_pretrain_options,
    init=pretrain.init,
    train_step=pretrain.pretrain_step,
    eval_step=pretrain.pretrain_eval_step,
    embed_step=None,
    whole_set=pretrain.whole_set,
    depth=None,
)
_LABELS = _Task(
    make_model=_labels_model,
    make_options=_labels_options,
    init=finetune.init,
    train_step=finetune.finetune_step,
    eval_step=finetune.finetune_eval_step,
    embed_step=finetune.finetune_embed_step,
    whole_set=None,
    depth=finetune.depth,
)
_TASKS = {"pretrain": _PRETRAIN, "finetune": _LABELS} | dict.fromkeys(FROZEN, _LABELS)
TASKS = tuple(_TASKS)

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
    pre-training; whole_set(state, outputs) -> arrays, of some objectives of pre-training alone.
    train_step cannot be called inside another jit (of COMPILER_OPTIONS)."""

    init: Callable
    train_step: Callable
    eval_step: Callable
    embed_step: Callable | None
    whole_set: Callable | None
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
    probes = config.task in FROZEN or (
        config.task == "finetune" and (config.classifier.init == "probe" or config.classifier.refit)
    )
    if probes and config.classifier.pooling == "linear_softmax":
        raise UserError(
            "config.classifier.pooling = 'linear_softmax' pools probabilities, and a probe needs "
            "vectors: choose another pooling"
        )
    if config.task in FROZEN and config.data.mixture:
        raise UserError(
            "config.data.mixture: a probe hears every clip once, and shares of batches mean "
            "nothing; `python -m conformer_jax.manifest DIR --add=MANIFEST` joins manifests"
        )
    if pretrain.whole_batch(config) and config.train.accumulate > 1:
        raise UserError(
            f"config.train.accumulate = {config.train.accumulate} splits the batch, and with "
            f"config.objective = '{config.objective}' the other clips of a batch are what a clip "
            f"is told from: leave it at 1"
        )


def batch_spec(config) -> LoaderSpec:
    """How the batches of the config's task are read."""
    return loader_spec(config, distinct=pretrain.whole_batch(config))


def make_model(config, num_classes: int = 0) -> nn.Module:
    """The model of the config's task; a ValueError or TypeError for a field that does not fit."""
    return _TASKS[config.task].make_model(config, num_classes)


def make_options(config):
    """The options of the task's steps: those of its objective, or `finetune.Options`."""
    return _TASKS[config.task].make_options(config)


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
    parts = _TASKS[config.task]
    try:
        transform, schedule = optimizer.make_optimizer(
            config.optimizer, config.train.num_steps, parts.depth
        )
        options = make_options(config)
        if config.task == "pretrain":
            options = pretrain.on_mesh(options, sharding.batch_sharding(mesh))
        init = functools.partial(
            parts.init,
            make_model(config, num_classes),
            options,
            transform,
            ema_decay=config.optimizer.ema_decay,
        )
        shapes = jax.eval_shape(init, jax.random.key(0))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    return _compiled_lazily(parts, init, shapes, schedule, mesh, key)


def _compiled_lazily(parts, init, shapes, schedule, mesh, key):
    """The Program of a task's parts on a mesh."""
    shardings = sharding.state_shardings(mesh, shapes)
    compiler_options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    return Program(
        init=jax.jit(init, out_shardings=shardings),
        train_step=jax.jit(
            parts.train_step,
            in_shardings=(shardings, batch, whole),
            out_shardings=(shardings, whole),
            donate_argnums=0,
            compiler_options=compiler_options,
        ),
        eval_step=jax.jit(
            parts.eval_step, in_shardings=(shardings, batch, whole), out_shardings=whole
        ),
        embed_step=parts.embed_step
        and jax.jit(parts.embed_step, in_shardings=(shardings, batch), out_shardings=whole),
        whole_set=parts.whole_set
        and jax.jit(parts.whole_set, in_shardings=(shardings, whole), out_shardings=whole),
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
    for field in ("init", "refit"):
        del content["classifier"][field]
    for section in ("checkpoint", "data", "synthetic", "monitor", "probe"):
        del content[section]
    train = {field: content["train"][field] for field in ("num_steps", "accumulate")}
    task = "pretrain" if config.task == "pretrain" else "labels"
    a = config.augment
    if config.task == "finetune" and (a.views or a.mixup_alpha or a.between_class or a.speed > 1):
        task = config.task  # what is frozen is not augmented, and is not asked whether it could be
    return repr((num_classes, {**content, "train": train, "task": task}))
