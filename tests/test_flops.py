"""FLOPs of the formula against the matrix products that JAX really traces.

Left out on both sides: everything but matrix products. Left out of the count here: the mel filters
(features); left out of the formula: the classifier's head.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax import finetune, flops, losses, pretrain


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


def similarities(out):
    return losses.contrastive_logits(out.predicted, out.targets, out.negatives, temperature=0.1)


@pytest.mark.parametrize("target", ["linear", "gumbel"])
def test_pretraining_forward_pass(target):
    config = pretrain_config.get_config("smoke")
    config.target = target
    config.data.clip_s = 10.0
    count = traced(pretrain.make_model(config), 1001, similarities)
    np.testing.assert_allclose(flops.forward_flops(config), count, rtol=0.03)


@pytest.mark.parametrize("target", ["linear", "gumbel"])
def test_the_objective_alone(target):
    """Few masked of very many tokens (only traced), so that the similarities outweigh the rest."""
    config = pretrain_config.get_config("smoke")
    config.target = target
    config.masking.probability = 0.03
    config.data.clip_s = 4000.0
    count = traced(pretrain.make_model(config), 400_001, similarities)
    encoder = finetune_config.get_config("smoke")
    encoder.data.clip_s = 4000.0
    formula = flops.forward_flops(config) - flops.forward_flops(encoder)
    np.testing.assert_allclose(formula, count - flops.forward_flops(encoder), rtol=0.03)


def test_classifier_forward_pass():
    config = finetune_config.get_config("smoke")
    config.data.clip_s = 2.0
    head = 2 * 16 * 5
    count = traced(finetune.make_model(config, 5), 201)
    assert flops.forward_flops(config) == count - head


def test_the_paper_sizes_differ_as_their_parameters_do():
    small, large = (flops.forward_flops(pretrain_config.get_config(v)) for v in ("small", "large"))
    assert 4.0 < large / small < 88.1 / 18.4 + 0.5


def test_a_training_step_costs_three_forward_passes_a_clip():
    config = pretrain_config.get_config("smoke")
    config.data.batch_size = 7
    assert flops.train_step_flops(config) == 21 * flops.forward_flops(config)
