"""The wrappers against stand-ins of the kits' protocols: what they call, and with what."""

import importlib
import sys
import types

import numpy as np
import pytest
from inference.conftest import toy
from test_hear import Tensor, stand_in

from conformer_jax import load
from conformer_jax.training import model_file
from conformer_jax.wrappers import mteb, xares


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("kits") / "m.safetensors"
    model_file.save(found, *toy())
    return found


def clip(seed, size=8000):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, size).astype(np.float32)


def test_mteb_gets_a_vector_a_clip_in_order(path, monkeypatch):
    encoder = mteb.Encoder(path)
    batches = [
        {"audio": [{"array": clip(i), "sampling_rate": 16000} for i in pair]}
        for pair in ((0, 1), (2,))
    ]
    batches[1]["audio"].append({"array": np.stack([clip(3)] * 2), "sampling_rate": 16000})
    found = encoder.encode(
        batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=2
    )
    model = load(path)
    wanted = np.stack([model.embed(clip(i), 16000).clip for i in range(4)])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.diag(encoder.similarity(found, found)), 1, atol=1e-5)
    np.testing.assert_allclose(
        encoder.similarity_pairwise(found, found[::-1]),
        np.diag(encoder.similarity(found, found[::-1])),
        atol=1e-6,
    )


def test_xares_gets_frames_at_the_hop_that_is_said(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", stand_in())
    try:
        module = importlib.reload(xares)
        encoder = module.ConformerJaxEncoder(path)
        audio = np.stack([clip(0), clip(1)])
        found = encoder.forward(Tensor(audio)).array
        assert found.shape == (2, 12, encoder.output_dim)
        assert found.dtype == np.float32
        assert encoder.sampling_rate == 16000
        assert encoder.hop_size_in_ms == 40
        assert encoder.forward(Tensor(audio[0])).array.shape == (1, 12, encoder.output_dim)
    finally:
        monkeypatch.undo()
        importlib.reload(xares)


def test_mteb_is_told_what_the_model_is(path, monkeypatch):
    class ModelMeta:
        @classmethod
        def create_empty(cls, overwrites=None):
            found = cls()
            found.said = overwrites
            return found

    package = types.ModuleType("mteb.models")
    package.ModelMeta = ModelMeta
    monkeypatch.setitem(sys.modules, "mteb", types.ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", package)
    said = mteb.Encoder(path).mteb_model_meta.said
    assert said["name"] == "conformer_jax/m.safetensors"
    assert said["modalities"] == ["audio"]
    assert said["embed_dim"] == load(path).width
