"""What is refused before anything takes time."""

import pytest

from configs import pretrain
from conformer_jax.data.sources import BadAudioReport, DataError
from conformer_jax.training import opening, statistics


def test_too_few_clips_for_a_batch_are_said_before_their_features_are_measured(
    tmp_path, monkeypatch
):
    config = pretrain.get_config("smoke")
    config.objective = "clip"
    config.data.batch_size = config.synthetic.num_train + 1
    monkeypatch.setattr(statistics, "feature_statistics", lambda *_: pytest.fail("measured"))
    with pytest.raises(DataError, match="none may be twice in a batch"):
        opening.prepare_data(config, tmp_path, BadAudioReport(None, 1.0))
