"""A finished run whose files are damaged in 120 ways and opened again, as `loop` opens it.

Nothing may end in a traceback or be accepted in silence: what is damaged is refused in one line
that names it, or said in a warning that names it, or everything comes out as it was.
"""

import json
import logging
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import pretrain
from conformer_jax.data.audio import BadAudioReport
from conformer_jax.errors import UserError
from conformer_jax.steps import state
from conformer_jax.training import (
    checkpoint,
    curves,
    encoder_file,
    opening,
    statistics,
    workdir,
)

STEP = 3
# What the damage falls on, relative to the workdir; each as often as the others.
FILES = (
    "config.json",
    "metrics.jsonl",
    "statistics.json",
    "encoder.safetensors",
    f"checkpoints/{STEP}/meta/metadata",
    f"checkpoints/{STEP}/metrics/metrics",
    f"checkpoints/{STEP}/params/_METADATA",
    f"checkpoints/{STEP}/training/array",  # the largest file of its arrays
)
JSON_TYPES = (b"null", b"3", b'"text"', b"[]", b"[null]", b"{}", b"true")
DAMAGES = ("truncated", "binary", "json", "missing", "flip", "flip")


class Clips:
    """Two noise clips, of which no second look at is needed where the cache is whole."""

    sample_rate, label_names, at_once = 16000, (), False

    def __len__(self):
        return 2

    def content(self, i):
        return 10 + i

    def example_id(self, i):
        return f"{i}.wav"

    def read(self, i, num_samples, position):
        return (0.1 * np.random.default_rng(i).normal(size=4000)).astype(np.float32)


def config_of_run():
    config = pretrain.get_config("smoke")
    config.data.update(clip_s=0.25, loader="threads")
    return config


def statistics_of(config, folder):
    return statistics.feature_statistics(config, Clips(), BadAudioReport(None, 1.0), folder)


def make_state(step):
    noise = jax.random.normal(jax.random.key(step), (16, 8))
    params = {"encoder": {"noise": noise}, "head": {"bias": jnp.zeros(2)}}
    created = state.create(params, None, optax.adam(1e-3), None, ema_decay=0.0)
    return created.replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three steps, whose last checkpoint is the one that is damaged."""
    folder, config = tmp_path_factory.mktemp("run"), config_of_run()
    workdir.claim(folder, config)
    stats = statistics_of(config, folder)
    config.features.mean, config.features.deviation = stats
    checkpoints, log = checkpoint.Checkpoints(folder), opening.open_log(config, folder, 0)
    meta = {"config": config.to_dict(), "label_names": ["a", "b"]}
    for step in (2, STEP):
        log.write(step, "train", {"loss": 0.5 + step})
        checkpoints.save(make_state(step), meta | {"records": log.digest()}, 0.25 * step)
    checkpoints.wait()
    checkpoints.close()
    log.close()
    encoder_file.save(
        folder / "encoder.safetensors",
        make_state(STEP).params["encoder"],
        {**checkpoint.read_meta(folder), "step": STEP},
    )
    return folder


def reopen(folder):
    """What a continued run, and one that starts from its encoder file, take from the folder."""
    config = config_of_run()
    workdir.claim(folder, config)
    saved_config = json.loads((folder / "config.json").read_text())
    stats = statistics_of(config, folder)
    own = checkpoint.read_meta(folder)
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        restored, meta = checkpoints.restore(make_state(0))
    finally:
        checkpoints.close()
    found = own["config"], own["label_names"], meta["config"], meta["label_names"], meta["metric"]
    step = int(restored.step)
    log = opening.open_log(config, folder, step, expected=meta.get("records"))
    records = log.all("train")
    log.close()
    encoder = encoder_file.load(folder / "encoder.safetensors")
    leaves = jax.tree.leaves((restored, encoder))
    arrays = [np.asarray(x).tobytes() for x in leaves if not isinstance(x, str)]
    return repr((saved_config, stats, found, records, arrays))


def damage(path, kind, rng):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "binary":
        path.write_bytes(rng.randbytes(rng.choice([1, 100, len(content)])))
    elif kind == "json":
        path.write_bytes(rng.choice(JSON_TYPES))
    else:
        bit = rng.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(flipped))


def told(said, file):
    """Whether these words name the file, or the checkpoint that it belongs to."""
    if file.name == "config.json" and "holds a run of another config" in said:
        return True
    return file.name in said or (
        "checkpoints" in file.parts and (f"of step {STEP} " in said or f"step {STEP}:" in said)
    )


def test_120_damaged_workdirs(finished, tmp_path, caplog, monkeypatch):
    for noisy in ("absl", "asyncio"):  # as progress.set_up_logging does
        caplog.set_level(logging.CRITICAL, logger=noisy)
    caplog.set_level(logging.INFO)  # last: it is also that of the handler
    whole = reopen(shutil.copytree(finished, tmp_path / "whole"))
    assert reopen(tmp_path / "whole") == whole
    draw = curves.draw
    rng, ends = random.Random(0), {"refused": 0, "warned": 0, "identical": 0}
    for i in range(120):
        name, kind = FILES[i % len(FILES)], DAMAGES[i // len(FILES) % len(DAMAGES)]
        folder = shutil.copytree(finished, tmp_path / f"{i}")
        file = folder / name
        if file.name == "array":
            file = max(file.parent.rglob("d/*"), key=lambda path: path.stat().st_size)
        damage(file, kind, rng)
        # The picture, half a second each, is of the records alone.
        drawn = draw if name == "metrics.jsonl" else lambda *_, **__: None
        monkeypatch.setattr(curves, "draw", drawn)
        caplog.clear()
        try:
            after, error = reopen(folder), None
        except UserError as refused:
            after, error = None, str(refused)
        what = f"{i}: {name} {kind}: {error or caplog.text or after}"
        if error is not None:
            assert "\n" not in error, what
            assert told(error, file), what
            ends["refused"] += 1
        elif after == whole:
            ends["identical"] += 1
        else:
            assert told(caplog.text, file), what
            ends["warned"] += 1
        shutil.rmtree(folder)
    print(ends)
    assert ends["refused"] > 10
    assert ends["warned"] > 30
