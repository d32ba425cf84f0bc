"""Digests: every single bit counts, and any mesh finds the same."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from conformer_jax.training import digest

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(3, 5, 7)).astype(np.float32),
    "bfloat16": RNG.normal(size=(4, 6)).astype(ml_dtypes.bfloat16),
    "int32": np.int32(7),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
    "large": RNG.integers(-(2**31), 2**31 - 1, (300, 512), dtype=np.int32),  # of several chunks
}


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_every_flipped_bit_is_seen(name):
    array = ARRAYS[name]
    (whole,) = digest.of_tree({"a": array}).values()
    for bit in range(8 * array.nbytes):
        damaged = array.copy()
        damaged.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
        (found,) = digest.of_tree({"a": damaged}).values()
        assert found[0][:8] != whole[0][:8]
        assert found[0][8:] != whole[0][8:]


def test_host_and_device_find_the_same():
    host = digest.of_tree(ARRAYS)
    for name, array in ARRAYS.items():
        first, second, finite = digest._on_device(jnp.asarray(array))
        assert (f"{int(first):08x}{int(second):08x}", bool(finite)) == host[name], name


def test_exchanged_words_and_moved_rows_are_seen():
    array = ARRAYS["float32"]
    (whole,) = digest.of_tree({"a": array}).values()
    assert digest.of_tree({"a": array[::-1].copy()})["a"] != whole
    assert digest.of_tree({"a": np.roll(array, 1)})["a"] != whole


def test_not_finite_is_told():
    array = ARRAYS["float32"].copy()
    array[1, 2, 3] = np.nan
    assert digest.of_tree({"a": {"b": array}, "c": np.ones(2)})["a/b"][1] is False
    assert digest._on_device(jnp.asarray(array))[2] == False  # noqa: E712  (an array)
