"""Batches are a function of (seed, step): epochs, hosts, crops, few labels."""

import numpy as np
import pytest
from scipy import stats

from conformer_jax.data import sampling
from conformer_jax.data.audio import DataError
from conformer_jax.data.labels import labels_of


def indices_of(seed, steps, batch_size, n):
    batches = [sampling.train_batch(seed, step, batch_size, n)[0] for step in steps]
    return np.concatenate(batches)


@pytest.mark.parametrize(
    ("batch_size", "n"), [(4, 20), (7, 20), (32, 5), (3, 1), (1, 9), (2**12, 300)]
)
def test_each_epoch_sees_every_example_once(batch_size, n):
    steps = -(-6 * n // batch_size)
    seen = indices_of(0, range(steps), batch_size, n)
    for epoch in range(6):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_differ_in_order():
    a, b = indices_of(0, range(2), 100, 100).reshape(2, 100)
    assert (a != b).any()
    assert (indices_of(1, range(1), 100, 100) != a).any()


def test_a_step_does_not_depend_on_the_steps_before():
    late = sampling.train_batch(3, 17, 8, 30)
    for step in range(17):
        sampling.train_batch(3, step, 8, 30)
    again = sampling.train_batch(3, 17, 8, 30)
    np.testing.assert_array_equal(late[0], again[0])
    np.testing.assert_array_equal(late[1], again[1])


def test_the_stream_is_frozen():
    """These numbers are what a run that resumes with a newer version must get again."""
    indices, positions = sampling.train_batch(0, 2, 4, 10)
    expected = [0.9863776640469563, 0.3797549478660399, 0.41565444407401886, 0.8757451920397904]
    assert indices.dtype == np.int64
    assert indices.tolist() == [6, 7, 0, 1]
    np.testing.assert_allclose(positions, expected, rtol=0, atol=1e-15)


def test_positions_are_uniform_and_new_every_step():
    positions = np.stack([sampling.train_batch(0, step, 64, 64)[1] for step in range(100)])
    assert positions.min() >= 0
    assert positions.max() < 1
    assert len(np.unique(positions)) == positions.size
    counts = np.histogram(positions, bins=10, range=(0, 1))[0]
    assert abs(counts - 640).max() < 120  # 5 deviations


def test_large_corpora_negative_seeds_and_late_steps():
    indices, _ = sampling.train_batch(-1, 10**9, 32, 100_003)
    assert indices.min() >= 0
    assert indices.max() < 100_003


def test_balanced_batches_draw_rare_classes_as_often_as_common_ones():
    labels = [(0,)] * 900 + [(1,)] * 90 + [(2,)] * 9 + [()]
    cumulative = sampling.class_balance(labels_of(labels), 4)  # of class 3 there is none
    drawn = np.concatenate([sampling.balanced_batch(0, i, 100, cumulative)[0] for i in range(90)])
    counts = np.bincount([labels[i][0] for i in drawn], minlength=3)
    assert abs(counts - 3000).max() < 230  # 5 deviations
    assert abs(np.bincount(drawn, minlength=999)[990:] - 333).max() < 100
    assert len(np.unique(drawn[np.array([labels[i][0] for i in drawn]) == 0])) > 800


def test_several_labels_add_their_weights():
    labels = [(0, 1), (0,), (1, 2), (2,), (2,), ()]
    weights = np.diff(sampling.class_balance(labels_of(labels), 3), prepend=0)
    np.testing.assert_allclose(weights, [1, 1 / 2, 1 / 2 + 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)


def test_negatives_of_every_class_are_drawn_as_one_more_class():
    labels = [(0,), (0,), (1,), (), (), ()]
    weights = np.diff(sampling.class_balance(labels_of(labels), 2, negatives=True), prepend=0)
    np.testing.assert_allclose(weights, [1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3], atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_balanced_draws_have_the_weights_that_are_stated(offset):
    """Chi-square of 40,000 draws of 60 clips with several labels; over 99.9 % once in a thousand
    seeds, of which this is one."""
    labels = [(0,)] * 40 + [(1,)] * 10 + [(2, 0)] * 6 + [(3,), (3, 1), (1, 2, 3), ()]
    counts = np.bincount([c for of in labels for c in of])
    weights = np.array([sum(1 / (counts[c] + offset) for c in of) for of in labels])
    cumulative = sampling.class_balance(labels_of(labels), 4, offset)
    drawn = [sampling.balanced_batch(0, step, 400, cumulative)[0] for step in range(100)]
    found = np.bincount(np.concatenate(drawn), minlength=60)
    assert found[-1] == 0  # the clip without a label
    expected = 40_000 * weights / weights.sum()
    chi2 = np.sum((found[:-1] - expected[:-1]) ** 2 / expected[:-1])
    assert chi2 < stats.chi2.ppf(0.999, 58)


def test_a_balanced_batch_is_one_over_all_hosts():
    cumulative = sampling.class_balance(labels_of([(0,)] * 6 + [(1,)] * 3), 2)
    whole, _ = sampling.balanced_batch(3, 5, 8, cumulative)
    parts = [whole[sampling.host_slice(8, host, 4)] for host in range(4)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_a_balanced_batch_follows_from_seed_and_step():
    """Frozen numbers, as for the stream above; crops are those of any other batch."""
    cumulative = sampling.class_balance(labels_of([(0,)] * 6 + [(1,)] * 3), 2)
    indices, positions = sampling.balanced_batch(0, 2, 4, cumulative)
    assert indices.dtype == np.int64
    assert indices.tolist() == [6, 8, 4, 3]
    np.testing.assert_array_equal(positions, sampling.train_batch(0, 2, 4, 9)[1])
    for seed, step in ((1, 2), (0, 3)):
        assert sampling.balanced_batch(seed, step, 32, cumulative)[0].tolist() != (
            sampling.balanced_batch(0, 2, 32, cumulative)[0].tolist()
        )


def test_eval_batches_cover_the_set_in_order():
    n = sampling.num_eval_batches(4, 10)
    assert n == 3
    batches = [sampling.eval_batch(step, 4, 10) for step in range(n)]
    indices = np.concatenate([b[0] for b in batches])
    valid = np.concatenate([b[1] for b in batches])
    assert indices[valid].tolist() == list(range(10))
    assert indices[~valid].tolist() == [0, 0]
    assert sampling.num_eval_batches(5, 10) == 2
    assert sampling.num_eval_batches(5, 0) == 0


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_host_slices_make_up_the_batch(num_hosts):
    rows = np.arange(8)
    parts = [rows[sampling.host_slice(8, host, num_hosts)] for host in range(num_hosts)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_host_slice_names_the_field_to_change():
    with pytest.raises(DataError, match=r"batch of 6 clips .* 4 hosts.*config.data.batch_size"):
        sampling.host_slice(6, 0, 4)


def test_few_labels_counts_per_class_and_nests():
    labels = [(i % 3,) for i in range(60)] + [(3,)]
    small, large = (sampling.few_labels(labels, 4, k, seed=0) for k in (2, 5))
    assert np.bincount([labels[i][0] for i in small]).tolist() == [2, 2, 2, 1]
    assert np.bincount([labels[i][0] for i in large]).tolist() == [5, 5, 5, 1]
    assert set(small) <= set(large)
    assert (np.diff(large) > 0).all()
    other = sampling.few_labels(labels, 4, 5, seed=1)
    assert set(other) != set(large)


def test_a_stratified_choice_takes_its_share_of_every_class():
    labels = [(0,)] * 40 + [(1,)] * 10 + [(2,)] * 3 + [(3,)] * 2 + [(4,)] + [()] * 20
    chosen = sampling.stratified(labels, 6, 0.2, seed=0)
    counts = np.bincount([labels[i][0] if labels[i] else 6 for i in chosen], minlength=7)
    assert counts.tolist() == [8, 2, 1, 1, 0, 0, 4]  # never the last one of a class
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(sampling.stratified(labels, 6, 0.2, seed=0), chosen)
    assert set(sampling.stratified(labels, 6, 0.2, seed=1)) != set(chosen)
    # Frozen, as the streams are: a run that resumes must not train on what judged it.
    halves = [(i % 2,) for i in range(20)]
    assert sampling.stratified(halves, 2, 0.2, 0).tolist() == [5, 6, 10, 19]


def test_a_stratified_choice_with_several_labels_a_clip():
    rng = np.random.default_rng(0)
    often = np.array([0.6, 0.3, 0.1, 0.03])
    labels = [tuple(np.flatnonzero(row < often).tolist()) for row in rng.random((300, 4))]
    chosen = sampling.stratified(labels, 4, 0.25, seed=0)
    whole, part = (
        np.bincount([c for i in some for c in labels[i]], minlength=4)
        for some in (range(300), chosen)
    )
    assert (part >= np.round(0.25 * whole)).all()
    assert (part <= 0.25 * whole + 5).all()


def test_few_labels_with_several_labels_a_clip():
    labels = [(0, 1), (0,), (1, 2), (2,), ()] * 10
    kept = sampling.few_labels(labels, 3, 4, seed=0)
    counts = np.bincount([c for i in kept for c in labels[i]], minlength=3)
    assert (counts >= 4).all()
    assert len(kept) <= 12
    assert all(labels[i] for i in kept)


def test_no_distinct_batch_holds_an_example_twice_and_epochs_leave_out_others():
    epochs = [
        np.concatenate([sampling.distinct_batch(0, 3 * e + i, 3, 11)[0] for i in range(3)])
        for e in range(4)
    ]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert set(np.concatenate(epochs).tolist()) == set(range(11))
    with pytest.raises(DataError, match=r"config\.data\.batch_size = 12.*only 11 clips"):
        sampling.distinct_batch(0, 0, 12, 11)


def test_units_are_recordings_but_for_the_only_one_of_a_label():
    units = lambda labels, recordings, contents, num_classes: sampling.units(
        labels, (recordings, recordings, contents), num_classes
    )
    labels = [(0,), (1,), (1,), (0,), (2,), (2,), ()]
    found = units(labels, [9, 5, 5, 9, 3, 3, 8], [0, 1, 2, 3, 4, 4, 5], 3)
    assert found.tolist() == [0, 1, 2, 3, 4, 4, 5]  # each label has one alone; 4 are copies
    labels += [(0, 1), (2,), (0, 1), (2,)]
    found = units(labels, [9, 5, 5, 9, 3, 3, 8, 7, 2, 7, 2], range(11), 3)
    assert found.tolist() == [0, 1, 1, 0, 2, 2, 3, 4, 5, 4, 5]
    # One clip of a label of its own tears nothing else.
    found = units([(0,), (0,), (0, 1), (0,), (0,)], [1, 1, 1, 2, 2], range(5), 2)
    assert found.tolist() == [0, 0, 1, 2, 2]
    assert units([], [], [], 2).tolist() == []


def test_units_are_groups_but_for_the_only_one_of_a_label():
    recordings = [10, 10, 11, 11, 20, 20, 30, 30]
    units = lambda groups, labels: sampling.units(labels, (groups, recordings, range(8)), 3)
    groups = [1, 1, 1, 1, 2, 2, 3, 3]
    # Label 0 has two recordings, of one group; the others have one recording each.
    labels = [(0,), (0,), (0,), (0,), (1,), (1,), (2,), (2,)]
    assert units(groups, labels).tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    labels[4:6] = [(2,), (1, 2)]  # label 2 is in two groups
    assert units(groups, labels).tolist() == [0, 0, 1, 1, 2, 3, 4, 4]
    labels = [(0,), (0,), (0,), (0,), (0,), (0,), (1,), (1,)]
    assert units([1, 1, 1, 1, 2, 2, 1, 1], labels).tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    # Of a recording that leaves its group the other clips leave it, too.
    labels = [(0,), (1,), (0,), (1,), (1,), (1,), (1,), (1,)]
    assert units(groups, labels).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert units([1, 1, 1, 1, 2, 2, 1, 1], labels).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_copies_link_the_units_that_they_are_of():
    units = lambda *levels: sampling.units([(0,)] * len(levels[0]), levels, 1).tolist()
    contents = [0, 1, 2, 0, 3, 4]
    assert units(range(6), range(6), contents) == [0, 1, 2, 0, 3, 4]
    assert units(range(6), [0, 1, 1, 3, 4, 5], contents) == [0, 1, 1, 0, 2, 3]
    assert units([7, 7, 8, 9, 9, 6], range(6), contents) == [0, 0, 1, 0, 0, 2]
    # A thousand groups in a chain, and one beside it.
    clip = np.arange(2002)
    chain = clip // 2, clip, (clip + 1) // 2 % 1001
    assert units(*(np.append(level, -1) for level in chain)) == [0] * 2002 + [1]


def test_clips_without_a_label_are_lost_with_no_unit():
    """Two groups have some, each beside others with the label that all have."""
    labels = [(0,), (), (0,), (), *[(0,)] * 6]
    groups = [0, 0, 1, 1, *range(2, 8)]
    for seed in range(30):
        found = sampling.stratified_units(labels, (groups, range(10), range(10)), 1, 0.5, seed)
        assert len({1, 3} & set(found.tolist())) == 1
