"""What a run says at its end."""

import shlex

from configs import pretrain
from conformer_jax.command import run


def test_the_next_command_can_be_pasted_whatever_the_paths():
    config = pretrain.get_config("smoke")
    config.data.manifest = "my sounds/it's.csv"
    said = run._next(config, "my runs/$1")
    assert shlex.split(said)[-2:] == [
        "--config.init_from=my runs/$1",
        "--config.data.manifest=my sounds/it's.csv",
    ]
    assert "python -m conformer_jax.main --config=configs/finetune.py:smoke --config" in said
    assert run._next(config, f"runs/{config.name}").count("init_from") == 0


def test_the_table_says_once_more_what_is_without_labels_that_training_lacked():
    record = {"accuracy": 0.5, "mAP": 0.25, "chance_accuracy": 0.3, "chance_mAP": 0.2}
    more = {f"{name}_known": 2 * value for name, value in record.items()}
    assert len(run.table([("tuned", record), ("chance", run._chance(record))]).splitlines()) == 3
    lines = run.table([("tuned", record | more), ("chance", run._chance(more | record))])
    assert [line.split("  ")[0] for line in lines.splitlines()[1:]] == [
        "tuned",
        "chance",
        "tuned, of labels trained on",
        "chance, of labels trained on",
    ]
    assert lines.splitlines()[3].split()[-2:] == ["1.000", "0.500"]
    assert lines.splitlines()[4].split()[-2:] == ["0.600", "0.400"]
