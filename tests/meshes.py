"""Run by test_sharding.py in a process of its own: three steps on several meshes of 8 CPU devices.

Writes to <folder>/results.npz the loss of each step and the parameters of every variant, and what
each mesh makes of the checkpoint of another one.
"""

import functools
import pathlib
import re
import sys

import jax
import numpy as np

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax.steps import pretrain
from conformer_jax.steps.state import clip_keys
from conformer_jax.training import checkpoint, digest, program, sharding

# name: (data, fsdp, tensor), other fields.
VARIANTS = {
    "8,1,1": ((8, 1, 1), {}),
    "1,8,1": ((1, 8, 1), {}),
    "4,2,1 accumulate": ((4, 2, 1), {"train.accumulate": 4}),
    "4,2,1 scan": ((4, 2, 1), {"conformer.scan_blocks": True}),
    "2,2,2 remat": ((2, 2, 2), {"conformer.remat": "full"}),
}
# What a batch is told from lies on all devices: one step of both objectives at once.
OVER_THE_BATCH = ((8, 1, 1), (2, 2, 2), (1, 8, 1))
BORN_BY = ("8,1,1", "1,8,1")  # which draw their own parameters; the others take those
SAVED_BY = "2,2,2 remat"  # whose checkpoint all others restore
BATCH, SAMPLES, STEPS = 32, 8000, 3


def config_of(mesh, fields):
    config = pretrain_config.get_config("smoke")
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.conformer.update(kernel_sizes=(3, 3), dropout=0.1)
    config.data.update(batch_size=BATCH, eval_batch_size=BATCH)
    config.optimizer.update(learning_rate=1e-3, warmup_share=0.0)
    config.sharding.update(dict(zip(sharding.AXES, mesh, strict=True)))
    config.update_from_flattened_dict(fields)
    return config


def batch_of(step):
    rng = np.random.default_rng(step)
    return {
        "audio": rng.integers(-9999, 9999, (BATCH, SAMPLES)).astype(np.int16),
        "num_samples": rng.integers(SAMPLES // 2, SAMPLES, BATCH).astype(np.int32),
        "valid": (np.arange(BATCH) % 8 > 0).astype(np.float32),
        "index": np.arange(BATCH, dtype=np.int32),
        "file": np.arange(BATCH, dtype=np.int32),
    }


def largest_all_gather(hlo):
    """Bytes of the largest single all-gather of a compiled program."""
    sizes = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "s16": 2}
    largest = 0
    for result in re.findall(r"= (.*?) all-gather(?:-start)?\(", hlo):
        shapes = re.findall(r"(\w+)\[([\d,]*)\]", result)
        largest = max(
            largest,
            sum(
                sizes[kind] * int(np.prod([int(n) for n in dims.split(",") if n] or [1]))
                for kind, dims in shapes
            ),
        )
    return largest


def main(folder):
    results, programs, first = {}, [], None
    folder = pathlib.Path(folder)
    checkpoints = checkpoint.Checkpoints(folder)
    for name, (mesh, fields) in VARIANTS.items():
        built = program.build(config_of(mesh, fields))
        if name in BORN_BY:
            state = built.init(jax.random.key(0))
        else:
            shapes, tree = jax.tree.flatten(built.abstract_state)
            places = [leaf.sharding for leaf in shapes]
            state = jax.tree.unflatten(tree, jax.device_put(first, places))
        first = first or jax.device_get(jax.tree.leaves(state))
        results[f"{name}/born"] = largest_share(state.params)
        put = lambda step, place=built.batch_sharding: sharding.put_batch(batch_of(step), place)
        compiled = built.train_step.lower(state, put(0), jax.random.key(1)).compile()
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
        results[f"{name}/gathered"] = largest_all_gather(compiled.as_text()) / total

        def run(state, steps, compiled=compiled, put=put):
            losses = []
            for step in steps:
                state, pairs = compiled(state, put(step), jax.random.key(1))
                losses.append(float(pairs["loss"][0] / pairs["loss"][1]))
            return state, losses

        state, results[f"{name}/losses"] = run(state, range(STEPS))
        results[f"{name}/kept"] = largest_share(state.params)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            results[f"{name}/params{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
        if name == SAVED_BY:
            checkpoints.save(state, {}, 0.0)
            checkpoints.wait()
            results["same_digests"] = same_digests(state.params)
        programs.append((name, built, run))
    for name, built, run in programs:
        state, _ = checkpoints.restore(built.abstract_state)
        results[f"{name}/restored"] = largest_share(state.params)
        _, results[f"{name}/resumed"] = run(state, [STEPS])
    checkpoints.close()
    results["gathered by crops"] = gathered_by_crops()
    np.savez(folder / "results.npz", **results)


def main_over_the_batch(folder):
    """Writes what `over_the_batch` finds on each mesh."""
    results = {}
    for mesh in OVER_THE_BATCH:
        for name, value in over_the_batch(mesh).items():
            results[f"{mesh}/{name}"] = value
    np.savez(pathlib.Path(folder) / "results.npz", **results)


def gathered_by_crops():
    """Bytes of the largest all-gather of an evaluation step that hears crops."""
    config = finetune_config.get_config("smoke")
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.conformer.kernel_sizes = (3,)
    config.classifier.update(crop_s=0.2, crops=3)
    config.data.update(batch_size=BATCH, eval_batch_size=BATCH)
    built = program.build(config, 5)
    batch = {name: values for name, values in batch_of(0).items() if name != "file"}
    batch = sharding.put_batch({**batch, "labels": np.zeros(BATCH, np.int32)}, built.batch_sharding)
    lowered = built.eval_step.lower(built.abstract_state, batch, jax.random.key(0))
    return largest_all_gather(lowered.compile().as_text())


def unlike_clips():
    """A batch of clips of different colours: alike ones would be told apart by rounding."""
    batch, rng = batch_of(0), np.random.default_rng(5)
    noise = rng.standard_normal((BATCH, SAMPLES))
    for i in range(BATCH):
        noise[i] = np.convolve(noise[i], rng.standard_normal(2 + 2 * i), "same")
    return {**batch, "audio": np.clip(noise * 1000, -30000, 30000).astype(np.int16)}


def over_the_batch(mesh):
    """Metrics and gradients of a step in which every clip is told from all others."""
    fields = {"objective": "both", "target": "gumbel", "conformer.kernel_sizes": (3,)}
    config = config_of(mesh, fields)
    config.clip.update(head_width=16, head_dim=8)
    config.views.length_s = 0.32
    built = program.build(config)
    state = jax.jit(pretrain.init, static_argnums=(0, 1, 2), static_argnames="ema_decay")(
        *(built.abstract_state.model, built.abstract_state.options, built.abstract_state.optimizer),
        jax.random.key(0),
        ema_decay=0.0,
    )
    batch = sharding.put_batch(unlike_clips(), built.batch_sharding)
    places = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)

    @functools.partial(jax.jit, in_shardings=(places, built.batch_sharding))
    def gradients(state, batch):
        batch = {**batch, "keys": clip_keys(jax.random.key(1), BATCH)}

        def loss(params):
            total, pairs, _ = pretrain.OBJECTIVES["both"].forward(state, params, batch, train=True)
            return total / pairs["loss"][1], pairs

        return jax.value_and_grad(loss, has_aux=True)(state.params)

    (_, pairs), grads = gradients(jax.device_put(state, places), batch)
    found = {f"pairs/{name}": np.float32(a) / np.float32(b) for name, (a, b) in pairs.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        found[f"gradient{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


def same_digests(params):
    """Whether each device's part leads to the digests that the whole array has on the host."""
    for name, leaf in digest.flat(params).items():
        first, second, _ = digest._on_device(leaf)
        whole = digest.of_tree(np.asarray(leaf))[""][0]
        if f"{int(first):08x}{int(second):08x}" != whole:
            print(name, "differs")
            return False
    return True


def largest_share(params):
    """The largest share of a matrix that one device holds."""
    return max(
        leaf.addressable_shards[0].data.size / leaf.size
        for leaf in jax.tree.leaves(params)
        if leaf.size > 1000
    )


if __name__ == "__main__":
    (main_over_the_batch if sys.argv[2:] == ["both"] else main)(sys.argv[1])
