"""The classifier: pooling, padding, clips without sound."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models.classifier import (
    Classifier,
    attention_pool,
    cut_crops,
    linear_softmax_pool,
    pool,
)
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec, log_mel

FEATURES = FeatureSpec(mean=(-5.0,) * 64, deviation=(3.0,) * 64)
ENCODER = EncoderSpec(
    feature_dim=16, width=16, num_heads=2, feed_forward_width=32, kernel_sizes=(5,), dropout=0.0
)


# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}


class Toy:
    def __init__(self, pooling, layers="last", encoder=ENCODER, **crops):
        self.model = Classifier(
            FEATURES, encoder, 5, pooling=pooling, layers=layers, dropout=0.5, **crops
        )
        init = lambda: self.model.init(
            jax.random.key(0), jnp.zeros((1, 8000)), jnp.full((1,), 8000), train=False
        )
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda s: rng.normal(0.1, 0.4, s.shape).astype(np.float32), jax.eval_shape(init)
        )
        self.logits = jax.jit(
            lambda audio, n: self.model.apply(self.params, audio, n, train=False),
            compiler_options=FAST,
        )


@pytest.fixture(scope="module", params=["mean", "max", "all", "attention", "linear_softmax"])
def toy(request):
    return Toy("statistics", "all") if request.param == "all" else Toy(request.param)


def test_padding_and_garbage_change_no_logit(toy):
    lengths = np.array([8000, 3300, 500, 1, 0], np.int32)
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, (5, 8000)).astype(np.float32)
    silent = audio * (np.arange(8000) < lengths[:, None])
    padded = np.asarray(toy.logits(silent, lengths))
    assert padded.shape == (5, 5)
    assert padded.dtype == np.float32
    assert np.isfinite(padded).all()
    np.testing.assert_array_equal(padded, toy.logits(audio, lengths))
    alone = toy.logits(audio[1:2, :3300], lengths[1:2])
    np.testing.assert_allclose(padded[1], alone[0], atol=1e-5, rtol=0)


def test_an_empty_clip_gets_the_bias_of_the_head(toy):
    logits = toy.logits(np.ones((5, 8000), np.float32), np.zeros(5, np.int32))
    bias = toy.params["params"]["head"]["bias"]
    np.testing.assert_allclose(logits, np.broadcast_to(bias, (5, 5)), atol=1e-6)


def test_pooling_takes_valid_tokens_only():
    x = jnp.asarray([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]], [[5.0, 5.0]] * 3])
    valid = jnp.asarray([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(pool(x, valid, "mean"), [[2.0, -3.0], [0.0, 0.0]])
    np.testing.assert_allclose(pool(x, valid, "max"), [[3.0, -2.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"pooling 'median'"):
        pool(x, valid, "median")


def test_statistics_are_mean_and_deviation_of_valid_tokens():
    x = np.random.default_rng(3).normal(2, 3, (2, 7, 4)).astype(np.float32)
    valid = np.arange(7) < np.array([[5], [1]])
    pooled = pool(jnp.asarray(x), jnp.asarray(valid), "statistics")
    np.testing.assert_allclose(pooled[0], [*x[0, :5].mean(0), *x[0, :5].std(0)], atol=2e-4)
    np.testing.assert_allclose(pooled[1], [*x[1, 0], *np.zeros(4)], atol=1e-6)
    slope = jax.grad(lambda x: pool(x, jnp.asarray(valid), "statistics").sum())(jnp.asarray(x))
    assert np.isfinite(slope).all()  # of a single token, too, whose deviation is 0


def test_all_layers_are_the_same_in_a_loop_over_blocks():
    spec = dataclasses.replace(ENCODER, kernel_sizes=(5, 3, 3))
    plain = Toy("statistics", "all", spec)
    loop = Toy("statistics", "all", dataclasses.replace(spec, scan_blocks=True))
    assert plain.params["params"]["head"]["kernel"].shape == (2 * 4 * 16, 5)  # tokens, 3 blocks
    audio = np.random.default_rng(4).uniform(-0.5, 0.5, (2, 8000)).astype(np.float32)
    lengths = np.array([8000, 3000])
    np.testing.assert_allclose(plain.logits(audio, lengths), loop.logits(audio, lengths), atol=1e-5)


def test_attention_weighs_valid_tokens_by_the_softmax_of_their_scores():
    x = jnp.asarray([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]], [[5.0, 5.0]] * 3])
    valid = jnp.asarray([[True, True, False], [False, False, False]])
    scores = jnp.asarray([[0.0, np.log(3.0), 50.0]] * 2)
    pooled = attention_pool(x, scores, valid)
    np.testing.assert_allclose(pooled, [[2.5, -2.5], [0.0, 0.0]], rtol=1e-6)
    even = attention_pool(x, jnp.zeros((2, 3)), valid)
    np.testing.assert_allclose(even, pool(x, valid, "mean"), rtol=1e-6)


def test_linear_softmax_equals_its_equation():
    logits = np.random.default_rng(2).normal(-1, 3, (4, 6, 5)).astype(np.float32)
    valid = np.arange(6) < np.array([6, 4, 2, 1])[:, None]
    p = 1 / (1 + np.exp(-logits.astype(np.float64))) * valid[..., None]
    clip = np.square(p).sum(1) / p.sum(1)
    pooled = linear_softmax_pool(jnp.asarray(logits), jnp.asarray(valid))
    np.testing.assert_allclose(pooled, np.log(clip / (1 - clip)), atol=1e-5)
    np.testing.assert_allclose(pooled[3], logits[3, 0], atol=1e-5)  # one token: its own logit


def test_linear_softmax_is_finite_where_probabilities_underflow_or_saturate():
    logits = jnp.asarray([[[-300.0], [-400.0]], [[300.0], [400.0]], [[300.0], [-300.0]]])
    valid = jnp.ones((3, 2), bool)
    pooled, gradient = jax.value_and_grad(lambda x: linear_softmax_pool(x, valid).sum())(logits)
    exact = [-300, 300 + np.log(2), 300 - np.log(2)]
    np.testing.assert_allclose(linear_softmax_pool(logits, valid)[:, 0], exact, rtol=1e-6)
    assert np.isfinite(pooled)
    np.testing.assert_allclose(gradient[0], [[1.0], [0.0]], atol=1e-6)
    assert np.isfinite(gradient).all()


def test_unknown_pooling_is_refused():
    model = Classifier(FEATURES, ENCODER, 5, pooling="median")
    with pytest.raises(ValueError, match=r"config\.classifier\.pooling = 'median'"):
        model.init(jax.random.key(0), jnp.zeros((1, 800)), jnp.full((1,), 800), train=False)


def test_crops_are_spread_over_the_clip_and_silence_counts_nowhere():
    features = np.tile(np.arange(100.0)[:, None], (5, 1, 3)).astype(np.float32)
    lengths = np.array([100, 50, 20, 7, 0])
    features[0, 45:] = -9.0
    valid = np.arange(100) < lengths[:, None]
    cut, seen, weights = cut_crops(features, valid, count=5, length=20, low=np.full(3, -8.0))
    first = np.asarray(cut)[:, 0, 0].reshape(5, 5)
    np.testing.assert_array_equal(first[0], [0, 20, 40, -9, -9])
    np.testing.assert_array_equal(first[1], [0, 7, 15, 22, 30])  # the last ends with the clip
    np.testing.assert_array_equal(first[2:4], 0)
    np.testing.assert_array_equal(np.asarray(seen).sum(-1).reshape(5, 5)[2:, 0], [20, 7, 0])
    third = [1 / 3, 1 / 3, 1 / 3, 0, 0]
    np.testing.assert_allclose(weights, [third, *[[0.2] * 5] * 4], rtol=1e-6)
    few = cut_crops(features[:, :9], valid[:, :9], count=2, length=20, low=np.full(3, -8.0))
    assert few[0].shape == (10, 20, 3)  # filled up where there are fewer frames than a crop has
    np.testing.assert_array_equal(np.asarray(few[1]).sum(-1), np.repeat([9, 9, 9, 7, 0], 2))


@pytest.mark.parametrize("pooling", ["statistics", "attention"])
def test_a_clip_in_crops_is_the_mean_of_what_is_said_of_each(pooling):
    toy = Toy(pooling, crop_frames=50, crops=3)
    whole = Toy(pooling)
    samples = 160 * 80 - 1  # 80 frames
    audio = np.random.default_rng(5).uniform(-0.5, 0.5, (1, samples)).astype(np.float32)
    count = np.array([samples])
    features, valid = log_mel(audio, count, FEATURES)
    apply = lambda lo: whole.model.apply(
        whole.params, features[:, lo : lo + 50], valid[:, :50], train=False, method="from_features"
    )
    expected = np.mean([apply(lo)[0] for lo in (0, 15, 30)], axis=0)
    np.testing.assert_allclose(toy.logits(audio, count)[0], expected, atol=1e-5)
    run = lambda toy, **kw: toy.model.apply(toy.params, audio, count, **kw)
    found = run(toy, head=True, method="outputs")
    np.testing.assert_allclose(found["logits"][0], expected, atol=1e-5)
    of_whole = run(whole, head=False, method="outputs")
    np.testing.assert_allclose(found["frames"], of_whole["frames"], atol=1e-5)
    np.testing.assert_allclose(found["embedding"], run(toy, method="embed"), atol=1e-5)
    assert np.abs(found["embedding"] - of_whole["embedding"]).max() > 1e-3
    # In training one crop is heard, with dropout.
    told = functools.partial(toy.model.apply, toy.params, method="from_features")
    one = features[:, :50], valid[:, :50]
    dropped = told(*one, jax.random.split(jax.random.key(0), 1), train=True)
    assert np.abs(dropped - told(*one, train=False)).max() > 1e-3
    short = audio[:, : 160 * 10], np.array([160 * 10])  # 11 frames: no crops of it
    np.testing.assert_allclose(toy.logits(*short), whole.logits(*short), atol=1e-5)


def test_crops_without_a_length_are_refused():
    with pytest.raises(ValueError, match=r"config.classifier.crops = 5, but .*crop_s"):
        Toy("mean", crops=5)


@pytest.mark.parametrize("pooling", ["max", "linear_softmax"])
def test_poolings_that_look_for_one_place_take_no_mean_of_crops(pooling):
    with pytest.raises(ValueError, match=f"crops = 2 .*{pooling}"):
        Toy(pooling, crops=2, crop_frames=20)
