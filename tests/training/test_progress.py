"""Where the progress bar is drawn, and that it fits; the curves."""

import fcntl
import logging
import os
import struct
import sys
import termios

import matplotlib.pyplot as plt
import pytest

from configs import finetune, pretrain
from conformer_jax import reading
from conformer_jax.training import curves, opening, progress

RECORD = {"loss": 4.321, "contrastive_accuracy": 0.123, "clips_per_s": 30.5, "gradient_norm": 1.0}


def shown(tmp_path, monkeypatch, columns):
    """What a run of ten steps writes to a terminal of so many columns, line by line."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        config = pretrain.get_config()
        heading = curves.heading_of(config)
        log = progress.Log(tmp_path, 0, name=config.name, num_steps=200, heading=heading)
        for step in (1, 120):
            log.write(step, "train", RECORD)
            log.advance(step)
        log.close()
        terminal.flush()
        text = os.read(ours, 100_000).decode()
    os.close(ours)
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def test_eighty_columns_hold_all_that_is_promised(tmp_path, monkeypatch):
    lines = shown(tmp_path, monkeypatch, 80)
    assert max(map(len, lines)) <= 80
    for part in ("120/200", "loss=4.321", "contrastive acc=0.123", "clips/s=30.5", "left"):
        assert part in lines[-1]


def test_a_terminal_without_width_gets_lines(tmp_path, monkeypatch):
    lines = shown(tmp_path, monkeypatch, 0)
    assert any("step 120/200: loss 4.321, contrastive acc 0.123" in line for line in lines)


def test_curves_show_the_control_beside_the_run(tmp_path):
    records = [
        {
            "step": step,
            "split": split,
            "accuracy": step / 10,
            "loss": 3 - step,
            "chance_accuracy": 0.1,
        }
        for step in (1, 2)
        for split in ("train", "eval")
    ]
    lower = [record | {"accuracy": 0.05} for record in records]
    heading = curves.heading_of(finetune.get_config("smoke"))
    curves.draw(heading, records, tmp_path / "alone.png")
    curves.draw(heading, records, tmp_path / "both.png", lower)
    alone, both = (plt.imread(tmp_path / name) for name in ("alone.png", "both.png"))
    red = [(image[..., 0] - image[..., 1:3].max(-1) > 0.6).sum() for image in (alone, both)]
    assert red[0] == 0
    assert red[1] > 100


@pytest.mark.filterwarnings("error")
def test_curves_of_a_run_that_diverged_and_of_ranges_without_an_end(tmp_path):
    heading = curves.heading_of(pretrain.get_config("tiny_clip"))
    record = {"split": "eval", "clip_chance": 0.01, "clip_loss": 3.0, "effective_rank": 40.0}
    records = [record | {"step": step} for step in (1, 2)]
    none = ("clip_loss", "clip_similarity_positive", "clip_similarity_negative")
    records.append(record | dict.fromkeys(none) | {"step": 3})
    for count in (2, 3):
        curves.draw(heading, records[:count], tmp_path / "curves.png")
        assert (tmp_path / "curves.png").exists()
    (tmp_path / "curves.png").unlink()
    log = progress.Log(tmp_path, 0, name="x", num_steps=2, heading=heading)
    for step in (1, 2):
        log.write(step, "train", {"clip_chance": 0.01, "clip_similarity_negative": float("nan")})
    log.close()
    assert (tmp_path / "curves.png").exists()


def test_a_warning_is_said_once_whoever_has_it_again(capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        progress.set_up_logging()
        for number in (1, 1, 2):
            logging.warning("WARNING %d clips", number)
            logging.info("%d clips", 3)
        assert capsys.readouterr().err.splitlines() == [
            *("WARNING 1 clips", "3 clips", "3 clips", "WARNING 2 clips", "3 clips")
        ]
    finally:
        root.handlers[:], root.level = before


@pytest.mark.parametrize("task", reading.FROZEN)
def test_a_probe_has_no_steps_and_none_is_said(task, tmp_path, capsys):
    config = finetune.get_config("probe")
    config.task = task
    log = opening.open_log(config, tmp_path, 0)
    log.write(0, "eval", {"accuracy": 0.5})
    log.close()
    assert capsys.readouterr().err == "held out: acc 0.500\n"
