"""Steps of clip contrast and of the sum of both objectives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from conformer_jax.errors import UserError
from conformer_jax.steps import optimizer, pretrain
from conformer_jax.training import program

FAST = {"xla_backend_optimization_level": 0}
SAMPLES, SIZE = 8000, 8


def batch_of(seed=0, valid=(1,) * SIZE):
    """Noise of another colour in every clip."""
    rng = np.random.default_rng(seed)
    audio = rng.standard_normal((SIZE, SAMPLES))
    for i in range(SIZE):
        audio[i] = np.convolve(audio[i], rng.standard_normal(2 + 3 * i), "same")
    return {
        "audio": (audio / 100).astype(np.float32),
        "num_samples": np.full(SIZE, SAMPLES, np.int32),
        "valid": np.array(valid, np.float32),
        "index": np.arange(SIZE, dtype=np.int32),
        "file": np.arange(SIZE, dtype=np.int32),
    }


def config_of(objective):
    config = pretrain_config.get_config("smoke")
    config.objective = objective
    config.conformer.update(kernel_sizes=(3,), dropout=0.0)
    config.clip.update(head_width=32, head_dim=16)
    config.views.length_s = 0.32
    config.features.update(mean=(-5.0,) * 64, deviation=(3.0,) * 64)
    config.optimizer.update(learning_rate=1e-2, warmup_share=0.0)
    config.train.num_steps = 100
    return config


@pytest.fixture(scope="module")
def toy():
    """Of both objectives at once: state, compiled training step."""
    config = config_of("both")
    model, options = program.make_model(config), program.make_options(config)
    transform, _ = optimizer.make_optimizer(config.optimizer, 100)
    init = lambda key: pretrain.init(model, options, transform, key, ema_decay=0.0)
    state = jax.jit(init, compiler_options=FAST)(jax.random.key(0))
    return state, jax.jit(pretrain.pretrain_step, compiler_options=FAST)


def means(pairs):
    return {name: float(a) / float(b) for name, (a, b) in pairs.items() if np.ndim(a) == 0}


def test_both_is_the_weighted_sum(toy):
    state, step = toy
    figures = means(step(state, batch_of(), jax.random.key(1))[1])
    masked = 0.5 * figures["contrastive_loss"] / math.log(11)
    assert figures["loss"] == pytest.approx(figures["clip_loss"] + masked, rel=1e-5)


def test_rows_that_do_not_count_change_nothing(toy):
    state, step = toy
    valid = (1, 1, 0, 1, 1, 1, 0, 1)
    batch, other = batch_of(0, valid), batch_of(1, valid)
    keep = batch["valid"] > 0
    other["audio"] = np.where(keep[:, None], batch["audio"], other["audio"])
    (one, pairs), (two, others) = (step(state, b, jax.random.key(1)) for b in (batch, other))
    assert pairs["clip_loss"][1] == 12
    for name, (total, _) in pairs.items():
        np.testing.assert_allclose(total, others[name][0], rtol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_parts_of_one_file_are_not_told_apart(toy):
    state, step = toy
    batch = batch_of()
    batch["file"] = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32)
    chance = means(step(state, batch, jax.random.key(1))[1])["clip_chance"]
    assert chance == pytest.approx(1 / 13)  # the other view, and those of six clips


def test_the_same_views_are_soon_told_apart(toy):
    state, step = toy
    losses = []
    for _ in range(30):
        state, pairs = step(state.replace(step=jnp.int32(0)), batch_of(), jax.random.key(1))
        losses.append(means(pairs)["clip_loss"])
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("objective", ["clip", "both"])
def test_a_batch_is_not_split_into_passes(objective):
    config = config_of(objective)
    config.train.accumulate = 2
    with pytest.raises(UserError, match=r"config\.train\.accumulate = 2 splits the batch"):
        program.check(config)


def test_every_objective_has_what_the_steps_ask_for():
    for name, module in pretrain.OBJECTIVES.items():
        config = config_of(name)
        program.check(config)
        assert module.make_options(config).objective == name
