"""The command line: one line and a non-zero code for a mistake, and the main job end to end."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(__file__).parent.parent


def command(*args):
    """Runs `python -m conformer_jax.main` in the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", "conformer_jax.main", *map(str, args)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def error(*args):
    """The single line of a command that fails; any traceback fails the test."""
    done = command(*args)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    assert done.stdout == ""
    return lines[0]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config=configs/pretrain.py:smal"], ["did you mean 'small'?", "tiny", "large"]),
        (["--config=configs/finetune.py:esc5"], ["did you mean 'esc50'?", "smoke"]),
        (
            ["--config=configs/pretrain.py:smoke", "--config.data.manfest=x.csv"],
            ["config.data.manfest", "did you mean 'manifest'?", "batch_size", "clip_s"],
        ),
        (
            ["--config=configs/pretrain.py", "--config.optimiser.b1=0.8"],
            ["config.optimiser", "did you mean 'optimizer'?", "features"],
        ),
        (
            ["--config=configs/pretrain.py:smoke", "--config.data.batch_size=many"],
            ["--config.data.batch_size=many"],
        ),
        ([], ["--config is missing", "configs/pretrain.py"]),
        (["--config=configs/none.py"], ["configs/none.py"]),
        (["--config=configs/pretrain.py", "--wrkdir=x"], ["wrkdir", "workdir"]),
        (
            ["--config=configs/pretrain.py", "--manifest=x.csv"],
            ["did you mean --config.data.manifest?"],
        ),
        (
            ["--config=configs/pretrain.py:smoke", "--workdir=gs://bucket/run", "--dry_run"],
            ["gs://bucket/run", "give a folder"],
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_known_names(args, expected):
    message = error(*args)
    for part in expected:
        assert part in message


def test_help_lists_the_flags_that_all_commands_share():
    said = command("--help").stdout
    for flag in ("--config:", "--workdir:", "--num_processes:"):
        assert flag in said


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["--config.data.manifest=nowhere.csv"], ["nowhere.csv"]),
        (["--config.target=quantized"], ["config.target", "linear", "gumbel"]),
        (["--config.conformer.num_heads=3"], ["config.conformer.num_heads"]),
        (["--config.sharding.data=7"], ["config.sharding", "device"]),
        (["--config.data.loader=grain"], ["config.data.loader", "threads"]),
        (["--config.data.workers=0"], ["config.data.workers = 0", "at least 1 and at most 256"]),
    ],
)
def test_a_wrong_field_is_named_in_one_line(fields, expected, tmp_path):
    means = [f"--config.features.{name}={(1.0,) * 64}" for name in ("mean", "deviation")]
    message = error("--config=configs/pretrain.py:smoke", f"--workdir={tmp_path}", *means, *fields)
    for part in expected:
        assert part in message


def test_dry_run_describes_the_run_and_writes_nothing(tmp_path):
    workdir = tmp_path / "run"
    done = command("--config=configs/pretrain.py:smoke", f"--workdir={workdir}", "--dry_run")
    assert done.returncode == 0, done.stderr
    for part in ("parameters", "encoder/block_0", "mesh: data 1", "audio int16 [4, 16000]"):
        assert part in done.stdout
    for part in ("MiB", "GFLOP", "32 to train on, 10 held out"):
        assert part in done.stdout
    assert not workdir.exists()


def test_the_two_commands_end_to_end_on_files_with_bad_ones_among_them(tmp_path):
    """Pre-training on a manifest, then fine-tuning on its labels, as the README tells it."""
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for i in range(24):
        tone = np.sin(np.arange(12_000) * (0.05 if i % 2 else 0.3)) + 0.1 * rng.normal(size=12_000)
        soundfile.write(tmp_path / f"{i}.flac", 0.3 * tone, 16_000)
        lines.append(f"{i}.flac,{'low' if i % 2 else 'high'}")
    (tmp_path / "20.flac").write_text("not audio")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    data = [f"--config.data.manifest={manifest}", "--config.data.eval_share=0.2"]
    data += ["--config.data.max_bad_share=0.5"]

    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    done = command("--config=configs/pretrain.py:smoke", f"--workdir={pretrained}", *data)
    assert done.returncode == 0, done.stderr
    assert "Next: python -m conformer_jax.main --config=configs/finetune.py:smoke" in done.stdout
    assert "healthy" in done.stdout
    assert "1 audio file(s) could not be used" in done.stdout
    assert "20.flac,not audio" in (pretrained / "bad_audio.csv").read_text()
    for part in ("measuring", "clips to train on", "so few clips held out"):
        assert part in done.stderr
    for part in ("step 12/12", "contrastive acc", "clips/s", "left"):
        assert part in done.stderr
    cached = json.loads((tmp_path / "manifest.csv.statistics.json").read_text())
    (statistics,) = cached.values()
    assert len(statistics["mean"]) == len(statistics["deviation"]) == 64

    done = command(
        "--config=configs/finetune.py:smoke",
        f"--workdir={tuned}",
        f"--config.init_from={pretrained}",
        *data,
    )
    assert done.returncode == 0, done.stderr
    for part in ("accuracy", "mAP", "pre-trained, fine-tuned", "from scratch", "chance"):
        assert part in done.stdout
    assert "has heard" not in done.stderr + done.stdout  # both hold out the same clips
    last = json.loads((tuned / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["heard"] == 0.0 < last["heard_of"]
    meta = json.loads((tuned / "checkpoints" / "12" / "meta" / "metadata").read_text())
    assert meta["label_names"] == ["high", "low"]
    assert meta["config"]["features"]["mean"] == statistics["mean"]

    manifest.write_text(manifest.read_text().replace("0.flac,high", "0.flac,hgh"))
    message = error("--config=configs/finetune.py:smoke", f"--workdir={tuned}", *data,
                    f"--config.init_from={pretrained}")  # fmt: skip
    for part in ("'hgh' is unknown to the checkpoint", "'high'"):
        assert part in message


def test_sigterm_ends_a_run_with_a_save_and_the_code_to_retry_on(tmp_path):
    records = tmp_path / "metrics.jsonl"
    run = subprocess.Popen(
        [
            *[sys.executable, "-m", "conformer_jax.main", "--config=configs/pretrain.py:smoke"],
            *[f"--workdir={tmp_path}", "--config.train.num_steps=1000000"],
            *["--config.train.eval_every=0", "--config.checkpoint.every_steps=0"],
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 120
    while not (records.exists() and '"step": 4' in records.read_text()):
        assert run.poll() is None, run.stderr.read()
        assert time.time() < deadline
        time.sleep(0.1)
    asked = time.time()
    run.terminate()
    said = run.communicate(timeout=60)[1]
    assert time.time() - asked < 30
    assert run.returncode == 75
    last = said.strip().splitlines()[-1]
    assert last.startswith("stopped at step ")
    assert last.endswith("by SIGTERM and saved: the same command goes on")
    (saved,) = (tmp_path / "checkpoints").glob("[0-9]*")
    assert last.split()[3] == saved.name
