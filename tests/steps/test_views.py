"""Views: what they are made of, whose key they follow, and what makes no pair."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import base
from conformer_jax.models.features import FeatureSpec, log_mel, silence
from conformer_jax.steps import state, views

# Silence is another number in each bin.
FEATURES = FeatureSpec(
    mean=tuple(np.linspace(-3.0, -8.0, 64).tolist()),
    deviation=tuple(np.linspace(4.0, 2.0, 64).tolist()),
)
SPEC = views.make_spec(base.get_config().views, hop_s=0.01, stride=4, num_mels=64)
# A window of the clip and nothing else.
PLAIN = dataclasses.replace(
    SPEC,
    window=(1.0, 1.0),
    height=(1.0, 1.0),
    candidates=1,
    mixup=0.0,
    noise=0.0,
    equaliser=0.0,
    cutoff_share=0.0,
    ramp=0.0,
    hidden_time=0.0,
    hidden_bands=0.0,
)

FAST = {"xla_backend_optimization_level": 0}
LENGTHS = (30640, 40000, 8000, 40000)  # the first as long as a view, the third 51 frames


def batch_of(lengths=LENGTHS, silent=(), valid=None):
    rng = np.random.default_rng(0)
    audio = rng.integers(-9999, 9999, (len(lengths), max(lengths))).astype(np.int16)
    audio[list(silent)] = 0
    return {
        "audio": audio,
        "num_samples": np.array(lengths, np.int32),
        "valid": np.ones(len(lengths), np.float32) if valid is None else np.float32(valid),
        "keys": state.clip_keys(jax.random.key(3), len(lengths)),
    }


@functools.cache
def compiled(spec, mix):
    make = functools.partial(views.make, features_spec=FEATURES, spec=spec, mix=mix)
    return jax.jit(make, compiler_options=FAST)


def make(batch, spec=SPEC, mix=False):
    return compiled(spec, mix)(batch)


def test_shapes_and_ranges():
    made = make(batch_of())
    assert made.features.shape == (4, 2, 192, 64)
    assert made.shown.shape == (4, 2, 48)
    assert np.isfinite(made.features).all()
    assert np.abs(made.features).max() < 12
    # One block of eight tokens of the first views, one of eight bands of the second.
    np.testing.assert_array_equal(made.shown.sum(-1), [[40, 48]] * 4)
    gone = (np.asarray(made.features) == 0).all(2).reshape(4, 2, 8, 8).all(-1).sum(-1)
    assert (gone[:, 1] >= 1).all()
    np.testing.assert_array_equal(made.counts, 1)
    assert (np.asarray(made.features[:, 0]) != np.asarray(made.features[:, 1])).any()


def test_a_clip_s_views_follow_from_its_key_and_not_from_its_place():
    batch, order = batch_of(), np.array([2, 0, 3, 1])
    moved = {name: value[order] for name, value in batch.items()}
    for here, there in zip(make(batch), make(moved), strict=True):
        np.testing.assert_allclose(here[order], there, atol=1e-6)


def test_without_the_other_parts_a_view_is_a_window_of_the_clip():
    batch = batch_of()
    whole, _ = log_mel(batch["audio"], batch["num_samples"], FEATURES)
    np.testing.assert_allclose(make(batch, PLAIN).features[0, 0], whole[0, :192], atol=1e-5)


def test_a_short_clip_goes_round():
    view = np.asarray(make(batch_of(), PLAIN).features[2, 0])
    np.testing.assert_allclose(view[51:102], view[:51], atol=1e-3)
    assert (view != 0).all()


def test_silence_and_bad_audio_are_no_pair():
    batch = batch_of((40000,) * 4, silent=(1,), valid=(1, 1, 0, 1))
    np.testing.assert_array_equal(make(batch).counts, [1, 0, 0, 1])


def test_a_clip_of_which_one_view_is_silent_is_no_pair():
    batch = batch_of((40000,) * 4)
    batch["audio"][:, 4000:] = 0
    made = make(batch, PLAIN)
    heard = (made.features > np.asarray(silence(FEATURES)) + 1e-3).any((2, 3))
    assert heard.any(1).tolist() != heard.all(1).tolist()
    np.testing.assert_array_equal(made.counts, heard.all(1))


def test_a_window_is_the_loudest_of_some():
    rising = np.tile(np.arange(100.0)[:, None], (1, 4)).astype(np.float32)
    spec = dataclasses.replace(PLAIN, frames=10, candidates=4)
    window = jax.vmap(views._window, (None, None, None, 0, None))
    keys = jax.random.split(jax.random.key(0), 64)
    made, _ = jax.jit(window, static_argnums=4)(rising, np.zeros(4), 100, keys, spec)
    starts = np.asarray(made)[:, 0, 0]
    # The highest of four of 0 to 90: 72 in the mean, where one alone is 45.
    assert 65 < starts.mean() < 79
    assert starts.max() <= 90


def test_the_share_of_silence_is_that_of_the_frames():
    """As of files that are padded, whose length would give them away."""
    batch = batch_of((40000,) * 3, silent=(2,))
    batch["audio"][1, 15000:] = 0  # of 30640 that a view is long, from wherever it begins
    made = make(batch, dataclasses.replace(PLAIN, window=(250 / 192, 250 / 192)))
    np.testing.assert_allclose(made.silence, [0, 25000 / 40000, 1], atol=0.02)


def test_silence_stretched_in_frequency_is_silence():
    """Though then it lies in bins whose silence is another number."""
    spec = dataclasses.replace(PLAIN, height=(0.7, 0.7))
    made = make(batch_of((40000,) * 4, silent=(0, 1, 3)), spec)
    np.testing.assert_array_equal(made.counts, [0, 0, 1, 0])


def test_only_what_counts_is_put_behind_and_two_views_get_different_clips():
    batch = batch_of((40000,) * 4, valid=(1, 1, 0, 1))
    spec = dataclasses.replace(PLAIN, mixup=0.4)
    alone, mixed = make(batch, spec), make(batch, spec, mix=True)
    changed = (np.abs(mixed.features - alone.features) > 1e-3).any((2, 3))
    # Behind the first view is the clip before, behind the second the clip after; 2 is none.
    np.testing.assert_array_equal(changed, [[1, 1], [1, 0], [1, 1], [0, 1]])
    assert (mixed.features >= alone.features + np.log(0.6) - 1e-3).all()


def test_a_view_of_less_than_a_token_is_refused():
    config = base.get_config().views
    config.length_s = 0.03
    with pytest.raises(ValueError, match=r"config\.views\.length_s"):
        views.make_spec(config, hop_s=0.01, stride=4, num_mels=64)


def test_more_bands_than_bins_are_refused():
    """They would be of no bin each, and hide nothing."""
    config = base.get_config().views
    config.bands = 65
    with pytest.raises(ValueError, match=r"config\.views\.bands = 65 is more than .*num_mels = 64"):
        views.make_spec(config, hop_s=0.01, stride=4, num_mels=64)


def test_noise_lies_below_what_sounds():
    """At the mean's power, as in BYOL-A, it moves the mean by log 2 and drowns half of a clip."""
    specs = (PLAIN, dataclasses.replace(PLAIN, noise=0.2, noise_share=1.0))
    plain, noisy = (np.asarray(make(batch_of(), spec).features) for spec in specs)
    moved = noisy - plain
    assert np.abs(moved[plain > 0]).mean() < 0.2
    assert (np.abs(moved).reshape(len(moved), 2, -1).max(-1) > 0.01).all()


def test_labelled_clips_are_coloured_as_views_are_and_no_frame_is_added():
    rng = np.random.default_rng(0)
    valid = np.arange(20) < rng.integers(1, 21, 64)[:, None]
    features = np.where(valid[..., None], rng.standard_normal((64, 20, 64)), 0).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 64)
    make = jax.jit(functools.partial(views.recolour, spec=SPEC, share=0.5), compiler_options=FAST)
    made = np.asarray(make(keys, features, valid))
    assert not made[~valid].any()
    changed = (made != features).any((1, 2))
    assert 0.3 < changed.mean() < 0.7
    # Where all is off the clip as it is.
    plain = dataclasses.replace(PLAIN, ramp=0.0)
    same = views.recolour(keys, features, valid, plain, share=1.0)
    np.testing.assert_allclose(same, features, rtol=1e-5, atol=1e-5)
    # What is drawn for a clip is its own.
    again = make(keys[::-1], features[::-1], valid[::-1])
    np.testing.assert_allclose(again[::-1], made, rtol=1e-5, atol=1e-5)


def test_what_a_labelled_clip_is_coloured_with():
    """A band of seven tenths of the bins, half of them with noise, equaliser, cut-off; a ramp."""
    spec = dataclasses.replace(PLAIN, height=(0.7, 0.7), ramp=1.0, noise=0.2, equaliser=2.0)
    spec = dataclasses.replace(spec, noise_share=0.5, equaliser_share=0.5, cutoff_share=0.5)
    level = np.where(np.arange(20) < 10, 100.0, -200.0)[:, None] + np.arange(64)
    clips, whole = np.tile(level.astype(np.float32), (64, 1, 1)), np.ones((64, 20), bool)
    colour = functools.partial(views.recolour, spec=spec, share=1.0)
    colour = jax.jit(colour, compiler_options=FAST)
    made = np.asarray(colour(jax.random.split(jax.random.key(0), 64), clips, whole))
    bins = np.diff(made[:, 0, 1:32])
    equalised = np.abs(bins - 0.7).max(1) > 1e-3
    noisy = made[:, 10:, 5].min(1) > -50
    cut = made[:, 0] < 50
    for changed in (equalised, noisy, cut.any(1)):
        assert 0.3 < changed.mean() < 0.7
    assert not cut[:, :32].any()
    assert (np.diff(cut.astype(int)) >= 0).all()  # all that lies above it
    lowest = made[~equalised, 0, 1] - 100
    assert -1 < lowest.min() < 4 < 14 < lowest.max() < 0.3 * 64 + 2
    np.testing.assert_allclose(np.diff(made[:, :10, 5], n=2), 0, atol=1e-4)
    assert np.abs(made[:, 9, 5] - made[:, 0, 5]).max() > 0.5
