"""An encoder as one file: round trip, what is refused, and the one that comes with the package."""

import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from configs import finetune
from conformer_jax import encoder_file as command
from conformer_jax.data.audio import BadAudioReport
from conformer_jax.errors import UserError
from conformer_jax.training import checkpoint, encoder_file, opening, program

ENCODER = {
    "stack": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)},
    "block_0": {"norm": {"scale": np.ones(4, np.float32)}},
}
META = {
    "config": {
        **{s: {"a": 1} for s in ("conformer", "features", "masking", "wav2vec2")},
        "target": "linear",
        "data": {"manifest": "/home/me/secret.csv"},
    },
    "step": 7,
    "versions": {"jax": "0.10"},
    "label_names": [],
}


def test_round_trip_to_bfloat16(tmp_path):
    path = tmp_path / "e.safetensors"
    encoder_file.save(path, ENCODER, META)
    meta, encoder = encoder_file.load(path)
    assert meta["step"] == 7
    assert meta["config"]["conformer"] == {"a": 1}
    assert b"secret" not in path.read_bytes()
    assert jax.tree.structure(encoder) == jax.tree.structure(ENCODER)
    for ours, theirs in zip(jax.tree.leaves(encoder), jax.tree.leaves(ENCODER), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_others_may_read_the_file_as_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        encoder_file.save(tmp_path / "e.safetensors", ENCODER, META)
    finally:
        os.umask(before)
    assert (tmp_path / "e.safetensors").stat().st_mode & 0o777 == 0o640


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match="not an encoder"):
        encoder_file.load(path)
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    with pytest.raises(UserError, match="not an encoder"):
        encoder_file.load(path)
    with pytest.raises(UserError, match="no such file"):
        encoder_file.find(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="there is tiny"):
        encoder_file.find("pretrained:huge")
    assert encoder_file.find("runs/pretrain") is None


@pytest.fixture
def config():
    config = finetune.get_config("tiny")
    config.init_from = "pretrained:tiny"
    config.synthetic.update(num_train=16, num_eval=4)
    return config


def test_the_shipped_encoder_starts_a_run(config, tmp_path):
    report = BadAudioReport(tmp_path / "bad.csv", 1.0)
    data = opening.prepare_data(config, tmp_path, report)
    assert config.features.mean == ()  # it is not filled in
    config = opening.with_statistics(config, data.statistics)
    assert len(config.features.mean) == 64  # the statistics travel in the file
    wanted = program.build(config, 20).abstract_state.params
    params, step = checkpoint.load_encoder(config.init_from, wanted)
    assert step >= 1000
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(params["encoder"]) == shapes(wanted["encoder"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params["encoder"]))
    assert params["encoder"]["block_0"]["attention"]["qkv"]["kernel"].std() > 0.01


def test_the_shipped_encoder_of_another_size_is_refused(config, tmp_path):
    config.conformer.width = 128
    report = BadAudioReport(tmp_path / "bad.csv", 1.0)
    with pytest.raises(UserError, match=r"pretrained:tiny.*conformer\.width: 144 -> 128"):
        opening.prepare_data(config, tmp_path, report)


def test_the_shipped_encoder_is_small_and_has_a_card():
    path = encoder_file.find("pretrained:tiny")
    assert path.stat().st_size < 10e6
    card = path.with_suffix(".md").read_text()
    for what in ("Data", "Licence", "Figures", "commit"):
        assert what in card


def test_a_run_becomes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "read_encoder", lambda origin: (ENCODER, META))
    path = tmp_path / "mine.safetensors"
    assert command.main(["runs/mine", str(path)]) == 0
    assert "step 7" in capsys.readouterr().out
    header = safetensors.safe_open(path, "numpy").metadata()["conformer_jax"]
    assert json.loads(header)["versions"] == {"jax": "0.10"}
    assert command.main(["runs/mine"]) == 2
