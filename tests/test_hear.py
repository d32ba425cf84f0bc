"""HEAR's API, by the rules of the published validator; torch by a stand-in."""

import sys
import types

import numpy as np
import pytest
from inference.conftest import toy

from conformer_jax import hear
from conformer_jax.errors import UserError
from conformer_jax.training import model_file

RATES = (16000, 22050, 32000, 44100, 48000)  # that the validator accepts


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("hear") / "m.safetensors"
    model_file.save(found, *toy())
    return found


def test_the_rules_of_the_validator(path):
    model = hear.load_model(str(path))
    for name in ("sample_rate", "scene_embedding_size", "timestamp_embedding_size"):
        assert type(getattr(model, name)) is int
    assert model.sample_rate in RATES
    length = int(2.74 * model.sample_rate)
    audio = np.random.default_rng(0).uniform(-1, 1, (4, length)).astype(np.float32)
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (4, model.scene_embedding_size)
    assert scenes.dtype == np.float32
    frames, times = hear.get_timestamp_embeddings(audio, model)
    assert frames.dtype == times.dtype == np.float32
    assert frames.shape == (4, times.shape[1], model.timestamp_embedding_size)
    assert times.shape[0] == 4
    between = np.diff(times, axis=1)
    assert (between > 0).all()
    # By windows: the seam between two is as far apart as their frames, to a frame.
    assert between.max() <= 80
    assert np.median(between) <= 50  # ms, the most the validator recommends
    assert times.min() >= 0
    assert 2600 < times.max() < 2740
    np.testing.assert_allclose(
        hear.get_scene_embeddings(audio[1:2], model)[0], scenes[1], atol=1e-5
    )


def test_audio_of_another_shape_is_refused(path):
    model = hear.load_model(str(path))
    for audio in (np.zeros(100, np.float32), np.zeros((2, 0), np.float32)):
        with pytest.raises(UserError, match="n_sounds"):
            hear.get_scene_embeddings(audio, model)


class Tensor:
    """What is used of torch.Tensor."""

    device = "cpu"

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def to(self, device):
        assert device == "cpu"
        return self

    def numpy(self):
        return self.array


def stand_in():
    torch = types.ModuleType("torch")
    torch.Tensor, torch.from_numpy = Tensor, Tensor
    torch.nn = types.SimpleNamespace(Module=type("Module", (), {}))
    return torch


def test_torch_tensors_where_torch_is(path, monkeypatch):
    torch = stand_in()
    monkeypatch.setitem(sys.modules, "torch", torch)
    model = hear.load_model(str(path))
    assert isinstance(model, torch.nn.Module)
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 8000)).astype(np.float32)
    found = hear.get_scene_embeddings(Tensor(audio), model)
    assert isinstance(found, Tensor)
    np.testing.assert_array_equal(found.array, hear.get_scene_embeddings(audio, model))
    frames, times = hear.get_timestamp_embeddings(Tensor(audio), model)
    assert isinstance(frames, Tensor)
    assert isinstance(times, Tensor)
