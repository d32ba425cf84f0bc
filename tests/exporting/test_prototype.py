"""The authors' prototype becomes our encoder: by its own numbers, every name accounted for."""

import pathlib

import numpy as np
import pytest

from conformer_jax.errors import UserError
from conformer_jax.exporting import prototype, prototype_reference
from conformer_jax.inference import trained

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "encoder_tiny.npz"))
STATE = {n.removeprefix("param/"): x for n, x in GOLDEN.items() if n.startswith("param/")}


def test_converted_it_computes_what_the_prototype_computed():
    found = prototype.to_ours(STATE, heads=4)
    assert (found.spec.width, found.spec.kernel_sizes, found.num_mels) == (32, (7, 5), 64)
    assert len(found.left_out) == 3
    features = GOLDEN["features"]
    ours = prototype_reference.ours(trained.tree(found.encoder), features, found.spec)
    numpy = prototype_reference.layers(STATE, features, heads=4, stride=4)
    for layers in (ours, numpy):
        np.testing.assert_allclose(layers["features"], GOLDEN["extracted"], atol=1e-4)
        for i in range(2):
            np.testing.assert_allclose(layers[f"block {i}"], GOLDEN[f"layer/{i}"], atol=1e-4)
    assert max(prototype_reference.differences(ours, numpy).values()) < 1e-5


def test_there_and_back_is_the_same_state_dict():
    encoder_only = {
        n.removeprefix("wav2vec2."): x for n, x in STATE.items() if n.startswith("wav2vec2.")
    }
    found = prototype.to_ours(encoder_only, heads=4)
    params = {f"encoder/{name}": x for name, x in found.encoder.items()}
    back = prototype.to_theirs(params, found.spec)
    assert back.keys() == encoder_only.keys()
    params |= {
        "mask_embedding": STATE["mask_generator.mask_embedding"],
        "target_projection/kernel": STATE["negative_sampler.preprocessor.weight"].T,
        "target_projection/bias": STATE["negative_sampler.preprocessor.bias"],
    }
    back = prototype.to_theirs(params, found.spec)
    assert back.keys() == STATE.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, STATE[name], err_msg=name)
    with pytest.raises(UserError, match="no place in the prototype for head"):
        prototype.to_theirs(params | {"head/bias": np.zeros(1)}, found.spec)


LAST = "wav2vec2.encoder.conformer.1.final_layer_norm.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop(LAST), "lacks encoder.conformer.1.final_layer_norm.bias"),
        (lambda s: s.update(extra=np.zeros(1)), "tensors that conformer_wav2vec2 does not have"),
        (lambda s: s.update({LAST: np.zeros(5)}), "where .32,. is needed"),
        (lambda s: s.update({LAST: np.full(32, np.nan)}), "not finite"),
        (lambda s: s.update({"a.running_mean": np.zeros(1)}), "BatchNorm"),
        (lambda s: s.update({"feature_extractor.conv_layers.0": np.zeros(1)}), "on the waveform"),
        (lambda s: s.clear(), "no blocks"),
    ],
)
def test_another_architecture_is_refused(change, said):
    state = dict(STATE)
    change(state)
    with pytest.raises(UserError, match=said) as caught:
        prototype.to_ours(state, heads=4)
    assert "\n" not in str(caught.value)


def test_what_a_state_dict_does_not_say_has_to_be_said():
    with pytest.raises(UserError, match="--heads"):
        prototype.to_ours(STATE)
    with pytest.raises(UserError, match="--stride=3"):
        prototype.to_ours(STATE, heads=4, stride=3)
    with pytest.raises(UserError, match="num_heads"):
        prototype.to_ours(STATE, heads=5)
