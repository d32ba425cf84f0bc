"""FLOPs of the formula against the matrix products that JAX really traces.

Left out on both sides: everything but matrix products. Left out of the count of forward passes
here: the features, which are products, too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax.models import flops
from conformer_jax.steps import losses
from conformer_jax.training import program


def product_flops(jaxpr):
    """2 x multiply-adds of every dot_general, inner jaxprs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left = equation.invars[0].aval.shape
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = np.prod([left[axis] for axis in contracted])
            total += 2 * int(size * np.prod(equation.outvars[0].aval.shape))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += product_flops(inner)
    return total


def traced(model, frames, loss=None):
    features = jax.ShapeDtypeStruct((1, frames, 64), jnp.float32)
    valid = jax.ShapeDtypeStruct((1, frames), bool)
    keys = jax.random.split(jax.random.key(0), 1)

    params = jax.eval_shape(
        lambda f, v: model.init(keys[0], f, v, keys, train=False, method="from_features"),
        features,
        valid,
    )

    def forward(params, features, valid):
        out = model.apply(params, features, valid, keys, train=False, method="from_features")
        return out if loss is None else loss(out)

    return product_flops(jax.make_jaxpr(forward)(params, features, valid).jaxpr)


def samples(config):
    return round(config.data.clip_s * config.features.sample_rate)


def forward(config, num_classes=0):
    return flops.forward_flops(program.make_model(config, num_classes), samples(config))


def train_step(config, num_classes=0):
    model = program.make_model(config, num_classes)
    return flops.train_step_flops(model, samples(config), config.data.batch_size)


def similarities(out):
    return losses.contrastive_logits(out.predicted, out.targets, out.negatives, temperature=0.1)


@pytest.mark.parametrize(
    ("target", "logits"), [("linear", "linear"), ("gumbel", "linear"), ("gumbel", "distance")]
)
def test_pretraining_forward_pass(target, logits):
    config = pretrain_config.get_config("smoke")
    config.target = target
    config.quantizer.update(logits=logits, init="random", num_entries=256)  # most of the work
    config.data.clip_s = 10.0
    count = traced(program.make_model(config), 1001, similarities)
    np.testing.assert_allclose(forward(config), count, rtol=0.03)


@pytest.mark.parametrize("target", ["linear", "gumbel"])
def test_the_objective_alone(target):
    """Few masked of very many tokens (only traced), so that the similarities outweigh the rest."""
    config = pretrain_config.get_config("smoke")
    config.target = target
    config.masking.probability = 0.03
    config.data.clip_s = 4000.0
    count = traced(program.make_model(config), 400_001, similarities)
    encoder = finetune_config.get_config("smoke")
    encoder.data.clip_s = 4000.0
    formula = forward(config) - forward(encoder)
    np.testing.assert_allclose(formula, count - forward(encoder), rtol=0.03)


def test_classifier_forward_pass():
    config = finetune_config.get_config("smoke")
    config.data.clip_s = 2.0
    count = traced(program.make_model(config, 5), 201)
    assert forward(config, 5) == count
    assert forward(config) == count - 2 * 16 * 5


def test_a_training_step_hears_crops_alone():
    config = finetune_config.get_config("smoke")
    config.data.clip_s = 4.0
    config.classifier.crop_s = 1.0
    crop = finetune_config.get_config("smoke")
    crop.data.clip_s = 0.99  # 100 frames, the first in the middle of its window
    assert train_step(config, 5) == train_step(crop, 5)


def traced_step(config, num_classes=0):
    """Products of a whole training step: features, forward and backward pass, optimizer."""
    built = program.build(config, num_classes)
    size, samples = config.data.batch_size, round(config.data.clip_s * 16000)
    batch = {
        "audio": jax.ShapeDtypeStruct((size, samples), jnp.int16),
        "num_samples": jax.ShapeDtypeStruct((size,), jnp.int32),
        "valid": jax.ShapeDtypeStruct((size,), jnp.float32),
        "labels": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return product_flops(built.train_step.trace(built.abstract_state, batch, key).jaxpr.jaxpr)


def not_in_the_formula(config):
    """Fourier and mel products of every frame, less the gradient towards the features, of which
    nothing is learned."""
    frames = 1 + round(config.data.clip_s * 100)
    fourier, mel = 2 * 400 * 2 * 257, 2 * 257 * 64
    unneeded = 2 * (frames // 4) * 4 * 64 * config.conformer.feature_dim
    return config.data.batch_size * (frames * (fourier + mel) - unneeded)


def test_a_fine_tuning_step():
    config = finetune_config.get_config("smoke")
    count = traced_step(config, num_classes=5)
    assert train_step(config, 5) == count - not_in_the_formula(config)


@pytest.mark.parametrize("target", ["linear", "gumbel"])
def test_a_pretraining_step(target):
    """Up to the masked tokens: the formula takes those expected, the step has room for the most."""
    config = pretrain_config.get_config("smoke")
    config.target = target
    config.data.clip_s = 40.0
    count = traced_step(config) - not_in_the_formula(config)
    np.testing.assert_allclose(train_step(config), count, rtol=0.03)


def test_the_paper_sizes_differ_as_their_parameters_do():
    small, large = (forward(pretrain_config.get_config(v)) for v in ("small", "large"))
    assert 4.0 < large / small < 88.1 / 18.4 + 0.5


def test_a_training_step_costs_three_forward_passes_a_clip():
    config = pretrain_config.get_config("smoke")
    config.data.batch_size = 7
    assert train_step(config) == 21 * forward(config)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU v77", 0),
        ("NVIDIA A1000 Laptop", 0),
    ],
)
def test_the_peak_is_that_of_the_longest_name_that_fits(kind, teraflops):
    assert flops.published_peak(kind) == teraflops * 1e12
