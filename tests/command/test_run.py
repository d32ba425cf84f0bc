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
