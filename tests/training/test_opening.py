"""What is refused before anything takes time."""

import pytest

from configs import finetune, pretrain
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


@pytest.mark.parametrize(
    ("folds", "advice"),
    [((), "eval_share=0.3, or cross-validate"), (("1",), "mean over the folds")],
)
def test_few_held_out_clips_are_told_with_what_helps_there(folds, advice, caplog):
    config = finetune.get_config("probe")
    config.data.manifest = "manifest.csv"
    config.data.eval_folds = folds
    opening.say_sizes(config, range(40), range(9))
    assert advice in caplog.text
    assert ("eval_share" in caplog.text) == (not folds)
    if folds:  # pre-training is not cross-validated
        config.task = "pretrain"
        caplog.clear()
        opening.say_sizes(config, range(40), range(9))
        assert "hold out more" in caplog.text
