"""python -m conformer_jax.convert, there and back."""

import sys
import types

import numpy as np
import safetensors.numpy
from exporting.test_prototype import STATE

import conformer_jax
from conformer_jax import convert


def test_a_state_dict_becomes_an_encoder_file_and_comes_back(tmp_path, capsys):
    np.savez(tmp_path / "theirs.npz", **STATE)
    ours = tmp_path / "ours.safetensors"
    assert convert.main([str(tmp_path / "theirs.npz"), str(ours)]) == 1
    assert "--heads" in capsys.readouterr().err
    assert not ours.exists()
    assert convert.main([str(tmp_path / "theirs.npz"), str(ours), "--heads=4"]) == 0
    said = capsys.readouterr().out
    assert "block 1" in said
    assert "66 of 69 tensors converted" in said
    assert "left out: mask_generator.mask_embedding" in said
    assert "features are not normalised" in said
    vectors = conformer_jax.load(ours).embed(np.zeros(8000, np.float32), 16000)
    assert vectors.frames.shape[1] == 32
    there = ours.read_bytes()
    assert convert.main([str(tmp_path / "theirs.npz"), str(ours), "--heads=4"]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert convert.main([str(ours), str(ours), "--overwrite"]) == 1
    assert "is what is read" in capsys.readouterr().err
    assert ours.read_bytes() == there
    back = tmp_path / "back.safetensors"
    assert convert.main([str(ours), str(back)]) == 0
    state = safetensors.numpy.load_file(back)
    assert len(state) == 66
    for name, array in state.items():  # of bfloat16
        np.testing.assert_allclose(array, STATE[f"wav2vec2.{name}"], rtol=4e-3, atol=1e-7)


def test_a_file_of_torch_is_read_by_its_safe_loader(tmp_path, monkeypatch, capsys):
    """Of a stand-in: torch is no dependency. docs/export.md: as run with torch itself."""
    np.savez(tmp_path / "b.npz", **STATE)

    class Tensor:
        def __init__(self, array):
            self.array = array

        def float(self):
            return self

        def numpy(self):
            return self.array

    def load(path, *, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        if path.name == "evil.pt":
            raise ValueError("Weights only load failed. \x1b[1mdo not\x1b[0m")
        return {name: Tensor(array) for name, array in STATE.items()}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    for name in ("a.pt", "evil.pt"):
        (tmp_path / name).touch()
    out = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert convert.main([str(tmp_path / "a.pt"), str(out[0]), "--heads=4"]) == 0
    assert convert.main([str(tmp_path / "b.npz"), str(out[1]), "--heads=4"]) == 0
    from_torch, from_numpy = map(safetensors.numpy.load_file, out)
    assert from_torch.keys() == from_numpy.keys()
    for name, array in from_torch.items():
        np.testing.assert_array_equal(array, from_numpy[name])
    capsys.readouterr()
    assert convert.main([str(tmp_path / "evil.pt"), str(tmp_path / "c.safetensors")]) == 1
    assert capsys.readouterr().err.endswith("read safely: Weights only load failed\n")


def test_what_cannot_be_read_is_refused_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"no pickle")
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", **STATE)
    (tmp_path / "s.json").write_text('{"mean": [1], "deviation": [1]}')
    out, heads = str(tmp_path / "o.safetensors"), "--heads=4"
    for arguments, said in (
        ((tmp_path / "a.pt", out), "torch, which is not installed"),
        ((tmp_path / "a.npz", out), "cannot be read"),
        ((tmp_path / "b.npz", tmp_path / "o.bin"), "must end in"),
        ((tmp_path / "b.npz", tmp_path / "o.npz", heads), "ends in .safetensors"),
        ((tmp_path / "b.npz", out, heads, f"--statistics={tmp_path}/s.json"), "64 mel bins"),
        ((tmp_path / "no", out), "there is no"),
    ):
        assert convert.main([str(a) for a in arguments]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o.safetensors").exists()
