"""Meshes: every way to split a step gives the same numbers, and nothing is gathered whole."""

import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import meshes
import numpy as np
import pytest

from configs import base
from conformer_jax.errors import UserError
from conformer_jax.training import sharding

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What tests/meshes.py found, in a process of its own: this one has a single device."""
    return run_meshes(tmp_path_factory.mktemp("meshes"))


def run_meshes(folder, *words):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "tests" / "meshes.py"), str(folder), *words]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "results.npz"))


def params_of(results, variant):
    start = f"{variant}/params"
    return {k.removeprefix(start): v for k, v in results.items() if k.startswith(start)}


REFERENCE = "8,1,1"
OTHERS = [name for name in meshes.VARIANTS if name != REFERENCE]


@pytest.mark.parametrize("variant", OTHERS)
def test_three_steps_agree_over_meshes_accumulation_scan_and_remat(results, variant):
    np.testing.assert_allclose(
        results[f"{variant}/losses"], results[f"{REFERENCE}/losses"], atol=1e-5, rtol=0
    )
    ours, reference = params_of(results, variant), params_of(results, REFERENCE)
    assert ours.keys() == reference.keys()
    assert len(ours) > 40
    for name, value in ours.items():
        np.testing.assert_allclose(value, reference[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.slow
def test_losses_over_the_whole_batch_and_their_gradients_agree_over_meshes(tmp_path):
    """A minute on one core: three programs of both objectives."""
    results = run_meshes(tmp_path, "both")
    reference = f"{meshes.OVER_THE_BATCH[0]}/"
    names = [name.removeprefix(reference) for name in results if name.startswith(reference)]
    assert {"pairs/clip_loss", "pairs/contrastive_loss"} < set(names)
    assert sum(name.startswith("gradient") for name in names) > 30
    for mesh in meshes.OVER_THE_BATCH[1:]:
        for name in names:
            value, expected = results[f"{mesh}/{name}"], results[reference + name]
            # Gradients are of up to 4 here: 1e-5 of them, and as much again near 0.
            np.testing.assert_allclose(value, expected, atol=1e-5, rtol=1e-5, err_msg=name)


def test_the_steps_do_train(results):
    losses = results[f"{REFERENCE}/losses"]
    assert losses[-1] < losses[0] - 0.05


def test_digests_do_not_depend_on_the_mesh(results):
    assert results["same_digests"]


@pytest.mark.parametrize("variant", meshes.VARIANTS)
def test_parameters_are_born_kept_and_restored_in_their_shares(results, variant):
    (_, fsdp, tensor), _ = meshes.VARIANTS[variant]
    for when in ("born", "kept", "restored"):
        assert results[f"{variant}/{when}"] == pytest.approx(1 / (fsdp * tensor))


@pytest.mark.parametrize("variant", OTHERS)
def test_a_checkpoint_of_one_mesh_resumes_on_every_other(results, variant):
    expected = results[f"{meshes.SAVED_BY}/resumed"]
    np.testing.assert_allclose(results[f"{variant}/resumed"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", meshes.VARIANTS)
def test_no_all_gather_holds_the_whole_parameter_set(results, variant):
    """The largest one is an activation of this toy; parameters come one by one."""
    fsdp = meshes.VARIANTS[variant][0][1]
    assert results[f"{variant}/gathered"] < 0.5
    assert (results[f"{variant}/gathered"] > 0) == (fsdp > 1)


def test_crops_of_a_clip_are_cut_where_it_lies(results):
    """The features of the batch are 400 kB; what is gathered are a few numbers a clip."""
    assert results["gathered by crops"] < 10_000


def test_the_reader_of_all_gathers_reads_them():
    hlo = """
  %a = f32[16,8]{1,0} all-gather(%x), channel_id=1
  %b = (f32[100]{0}, bf16[10,10]{1,0}) all-gather-start(%y, %z), channel_id=2
  %c = f32[1000]{0} all-reduce(%x)
"""
    assert meshes.largest_all_gather(hlo) == 600


def shape(*size):
    return jax.ShapeDtypeStruct(size, jnp.float32)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 32), ("fsdp", "tensor")),
        ((32, 64), ("fsdp", "tensor")),
        ((3, 8, 64, 32), (None, None, "fsdp", "tensor")),
        ((64, 33), ("fsdp", None)),  # tensor does not divide it
        ((63, 32), (None, "tensor")),
        ((64,), (None,)),
        ((), ()),
    ],
)
def test_rules_know_shapes_alone(size, expected):
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    assert tuple(sharding.partition_spec(mesh, shape(*size))) == expected


def owners(*processes):
    """Devices [data, 1, tensor] that belong to these processes."""
    rows = [[types.SimpleNamespace(process_index=i) for i in row] for row in processes]
    return np.array(rows)[:, None]


def test_every_process_owns_a_stretch_of_the_batch():
    """Or a process would read rows that its devices do not hold."""
    assert sharding.in_process_order(owners([0], [0], [1], [1]))
    assert sharding.in_process_order(owners([0, 0], [1, 1]))
    assert not sharding.in_process_order(owners([0, 1]))  # tensor over two processes
    assert not sharding.in_process_order(owners([0], [1], [0], [1]))
    assert not sharding.in_process_order(owners([1], [0]))
    assert not sharding.in_process_order(owners([0], [0], [1]))


def test_mesh_sizes_must_cover_the_devices():
    config = base.get_config().sharding
    assert sharding.make_mesh(config).devices.size == jax.device_count()
    config.update(data=3, fsdp=5)
    with pytest.raises(UserError, match=r"config\.sharding .*'fsdp': 5.* does not cover 1 device"):
        sharding.make_mesh(config)


@pytest.mark.parametrize(("size", "passes"), [(6, 4), (8, 0), (9, 2)])
def test_a_batch_that_does_not_split_is_named(size, passes):
    mesh = sharding.make_mesh(base.get_config().sharding)
    with pytest.raises(UserError, match=r"config\.data\.batch_size = \d is not divisible"):
        sharding.check_batch_size(mesh, size, "config.data.batch_size", passes)
    sharding.check_batch_size(mesh, 8, "config.data.batch_size", 4)
