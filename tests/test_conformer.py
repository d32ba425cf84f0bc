"""The encoder against the authors' prototype (tests/data/encoder_tiny.npz), and padding."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from conformer_jax import optimizer, pretrain
from conformer_jax.models.conformer import SIZES, Encoder, EncoderSpec, depthwise_conv
from conformer_jax.models.features import FeatureSpec
from conformer_jax.models.wav2vec2 import ObjectiveSpec, Wav2Vec2

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "data" / "encoder_tiny.npz"))
TOY = EncoderSpec(
    feature_dim=16, width=16, num_heads=2, feed_forward_width=32, kernel_sizes=(5, 3), dropout=0.0
)


def golden_spec():
    _, feature_dim, stride, width, _, heads, inner, *kernels = GOLDEN["config"].tolist()
    return EncoderSpec(
        stride=stride,
        feature_dim=feature_dim,
        width=width,
        num_heads=heads,
        feed_forward_width=inner,
        kernel_sizes=tuple(kernels),
    )


def golden_params():
    """The prototype's tensors under our names and in our layouts."""
    spec, used = golden_spec(), set()
    heads, width = spec.num_heads, spec.width

    def torch(name):
        used.add("param/" + name)
        return GOLDEN["param/" + name]

    def dense(name):
        weight = torch(name + ".weight")
        return {"kernel": weight.reshape(weight.shape[:2]).T, "bias": torch(name + ".bias")}

    def norm(name):
        return {"scale": torch(name + ".weight"), "bias": torch(name + ".bias")}

    def feed_forward(name):
        return {
            "norm": norm(name + ".sequential.0"),
            "expand": dense(name + ".sequential.1"),
            "contract": dense(name + ".sequential.4"),
        }

    def block(name):
        conv, attention = name + ".conv_module", name + ".self_attn"
        in_kernel = torch(attention + ".in_proj_weight").T
        return {
            "feed_forward_in": feed_forward(name + ".ffn1"),
            "convolution": {
                "norm": norm(conv + ".layer_norm"),
                "pointwise_in": dense(conv + ".sequential.0"),
                "depthwise_kernel": torch(conv + ".sequential.2.weight")[:, 0].T,
                "depthwise_bias": torch(conv + ".sequential.2.bias"),
                "group_norm": norm(conv + ".sequential.3"),
                "pointwise_out": dense(conv + ".sequential.5"),
            },
            "attention": {
                "norm": norm(name + ".self_attn_layer_norm"),
                "qkv": {
                    "kernel": in_kernel.reshape(width, 3, heads, width // heads),
                    "bias": torch(attention + ".in_proj_bias").reshape(3, heads, width // heads),
                },
                "out": {
                    "kernel": torch(attention + ".out_proj.weight").T.reshape(
                        heads, width // heads, width
                    ),
                    "bias": torch(attention + ".out_proj.bias"),
                },
            },
            "feed_forward_out": feed_forward(name + ".ffn2"),
            "norm": norm(name + ".final_layer_norm"),
        }

    encoder = "wav2vec2.encoder."
    params = {
        "encoder": {
            "stack": dense("wav2vec2.feature_extractor.linear_layer"),
            "token_norm": norm(encoder + "feature_projection.layer_norm"),
            "projection": dense(encoder + "feature_projection.projection"),
        },
        "mask_embedding": torch("mask_generator.mask_embedding"),
        "target_projection": dense("negative_sampler.preprocessor"),
    }
    for i in range(len(spec.kernel_sizes)):
        params["encoder"][f"block_{i}"] = block(f"{encoder}conformer.{i}")
    assert used == {name for name in GOLDEN if name.startswith("param/")}
    return params


@pytest.fixture(scope="module")
def golden_encoder():
    """Every intermediate of our encoder on the prototype's weights and features."""
    encoder, params = Encoder(golden_spec()), {"params": golden_params()["encoder"]}
    features = GOLDEN["features"]
    everything = np.ones(features.shape[:2], bool)
    (tokens, valid), seen = encoder.apply(
        params,
        features,
        everything,
        method="tokens",
        capture_intermediates=lambda module, _: module.name == "stack",
    )
    layers = encoder.apply(params, tokens, valid, train=False, return_layers=True)
    return {
        "extracted": seen["intermediates"]["stack"]["__call__"][0],
        "tokens": tokens,
        "valid": valid,
        "layers": layers,
        "output": encoder.apply(params, tokens, valid, train=False),
    }


def close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=1e-4, rtol=0)


def test_extracted_features_equal_the_prototype(golden_encoder):
    close(golden_encoder["extracted"], GOLDEN["extracted"])
    assert golden_encoder["valid"].all()


@pytest.mark.parametrize("layer", range(2))
def test_every_layer_equals_the_prototype(golden_encoder, layer):
    assert len(golden_encoder["layers"]) == 2
    close(golden_encoder["layers"][layer], GOLDEN[f"layer/{layer}"])


def test_output_equals_the_prototype(golden_encoder):
    close(golden_encoder["output"], GOLDEN["output"])


def test_output_lengths_equal_the_prototype():
    valid_frames = np.arange(90) < GOLDEN["lengths"][:, None]
    _, valid = Encoder(golden_spec()).apply(
        {"params": golden_params()["encoder"]}, GOLDEN["features"], valid_frames, method="tokens"
    )
    np.testing.assert_array_equal(valid.sum(-1), GOLDEN["output_lengths"])
    np.testing.assert_array_equal(np.sort(~valid, axis=-1), ~valid)  # valid ones first


def test_linear_targets_equal_the_prototype(golden_encoder):
    model = Wav2Vec2(FeatureSpec(), golden_spec(), ObjectiveSpec(num_distractors=5))
    params = {"params": golden_params()}
    targets = model.apply(
        params, golden_encoder["tokens"], method=lambda m, x: m.target_projection(x)
    )
    close(targets, GOLDEN["targets"])
    # And through the whole model: each masked target is the prototype's of some token, in order.
    keys = dict(zip(("mask", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
    features = GOLDEN["features"]
    out = model.apply(
        params,
        features,
        np.ones(features.shape[:2], bool),
        train=False,
        rngs=keys,
        method="from_features",
    )
    for clip in range(3):
        picked = np.asarray(out.targets[clip])[np.asarray(out.weights[clip]) > 0]
        distance = np.abs(picked[:, None] - GOLDEN["targets"][clip]).max(-1)
        assert len(picked) >= 3
        assert distance.min(-1).max() < 1e-4
        assert (np.diff(distance.argmin(-1)) > 0).all()


@pytest.mark.parametrize(("variant", "total"), [("small", 18_428_416), ("large", 88_133_120)])
def test_parameter_totals_of_the_paper_sizes(variant, total):
    config = pretrain_config.get_config(variant)
    config.target = "linear"
    model = pretrain.make_model(config)
    transform, _ = optimizer.make_optimizer(config.optimizer, 10)
    shapes = jax.eval_shape(
        lambda key: pretrain.init(config, model, transform, key).params, jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == total
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


def test_depthwise_conv_equals_a_sum_of_numpy_correlations():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 3)), rng.standard_normal((5, 3))
    expected = np.stack(
        [
            [np.correlate(np.pad(x[b, :, d], 2), kernel[:, d], "valid") for d in range(3)]
            for b in range(2)
        ]
    ).transpose(0, 2, 1)
    np.testing.assert_allclose(depthwise_conv(x, kernel), expected, atol=1e-5)


def toy_params(spec):
    encoder = Encoder(spec)

    def everything(module, features, valid_frames):
        tokens, valid = module.tokens(features, valid_frames)
        return module(tokens, valid, train=False)

    shapes = jax.eval_shape(
        lambda: encoder.init(
            jax.random.key(0), jnp.zeros((1, 8, 64)), jnp.ones((1, 8), bool), method=everything
        )
    )
    rng = np.random.default_rng(0)  # biases away from 0, scales away from 1: leaks show
    return jax.tree.map(lambda s: rng.normal(0.1, 0.4, s.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("filling", [0.0, 7.0])
def test_padding_changes_no_valid_output(filling):
    encoder, params = Encoder(TOY), toy_params(TOY)
    rng = np.random.default_rng(1)
    lengths = [61, 22, 9, 4, 2]
    features = rng.standard_normal((len(lengths), 61, 64)).astype(np.float32)
    valid_frames = np.arange(61) < np.array(lengths)[:, None]
    features *= valid_frames[..., None]

    def run(features, valid_frames, filling=0.0):
        tokens, valid = encoder.apply(params, features, valid_frames, method="tokens")
        tokens = jnp.where(valid[..., None], tokens, tokens + filling)
        return valid, encoder.apply(params, tokens, valid, train=False, return_layers=True)

    valid, layers = run(features, valid_frames, filling)
    for i, length in enumerate(lengths):
        valid_alone, alone = run(features[i : i + 1, :length], valid_frames[i : i + 1, :length])
        count = valid_alone.shape[1]
        assert count == max(length // 4, 1)
        assert valid_alone.all()
        assert valid[i].sum() == count
        for ours, reference in zip(layers, alone, strict=True):
            np.testing.assert_allclose(ours[i, :count], reference[0], atol=1e-5, rtol=0)


def test_a_clip_without_valid_tokens_stays_finite():
    encoder, params = Encoder(TOY), toy_params(TOY)
    tokens = np.ones((1, 5, 16), np.float32)
    assert np.isfinite(encoder.apply(params, tokens, np.zeros((1, 5), bool), train=False)).all()


def test_tokens_see_each_other_and_their_order():
    encoder, params = Encoder(TOY), toy_params(TOY)
    tokens = np.random.default_rng(2).standard_normal((1, 12, 16)).astype(np.float32)
    valid = np.ones((1, 12), bool)
    first = encoder.apply(params, tokens, valid, train=False)
    changed = tokens.copy()
    changed[0, 11] += 1.0
    assert np.abs(encoder.apply(params, changed, valid, train=False) - first)[0, 0].max() > 1e-3
    swapped = encoder.apply(params, tokens[:, ::-1], valid, train=False)[:, ::-1]
    assert np.abs(swapped - first).max() > 1e-3


def test_dropout_acts_while_training_only():
    spec = dataclasses.replace(TOY, dropout=0.5)
    encoder, params = Encoder(spec), toy_params(spec)
    tokens, valid = np.ones((1, 6, 16), np.float32), np.ones((1, 6), bool)

    def run(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(encoder.apply(params, tokens, valid, train=train, rngs=rngs))

    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
    np.testing.assert_array_equal(run(True, 0), run(True, 0))


def test_bfloat16_keeps_float32_parameters_and_output():
    spec = dataclasses.replace(TOY, dtype="bfloat16")
    encoder, params = Encoder(spec), toy_params(spec)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    tokens = np.random.default_rng(3).standard_normal((2, 10, 16)).astype(np.float32)
    valid = np.ones((2, 10), bool)
    out = encoder.apply(params, tokens, valid, train=False)
    assert out.dtype == jnp.float32
    exact = Encoder(TOY).apply(params, tokens, valid, train=False)
    error = np.abs(np.asarray(out) - np.asarray(exact))
    assert 1e-6 < error.max()  # it did compute in bfloat16
    assert error.mean() < 0.02 * np.asarray(exact).std()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_heads", 3),
        ("kernel_sizes", (5, 4)),
        ("kernel_sizes", ()),
        ("dropout", 1.0),
        ("dtype", "float16"),
    ],
)
def test_a_size_that_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=rf"config\.conformer\.{field} "):
        dataclasses.replace(TOY, **{field: value})


def test_paper_sizes():
    small, large = SIZES["small"], SIZES["large"]
    assert small.kernel_sizes == large.kernel_sizes == (31,) + (15,) * 11
    assert (small.width, small.num_heads, large.width, large.num_heads) == (256, 8, 768, 12)
