"""What a record says of speed, by a clock of our own."""

import types

import pytest

from configs import finetune
from conformer_jax import fields
from conformer_jax.data import host_loader
from conformer_jax.training import program, window


@pytest.mark.parametrize(("crop_s", "heard_s"), [(0.0, 1.0), (0.5, 0.5)])
def test_hours_of_audio_are_those_that_a_step_hears(crop_s, heard_s, monkeypatch):
    config = finetune.get_config("smoke")
    config.classifier.crop_s = crop_s
    clock = iter([0.0, 5.0, 9.0])
    monkeypatch.setattr(window, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    model = program.make_model(config, 4)
    found = window.Window(model, host_loader.loader_spec(config), fields.heard_s(config))
    found.sums = {}
    assert "clips_per_s" not in found.close(1)  # that window compiled
    found.sums = {}
    record = found.close(6)
    assert record["clips_per_s"] == pytest.approx(6 * 4 / 4.0)
    assert record["audio_hours_per_s"] == pytest.approx(6 * heard_s / 3600)


def test_pre_training_hears_no_crops():
    config = finetune.get_config("smoke")
    config.task, config.classifier.crop_s = "pretrain", 0.5
    assert fields.heard_s(config) == config.data.clip_s
