"""Dealing to folds: evenly, label by label, and groups as a whole."""

import collections

import pytest

from conformer_jax.data.audio import DataError
from conformer_jax.data.folds import deal, folder_name, groups_by_pattern, united


def sizes(folds, of=None):
    return sorted(
        collections.Counter(f for i, f in enumerate(folds) if of is None or of[i]).values()
    )


def test_what_remains_of_a_label_is_dealt_on():
    labels = [f"label {i // 6}" for i in range(60)]  # ten labels of six: one remains of each
    names = [f"{i}.wav" for i in range(60)]
    folds = deal(names, labels, [None] * 60, 5)
    assert sizes(folds) == [12] * 5
    for label in set(labels):
        assert sizes(folds, [x == label for x in labels]) == [1, 1, 1, 1, 2]
    turned = deal(names[::-1], labels[::-1], [None] * 60, 5)
    assert turned[::-1] == folds


def test_labelled_rows_are_counted_without_the_others():
    labels = ["a", "", "b", ""] * 9
    folds = deal([f"{i}" for i in range(36)], labels, [None] * 36, 4)
    assert sizes(folds, labels) == [4, 4, 5, 5]
    assert sizes(folds) == [9] * 4


def test_a_group_lies_in_one_fold():
    names = [f"{label}_site{site}_{take}" for label in "ab" for site in range(10) for take in "xyz"]
    groups = groups_by_pattern("site[0-9]+", names)
    folds = deal(names, [name[0] for name in names], groups, 5)
    for group in set(groups):
        assert len({f for f, g in zip(folds, groups, strict=True) if g == group}) == 1
    assert sizes(folds) == [12] * 5
    assert sizes(folds, [name[0] == "a" for name in names]) == [6] * 5


def test_rows_without_a_label_do_not_move_the_others():
    labels = ["a", "b", "c"] * 4
    names = [f"{i}" for i in range(19)]
    alone = deal(names[:12], labels, [None] * 12, 5)
    groups = [None] * 12 + ["x"] * 3 + [None] * 4
    assert deal(names, labels + [""] * 7, groups, 5)[:12] == alone


@pytest.mark.parametrize(
    ("groups", "counts"),  # labels of each group; how many of each label the two folds come to have
    [
        (["a", "a", "a", "a", "a", "a" * 5], {"a": [5, 5]}),  # the largest first
        (["a" * 6, "aaaab", "ab"], {"a": [4, 7], "b": [1, 1]}),  # one of two is more than of many
        (["a" * 8, "aaaaab", "aaab"], {"a": [8, 8]}),  # but three are more than one
    ],
)
def test_groups_even_each_other_out(groups, counts):
    rows = [(label, i) for i, group in enumerate(groups) for label in group]
    labels, numbers = zip(*rows, strict=True)
    folds = deal([f"{i}" for i in range(len(rows))], labels, numbers, 2)
    for label, expected in counts.items():
        assert sizes(folds, [x == label for x in labels]) == expected


def test_groups_that_cannot_be_dealt():
    with pytest.raises(DataError, match="2 groups of files cannot fill them"):
        deal(["1", "2", "3"], ["a"] * 3, ["x", "x", "y"], 3)
    with pytest.raises(DataError, match="3 files cannot fill them"):
        deal(["1", "2", "3"], ["a"] * 3, [None] * 3, 4)
    with pytest.raises(DataError, match="no regular expression"):
        groups_by_pattern("(", ["a.wav"])
    with pytest.raises(DataError, match=r"finds nothing in any path, such as a\.wav"):
        groups_by_pattern("site", ["a.wav"])
    assert groups_by_pattern("([a-z]?)[0-9]", ["a1", "a2", "3"]) == ["a", "a", None]


def test_rows_are_united_that_share_something_or_are_linked_by_others():
    columns = [None, "x", "x", "y", None, None], [1, 2, 3, 1, None, None]
    found = united(*columns)
    assert found[0] == found[3]
    assert found[1] == found[2]
    assert len(set(found)) == 4
    assert len(set(united(*columns, ["", None, "", None, None, None]))) == 3


def test_a_fold_is_a_folder_of_its_own():
    assert folder_name("1") == "fold_1"
    assert folder_name("rainy day") == "fold_rainy day"
    odd = ["..", ".", "/", "../../x", "a/b", "a_b", "a:b", "a\\b", "~", "x" * 300, "x" * 301, "\0"]
    names = [folder_name(fold) for fold in odd]
    assert len(set(names)) == len(odd)
    assert all(not set("/\\\0") & set(name) and len(name.encode()) < 200 for name in names)
    assert len({*names, *map(folder_name, names)}) == 2 * len(odd)
