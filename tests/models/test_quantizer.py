"""The Gumbel quantizer against transformers (tests/goldens/quantizer.npz), its gradient, its
temperature."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models.quantizer import (
    GumbelQuantizer,
    entropy_perplexity,
    gumbel_temperature,
)

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "quantizer.npz"))
GROUPS = int(GOLDEN["groups"])
ENTRIES = GOLDEN["param/codevectors"].shape[1] // GROUPS
QUANTIZER = GumbelQuantizer(GROUPS, ENTRIES, GOLDEN["codevectors"].shape[-1])
PARAMS = {
    "logits": {
        "kernel": GOLDEN["param/weight_proj.weight"].T,
        "bias": GOLDEN["param/weight_proj.bias"],
    },
    "codebook": GOLDEN["param/codevectors"].reshape(GROUPS, ENTRIES, -1),
}


def evaluate(weights):
    return QUANTIZER.apply(
        {"params": PARAMS}, GOLDEN["hidden"], weights, None, temperature=1.0, train=False
    )


def train(params=PARAMS, *, seed=0, temperature=1.0, weights=None):
    weights = np.ones(GOLDEN["mask"].shape) if weights is None else weights
    return QUANTIZER.apply(
        {"params": params},
        GOLDEN["hidden"],
        weights,
        jax.random.split(jax.random.key(seed), len(weights)),
        temperature=temperature,
        train=True,
    )


def test_codes_and_indices_equal_transformers():
    codes, statistics = evaluate(np.ones(GOLDEN["mask"].shape, np.float32))
    np.testing.assert_allclose(codes, GOLDEN["codevectors"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(statistics["indices"], GOLDEN["indices"])


@pytest.mark.parametrize("name", ["perplexity", "perplexity_masked"])
def test_perplexity_equals_transformers(name):
    shape = GOLDEN["mask"].shape
    weights = GOLDEN["mask"] if name == "perplexity_masked" else np.ones(shape)
    _, statistics = evaluate(weights.astype(np.float32))
    assert statistics["perplexity"].shape == (GROUPS,)
    np.testing.assert_allclose(statistics["perplexity"].sum(), GOLDEN[name], rtol=1e-4)


def test_soft_perplexity_is_that_of_the_mean_softmax():
    _, statistics = evaluate(GOLDEN["mask"].astype(np.float32))
    hidden = GOLDEN["hidden"].astype(np.float64)
    logits = hidden @ PARAMS["logits"]["kernel"] + PARAMS["logits"]["bias"]
    logits = logits.reshape(*hidden.shape[:2], GROUPS, ENTRIES)
    soft = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean = soft[GOLDEN["mask"]].mean(0)
    expected = np.exp(-(mean * np.log(mean)).sum(-1))
    np.testing.assert_allclose(statistics["soft_perplexity"], expected, rtol=1e-4)


def test_perplexity_goes_from_one_to_the_number_of_entries():
    even = np.full((1, 8), 1 / 8)
    np.testing.assert_allclose(entropy_perplexity(even), 8, rtol=1e-4)
    np.testing.assert_allclose(entropy_perplexity(np.eye(8)), 1, rtol=1e-4)


def test_while_training_codes_are_entries_of_the_codebook():
    codes, statistics = train()
    indices = np.asarray(statistics["indices"])
    for group in range(GROUPS):
        entries = PARAMS["codebook"][group][indices[..., group]]
        size = entries.shape[-1]
        actual = codes[..., group * size : (group + 1) * size]
        np.testing.assert_allclose(actual, entries, atol=1e-5)


def test_the_gumbel_draw_follows_the_key_and_the_softmax():
    np.testing.assert_array_equal(train(seed=1)[0], train(seed=1)[0])
    assert (train(seed=1)[1]["indices"] != train(seed=2)[1]["indices"]).any()
    kernel = np.zeros_like(PARAMS["logits"]["kernel"])
    bias = np.log(np.tile(np.arange(1, ENTRIES + 1), GROUPS)).astype(np.float32)
    params = PARAMS | {"logits": {"kernel": kernel, "bias": bias}}
    draw = jax.jit(lambda seed: train(params, seed=seed)[1]["indices"])
    drawn = np.stack([draw(seed) for seed in range(100)])
    share = np.bincount(drawn.ravel(), minlength=ENTRIES) / drawn.size
    np.testing.assert_allclose(share, np.exp(bias[:ENTRIES]) / 136, atol=0.01)


def test_the_gradient_is_that_of_the_soft_sample():
    direction = np.random.default_rng(0).standard_normal(GOLDEN["codevectors"].shape)

    def hard(params):
        return (train(params, temperature=0.7)[0] * direction).sum()

    def soft(params):
        """The same draw with the softmax in place of the one-hot."""
        hidden = jnp.asarray(GOLDEN["hidden"])
        logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
        logits = logits.reshape(*hidden.shape[:2], GROUPS, ENTRIES)
        noise = noise_of(logits.shape)
        picked = jax.nn.softmax((logits + noise) / 0.7)
        codes = jnp.einsum("bmgv,gvd->bmgd", picked, PARAMS["codebook"])
        return (codes.reshape(direction.shape) * direction).sum()

    def noise_of(shape):
        """The noise that the module draws: from each clip's own key."""
        keys = jax.random.split(jax.random.key(0), shape[0])
        return jnp.stack([jax.random.gumbel(key, shape[1:]) for key in keys])

    gradient = jax.grad(hard)(PARAMS)
    expected = jax.grad(soft)(PARAMS)
    assert np.abs(expected["logits"]["kernel"]).max() > 1e-3
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            gradient["logits"][name], expected["logits"][name], rtol=1e-3, atol=1e-3
        )
    indices = np.asarray(train(temperature=0.7)[1]["indices"])
    picked = np.zeros((GROUPS, ENTRIES), bool)
    for group in range(GROUPS):
        picked[group, indices[..., group]] = True
    reached = np.abs(gradient["codebook"]).max(-1) > 1e-4
    assert picked.any(-1).all()
    np.testing.assert_array_equal(reached, picked)


def test_tokens_of_weight_zero_do_not_count():
    weights = np.zeros(GOLDEN["mask"].shape, np.float32)
    weights[0, 0] = 1
    _, statistics = evaluate(weights)
    np.testing.assert_allclose(statistics["perplexity"], 1, rtol=1e-4)
    _, nothing = evaluate(np.zeros_like(weights))
    assert np.isfinite(nothing["perplexity"]).all()
    assert np.isfinite(nothing["soft_perplexity"]).all()


def test_temperature_falls_geometrically_then_stays():
    at = lambda step: float(
        gumbel_temperature(jnp.int32(step), start=2.0, end=0.5, anneal_steps=1000.0)
    )
    assert at(0) == 2.0
    np.testing.assert_allclose([at(500), at(1000), at(5000)], [1.0, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(at(250), 2.0**0.5, rtol=1e-6)


def test_temperature_without_annealing_steps_is_finite():
    values = [gumbel_temperature(s, start=2.0, end=0.5, anneal_steps=0.0) for s in (0, 1, 7)]
    assert np.isfinite(values).all()
    assert values[-1] == 0.5


BOOK = np.random.default_rng(5).standard_normal((2, 6, 4)).astype(np.float32)


def quantize(x, *, sharpness=30.0, train=False, book=BOOK):
    quantizer = GumbelQuantizer(2, 6, 100, logits="distance", sharpness=sharpness)
    keys = jax.random.split(jax.random.key(0), len(x))
    ones = np.ones(x.shape[:2], np.float32)
    return quantizer.apply(
        {"params": {"codebook": book}}, x, ones, keys, temperature=1.0, train=train
    )


def test_a_code_is_the_nearest_entry_of_each_share_of_the_token():
    x = np.random.default_rng(6).standard_normal((3, 5, 8)).astype(np.float32)
    codes, statistics = quantize(x)
    assert codes.shape == x.shape
    shares = x.reshape(3, 5, 2, 1, 4)
    squares = np.square(shares - BOOK).mean(-1)
    np.testing.assert_array_equal(statistics["indices"], squares.argmin(-1))
    nearest = np.take_along_axis(BOOK[None, None], squares.argmin(-1)[..., None, None], 3)
    np.testing.assert_allclose(codes, nearest.reshape(3, 5, 8), atol=1e-6)
    soft = np.exp(-3.0 * squares)
    mean = (soft / soft.sum(-1, keepdims=True)).mean((0, 1))
    expected = np.exp(-(mean * np.log(mean)).sum(-1))
    np.testing.assert_allclose(
        quantize(x, sharpness=3.0)[1]["soft_perplexity"], expected, rtol=1e-4
    )


def test_draws_are_nearer_the_sharper():
    x = np.random.default_rng(7).standard_normal((1, 2000, 8)).astype(np.float32)
    nearest = quantize(x)[1]["indices"]
    hit = [
        np.mean(quantize(x, sharpness=s, train=True)[1]["indices"] == nearest) for s in (1, 10, 100)
    ]
    assert hit[0] < 0.6 < 0.75 < hit[1] < hit[2] > 0.95


def test_the_gradient_of_distances_reaches_token_and_codebook():
    x = np.random.default_rng(8).standard_normal((2, 9, 8)).astype(np.float32)

    def total(x, book):
        return (quantize(x, sharpness=2.0, train=True, book=book)[0] * np.arange(8.0)).sum()

    for gradient in jax.grad(total, (0, 1))(jnp.asarray(x), jnp.asarray(BOOK)):
        assert np.isfinite(gradient).all()
        assert (np.abs(gradient) > 1e-4).mean() > 0.9
