"""A third objective is one file and one line (CONTRIBUTING.md): here it is a toy."""

import dataclasses
import types

from configs import pretrain as pretrain_config
from conformer_jax import fields, report
from conformer_jax.command import run
from conformer_jax.ranges import OneOf
from conformer_jax.steps import masked_contrast, metrics, pretrain
from conformer_jax.training import evaluate, program


def forward(train_state, params, batch, *, train):
    """Predictions are to be 0; no metric but the loss has a name that others know."""
    out = train_state.model.apply(
        {"params": params}, batch["audio"], batch["num_samples"], batch["keys"], train=train
    )
    loss = metrics.weighted((out.predicted**2).mean((1, 2)), batch["valid"])
    return loss[0], {"loss": loss, "third_loss": loss}, None


def make_options(config):
    return dataclasses.replace(masked_contrast.make_options(config), objective="third")


THIRD = types.SimpleNamespace(
    WHOLE_BATCH=False,
    TELLS=(),
    losses_of=lambda config: {"third_loss": 2.0},
    make_model=masked_contrast.make_model,
    make_options=make_options,
    forward=forward,
)


def test_a_third_objective_trains_is_ranked_and_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrain.OBJECTIVES, "third", THIRD)
    monkeypatch.setitem(fields._FIELDS, "objective", OneOf("wav2vec2", "third"))
    config = pretrain_config.get_config("smoke")
    config.objective = "third"
    config.data.loader, config.data.clip_s = "threads", 0.5
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.train.update(num_steps=6, log_every=2, eval_every=3)
    config.checkpoint.update(every_steps=3, keep_best=1)
    assert not program.batch_spec(config).distinct
    assert evaluate.rank(config, {"third_loss": 3.0}) == -6.0
    said = run.run(config, tmp_path / "third")
    assert "Whether the run is healthy is not known" in said
    page = tmp_path / "report.html"
    assert "1 run(s)" in report.write([str(tmp_path / "third")], str(page))
    assert "pre-training, third" in page.read_text()
    assert "Looks healthy" not in page.read_text()
    monkeypatch.delitem(pretrain.OBJECTIVES, "third")  # as where somebody else reads it
    assert "1 run(s)" in report.write([str(tmp_path / "third")], str(page))
