"""Sets of clips that were heard: nothing is missing, and they stay small."""

import numpy as np
import pytest

from conformer_jax.data import heard


def contents(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_what_was_heard_is_found_again_and_nothing_else(n):
    packed, bits = heard.pack(heard.of_contents(contents(n)))
    assert len(packed) <= 9 * n + 64
    found = heard.unpack(packed, bits, whole=False)
    assert (bits, found.whole, found.chance()) == (64, False, 0.0)
    assert found.has(contents(n)).all()
    assert not found.has(contents(1000, seed=1)).any()


def test_the_extreme_contents_are_kept():
    ends = np.array([2**64 - 1, 0, 2**63, 0], np.uint64)
    found = heard.unpack(*heard.pack(heard.of_contents(ends)), whole=True)
    np.testing.assert_array_equal(found.clips, np.array([0, 2**63, 2**64 - 1], np.uint64))


def test_in_little_room_it_takes_others_for_heard_as_often_as_it_says():
    packed, bits = heard.pack(heard.of_contents(contents(20_000)), 30_000)
    assert len(packed) <= 30_000
    found = heard.unpack(packed, bits, whole=True)
    assert found.has(contents(20_000)).all()
    assert 1e-4 < found.chance() < 0.02
    taken = found.has(contents(200_000, seed=1)).mean()
    assert taken == pytest.approx(found.chance(), rel=0.2)


def test_a_union_has_all_and_the_fewest_bits():
    first = heard.of_contents(contents(100))
    short = heard.unpack(*heard.pack(heard.of_contents(contents(100, seed=1)), 500), whole=True)
    both = heard.union(first, short, heard.of_contents((), whole=False))
    assert both.bits == short.bits < 64
    assert not both.whole
    assert both.has(contents(100)).all()
    assert both.has(contents(100, seed=1)).all()
    assert heard.union(first, heard.of_contents(())).bits == 64


def test_damage_is_told():
    packed, bits = heard.pack(heard.of_contents(contents(10)))
    with pytest.raises(ValueError, match="is damaged"):
        heard.unpack(packed[:-3], bits, whole=True)
    with pytest.raises(ValueError, match="99 bits"):
        heard.unpack(packed, 99, whole=True)
