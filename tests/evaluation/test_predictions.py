"""Saved predictions: the file, what is wrong with it in one line, and the command."""

import os

import numpy as np
import pytest

from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions
from conformer_jax.steps import metrics

NAMES = ("dog", "Türe", "a long name", "never")


def example(clips=40, seed=0):
    """The arguments of `save` after the path; the last class has no positives."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 4)) < [0.4, 0.3, 0.2, 0]).astype(np.float32)
    logits = (labels + rng.normal(size=labels.shape)).astype(np.float32)
    return [f"a/{i}.wav" for i in range(clips)], logits, labels, NAMES, 700


def test_what_was_saved_is_loaded(tmp_path):
    ids, logits, labels, names, step = example()
    ids[3] = "b/ö \udc80.wav"  # a name that is not UTF-8 on the disk
    predictions.save(tmp_path / "p.npz", ids, logits, labels, names, step)
    found = predictions.load(tmp_path / "p.npz")
    assert found.ids.tolist() == ids
    assert found.label_names.tolist() == list(names)
    assert found.step == 700
    assert found.logits.dtype == np.float32
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.labels, labels)
    assert metrics.figures(found.logits, found.labels) == metrics.figures(logits, labels)
    predictions.save(tmp_path / "again.npz", *found)  # a Predictions is what save takes
    assert predictions.load(tmp_path / "again.npz").ids.tolist() == ids


def test_a_save_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "p.npz"
    predictions.save(path, *example())
    before = path.read_bytes()

    def write_half(self, data):
        with open(self, "wb") as file:
            file.write(bytes(data)[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(predictions.pathlib.Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="no space"):
        predictions.save(path, *example(seed=1))
    monkeypatch.undo()
    assert path.read_bytes() == before
    predictions.save(path, *example(seed=1))
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["p.npz"]


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, ["x"]), (1, np.zeros((40, 3))), (2, np.full((40, 4), 0.5)), (3, ("dog",))],
)
def test_arrays_that_do_not_fit_are_not_saved(tmp_path, position, value):
    arguments = list(example())
    arguments[position] = value
    with pytest.raises(ValueError, match="labels"):
        predictions.save(tmp_path / "p.npz", *arguments)
    assert not (tmp_path / "p.npz").exists()


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(example()[1][20, 2]).tobytes())] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("logits"),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: np.savez(path, **{k: v for k, v in arrays_of(path).items() if k != "ids"}),
        lambda path: np.savez(path, **arrays_of(path) | {"ids": np.array(["x"])}),
        lambda path: np.savez(path, **arrays_of(path) | {"labels": np.full((40, 4), 2)}),
        lambda path: np.savez(path, **arrays_of(path) | {"ids": np.array([{}] * 40)}),  # pickled
    ],
)
def test_a_broken_file_is_named(tmp_path, spoil):
    path = tmp_path / "p.npz"
    predictions.save(path, *example())
    spoil(path)
    with pytest.raises(UserError, match=r"p\.npz is broken, or no file of predictions") as error:
        predictions.load(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_another_format_are_named(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(UserError, match=r"cannot read .*p\.npz \(No such file"):
        predictions.load(path)
    predictions.save(path, *example())
    np.savez(path, **arrays_of(path) | {"format": 2})
    with pytest.raises(UserError, match=r"p\.npz has format 2, this version reads 1"):
        predictions.load(path)


def test_only_the_file_of_the_evaluation_last_logged_is_kept(tmp_path):
    path = tmp_path / "p.npz"
    predictions.drop_other(path, 3)  # nothing there
    predictions.save(path, *example())
    predictions.drop_other(path, 700)
    assert path.exists()
    predictions.drop_other(path, None)  # no evaluation logged
    assert not path.exists()
    path.write_text("not one")
    predictions.drop_other(path, 700)
    assert not path.exists()


def test_clips_are_collected_in_order_without_padding_and_bad_ones():
    class Source:
        label_names = ("a", "b")
        example_id = staticmethod("clip {}".format)

    rows = np.arange(8, dtype=np.float32)
    valid = np.array([1, 1, 0, 1, 1, 1, 0, 0], np.float32)  # 6 clips, of which 2 is bad
    whole = {"logits": np.stack([rows, -rows], 1), "labels": np.eye(2)[[0, 1] * 4], "valid": valid}
    batches = [{name: value[part] for name, value in whole.items()} for part in ([0, 1, 2, 3],)]
    batches += [{name: value[4:] for name, value in whole.items()}]
    found = predictions.collect(batches, Source(), 5)
    assert found.ids.tolist() == [f"clip {i}" for i in (0, 1, 3, 4, 5)]
    np.testing.assert_array_equal(found.logits[:, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(found.labels.argmax(1), [0, 1, 1, 0, 1])
    assert (found.label_names.tolist(), found.step) == (["a", "b"], 5)
