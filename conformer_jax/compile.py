"""python -m conformer_jax.compile --config=configs/pretrain.py:large --topology=v5e:16x16

Compiles the training step with the real TPU compiler for a pod that need not be there, on any
Linux machine (x86-64; `pip install '.[tpu]'`), and says whether it fits and how fast it may run.
"""

import dataclasses
import os
import re
import time

# Before jax is imported: compute here, and do not look for a TPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "")
os.environ.setdefault("TPU_LIBRARY_LOG_LEVEL", "3")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies

from conformer_jax.command import overrides
from conformer_jax.data.host_loader import clip_samples
from conformer_jax.errors import UserError
from conformer_jax.measuring import hlo, profiling
from conformer_jax.models import flops
from conformer_jax.steps import pretrain
from conformer_jax.training import program


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip. Peaks and memory: Google Cloud's pages of each version, read 2026-11.

    hbm: bytes, at the published 10**9 a GB (a chip has a little more).
    peak: dense bfloat16 FLOP/s.
    links: bytes/s that a chip sends over all its links to other chips (half of the published
    bandwidth, where that counts both directions).
    clock: Hz, from the peak: FLOP/s / (matrix units x 128 x 128 x 2).
    """

    hbm: float
    peak: float
    links: float
    clock: float
    config: str  # how libtpu calls it: both cores of a chip as one device, or one core


CHIPS = {
    "v4": Chip(32e9, 275e12, 300e9, 1.05e9, "megacore"),
    "v5e": Chip(16e9, 197e12, 200e9, 1.5e9, "default"),
    "v5p": Chip(95e9, 459e12, 600e9, 1.75e9, "megacore"),
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the compiler says of one training step; times in s, sizes in bytes, all of one chip."""

    chips: int
    memory: float  # arguments, working space and program together
    hbm: float
    compute_s: float  # the compiler's cycles, turned into time by the chip's clock
    # Bytes sent / Chip.links: as if every link served every collective, which is a lower bound, but
    # none of it hidden behind compute.
    collective_s: float
    sent: dict[str, float]  # by kind of collective
    largest: dict[str, int]  # largest single collective of each kind
    model_flops: float  # matrix products of the model (models/flops.py), its share of one chip
    parts: dict[str, float]  # shares of the compute by part of the step, as `benchmark --profile`
    busy: float  # model_flops against the chip's peak over the whole step
    compile_s: float

    @property
    def step_s(self) -> float:
        """Compute and collectives, one after the other."""
        return self.compute_s + self.collective_s

    @property
    def collective_share(self) -> float:
        """Of the step's time."""
        return self.collective_s / self.step_s


def estimate(config, topology: str, num_classes: int = 0) -> Estimate:
    """Compiles config's training step for a topology such as 'v5e:16x16' or 'v4:2x2x2'.

    `num_classes`: of fine-tuning, whose labels are nowhere to be read.

    Raises:
      UserError: no libtpu, an unknown chip or topology, a config that does not fit the devices,
        or one that the compiler finds no room for; the message says how much there is too much.
    """
    version, _, shape = topology.partition(":")
    if version not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology={topology!r}: give <chip>:<chips along each dimension>, such as "
            f"v5e:16x16 or v5p:4x4x4; chips: {', '.join(CHIPS)}"
        )
    chip = CHIPS[version]
    config = _without_data(config, num_classes)
    devices = _devices(topology, chip)
    built = program.build(config, num_classes, devices=devices)
    begun = time.perf_counter()
    lowered = built.train_step.lower(
        built.abstract_state,
        _batch(config, built, num_classes),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _no_room(error, config) from error
    compile_s = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    cost = hlo.cost(text, len(devices))
    compute_s, collective_s = cost.cycles / chip.clock, sum(cost.sent.values()) / chip.links
    model, size = built.abstract_state.model, config.data.batch_size
    model_flops = flops.train_step_flops(model, _num_samples(config), size) / len(devices)
    return Estimate(
        chips=len(devices),
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        hbm=chip.hbm,
        compute_s=compute_s,
        collective_s=collective_s,
        sent=cost.sent,
        largest=cost.largest,
        model_flops=model_flops,
        parts=profiling.estimated_shares(text),
        busy=model_flops / chip.peak / (compute_s + collective_s),
        compile_s=compile_s,
    )


def describe(config, topology: str, num_classes: int = 0) -> str:
    """`estimate` in words."""
    e = estimate(config, topology, num_classes)
    fits = "fits" if e.memory <= e.hbm else f"does not fit: {_mend(config, e.memory / e.hbm)}"
    clips = config.data.batch_size / e.step_s
    sent = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in sorted(e.sent.items()))
    parts = "; ".join(f"{part} {share:.0%}" for part, share in e.parts.items() if share >= 0.005)
    return "\n".join(
        [
            f"{config.name}, {e.chips} chips of {topology}, batch {config.data.batch_size}, "
            f"compiled in {e.compile_s:.0f} s; an estimate, not a measurement",
            f"memory a chip: {e.memory / 1e9:.2f} GB of {e.hbm / 1e9:.0f} GB: {fits}",
            f"matrix products of the model: {e.model_flops / 1e12:.3f} TFLOP a chip and step",
            f"each chip sends: {sent or 'nothing'} a step",
            f"estimated step: {e.step_s * 1e3:.1f} ms = {e.compute_s * 1e3:.1f} ms of compute "
            f"+ {e.collective_s * 1e3:.1f} ms of collectives ({e.collective_share:.1%})",
            f"compute by part: {parts}",
            f"that is {clips:.0f} clips/s, {clips * config.data.clip_s:.0f} s of audio a second, "
            f"matrix units busy {e.busy:.0%}",
            f"{config.train.num_steps} steps: {config.train.num_steps * e.step_s / 3600:.2g} h, "
            f"without reading sound, evaluating and saving",
        ]
    )


def _devices(topology, chip):
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=chip.config
        ).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        if "not installed" in reason or "libtpu" in reason:
            install = "pip install -c launch/constraints.txt -e '.[tpu]'"
            raise UserError(f"the TPU compiler is missing: {install} ({reason})") from error
        raise UserError(f"--topology={topology}: {reason}") from error


def _without_data(config, num_classes):
    if config.task not in ("pretrain", "finetune"):
        raise UserError(f"a {config.task} has no training step to compile")
    if config.task == "finetune" and num_classes < 2:
        raise UserError("how many classes has the classifier? give --classes, such as 527")
    return program.without_statistics(config)


def _num_samples(config):
    return clip_samples(config.data.clip_s, config.features.sample_rate)


def _batch(config, built, num_classes):
    size, samples = config.data.batch_size, _num_samples(config)
    shapes = {
        "audio": ((size, samples), np.int16),
        "num_samples": ((size,), np.int32),
        "valid": ((size,), np.float32),
    }
    if pretrain.whole_batch(config):
        shapes["file"] = ((size,), np.int32)
    if config.task == "finetune":
        several = config.classifier.multi_label
        shapes["labels"] = ((size, num_classes), np.float32) if several else ((size,), np.int32)
    return {
        name: jax.ShapeDtypeStruct(*shape, sharding=built.batch_sharding)
        for name, shape in shapes.items()
    }


def _no_room(error, config):
    text = str(error)
    if found := re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm", text):
        unit = {"G": 2**30, "M": 2**20}
        used, room = (float(found[i]) * unit[found[i + 1]] for i in (1, 3))
        return UserError(
            f"does not fit: {used / 1e9:.1f} GB a chip of {room / 1e9:.1f} GB: "
            f"{_mend(config, used / room)}"
        )
    return UserError(f"the TPU compiler refused: {text.strip().splitlines()[0][:300]}")


def _mend(config, excess):
    """What to change where the step needs `excess` times the memory there is."""
    passes = config.train.accumulate
    while passes < config.train.accumulate * excess * 1.1:
        passes *= 2
    return (
        f"try --config.train.accumulate={passes}, or --config.conformer.remat=full, "
        f"or --config.sharding.fsdp=8, or a smaller --config.data.batch_size, or more chips"
    )


def main(argv):
    """Prints the description, or the user's mistake in one line."""
    del argv
    try:
        print(describe(CONFIG.value, TOPOLOGY.value, CLASSES.value))
    except UserError as error:
        overrides.fail(str(error))


if __name__ == "__main__":
    CONFIG = overrides.define_config_flag()
    TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Chip and shape, such as v5e:16x16.")
    CLASSES = flags.DEFINE_integer("classes", 0, "How many, for a config that fine-tunes.")
    app.run(main, flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG))
