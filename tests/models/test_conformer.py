"""The encoder against the authors' prototype (tests/data/encoder_tiny.npz), and padding."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from conformer_jax.models.conformer import (
    SIZES,
    ConformerBlock,
    Encoder,
    EncoderSpec,
)
from conformer_jax.models.features import FeatureSpec
from conformer_jax.models.wav2vec2 import ObjectiveSpec, Wav2Vec2
from conformer_jax.steps import optimizer, pretrain
from conformer_jax.training import program

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "encoder_tiny.npz"))
# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
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


def layers(encoder, params, tokens, valid):
    """Outputs of all blocks."""
    _, seen = encoder.apply(
        params,
        tokens,
        valid,
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, ConformerBlock),
    )
    blocks = seen["intermediates"]
    return [blocks[f"block_{i}"]["__call__"][0] for i in range(len(blocks))]


@pytest.fixture(scope="module")
def golden():
    """Everything of our model on the prototype's weights and features, in one compilation."""
    spec, params = golden_spec(), golden_params()
    encoder, of_encoder = Encoder(spec), {"params": params["encoder"]}
    model = Wav2Vec2(FeatureSpec(), spec, ObjectiveSpec(num_distractors=5))
    features = GOLDEN["features"]
    everything = np.ones(features.shape[:2], bool)
    short = np.arange(features.shape[1]) < GOLDEN["lengths"][:, None]

    def run():
        (tokens, valid), seen = encoder.apply(
            of_encoder,
            features,
            everything,
            method="tokens",
            capture_intermediates=lambda module, _: module.name == "stack",
        )
        return {
            "extracted": seen["intermediates"]["stack"]["__call__"][0],
            "valid": valid,
            "valid_of_short": encoder.apply(of_encoder, features, short, method="tokens")[1],
            "layers": layers(encoder, of_encoder, tokens, valid),
            "output": encoder.apply(of_encoder, tokens, valid, train=False),
            "targets": model.apply(
                {"params": params}, tokens, method=lambda m, x: m.target_projection(x)
            ),
            "masked": model.apply(
                {"params": params},
                features,
                everything,
                jax.random.split(jax.random.key(0), len(features)),
                train=False,
                method="from_features",
            ),
        }

    return jax.tree.map(np.asarray, jax.jit(run, compiler_options=FAST)())


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_extracted_features_equal_the_prototype(golden):
    close(golden["extracted"], GOLDEN["extracted"])
    assert golden["valid"].all()


@pytest.mark.parametrize("layer", range(2))
def test_every_layer_equals_the_prototype(golden, layer):
    assert len(golden["layers"]) == 2
    close(golden["layers"][layer], GOLDEN[f"layer/{layer}"])


def test_output_equals_the_prototype(golden):
    close(golden["output"], GOLDEN["output"])


def test_output_lengths_equal_the_prototype(golden):
    valid = golden["valid_of_short"]
    np.testing.assert_array_equal(valid.sum(-1), GOLDEN["output_lengths"])
    np.testing.assert_array_equal(np.sort(~valid, axis=-1), ~valid)  # valid ones first


def test_linear_targets_equal_the_prototype(golden):
    close(golden["targets"], GOLDEN["targets"])


def test_the_model_compares_with_the_targets_of_the_masked_tokens(golden):
    """Each is the prototype's of some token, in order."""
    for clip in range(3):
        picked = golden["masked"].targets[clip][golden["masked"].weights[clip] > 0]
        distance = np.abs(picked[:, None] - GOLDEN["targets"][clip]).max(-1)
        assert len(picked) >= 3
        assert distance.min(-1).max() < 1e-4
        assert (np.diff(distance.argmin(-1)) > 0).all()


@pytest.mark.parametrize(("variant", "total"), [("small", 18_428_416), ("large", 88_133_120)])
def test_parameter_totals_of_the_paper_sizes(variant, total):
    config = pretrain_config.get_config(variant)
    config.target = "linear"
    model = program.make_model(config)
    transform, _ = optimizer.make_optimizer(config.optimizer, 10)
    shapes = jax.eval_shape(
        lambda key: pretrain.init(model, None, transform, key, ema_decay=0.0).params,
        jax.random.key(0),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == total
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


class Toy:
    """An encoder with random parameters: biases away from 0, scales away from 1, so leaks show."""

    def __init__(self, spec):
        self.encoder, self.spec = Encoder(spec), spec

        def everything(module, features, valid_frames):
            return module(*module.tokens(features, valid_frames), train=False)

        shapes = jax.eval_shape(
            lambda: self.encoder.init(
                jax.random.key(0), jnp.zeros((1, 8, 64)), jnp.ones((1, 8), bool), method=everything
            )
        )
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(lambda s: rng.normal(0.1, 0.4, s.shape).astype(s.dtype), shapes)

    @functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def layers(self, features, valid_frames, filling):
        """Validity and outputs of all blocks; `filling` is added to the tokens of padding."""
        tokens, valid = self.encoder.apply(self.params, features, valid_frames, method="tokens")
        tokens = jnp.where(valid[..., None], tokens, tokens + filling)
        return valid, layers(self.encoder, self.params, tokens, valid)

    @functools.partial(jax.jit, static_argnums=0, static_argnames="train", compiler_options=FAST)
    def __call__(self, tokens, valid, seed=0, *, train=False):
        keys = jax.random.split(jax.random.key(seed), len(tokens))
        return self.encoder.apply(self.params, tokens, valid, keys, train=train)


@pytest.fixture(scope="module")
def toy():
    return Toy(TOY)


def test_padding_changes_no_valid_output(toy):
    rng = np.random.default_rng(1)
    lengths = [61, 22, 9, 2]
    features = rng.standard_normal((len(lengths), 61, 64)).astype(np.float32)
    valid_frames = np.arange(61) < np.array(lengths)[:, None]
    features *= valid_frames[..., None]
    padded = [toy.layers(features, valid_frames, filling) for filling in (0.0, 7.0)]
    for i, length in list(enumerate(lengths))[1:]:
        one = features[i : i + 1, :length], valid_frames[i : i + 1, :length]
        valid_alone, alone = toy.layers(*one, 0.0)
        count = valid_alone.shape[1]
        assert count == max(length // 4, 1)
        assert valid_alone.all()
        for valid, layers in padded:
            assert valid[i].sum() == count
            for ours, reference in zip(layers, alone, strict=True):
                np.testing.assert_allclose(ours[i, :count], reference[0], atol=1e-5, rtol=0)


TOKENS = np.random.default_rng(2).standard_normal((2, 12, 16)).astype(np.float32)
ALL = np.ones((2, 12), bool)


def test_a_clip_without_valid_tokens_stays_finite(toy):
    assert np.isfinite(toy(TOKENS, ~ALL)).all()


def test_tokens_see_each_other_and_their_order(toy):
    first = toy(TOKENS, ALL)
    changed = TOKENS.copy()
    changed[0, 11] += 1.0
    difference = np.abs(toy(changed, ALL) - first)
    assert difference[0, 0].max() > 1e-3
    assert not difference[1].any()  # clips do not see each other
    swapped = toy(TOKENS[:, ::-1], ALL)[:, ::-1]
    assert np.abs(swapped - first).max() > 1e-3


def test_dropout_acts_while_training_only():
    toy = Toy(dataclasses.replace(TOY, dropout=0.5, kernel_sizes=(3,)))
    np.testing.assert_array_equal(toy(TOKENS, ALL, 0), toy(TOKENS, ALL, 1))
    first = toy(TOKENS, ALL, 0, train=True)
    assert np.abs(first - toy(TOKENS, ALL, 1, train=True)).max() > 1e-3
    np.testing.assert_array_equal(first, toy(TOKENS, ALL, 0, train=True))


def test_rematerialisation_saves_memory():
    """In the loop over blocks; without it XLA's CPU backend undoes it."""

    def working_space(remat):
        spec = dataclasses.replace(TOY, kernel_sizes=(3,) * 6, scan_blocks=True, remat=remat)
        toy, tokens, valid = Toy(spec), jnp.ones((8, 64, 16)), jnp.ones((8, 64), bool)
        loss = lambda params: toy.encoder.apply(params, tokens, valid, train=False).sum()
        compiled = jax.jit(jax.grad(loss), compiler_options=FAST).lower(toy.params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept, some, nothing = (working_space(remat) for remat in ("none", "products", "full"))
    assert nothing < 0.6 * kept
    assert nothing < some < kept


def test_bfloat16_keeps_float32_parameters_and_output(toy):
    low = Toy(dataclasses.replace(TOY, dtype="bfloat16"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low.params)} == {"float32"}
    out, exact = low(TOKENS, ALL), np.asarray(toy(TOKENS, ALL))
    assert out.dtype == jnp.float32
    error = np.abs(np.asarray(out) - exact)
    assert error.max() > 1e-4  # it did compute in bfloat16
    assert error.mean() < 0.02 * exact.std()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_heads", 3),
        ("kernel_sizes", (5, 4)),
        ("kernel_sizes", ()),
        ("dropout", 1.0),
        ("dtype", "float16"),
        ("remat", "some"),
    ],
)
def test_a_size_that_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=rf"config\.conformer\.{field} "):
        dataclasses.replace(TOY, **{field: value})


def test_paper_sizes():
    small, large = SIZES["small"], SIZES["large"]
    assert small.kernel_sizes == large.kernel_sizes == (31,) + (15,) * 11
    assert (small.width, small.num_heads, large.width, large.num_heads) == (256, 8, 768, 12)
