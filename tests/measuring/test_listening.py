"""How fast a folder is heard: that the figures are of what was heard."""

import numpy as np
import pytest
import soundfile

from configs.finetune import get_config
from conformer_jax import benchmark
from conformer_jax.errors import UserError
from conformer_jax.measuring import listening

RATE = 16000


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(listening, "BATCHES", (1, 8))
    monkeypatch.setattr(listening, "_SECONDS", 0.0)
    config = get_config("smoke")
    config.data.clip_s = 0.5
    return config


def test_all_that_can_be_used_is_heard_and_counted(toy, tmp_path):
    for i, seconds in enumerate((2.0, 0.5, 1.5)):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(round(seconds * RATE)), RATE)
    (tmp_path / "no.wav").write_bytes(bytes(range(200)))
    found = listening.measure_folder(toy, sorted(tmp_path.iterdir()))
    for one in ("tag", "embed", "decoding"):
        assert found[one]["sound_s"] == pytest.approx(4.0)
        assert found[one]["speed"] == pytest.approx(4.0 / found[one]["wall_s"] / 60)
    assert (found["tag"]["files"], found["tag"]["bad"]) == (4, 1)
    best = max(found["model_alone"].values())
    assert found["tag"]["of_model_alone"] == pytest.approx(found["tag"]["speed"] / best)
    assert set(found["model_alone"]) == {"1", "8"}
    text = benchmark.describe_sounds(found)
    assert "4 files, 0.1 minutes, 1 not usable" in text
    assert "hours of sound a minute" in text


def test_a_folder_without_sound_is_said(toy, tmp_path):
    (tmp_path / "no.wav").write_bytes(bytes(range(200)))
    with pytest.raises(UserError, match="none of the sounds"):
        listening.measure_folder(toy, [tmp_path / "no.wav"])
