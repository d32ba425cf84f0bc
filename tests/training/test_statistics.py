"""Feature statistics: the numbers, the cache, and what makes it stale."""

import json

import numpy as np
import pytest

from configs import pretrain
from conformer_jax.data.audio import BadAudio, BadAudioReport
from conformer_jax.errors import UserError
from conformer_jax.models.features import FeatureSpec, log_mel
from conformer_jax.training import statistics


class Clips:
    """Three noise clips of different lengths; the second cannot be read."""

    sample_rate, label_names, bad, at_once = 16000, (), (1,), False
    contents = (10, 11, 12)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.audio = [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (5000, 900, 8000)]

    def __len__(self):
        return 3

    def content(self, i):
        return self.contents[i]

    def example_id(self, i):
        return f"{i}.wav"

    def read(self, i, num_samples, position):
        if i in self.bad:
            raise BadAudio("broken")
        return self.audio[i][:num_samples]


@pytest.fixture
def config(tmp_path):
    config = pretrain.get_config("smoke")
    config.data.manifest = str(tmp_path / "data" / "manifest.csv")
    (tmp_path / "data").mkdir()
    return config


def measure(config, source, workdir):
    return statistics.feature_statistics(config, source, BadAudioReport(None, 1.0), workdir)


def test_mean_and_deviation_are_those_of_the_valid_frames(config, tmp_path):
    source = Clips()
    mean, deviation = measure(config, source, tmp_path)
    frames = []
    for audio in (source.audio[0], source.audio[2]):
        quantised = np.rint(audio * 32768)[None].astype(np.int16)
        features, _ = log_mel(quantised, np.array([len(audio)]), FeatureSpec())
        frames.append(np.asarray(features[0]))
    frames = np.concatenate(frames)
    np.testing.assert_allclose(mean, frames.mean(0), atol=1e-4)
    np.testing.assert_allclose(deviation, frames.std(0), atol=1e-4)


def test_they_are_cached_beside_the_manifest_until_settings_or_clips_change(config, tmp_path):
    source = Clips()
    first = measure(config, source, tmp_path)
    cache = tmp_path / "data" / "manifest.csv.statistics.json"
    (entry,) = json.loads(cache.read_text()).values()
    assert entry["mean"] == list(first[0])
    source.bad = (0, 1, 2)  # nothing is read any more: only the cache can answer
    assert measure(config, source, tmp_path) == first
    source.contents = (10, 11, 99)  # a file was replaced under its name
    with pytest.raises(UserError, match="3 of the 3 audio files"):
        measure(config, source, tmp_path)
    source.contents = (10, 11, 12)
    config.features.fmin = 100.0
    with pytest.raises(UserError, match="3 of the 3 audio files"):
        measure(config, source, tmp_path)


def test_a_manifest_folder_that_cannot_be_written_leaves_the_cache_in_the_workdir(config, tmp_path):
    config.data.manifest = str(tmp_path / "missing_folder" / "manifest.csv")
    measure(config, Clips(), tmp_path)
    assert (tmp_path / "statistics.json").exists()
