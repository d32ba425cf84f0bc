"""Checkpoints: what is kept, strict names, and a disk that fills up while writing."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conformer_jax.errors import UserError
from conformer_jax.steps import state
from conformer_jax.training import checkpoint


def make_state(step=0, width=4, **more):
    params = {
        "encoder": {"stack": {"kernel": jnp.full((3, width), float(step))}, **more},
        "head": {"bias": jnp.zeros(2)},
    }
    created = state.create(params, None, optax.adam(1e-3), None, ema_decay=0.5)
    return created.replace(step=jnp.int32(step))


def save_and_wait(checkpoints, saved):
    checkpoints.save(saved, {}, 0.0)
    checkpoints.wait()


@pytest.fixture
def checkpoints(tmp_path):
    manager = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
    yield manager
    manager.close()


def test_the_last_and_the_best_are_kept_also_after_a_restart(checkpoints, tmp_path):
    for step, metric in [(1, 0.1), (2, 0.9), (3, 0.3)]:
        checkpoints.save(make_state(step), {}, metric)
    checkpoints.wait()
    checkpoints.close()
    again = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, metric in [(4, 0.2), (5, 0.1)]:
        again.save(make_state(step), {}, metric)
    again.wait()
    assert again.steps() == [2, 4, 5]
    again.close()


def test_everything_comes_back(checkpoints):
    saved = make_state(7).replace(skipped=jnp.int32(3))
    checkpoints.save(saved, {"label_names": ["b", "a"]}, 0.0)
    checkpoints.wait()
    restored, meta = checkpoints.restore(make_state(0))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    assert meta["label_names"] == ["b", "a"]


def test_nothing_there_is_no_error(checkpoints, tmp_path):
    assert checkpoints.restore(make_state()) == (None, None)
    assert checkpoint.read_meta(tmp_path) is None


def test_a_run_of_another_architecture_names_what_differs(checkpoints):
    checkpoints.save(make_state(1), {}, 0.0)
    checkpoints.wait()
    with pytest.raises(UserError, match=r"stack/kernel \(3, 4\) instead of \(3, 5\)"):
        checkpoints.restore(make_state(0, width=5))
    with pytest.raises(UserError, match=r"1 missing \(encoder/extra\)"):
        checkpoints.restore(make_state(0, extra=jnp.zeros(1)))


def test_the_encoder_alone_is_taken_the_average_where_there_is_one(checkpoints, tmp_path):
    saved = make_state(1)
    average = jax.tree.map(lambda x: x + 5, saved.params)
    checkpoints.save(saved.replace(ema=average), {}, 0.0)
    checkpoints.wait()
    target = make_state(0).params | {"head": {"kernel": jnp.ones(9)}}
    params, step = checkpoint.load_encoder(tmp_path, target)
    assert step == 1
    np.testing.assert_array_equal(params["encoder"]["stack"]["kernel"], np.full((3, 4), 6.0))
    np.testing.assert_array_equal(params["head"]["kernel"], np.ones(9))
    with pytest.raises(UserError, match=r"1 missing \(extra\)"):
        checkpoint.load_encoder(tmp_path, make_state(0, extra=jnp.zeros(1)).params)


def test_a_disk_that_fills_up_while_writing_loses_nothing(checkpoints):
    checkpoints.save(make_state(1), {}, 0.0)
    checkpoints.wait()
    large = make_state(2, noise=jax.random.normal(jax.random.key(0), (64, 1024)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond it fails
    try:
        with pytest.raises(UserError, match=r"cannot write the checkpoint.* from step 1$") as e:
            save_and_wait(checkpoints, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value)
    restored, _ = checkpoints.restore(make_state(0))
    assert int(restored.step) == 1
