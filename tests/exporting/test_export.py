"""Exported files: they say what the model says, or are not there."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
from inference.conftest import NAMES, toy

import conformer_jax
from conformer_jax import export as command
from conformer_jax.errors import UserError
from conformer_jax.exporting import accuracy, compare, onnx_file, portable, tflite
from conformer_jax.training import model_file

RATE = 16000
DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With tagger.safetensors, a toy of three labels; encoder.safetensors, one without."""
    found = tmp_path_factory.mktemp("models")
    model_file.save(found / "tagger.safetensors", *toy())
    model_file.save(found / "encoder.safetensors", *toy("encoder"))
    model_file.save(found / "knn.safetensors", *toy("knn"))
    return found


@pytest.fixture(scope="module")
def exported(folder):
    """The toy as tagger.stablehlo and tagger.onnx, by the command."""
    for name in ("stablehlo", "onnx"):
        arguments = [f"--format={name}", f"--output={folder}/tagger.{name}"]
        assert command.main([str(folder / "tagger.safetensors"), *arguments]) == 0
    return folder


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32) * 0.1


def refused(capsys, *arguments):
    assert command.main([str(a) for a in arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_a_file_says_what_the_loaded_model_says(exported):
    model, audio = conformer_jax.load(exported / "tagger.safetensors"), noise(0.7)
    run = onnx_file.read(exported / "tagger.onnx")
    padded = np.full((2, 20000), 0.5, np.float32)
    padded[:, : len(audio)] = audio
    found = run(padded, [len(audio), 300])
    tags, vectors = model.tag(audio, RATE), model.embed(audio, RATE)
    np.testing.assert_allclose(found["probabilities"][0], tags.probabilities[0], atol=1e-5)
    np.testing.assert_allclose(found["embeddings"][0], vectors.clip, atol=1e-5)
    assert np.abs(found["embeddings"][1] - found["embeddings"][0]).max() > 1e-3
    about = onnx_file.described(exported / "tagger.onnx")
    assert about["label_names"] == list(NAMES)
    assert about["sample_rate"] == RATE
    assert about["conformer_jax"]
    assert json.loads((exported / "tagger.stablehlo.json").read_text()) == about


def test_the_script_of_the_docs_needs_jax_alone(exported, tmp_path):
    script = re.search(r"```python\n(# tag.py.*?)```", (DOCS / "export.md").read_text(), re.S)[1]
    assert len(script.strip().splitlines()) <= 22
    (tmp_path / "tag.py").write_text("import sys\nsys.modules['conformer_jax'] = None\n" + script)
    done = subprocess.run(
        [sys.executable, "tag.py", str(exported / "tagger.stablehlo")],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert "embedding of width" in done.stdout
    assert any(name in done.stdout for name in NAMES)


@pytest.mark.parametrize(
    ("pooling", "layers", "changes", "crops"),
    [
        ("mean", "last", {"center": False}, {}),
        ("max", "all", {"power": 1.0}, {}),
        ("attention", "last", {"hop_s": 0.02, "mel_scale": "htk"}, {}),
        ("linear_softmax", "last", {"center": False, "window_s": 0.02}, {}),
        ("statistics", "all", {}, {"crop_frames": 8, "crops": 3}),
        ("attention", "last", {}, {"crop_frames": 8, "crops": 1}),
    ],
)
def test_every_pooling_and_front_end_has_its_graph(
    pooling, layers, changes, crops, folder, tmp_path
):
    model = portable.take(folder / "tagger.safetensors")
    features = dataclasses.replace(model.classifier.features, **changes)
    classifier = model.classifier.clone(features=features, pooling=pooling, layers=layers, **crops)
    audio = np.stack([noise(0.2, 1), noise(0.2, 2), noise(0.2, 3), noise(0.2, 4)])
    audio[0, 1700:] = 0  # of three crops of 80 ms the last is silent
    counts = np.int32([3200, 1700, 1, 0])
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32),
        jax.eval_shape(lambda: classifier.init(jax.random.key(0), audio, counts, train=False)),
    )["params"]
    model = model._replace(
        classifier=classifier, params=params, multi_label=pooling == "linear_softmax"
    )
    onnx_file.write(model, tmp_path / "m.onnx")
    found = onnx_file.read(tmp_path / "m.onnx")(audio, counts)
    wanted = jax.jit(lambda *args: model(*args))(audio, counts)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-5, err_msg=name)
    about = onnx_file.described(tmp_path / "m.onnx")
    assert about.get("crops", 0) == crops.get("crops", 0)
    assert about.get("crop_s", 0) == pytest.approx(0.08 if crops else 0)


def test_a_file_that_differs_is_not_left(folder, tmp_path, monkeypatch, capsys):
    real = onnx_file.read

    def wrong(path):
        run = real(path)
        return lambda *args: {n: x + 2e-4 * (n == "embeddings") for n, x in run(*args).items()}

    monkeypatch.setattr(onnx_file, "read", wrong)
    arguments = ["--format=onnx", f"--output={tmp_path}/m.onnx"]
    said = refused(capsys, folder / "tagger.safetensors", *arguments)
    assert "more than 0.0001" in said
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_in_words(folder, tmp_path, monkeypatch, capsys):
    tagger, encoder = folder / "tagger.safetensors", folder / "encoder.safetensors"
    out = f"--output={tmp_path}/m"
    onnx = "--format=onnx"
    for arguments, said in (
        ((encoder, onnx, out, "--outputs=probabilities"), "has no labels"),
        ((encoder, onnx, out, f"--page={tmp_path}/page"), "no probabilities"),
        ((folder / "knn.safetensors", onnx, out), "nearest neighbours"),
        ((tagger, onnx, out, "--opset=9"), "needs 18 or newer"),
        ((tagger, onnx, out, "--quantize=int8"), "needs --manifest"),
        ((tagger, "--format=stablehlo", out, "--opset=18"), "--format=onnx alone"),
        ((tagger, onnx, out, "--seconds=1"), "--format=tflite alone"),
        ((tagger, onnx, out, f"--page={folder}"), "holds other files"),
        ((tagger, onnx, f"--output={tmp_path}/no/m"), "there is no folder"),
        ((folder / "no", onnx, out), "there is no"),
    ):
        assert said in refused(capsys, *arguments)
    with pytest.raises(SystemExit):
        command.main([str(tagger), "--format=coreml", out])
    assert "stablehlo" in capsys.readouterr().err

    def lacking(path):
        raise RuntimeError("opset 99 is under development")

    monkeypatch.setattr(onnx_file, "_session", lacking)
    assert "onnxruntime does not run it" in refused(capsys, tagger, onnx, out)
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused(capsys, tagger, onnx, out)
    assert "pip install 'conformer_jax[export]'" in said
    assert not list(tmp_path.iterdir())


def test_int8_is_judged_on_labelled_clips_before_and_after(folder, tmp_path, capsys):
    model, lines = conformer_jax.load(folder / "tagger.safetensors"), ["path,label,fold"]
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", noise(1, i), RATE)
        tags = model.tag(tmp_path / f"{i}.wav")
        lines.append(f"{i}.wav,{NAMES[tags.probabilities[0].argmax()]},{i % 2}")
    lines[1] = f"0.wav,{NAMES[tags.probabilities[0].argmin()]},0"  # wrong, and in fold 0
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    arguments = ["--format=onnx", f"--output={tmp_path}/m.onnx", "--quantize=int8"]
    arguments += [f"--manifest={tmp_path}/m.csv", "--folds=1"]
    assert command.main([str(folder / "tagger.safetensors"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "2 clips" in said
    assert "before  accuracy 1.0000" in said
    assert "after" in said
    nodes = {n.op_type for n in portable.need("onnx").load(str(tmp_path / "m.onnx")).graph.node}
    assert "MatMulInteger" in nodes


def test_embeddings_of_an_encoder_are_exported_and_that_is_said(folder, tmp_path, capsys):
    arguments = ["--format=onnx", f"--output={tmp_path}/m.onnx"]
    assert command.main([str(folder / "encoder.safetensors"), *arguments]) == 0
    assert "embeddings alone" in capsys.readouterr().out
    assert onnx_file.described(tmp_path / "m.onnx")["outputs"] == ["embeddings"]


def test_a_page_has_the_model_and_says_what_is_missing(folder, tmp_path, capsys):
    page = tmp_path / "page"
    arguments = ["--format=onnx", f"--output={tmp_path}/m.onnx", f"--page={page}"]
    assert command.main([str(folder / "tagger.safetensors"), *arguments]) == 0
    assert "lacks ort.wasm.min.js" in capsys.readouterr().out
    assert {p.name for p in page.iterdir()} == {
        "index.html", "page.js", "model.onnx", "onnxruntime-web"
    }  # fmt: skip
    assert "Türe" in (page / "index.html").read_text(encoding="utf-8")
    assert "://" not in (page / "index.html").read_text() + (page / "page.js").read_text()


@pytest.mark.slow
def test_tflite_says_what_the_model_says_and_refuses_another_batch(tmp_path):
    """20 s: TensorFlow is imported and converts; a model that hears crops, which have it all."""
    meta, tensors = toy()
    meta["config"]["classifier"].update(crop_s=0.4, crops=3)
    model_file.save(tmp_path / "crops.safetensors", meta, tensors)
    arguments = ["--format=tflite", f"--output={tmp_path}/m.tflite", "--batch=2", "--seconds=1"]
    assert command.main([str(tmp_path / "crops.safetensors"), *arguments]) == 0
    run, model = tflite.read(tmp_path / "m.tflite"), portable.take(tmp_path / "crops.safetensors")
    audio = np.stack([noise(1, 1), noise(1, 2)])
    found = run(audio, np.int32([16000, 400]))
    wanted = model(audio, np.int32([16000, 400]))
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=1e-4)
    for wrong in (audio[:1], audio[:, :8000], np.concatenate([audio, audio])):
        with pytest.raises(UserError, match="takes"):
            run(wrong, np.full(len(wrong), 1, np.int32))


def test_the_five_lengths(folder):
    model = portable.take(folder / "tagger.safetensors")
    sound = compare.sound(RATE)
    found = compare.cases(model, sound)
    assert [case.num_samples[0] for case in found] == [1, 320, 32000, 160000, 160000]
    assert found[-1].audio.shape == (3, 192000)
    assert np.abs(sound).max() > 0.1


def test_what_is_there_is_not_replaced_unasked(exported, tmp_path, capsys):
    tagger = exported / "tagger.safetensors"
    said = refused(capsys, tagger, "--format=onnx", f"--output={exported}/tagger.onnx")
    assert "--overwrite replaces it" in said
    before = tagger.read_bytes()
    said = refused(capsys, tagger, "--format=onnx", f"--output={tagger}", "--overwrite")
    assert "is what is read" in said
    assert tagger.read_bytes() == before
    (tmp_path / "x.json").write_text("mine")
    said = refused(capsys, tagger, "--format=stablehlo", f"--output={tmp_path}/x")
    assert "x.json exists" in said


def test_clips_to_judge_on_are_their_parts_within_full_scale(exported, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.1, 1.5], RATE), RATE, subtype="FLOAT")
    (tmp_path / "no.wav").write_text("no sound")
    label = NAMES[0]
    (tmp_path / "m.csv").write_text(
        f"path,label,start,end\na.wav,{label},0,1\na.wav,{label},1,2\nno.wav,{label},,\n"
    )
    model = portable.take(exported / "tagger.safetensors", ("probabilities",))
    clips = accuracy.Clips(model, tmp_path / "m.csv")
    assert [(clip.min(), clip.max()) for clip in clips.audio] == [(3277, 3277), (32767, 32767)]
    assert [one.split(":")[0] for one in clips.bad] == ["no.wav"]
