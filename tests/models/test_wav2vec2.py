"""The pre-training model: what is hidden, what is compared, what padding may not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models import masking
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.models.wav2vec2 import ObjectiveSpec, Wav2Vec2
from conformer_jax.steps import losses

FEATURES = FeatureSpec(mean=(-5.0,) * 64, deviation=(3.0,) * 64)
ENCODER = EncoderSpec(
    feature_dim=16, width=16, num_heads=2, feed_forward_width=32, kernel_sizes=(5,), dropout=0.0
)
# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
OBJECTIVE = ObjectiveSpec(
    num_distractors=10, projection_dim=12, num_entries=8, code_dim=16, anneal_steps=100.0
)
SAMPLES = 16000  # 101 frames, 25 tokens
# Samples of 25, 14, 4, 3, 1, 1 and 0 tokens; 3 tokens are one span, 400 samples no whole token.
LENGTHS = np.array([16000, 9000, 2500, 1919, 400, 1, 0], np.int32)


def noise(seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    audio = rng.uniform(-0.5, 0.5, (len(lengths), SAMPLES)).astype(np.float32)
    return audio * (np.arange(SAMPLES) < lengths[:, None])


def keys(seed, clips):
    """One random key for each clip."""
    return jax.random.split(jax.random.key(seed), len(clips))


def logits_of(out):
    return losses.contrastive_logits(out.predicted, out.targets, out.negatives, temperature=0.1)


class Toy:
    """The model of one target, random parameters, jitted calls."""

    def __init__(self, target):
        self.model = Wav2Vec2(FEATURES, ENCODER, dataclasses.replace(OBJECTIVE, target=target))
        init = lambda: self.model.init(
            jax.random.key(0),
            jnp.zeros((1, 8000)),
            jnp.full((1,), 8000),
            keys(0, [0]),
            train=False,
        )
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda s: rng.normal(0.1, 0.4, s.shape).astype(np.float32), jax.eval_shape(init)
        )
        self.evaluate = jax.jit(
            lambda audio, num_samples, seed: self.model.apply(
                self.params, audio, num_samples, keys(seed, audio), train=False
            ),
            compiler_options=FAST,
        )
        self.from_features = jax.jit(
            lambda features, valid, seed: self.model.apply(
                self.params,
                features,
                valid,
                keys(seed, features),
                train=False,
                method="from_features",
            ),
            compiler_options=FAST,
        )
        self.all_targets = jax.jit(
            lambda features, valid: self.model.apply(
                self.params,
                features,
                valid,
                method=lambda m, f, v: m.target_projection(m.encoder.tokens(f, v)[0]),
            ),
            compiler_options=FAST,
        )

        def loss(params, audio, num_samples, step):
            drawn = keys(3, audio)
            out = self.model.apply(params, audio, num_samples, drawn, train=True, step=step)
            item_loss, _, usable = losses.contrastive(logits_of(out))
            return (item_loss * usable * out.weights).sum(), out

        self.gradient = jax.jit(jax.grad(loss, has_aux=True), compiler_options=FAST)


@functools.cache
def toy_of(target):
    return Toy(target)


@pytest.fixture(params=["linear", "gumbel"])
def toy(request):
    return toy_of(request.param)


@pytest.fixture
def linear():
    return toy_of("linear")


def test_shapes_and_types(toy):
    out = toy.evaluate(noise(), LENGTHS, 0)
    size = masking.max_masked(25, probability=0.3, length=3)
    dim = 12 if toy.model.objective.target == "gumbel" else 16
    assert out.predicted.shape == out.targets.shape == (7, size, dim)
    assert out.negatives.shape == (7, size, 10)
    assert out.predicted.dtype == out.targets.dtype == out.weights.dtype == jnp.float32
    assert (out.quantizer is None) == (toy.model.objective.target == "linear")


def test_clips_too_short_to_mask_weigh_nothing_and_stay_finite(toy):
    out = toy.evaluate(noise(), LENGTHS, 0)
    weights = np.asarray(out.weights).sum(-1)
    assert (weights[:3] >= 3).all()
    assert not weights[3:].any()
    for leaf in jax.tree.leaves(out):
        assert np.isfinite(leaf).all()
    loss, _, _ = losses.contrastive(logits_of(out))
    assert np.isfinite(loss).all()


def test_gradients_are_finite_and_reach_every_part(toy):
    gradient, _ = toy.gradient(toy.params, noise(), LENGTHS, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
    size = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
    gradient = gradient["params"]
    assert size(gradient["mask_embedding"]) > 1e-4
    assert size(gradient["encoder"]["stack"]) > 1e-4
    assert size(gradient["target_projection"]) > 1e-4
    if toy.model.objective.target == "gumbel":
        assert size(gradient["quantizer"]["codebook"]) > 1e-4
        assert size(gradient["quantizer"]["logits"]) > 1e-4
        assert size(gradient["context_projection"]) > 1e-4


def test_the_temperature_follows_the_step():
    toy = toy_of("gumbel")
    for step, expected in [(0, 2.0), (50, 1.0), (100, 0.5), (1000, 0.5)]:
        _, out = toy.gradient(toy.params, noise(), LENGTHS, step)
        np.testing.assert_allclose(out.quantizer["temperature"], expected, rtol=1e-6)


def features_of(seed, frames=101):
    features = np.random.default_rng(seed).standard_normal((2, frames, 64)).astype(np.float32)
    return features, np.ones((2, frames), bool)


def masked_of(linear, features, valid, seed):
    """Positions of the masked tokens of each clip, told by their targets."""
    out = linear.from_features(features, valid, seed)
    every = linear.all_targets(features, valid)
    positions = []
    for clip in range(len(features)):
        targets = np.asarray(out.targets[clip])[np.asarray(out.weights[clip]) > 0]
        distance = np.abs(targets[:, None] - np.asarray(every[clip])).max(-1)
        assert distance.min(-1).max() < 1e-5  # a target is that of the token, unmasked
        positions.append(distance.argmin(-1))
    return positions


def test_targets_do_not_depend_on_the_mask(linear):
    features, valid = features_of(0)
    first, second = masked_of(linear, features, valid, 1), masked_of(linear, features, valid, 2)
    for a, b in zip(first, second, strict=True):
        assert len(set(a)) == len(a) >= 3
        assert set(a) != set(b)  # another key, another mask


def test_predictions_do_not_see_the_masked_tokens_own_content(linear):
    features, valid = features_of(0)
    out = linear.from_features(features, valid, 1)
    positions = masked_of(linear, features, valid, 1)
    changed = features.copy()
    for clip, masked in enumerate(positions):
        for token in masked:
            changed[clip, 4 * token : 4 * token + 4] *= -2.0
    other = linear.from_features(changed, valid, 1)
    np.testing.assert_array_equal(other.predicted, out.predicted)
    real = np.asarray(out.weights) > 0
    assert (np.abs(other.targets - out.targets).max(-1) > 1e-2)[real].all()


def test_predictions_see_the_tokens_left_in_view(linear):
    features, valid = features_of(0)
    out = linear.from_features(features, valid, 1)
    seen = set(range(25)) - set(masked_of(linear, features, valid, 1)[0].tolist())
    changed = features.copy()
    changed[0, 4 * min(seen) : 4 * min(seen) + 4] += 1.0
    other = linear.from_features(changed, valid, 1)
    assert np.abs(other.predicted - out.predicted)[0].max() > 1e-3
    np.testing.assert_array_equal(other.predicted[1], out.predicted[1])


def test_distractors_are_masked_valid_and_never_the_target(toy):
    for seed in range(20):
        out = toy.evaluate(noise(seed), LENGTHS, seed)
        count = np.asarray(out.weights).sum(-1)
        own = np.arange(out.negatives.shape[1])[:, None]
        for clip in range(3):
            real = int(count[clip])
            negatives = np.asarray(out.negatives[clip, :real])
            assert negatives.max() < real
            assert (negatives != own[:real]).all()


@pytest.mark.parametrize("target", ["linear", "gumbel"])
def test_padding_changes_no_prediction_and_no_target(target, monkeypatch):
    """With the mask held fixed: every fourth token, whatever the length."""
    fixed = lambda key, valid, **_: valid & (jnp.arange(valid.shape[1]) % 4 == 1)
    monkeypatch.setattr(masking, "span_mask", fixed)
    toy = Toy(target)
    lengths = LENGTHS[:3]
    audio = noise(5, lengths)
    padded = toy.evaluate(audio, lengths, 0)
    garbage = np.where(np.arange(SAMPLES) < lengths[:, None], audio, 0.7).astype(np.float32)
    filled = toy.evaluate(garbage, lengths, 0)
    for a, b in zip(jax.tree.leaves(padded), jax.tree.leaves(filled), strict=True):
        np.testing.assert_array_equal(a, b)
    n = lengths[1]
    alone = toy.evaluate(audio[1:2, :n], lengths[1:2], 0)
    real = int(alone.weights.sum())
    assert real == padded.weights[1].sum() == 4
    for name in ("predicted", "targets"):
        ours, reference = getattr(padded, name)[1, :real], getattr(alone, name)[0, :real]
        np.testing.assert_allclose(ours, reference, atol=1e-5, rtol=0, err_msg=name)


def test_unknown_target_and_uneven_codes_are_refused():
    with pytest.raises(ValueError, match=r"config\.target"):
        ObjectiveSpec(target="quantized")
    with pytest.raises(ValueError, match=r"config\.quantizer\.code_dim"):
        ObjectiveSpec(code_dim=255)


def test_tokens_that_do_not_divide_into_groups_are_refused():
    model = Wav2Vec2(
        FEATURES,
        dataclasses.replace(ENCODER, feature_dim=15),
        ObjectiveSpec(target="gumbel", num_groups=2, code_dim=4, code_logits="distance"),
    )
    with pytest.raises(ValueError, match=r"feature_dim = 15 is not divisible by .*num_groups = 2"):
        model.init(jax.random.key(0), jnp.zeros((1, 8000)), jnp.full(1, 8000), None, train=False)
