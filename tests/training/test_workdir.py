"""Whether a run may go on in a folder: only as the run that it was begun as."""

import json

import pytest

from configs import finetune, pretrain
from conformer_jax.errors import UserError
from conformer_jax.training import workdir


def begun(folder, config, mend=lambda content: None):
    """A workdir with a checkpoint; `mend` makes its config.json that of an earlier version."""
    workdir.claim(folder, config)
    file = folder / "config.json"
    content = json.loads(file.read_text())
    mend(content)
    file.write_text(json.dumps(content))
    (folder / "checkpoints" / "6").mkdir(parents=True)


def refused(folder, config):
    with pytest.raises(UserError) as error:
        workdir.claim(folder, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def without_some_fields(content):
    del content["data"]["eval_share"], content["optimizer"]["layer_decay"], content["probe"]


def test_a_field_that_the_earlier_version_had_not_counts_as_its_default(tmp_path):
    config = pretrain.get_config("smoke")
    begun(tmp_path, config, without_some_fields)
    workdir.claim(tmp_path, config)
    config.data.eval_share = 0.2
    assert "(data.eval_share: 0.05 -> 0.2)" in refused(tmp_path, config)


def test_a_field_that_this_version_has_not_is_a_difference(tmp_path):
    config = pretrain.get_config("smoke")
    begun(tmp_path, config, lambda content: content["optimizer"].update(new=1))
    assert "(optimizer.new: 1 -> 'absent')" in refused(tmp_path, config)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (pretrain, "classifier.pooling", "max"),
        (pretrain, "augment.gain_db", 6.0),
        (pretrain, "quantizer.num_groups", 4),
        (finetune, "masking.span_length", 5),
        (finetune, "wav2vec2.num_distractors", 5),
        (finetune, "probe.l2", 1.0),
    ],
)
def test_fields_of_another_task_may_differ(module, name, value, tmp_path):
    config = module.get_config("smoke")
    begun(tmp_path, config)
    config.update_from_flattened_dict({name: value})
    workdir.claim(tmp_path, config)
    config.task = "finetune" if config.task == "pretrain" else "pretrain"
    assert "task: " in refused(tmp_path, config)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (pretrain, "masking.span_length", 5),
        (pretrain, "synthetic.max_classes", 2),
        (finetune, "augment.gain_db", 6.0),
        (finetune, "classifier.pooling", "max"),
    ],
)
def test_fields_of_the_task_may_not(module, name, value, tmp_path):
    config = module.get_config("smoke")
    begun(tmp_path, config)
    config.update_from_flattened_dict({name: value})
    assert name in refused(tmp_path, config)


def test_the_synthetic_corpus_does_not_count_beside_a_manifest(tmp_path):
    config = pretrain.get_config("smoke")
    config.data.manifest = "m.csv"
    begun(tmp_path, config)
    config.synthetic.num_train = 7
    workdir.claim(tmp_path, config)
    config.data.manifest = "other.csv"
    assert "data.manifest" in refused(tmp_path, config)


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"data": 1}', '{"data": {"eval_folds": 1}}'])
def test_a_damaged_config_is_one_line(text, tmp_path):
    config = pretrain.get_config("smoke")
    begun(tmp_path, config)
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, config)


def test_one_fold_is_the_same_as_a_number_and_as_a_string(tmp_path):
    config = finetune.get_config("smoke")
    config.data.eval_folds = (1,)
    begun(tmp_path, config, lambda content: content["data"].update(eval_folds=[1]))
    config.data.eval_folds = ("1",)
    workdir.claim(tmp_path, config)


def test_a_probe_of_other_sounds_is_not_replaced(tmp_path):
    config = finetune.get_config("probe")
    config.data.manifest = "a.csv"
    workdir.claim(tmp_path, config)
    (tmp_path / "metrics.jsonl").touch()
    config.probe.l2 = 0.5  # another probe of the same sounds
    workdir.claim(tmp_path, config)
    config.data.manifest = "b.csv"
    with pytest.raises(UserError, match=r"other sounds \(data.manifest: 'a.csv' -> 'b.csv'"):
        workdir.claim(tmp_path, config)
