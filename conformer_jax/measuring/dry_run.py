"""--dry_run: what a config would do, without doing it."""

import math
import tempfile

import jax
import numpy as np

from conformer_jax.data import host_loader
from conformer_jax.data.sources import BadAudioReport
from conformer_jax.models import flops
from conformer_jax.training import opening, program, sharding


def describe(config) -> str:
    """Builds everything, compiles the training step, reads one batch, and says what it saw.

    Nothing is written, and feature statistics are not measured: they change no shape.

    Raises:
      UserError: what the run itself would raise.
    """
    program.check(config)
    config = program.without_statistics(config)
    with tempfile.TemporaryDirectory() as nowhere:
        report = BadAudioReport(None, config.data.max_bad_share)
        data = opening.prepare_data(config, nowhere, report)
        source = opening.carve(config, data.train).train
    compiled = program.build(config, len(data.label_names))
    state = compiled.abstract_state
    spec = program.batch_spec(config)
    batches = host_loader.train_batches(
        source, spec, 0, report, jax.process_index(), jax.process_count()
    )
    batch = next(batches)
    batches.close()
    step = compiled.train_step.lower(
        state, sharding.put_batch(batch, compiled.batch_sharding), jax.random.key(0)
    ).compile()
    lines = [*_parameter_table(state.params), ""]
    lines.append("mesh: " + ", ".join(f"{k} {v}" for k, v in compiled.mesh.shape.items()))
    lines.append(f"clips: {len(source)} to train on, {len(data.held_out)} held out")
    lines += [f"batch: {k} {v.dtype} {list(v.shape)}" for k, v in batch.items()]
    lines.append(_memory(step, state))
    whole = flops.train_step_flops(state.model, spec.num_samples, spec.batch_size)
    lines.append(
        f"matrix products: {whole / 1e9:.1f} GFLOP a training step "
        f"({whole / 3e9 / spec.batch_size:.2f} a clip forward)"
    )
    return "\n".join(lines)


def _parameter_table(params):
    """One line a module of the first two levels, and the total."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(str(key.key) for key in path[:2])
        sizes[name] = sizes.get(name, 0) + math.prod(leaf.shape)
    width = max(len(name) for name in sizes)
    lines = [f"{name:<{width}}  {size:>12,}" for name, size in sizes.items()]
    return [*lines, f"{'parameters':<{width}}  {sum(sizes.values()):>12,}"]


def _memory(step, state):
    held = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    line = f"memory: state {held / 2**20:.0f} MiB"
    analysis = step.memory_analysis()
    if analysis is None:
        return line
    return f"{line}, working space of a step {analysis.temp_size_in_bytes / 2**20:.0f} MiB a device"
