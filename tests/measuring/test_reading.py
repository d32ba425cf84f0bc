"""How fast sound is read: the figures belong together; sound that is made up does not count."""

import numpy as np
import pytest
import soundfile

from configs.pretrain import get_config
from conformer_jax import benchmark
from conformer_jax.errors import UserError
from conformer_jax.measuring import reading


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.normal(size=16000), 16000)
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{i}.wav\n" for i in range(12)))
    config = get_config("smoke")
    config.data.update(manifest=str(tmp_path / "m.csv"), eval_share=0.2)
    return config


def test_each_loader_stands_beside_decoding_alone(config):
    found = reading.measure_reading(config, seconds=0.2)
    assert set(found["loaders"]) == {"threads", "tf"}
    alone = found["decoding_alone"]["clips_per_s"]
    for one in found["loaders"].values():
        assert one["of_decoding_alone"] == pytest.approx(one["clips_per_s"] / alone)
        assert one["first_batch_s"] > 0
    assert 0 < found["open"]["clips"] < 12
    best = max(one["clips_per_s"] for one in found["loaders"].values())
    h200 = found["chips"]["NVIDIA H200"]["clips_per_s"]
    assert f"{h200 / best:.2g} for one NVIDIA H200 at 0.5%" in reading.hosts(found)
    assert "of decoding alone" in benchmark.describe_data(found)


@pytest.mark.parametrize(("variant", "share"), [("tiny", 0.005), ("small", 0.03)])
def test_a_wider_encoder_gets_more_of_a_peak(variant, share):
    assert reading._shares(get_config(variant))["NVIDIA H200"] == share


def test_made_up_sound_is_not_read():
    with pytest.raises(UserError, match="--data reads"):
        reading.measure_reading(get_config("smoke"))
