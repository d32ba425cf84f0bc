"""Steps of clip contrast and of the sum of both objectives."""

import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from conformer_jax.errors import UserError
from conformer_jax.models import clip_contrast as models
from conformer_jax.models.wav2vec2 import Task
from conformer_jax.steps import both, clip_contrast, optimizer, pretrain, views
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


class Echo(nn.Module):
    """In place of an encoder: tokens, with the mean of the valid ones added."""

    def tokens(self, features, valid):
        return features[:, ::4], valid[:, ::4]

    def __call__(self, tokens, valid, keys, *, train):
        assert len({*jax.random.key_data(keys)[:, 1].tolist()}) == len(tokens)  # a view its own
        real = valid[..., None]
        return tokens + (tokens * real).sum(1, keepdims=True) / real.sum(1, keepdims=True)


class EchoOfClips(models.ClipContrast):
    def setup(self):
        self.encoder = Echo()


class EchoOfBoth(both.Both):
    def setup(self):
        self.encoder = Echo()

    def hide(self, tokens, valid, keys):
        masked = jnp.asarray(HIDDEN)
        own = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
        return jnp.where(masked[..., None], -9.0, tokens), Task(masked, None, None, None), own

    def predict(self, *args, **named):
        return None


HIDDEN = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]]) > 0


def test_what_is_hidden_in_a_view_is_nowhere_heard():
    """By the objective of clips not by the other tokens either; where both are, masked tokens are
    replaced, and not pooled."""
    features = np.random.default_rng(0).standard_normal((3, 2, 24, 5)).astype(np.float32)
    tokens, keys = features[:, :, ::4], jax.random.split(jax.random.key(0), 3)
    shown = np.stack([~HIDDEN, np.ones_like(HIDDEN)], 1)
    views_of = {"method": "from_views", "train": True}
    clips = EchoOfClips(*[None] * 3, 24).apply({}, features, shown, keys, **views_of)
    everything = np.ones_like(shown)
    summed, _ = EchoOfBoth(*[None] * 4, 24).apply(
        {}, features, everything, keys, step=0, **views_of
    )
    for i in range(3):
        for view in range(2):
            x, kept = tokens[i, view], shown[i, view]
            for found, others in ((clips, x[kept]), (summed, np.where(kept[:, None], x, -9.0))):
                expected = [*(x[kept] + others.mean(0)).mean(0), *x[kept].std(0)]
                np.testing.assert_allclose(found[i, view], expected, atol=2e-4)


def loss_of(z, counts, loss="nt_xent"):
    """Of vectors z [N, 2, E] that a head is said to have made."""
    head = types.SimpleNamespace(
        apply=lambda variables, pooled, counts, method: pooled, clip=models.ClipSpec(loss=loss)
    )
    batch = {"file": np.arange(len(z)), "valid": np.ones(len(z))}
    return clip_contrast.loss_of(head, None, jnp.asarray(z), jnp.asarray(counts), batch, None)


def test_the_figures_of_a_batch():
    apart = np.repeat(np.concatenate([np.eye(3), -np.eye(3)])[:, None], 2, axis=1)
    counts = np.ones(7, np.float32)
    counts[3] = 0
    z = np.insert(apart, 3, 9.0, axis=0).astype(np.float32)  # in which one does not count
    loss, pairs = loss_of(z, counts)
    assert loss == pytest.approx(np.log(1 + (8 + 2 * np.exp(-5)) * np.exp(-5)), abs=1e-5)
    found = means(pairs)
    expected = {"accuracy": 1, "chance": 1 / 11, "similarity_positive": 1}
    for name, value in {**expected, "similarity_negative": -0.2}.items():
        assert found[f"clip_{name}"] == pytest.approx(value, abs=1e-5), name
    assert found["embedding_deviation"] == pytest.approx(1, abs=1e-5)
    assert found["clips_paired"] == pytest.approx(6 / 7)
    collapsed = means(loss_of(np.ones((7, 2, 3), np.float32), counts)[1])
    assert collapsed["embedding_deviation"] == pytest.approx(0, abs=1e-3)
    assert collapsed["clip_accuracy"] == 0
    loss, pairs = loss_of(z, counts, "barlow")
    assert loss == pytest.approx(float(models.barlow_twins(z, counts, 5e-3)))
    assert means(pairs)["clip_loss"] == pytest.approx(float(loss))


@pytest.mark.parametrize("objective", ["clip", "both"])
def test_clips_are_mixed_in_training_alone(objective, monkeypatch):
    """In evaluation a clip's views are the same in any batch. It takes averaged parameters."""
    mixed, config = [], config_of(objective)
    monkeypatch.setattr(views, "make", lambda *args, mix: mixed.append(mix) or 1 / 0)
    model, options = program.make_model(config), program.make_options(config)
    run = types.SimpleNamespace(model=model, options=options)
    module, batch = pretrain.OBJECTIVES[objective], {"keys": None}
    for train in (True, False):
        with pytest.raises(ZeroDivisionError):
            module.forward(run, {}, batch, train=train)
    assert mixed == [True, False]
    head = types.SimpleNamespace(apply=lambda variables, *args, method: variables["params"])
    judged = types.SimpleNamespace(model=head, options=options, params="last", eval_params="mean")
    found = pretrain.whole_set(judged, {"pooled": None, "counts": None})
    assert found["projected"] == "mean"


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
