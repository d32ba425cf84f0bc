"""Labels before training: what cannot be learned is refused, what flatters or shames is said."""

import numpy as np
import pytest

from conformer_jax.data import labels
from conformer_jax.data.source import Source
from conformer_jax.errors import UserError


class Clips(Source):
    """A Source as far as its labels go."""

    def __init__(self, of_clips, names="abcd"):
        self.label_names, self._of_clips = tuple(names), of_clips

    def __len__(self):
        return len(self._of_clips)

    def labels(self, i):
        return tuple(self.label_names.index(name) for name in self._of_clips[i])


def known(train, held_out, chosen=False):
    return labels.known_classes(Clips(train), Clips(held_out), chosen=chosen)


def test_nothing_is_said_where_all_is_well(caplog):
    np.testing.assert_array_equal(known("aabbb", "ab"), [True, True, False, False])
    assert not caplog.records


def test_a_label_that_is_only_held_out_is_named(caplog):
    np.testing.assert_array_equal(known("aabb", "acdd"), [True, True, False, False])
    (record,) = caplog.records
    assert (
        "3 held-out clip(s) cannot be right: no clip to train on has the label(s) 'c', 'd';"
        in record.message
    )


def test_one_clip_of_each_label_is_said_unless_it_was_asked_for(caplog):
    known("abcd", "a", chosen=True)
    assert not caplog.records
    known("abcdd", "a")
    assert "3 of 4 labels have one clip to train on ('a', 'b', 'c')" in caplog.records[0].message


@pytest.mark.parametrize("train", ["aaa", ["ab", "ba"], ["", ""]])
def test_clips_that_all_have_the_same_labels_are_refused(train):
    with pytest.raises(
        UserError, match=r"all \d clips to train on have the same label, '.*'"
    ) as info:
        known(train, "ab")
    assert "\n" not in str(info.value)


def test_one_class_and_clips_without_it_can_be_told_apart():
    assert known(["a", "", ""], ["a", ""])[0]
