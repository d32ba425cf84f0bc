"""Which rows are held out."""

import collections
import random

import pytest

from conformer_jax.data.audio import DataError
from conformer_jax.data.holdout import fold_names, split_rows
from conformer_jax.data.manifest import Row


def error_of(function, *args):
    with pytest.raises(DataError) as info:
        function(*args)
    assert "\n" not in str(info.value)
    return str(info.value)


def rows_of(n, folds=0):
    names = [f"f{i}.wav" for i in range(n)]
    return [
        Row("/" + name, (), str(i % folds + 1) if folds else "", name)
        for i, name in enumerate(names)
    ]


def test_folds_are_compared_as_strings():
    rows = rows_of(20, folds=5)
    train, held_out = split_rows(rows, "m.csv", (), (5,), 0.05)
    assert {r.fold for r in train} == {"1", "2", "3", "4"}
    assert {r.fold for r in held_out} == {"5"}
    train, held_out = split_rows(rows, "m.csv", ("1", 2), ("3",), 0.05)
    assert ({r.fold for r in train}, {r.fold for r in held_out}) == ({"1", "2"}, {"3"})


def test_a_number_or_a_word_alone_is_one_fold():
    assert fold_names(1) == fold_names("1") == fold_names((1,)) == ("1",)
    assert fold_names("dev") == fold_names(["dev"]) == ("dev",)
    assert fold_names(()) == fold_names("") == ()


@pytest.mark.parametrize(
    ("fold", "typed"),
    [("1", "=1 holds"), ("dev-2", "=dev-2 holds"), ("a b", "='(\"a b\",)' holds")],
)
def test_the_hint_is_what_can_be_typed(fold, typed, caplog):
    rows = [row._replace(fold=fold) for row in rows_of(9)]
    with caplog.at_level("INFO"):
        split_rows(rows, "m.csv", (), (), 0.1)
    assert "--config.data.eval_folds" + typed in caplog.text


def test_train_folds_alone_hold_out_a_share_of_them():
    train, held_out = split_rows(rows_of(100, folds=5), "m.csv", ("1", "2"), (), 0.1)
    assert {r.fold for r in train + held_out} == {"1", "2"}
    assert (len(train), len(held_out)) == (36, 4)


def test_unknown_folds():
    words = error_of(split_rows, rows_of(9, folds=3), "m.csv", (), ("7",), 0.1)
    assert words == "config.data.eval_folds: m.csv has no fold '7' (folds: 1, 2, 3)"
    words = error_of(split_rows, rows_of(9), "m.csv", ("1",), (), 0.1)
    assert "config.data.train_folds" in words
    assert "no filled `fold` column" in words
    assert "takes every file" in error_of(split_rows, rows_of(3, folds=1), "m.csv", (), ("1",), 0.1)


def test_what_is_held_out_depends_on_names_alone():
    rows = rows_of(200)
    train, held_out = split_rows(rows, "m.csv", (), (), 0.05)
    assert len(held_out) == 10
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 200
    shuffled = random.Random(0).sample(rows, 200)
    assert set(split_rows(shuffled, "m.csv", (), (), 0.05)[1]) == set(held_out)
    moved = [row._replace(path="/elsewhere" + row.path) for row in rows]
    assert {r.name for r in split_rows(moved, "m.csv", (), (), 0.05)[1]} == {
        r.name for r in held_out
    }


def test_every_label_with_two_files_has_one_held_out():
    labels = ["cat"] * 40 + ["dog"] * 12 + ["owl"] * 2 + ["wren"]
    rows = [row._replace(labels=(name,)) for row, name in zip(rows_of(55), labels, strict=True)]
    held_out = split_rows(rows, "m.csv", (), (), 0.1)[1]
    count = collections.Counter(row.labels[0] for row in held_out)
    assert count == {"cat": 4, "dog": 1, "owl": 1}
    unlabelled = [row._replace(path=f"/x/{row.name}", name=f"x/{row.name}") for row in rows_of(99)]
    with_more = split_rows(rows + unlabelled, "m.csv", (), (), 0.1)[1]
    assert set(held_out) < set(with_more)  # what pre-training has not heard judges fine-tuning
    # Not all of a label, whatever the share; labels of one file each are as none.
    pairs = split_rows(rows[-3:-1] + rows[:40], "m.csv", (), (), 0.9)
    assert {row.labels for row in pairs[0]} == {row.labels for row in pairs[1]}
    singles = [row._replace(labels=(row.name,)) for row in rows]
    assert len(split_rows(singles, "m.csv", (), (), 0.1)[1]) == 6


def test_many_labels_of_few_files_are_told(caplog):
    rows = [row._replace(labels=(f"speaker {i // 2}",)) for i, row in enumerate(rows_of(100))]
    assert len(split_rows(rows, "m.csv", (), (), 0.05)[1]) == 50
    assert "50 of 100 files are held out" in caplog.text


def test_at_least_one_file_is_held_out_and_one_is_left():
    train, held_out = split_rows(rows_of(2), "m.csv", (), (), 0.001)
    assert (len(train), len(held_out)) == (1, 1)
    for n, share in ((1, 0.05), (10, 1.0)):
        assert "config.data.eval_share" in error_of(split_rows, rows_of(n), "m.csv", (), (), share)
