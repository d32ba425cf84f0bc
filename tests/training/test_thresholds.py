"""Where a clip may have several labels, their thresholds are chosen on the validation split."""

import numpy as np

import conformer_jax
from configs import finetune
from conformer_jax.evaluation import predictions
from conformer_jax.training import checkpoint, loop


def test_a_run_that_validates_keeps_its_thresholds(tmp_path):
    config = finetune.get_config("smoke")
    config.update(init_from="", compare_with_scratch=False)
    config.classifier.multi_label = True
    config.synthetic.max_classes = 2
    config.conformer.kernel_sizes = (5,)
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.data.update(loader="threads", clip_s=0.5, validation_share=0.3)
    config.train.update(num_steps=2, eval_every=1)
    config.checkpoint.every_steps = 1
    result = loop.train_and_evaluate(config, tmp_path)
    chosen = checkpoint.read_meta(tmp_path)["thresholds"]
    loaded = conformer_jax.load(tmp_path)
    np.testing.assert_allclose(loaded.thresholds, chosen, atol=1e-6)
    assert len(chosen) == len(loaded.label_names) == 20
    assert all(0 < x < 1 for x in chosen)
    assert len(set(chosen)) > 2
    assert result.held_out["best_step"] in (1, 2)
    found = predictions.load(tmp_path / "predictions.npz")
    assert loaded.label_names == tuple(found.label_names)
    assert loaded.multi_label
    assert loaded.tag(np.zeros(8000), 16000).probabilities.shape == (1, 20)
