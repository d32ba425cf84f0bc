"""A loaded model: the same answer in any company, strict about what it reads."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from inference.conftest import NAMES, toy

import conformer_jax
from conformer_jax.errors import UserError
from conformer_jax.inference import bundle, model, trained
from conformer_jax.training import model_file

RATE = 16000


@pytest.fixture(scope="module")
def loaded(toy_file):
    return conformer_jax.load(toy_file)


def noise(seconds, seed=0, rate=RATE):
    return np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32) * 0.1


def test_a_window_does_not_hear_its_neighbours_nor_its_padding(loaded):
    audio = noise(7)
    whole = loaded.tag(audio, RATE)
    assert whole.label_names == NAMES
    assert whole.start.tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, atol=1e-5)
    for i in (0, 6):
        alone = loaded.tag(audio[i * RATE : (i + 1) * RATE], RATE)
        np.testing.assert_allclose(alone.probabilities[0], whole.probabilities[i], atol=1e-5)
    vectors = loaded.embed(audio, RATE)
    alone = loaded.embed(audio[:RATE], RATE)
    np.testing.assert_allclose(alone.windows[0], vectors.windows[0], atol=1e-5)
    np.testing.assert_allclose(alone.frames, vectors.frames[: len(alone.frames)], atol=1e-5)
    short = noise(0.3)  # padded to what is compiled
    longer = loaded.embed(np.concatenate([short, short])[: len(short)], RATE, window_s=0.3)
    np.testing.assert_allclose(loaded.embed(short, RATE).clip, longer.clip, atol=1e-5)


def test_a_window_is_heard_in_crops_where_the_model_was_judged_so(loaded, tmp_path):
    meta, tensors = toy()
    meta["config"]["classifier"].update(crop_s=0.4, crops=3)
    model_file.save(tmp_path / "model.safetensors", meta, tensors)
    in_crops, audio = conformer_jax.load(tmp_path / "model.safetensors"), noise(1)
    tags, features = in_crops.tag(audio, RATE), loaded.features(audio, RATE).log_mel
    assert features.shape == (101, 64)
    whole = trained.make_classifier(toy()[0])
    of_crop = lambda first: whole.apply(
        {"params": trained.tree(tensors)},
        features[None, first : first + 40],
        np.ones((1, 40), bool),
        train=False,
        method="from_features",
    )
    logits = np.mean([of_crop(first) for first in (0, 30, 61)], axis=0)
    np.testing.assert_allclose(tags.probabilities, in_crops.probabilities(logits), atol=1e-5)
    vectors = in_crops.embed(audio, RATE).windows
    np.testing.assert_allclose(in_crops.logits_of(vectors), logits, atol=1e-5)
    assert np.abs(tags.probabilities - loaded.tag(audio, RATE).probabilities).max() > 1e-3


def test_few_lengths_are_compiled(loaded):
    before = model._outputs._cache_size()
    for seconds in (0.01, 0.1, 0.3, 0.5):
        loaded.tag(noise(seconds), RATE)
    assert model._outputs._cache_size() <= before + 1


def test_a_file_is_its_samples_and_times_are_seconds(loaded, tmp_path):
    audio = noise(2.5, rate=44100)
    soundfile.write(tmp_path / "a.wav", np.stack([audio, audio], 1), 44100, "FLOAT")
    from_file = loaded.embed(tmp_path / "a.wav")
    from_samples = loaded.embed(audio, 44100)
    np.testing.assert_allclose(from_file.windows, from_samples.windows, atol=1e-4)
    assert from_file.start.tolist() == [0, 1, 1.5]
    assert from_file.end.tolist() == [1, 2, 2.5]
    np.testing.assert_allclose(
        from_file.clip, np.average(from_file.windows, 0, weights=[1, 1, 1]), atol=1e-6
    )
    assert len(from_file.frames) == len(from_file.frame_times)
    assert (np.diff(from_file.frame_times) > 0.019).all()
    assert 2.4 < from_file.frame_times[-1] < 2.5
    features = loaded.features(tmp_path / "a.wav")
    assert features.log_mel.shape == (251, 64)
    assert features.times[-1] == pytest.approx(2.5)


def test_one_sample_is_heard(loaded):
    assert np.isfinite(loaded.tag(np.zeros(1, np.int16), RATE).probabilities).all()
    assert np.isfinite(loaded.embed(np.zeros(1), RATE).clip).all()


def test_what_cannot_be_tagged_is_refused_in_words(loaded, tmp_path):
    (tmp_path / "text.wav").write_text("no sound at all")
    for call, said in (
        (lambda: conformer_jax.load("pretrained:tiny").tag(noise(1), RATE), "has no labels"),
        (lambda: loaded.tag(noise(1)), "without a rate"),
        (lambda: loaded.tag(tmp_path / "no.wav"), "file not found"),
        (lambda: loaded.tag(tmp_path / "text.wav"), "text.wav: not audio"),
        (lambda: loaded.tag(noise(1), RATE, window_s=0), "window"),
        (lambda: loaded.tag(noise(1), RATE, hop_s=2), "hop"),
        (lambda: conformer_jax.load("pretrained:huge"), "there is tiny"),
        (lambda: conformer_jax.load(tmp_path / "no"), "there is no"),
        (lambda: conformer_jax.load(tmp_path), "no workdir"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_neighbours_vote_as_they_were_saved(tmp_path):
    meta, tensors = toy("knn")
    model_file.save(tmp_path / "m.safetensors", meta, tensors)
    knn = conformer_jax.load(tmp_path / "m.safetensors")
    audio = noise(1)
    votes = knn._neighbours.votes(knn.embed(audio, RATE).windows)
    np.testing.assert_allclose(knn.tag(audio, RATE).probabilities, votes, atol=1e-4)


def rewritten(toy_file, folder, change):
    """The toy's file after `change(meta, tensors)`, signed again."""
    meta, tensors = toy()
    change(meta, tensors)
    path = folder / "m.safetensors"
    text = json.dumps(meta)
    sha256 = model_file._sha256(text, tensors)
    named = {"conformer_jax_model": text, "sha256": sha256}
    safetensors.numpy.save_file(tensors, path, metadata=named)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, t: m.update(format=2), "format 2.*newer"),
        (lambda m, t: m.update(kind="tree"), "kind"),
        (lambda m, t: m.update(more=1), "unknown in its metadata: more"),
        (lambda m, t: m.pop("step"), "metadata: step"),
        (lambda m, t: m.update(thresholds=[0.5]), "thresholds"),
        (lambda m, t: m.update(label_names=["a"]), "of another shape"),
        (lambda m, t: t.pop("head/bias"), "1 missing .head/bias"),
        (lambda m, t: t.update(extra=np.zeros(1, np.float32)), "1 unknown .extra"),
        (lambda m, t: t["head/bias"].fill(np.nan), "not finite"),
        (lambda m, t: t.update({"head/bias": np.zeros(3)}), "F64"),
        (lambda m, t: m["config"]["conformer"].update(width=10**9), "conformer.width"),
        (lambda m, t: m["config"]["conformer"].update(colour=1), "does not fit"),
        (lambda m, t: m["config"]["features"].update(mean=[], deviation=[]), "statistics"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(change, said, toy_file, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        conformer_jax.load(rewritten(toy_file, tmp_path, change))
    assert "\n" not in str(caught.value)


def test_damage_is_seen_wherever_it_is(toy_file, tmp_path):
    whole = toy_file.read_bytes()
    path = tmp_path / "m.safetensors"
    for place in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        with pytest.raises(UserError):
            conformer_jax.load(path)
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            conformer_jax.load(path)


def test_a_saved_model_is_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        model_file.save(tmp_path / "m.safetensors", *toy())
    finally:
        os.umask(before)
    assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_model_says_what_it_is(loaded):
    assert "3 labels" in repr(loaded)
    assert "windows of 1 s" in repr(loaded)


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    meta, tensors = toy()
    tensors["head/bias"][0] = np.inf
    with pytest.raises(UserError, match="head/bias"):
        model_file.save(tmp_path / "m.safetensors", meta, tensors)
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_the_model_and_is_read_strictly(loaded, tmp_path):
    folder = tmp_path / "b"
    card = bundle.card(toy()[0], title="b", figures={"mAP": "0.5"})
    bundle.write(folder, *toy(), card)
    again = conformer_jax.load(folder)
    audio = noise(1)
    np.testing.assert_array_equal(
        again.tag(audio, RATE).probabilities, loaded.tag(audio, RATE).probabilities
    )
    said = (folder / "README.md").read_text()
    assert said.startswith("---\nlicense: unknown\n")
    assert "b, a, Türe" in said
    with pytest.raises(UserError, match="--overwrite"):
        bundle.write(folder, *toy(), card)
    bundle.write(folder, *toy(), card, overwrite=True)
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"conformer_jax_bundle": 2}, "newer conformer_jax"),
        ({"sha256": "0"}, "fetch the bundle again"),
        ({"label_names": ["x", "y", "z"]}, "fetch the bundle again"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=words):
            conformer_jax.load(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(UserError, match="choose another"):
        bundle.write(folder, *toy(), card, overwrite=True)
    assert (folder / "mine.txt").exists()


def test_a_bundle_that_cannot_be_replaced_is_kept(toy_file, tmp_path, monkeypatch):
    folder = tmp_path / "b"
    bundle.write(folder, *toy(), "one")
    replace = bundle.os.replace

    def broken(source, target):
        if str(source).endswith(".tmp") and target == folder:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(bundle.os, "replace", broken)
    with pytest.raises(OSError, match="no"):
        bundle.write(folder, *toy(), "two", overwrite=True)
    assert (folder / "README.md").read_text() == "one"
    monkeypatch.setattr(bundle.os, "replace", replace)
    bundle.write(folder, *toy(), "two", overwrite=True)
    assert (folder / "README.md").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
