"""Clips that tell each other's labels: which are taken, and which lie apart."""

import collections
import csv

import numpy as np
import pytest
import soundfile

from conformer_jax.data import labelled
from conformer_jax.data.audio import DataError
from conformer_jax.data.labelled import open_labelled


def write(folder, rows, columns=("path", "label", "fold")):
    for i, (name, *_) in enumerate(rows):
        if not (folder / name).exists():  # no two with the same bytes
            soundfile.write(folder / name, np.full(100, i / 1000), 8000)
    with open(folder / "m.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "m.csv"


def opened(manifest, folds=(), most=1000):
    return open_labelled(manifest, folds, 16000, most)


def test_clips_with_one_label_of_the_folds_named(tmp_path):
    rows = [(f"{i}.wav", "abc"[i % 3], 1 + i % 4) for i in range(12)]
    manifest = write(tmp_path, [*rows, ("n.wav", "", 1), ("two.wav", "a;b", 2)])
    every, some = opened(manifest), opened(manifest, (2, "3"))
    assert every.source.label_names == ("a", "b", "c")
    assert sorted(every.source.ids()) == sorted(name for name, *_ in rows)
    assert set(some.source.ids()) == {name for name, _, fold in rows if fold in (2, 3)}


def test_clips_of_a_fold_lie_together(tmp_path):
    found = opened(write(tmp_path, [(f"{i}.wav", "ab"[i % 2], i % 3) for i in range(9)]))
    fold = [int(name.removesuffix(".wav")) % 3 for name in found.source.ids()]
    assert len(set(zip(fold, found.groups, strict=True))) == len(set(found.groups.tolist())) == 3


def test_without_folds_clips_of_a_file_lie_together(tmp_path):
    rows = [(f"{i}.wav", label, t, t + 0.005) for i in range(2) for t, label in enumerate("ab")]
    rows = [(name, label, t * 0.005, t * 0.005 + 0.005) for name, label, t, _ in rows]
    found = opened(write(tmp_path, rows, ("path", "label", "start", "end")))
    file = [name[0] for name in found.source.ids()]
    assert len(set(zip(file, found.groups, strict=True))) == len(set(found.groups.tolist())) == 2


def test_without_folds_clips_of_a_group_lie_together(tmp_path):
    rows = [(f"{i}.wav", "ab"[i % 2], f"g{i % 3}") for i in range(9)]
    found = opened(write(tmp_path, rows, ("path", "label", "group")))
    group = [int(name.removesuffix(".wav")) % 3 for name in found.source.ids()]
    assert len(set(zip(group, found.groups, strict=True))) == len(set(found.groups.tolist())) == 3


def test_of_one_group_alone_files_lie_apart(tmp_path, caplog):
    rows = [(f"{i}.wav", "ab"[i % 2], "g", t, t + 0.005) for i in range(9) for t in (0, 0.005)]
    found = opened(write(tmp_path, rows, ("path", "label", "group", "start", "end")))
    file = [name[0] for name in found.source.ids()]
    assert len(set(zip(file, found.groups, strict=True))) == len(set(found.groups.tolist())) == 9
    assert "are of one group, or linked by what they share: the column `group` is" in caplog.text


def test_files_whose_digests_nearly_agree_lie_apart(tmp_path, monkeypatch):
    alike = lambda rows, manifest: [
        row._replace(whole=whole, content=whole)
        for row, whole in zip(rows, (1, 2**63 + 1, 2**63 + 2), strict=True)
    ]
    monkeypatch.setattr(labelled, "of_rows", alike)
    found = opened(write(tmp_path, [(f"{i}.wav", "ab"[i % 2], "") for i in range(3)]))
    assert sorted(found.groups.tolist()) == [0, 1, 2]


def test_of_many_some_are_taken_whatever_their_order(tmp_path):
    manifest = write(tmp_path, [(f"{i}.wav", "abc"[i // 20], "") for i in range(60)])
    found = opened(manifest, most=20)  # the first would be of one label
    labels = collections.Counter(found.source.labels(i)[0] for i in range(20))
    assert len(found.source) == 20
    assert len(labels) == 3


@pytest.mark.parametrize(
    ("rows", "folds", "said"),
    [
        ([("a.wav", "x", ""), ("b.wav", "y", "")], ("1",), "no fold '1' .folds: none: it has no"),
        ([("a.wav", "x", 1), ("b.wav", "y", 2)], ("3",), "no fold '3' .folds: 1, 2."),
        ([("a.wav", "x;y", ""), ("b.wav", "y", "")], (), "has 1 labels among clips with one"),
        ([("a.wav", "x", ""), ("a.wav", "y", "")], (), "has 1 files"),
    ],
)
def test_what_cannot_tell_anything_is_refused(tmp_path, rows, folds, said):
    columns = ("path", "label", "fold")
    if rows[0][0] == rows[1][0]:  # two parts of a file
        rows = [(*row, i * 0.005, i * 0.005 + 0.005) for i, row in enumerate(rows)]
        columns = (*columns, "start", "end")
    with pytest.raises(DataError, match=f"config.monitor.*{said}"):
        opened(write(tmp_path, rows, columns), folds)
