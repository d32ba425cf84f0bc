"""Gain, shift, mixup and SpecAugment: proportions, bounds, keys, and what they must leave alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from conformer_jax.steps import augment

# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
OFF = augment.AugmentSpec(
    crop_samples=0,
    crop_frames=0,
    speed=1.0,
    gain_db=0.0,
    shift_samples=0,
    mixup_alpha=0.0,
    mixup_share=1.0,
    between_class=0.0,
    level_samples=1600,
    time_masks=0,
    time_mask_frames=20,
    freq_masks=0,
    freq_mask_bins=8,
)
MIX = dataclasses.replace(OFF, mixup_alpha=0.5)
SIZE, SAMPLES, CLASSES = 8, 4000, 8


def batch_of(seed=0):
    """Unit-power noise, one class a clip."""
    audio = np.random.default_rng(seed).standard_normal((SIZE, SAMPLES)).astype(np.float32)
    audio /= np.sqrt(np.square(audio).mean(-1, keepdims=True))
    return {
        "audio": audio,
        "num_samples": np.full(SIZE, SAMPLES, np.int32),
        "labels": np.eye(SIZE, CLASSES, dtype=np.float32),
        "valid": np.ones(SIZE, np.float32),
    }


@functools.partial(jax.jit, compiler_options=FAST)
def mix_on_device(seed, batch):
    return augment.mixup(jax.random.key(seed), batch, MIX)


def mix(seed, batch):
    return jax.tree.map(np.asarray, mix_on_device(seed, batch))


def test_mixed_labels_sum_to_one_and_mix_two_clips():
    shares = []
    for seed in range(20):
        labels = np.asarray(mix(seed, batch_of())["labels"])
        np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
        assert ((labels > 0).sum(-1) <= 2).all()
        own = np.diagonal(labels)
        assert (own >= 0.5 - 1e-6).all()  # the clip itself stays the larger part
        shares.extend(own)
    assert np.min(shares) < 0.6
    assert len(np.unique(shares)) > 60  # each clip draws its own proportion


def test_powers_mix_in_the_proportion_of_the_labels():
    batch = batch_of()
    out = mix(3, batch)
    labels, audio = np.asarray(out["labels"]), np.asarray(out["audio"])
    original = np.asarray(batch["audio"])
    for clip in range(SIZE):
        lam = labels[clip, clip]
        other = int(np.delete(np.arange(SIZE), clip)[np.delete(labels[clip], clip).argmax()])
        if lam == 1:
            continue
        np.testing.assert_allclose(labels[clip, other], 1 - lam, atol=1e-6)
        # What each source adds, by projection: the sources are nearly orthogonal.
        weights = np.linalg.lstsq(original[[clip, other]].T, audio[clip], rcond=None)[0]
        np.testing.assert_allclose(np.square(weights), [lam, 1 - lam], atol=1e-4)


def test_no_clip_is_mixed_with_itself():
    """Else it would only become louder, by up to 3 dB."""
    for seed in range(30):
        batch = batch_of()
        out = mix(seed, batch)
        ratio = np.square(out["audio"]).mean(-1) / np.square(batch["audio"]).mean(-1)
        np.testing.assert_allclose(ratio, 1, atol=0.15)


def test_mixup_never_takes_from_a_clip_that_does_not_count():
    batch = batch_of()
    batch["valid"] = np.array([1, 0, 1, 0, 1, 1, 0, 1], np.float32)
    missing, real = (np.flatnonzero(batch["valid"] == value) for value in (0, 1))
    batch["audio"][missing] = 1e6
    mixed = 0
    for seed in range(20):
        out = mix(seed, batch)
        assert np.abs(out["audio"][real]).max() < 100
        assert not out["labels"][real][:, missing].any()
        mixed += ((out["labels"][real] > 0).sum(-1) == 2).sum()
    assert mixed > 20


def test_the_longer_of_two_mixed_clips_gives_the_length():
    batch = batch_of()
    lengths = np.arange(1, SIZE + 1) * 500
    batch["num_samples"] = lengths.astype(np.int32)
    batch["audio"] *= np.arange(SAMPLES) < lengths[:, None]
    grown = 0
    for seed in range(10):
        out = mix(seed, batch)
        sources = np.asarray(out["labels"]) > 0
        np.testing.assert_array_equal(out["num_samples"], (sources * lengths).max(-1))
        grown += (np.asarray(out["num_samples"]) > lengths).sum()
        silent = np.arange(SAMPLES) >= np.asarray(out["num_samples"])[:, None]
        assert not np.asarray(out["audio"])[silent].any()
    assert grown > 10


def test_a_share_of_the_clips_is_mixed():
    spec = dataclasses.replace(MIX, mixup_share=0.3)
    mix_some = jax.jit(lambda key, batch: augment.mixup(key, batch, spec), compiler_options=FAST)
    batch, mixed = batch_of(), []
    for seed in range(40):
        out = mix_some(jax.random.key(seed), batch)
        two = (np.asarray(out["labels"]) > 0).sum(-1) == 2
        np.testing.assert_array_equal(np.asarray(out["audio"])[~two], batch["audio"][~two])
        np.testing.assert_array_equal(np.asarray(out["labels"])[~two], batch["labels"][~two])
        mixed.append(two)
    mixed = np.array(mixed)
    assert 0.2 < mixed.mean() < 0.4
    assert (mixed.any(0) & ~mixed.all(0)).all()  # each clip draws for itself


def test_mixup_off_returns_the_batch_itself():
    batch = batch_of()
    assert augment.mixup(jax.random.key(0), batch, OFF) is batch


def test_mixup_reads_int16_at_full_scale():
    batch = batch_of()
    whole = (np.clip(np.asarray(batch["audio"]) / 8, -1, 1) * 32767).astype(np.int16)
    from_int = mix(1, batch | {"audio": whole})
    from_float = mix(1, batch | {"audio": whole / np.float32(32768)})
    assert from_int["audio"].dtype == jnp.float32
    np.testing.assert_allclose(from_int["audio"], from_float["audio"], atol=1e-7)


def test_mixup_follows_its_key():
    first, again, other = (mix(seed, batch_of()) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["audio"], again["audio"])
    assert (first["audio"] != other["audio"]).any()


BETWEEN = dataclasses.replace(OFF, between_class=1.0, level_samples=400)
mix_between = jax.jit(lambda k, b: augment.between_class(k, b, BETWEEN), compiler_options=FAST)


def test_classes_are_heard_in_the_proportion_of_their_labels():
    """However loud each was: the amplitudes on either side of the mix have the ratio r : 1 - r."""
    batch = batch_of()
    batch["audio"] *= np.logspace(-2, 0, SIZE, dtype=np.float32)[:, None]
    lengths = np.arange(1, SIZE + 1) * 500
    batch["num_samples"] = lengths.astype(np.int32)
    batch["audio"] *= np.arange(SAMPLES) < lengths[:, None]
    level = np.sqrt(np.square(batch["audio"].reshape(SIZE, -1, 400)).mean(-1).max(-1))
    shares = []
    for seed in range(10):
        out = jax.tree.map(np.asarray, mix_between(jax.random.key(seed), batch))
        np.testing.assert_allclose(out["labels"].sum(-1), 1, rtol=1e-6)
        longer = np.where(out["labels"] > 0, lengths, 0).max(-1)
        np.testing.assert_array_equal(out["num_samples"], longer)
        for clip in range(SIZE):
            (other,) = np.flatnonzero(np.delete(out["labels"][clip], clip)) + 0
            other += other >= clip
            share = out["labels"][clip, clip]
            sources = batch["audio"][[clip, other]]
            weights = np.linalg.lstsq(sources.T, out["audio"][clip], rcond=None)[0]
            heard = weights * level[[clip, other]]
            np.testing.assert_allclose(heard[0] / heard.sum(), share, atol=2e-3)
            np.testing.assert_allclose(np.square(weights).sum(), 1, rtol=1e-3)  # eq. 2
            shares.append(share)
    assert np.min(shares) < 0.1  # uniform, unlike mixup's larger share
    assert np.max(shares) > 0.9


def test_between_class_leaves_alone_what_does_not_count_or_is_silent():
    """Else a clip that is heard would be made as soft as silence, and keep its label."""
    batch = batch_of()
    batch["valid"] = np.array([1, 0, 1, 0, 1, 1, 0, 1], np.float32)
    batch["audio"][batch["valid"] == 0] = 1e6
    batch["audio"][0] = 0
    out_of_reach = (batch["valid"] == 0) | (np.arange(SIZE) == 0)
    mixed = 0
    for seed in range(10):
        out = jax.tree.map(np.asarray, mix_between(jax.random.key(seed), batch))
        np.testing.assert_array_equal(out["audio"][out_of_reach], batch["audio"][out_of_reach])
        np.testing.assert_array_equal(out["labels"][out_of_reach], batch["labels"][out_of_reach])
        power = np.square(out["audio"][~out_of_reach]).mean(-1)
        np.testing.assert_allclose(power, 1, atol=0.2)
        assert not out["labels"][~out_of_reach][:, out_of_reach].any()
        mixed += ((out["labels"][~out_of_reach] > 0).sum(-1) == 2).sum()
    assert mixed > 10


def test_a_level_is_that_of_the_loudest_stretch_wherever_it_is():
    audio = np.zeros((3, 3000), np.float32)
    audio[0, 100:500] = audio[1, 2700:] = 0.5
    level = np.asarray(augment._level(audio, 400))
    np.testing.assert_allclose(level, [0.5 * 0.75**0.5, 0.5 * 0.5**0.5, 1e-5], rtol=0.15)


def test_a_share_of_the_clips_is_mixed_between_classes():
    some = dataclasses.replace(BETWEEN, between_class=0.3)
    labels = [
        augment.between_class(jax.random.key(seed), batch_of(), some)["labels"] for seed in range(9)
    ]
    assert 0.15 < (np.array(labels).max(-1) < 1).mean() < 0.45


@pytest.mark.parametrize(
    ("fields", "crop_s", "words"),
    [
        ({"mixup_alpha": 0.5, "between_class": 0.5}, 1.0, "mixup_alpha = 0.5 and .*between_class"),
        ({"speed": 1.25}, 0.0, "speed = 1.25, but config.classifier.crop_s is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, crop_s, words):
    settings = base.get_config().augment
    settings.update(fields)
    with pytest.raises(ValueError, match=words):
        augment.check(settings, crop_s=crop_s)


CROP = dataclasses.replace(OFF, crop_samples=1000, crop_frames=10)
crop = jax.jit(augment.crop, static_argnames="spec", compiler_options=FAST)


def test_a_crop_is_a_stretch_of_the_clip_sample_by_sample():
    batch = batch_of()
    batch["num_samples"] = np.array([4000, 1500, 1000, 999, 700, 1, 0, 4000], np.int32)
    batch["audio"][0, 2500:] = 0  # filled up with silence
    starts = [[] for _ in range(SIZE)]
    for seed in range(40):
        out = jax.tree.map(np.asarray, crop(keys_of(seed), batch, CROP))
        assert out["audio"].shape == (SIZE, 1000)
        np.testing.assert_array_equal(out["num_samples"], np.minimum(batch["num_samples"], 1000))
        for row, count in enumerate(out["num_samples"]):
            sound = out["audio"][row]
            assert not sound[count:].any()  # what lies behind a clip's end is not heard
            if count:
                (start,) = np.flatnonzero(batch["audio"][row] == sound[0])[:1]
                np.testing.assert_array_equal(
                    sound[:count], batch["audio"][row, start : start + count]
                )
                starts[row].append(start)
    assert np.ptp(starts[7]) > 2000
    assert 400 < max(starts[1]) <= 500
    assert max(starts[2] + starts[3] + starts[4]) == 0
    assert max(starts[0]) < 2500  # in each there is sound
    fast = functools.partial(augment.crop, spec=dataclasses.replace(CROP, speed=1.25))
    assert jax.eval_shape(fast, keys_of(0), batch)["audio"].shape == (SIZE, 1250)  # to be stretched


def test_int16_is_cropped_at_full_scale():
    batch = batch_of()
    whole = (np.clip(np.asarray(batch["audio"]) / 8, -1, 1) * 32767).astype(np.int16)
    found = crop(keys_of(0), batch | {"audio": whole}, CROP)["audio"]
    expected = crop(keys_of(0), batch | {"audio": whole / np.float32(32768)}, CROP)["audio"]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_crop_is_stretched_to_its_length_at_the_same_pitch():
    spec = dataclasses.replace(CROP, crop_frames=80, speed=1.25)
    features = np.tile(np.arange(101.0)[:, None], (SIZE, 1, 3)).astype(np.float32)
    features += np.array([0, 1000, 2000])  # no bin meets another
    lengths = np.array([101, 101, 101, 101, 101, 40, 1, 0])
    valid = np.arange(101) < lengths[:, None]
    speeds = []
    for seed in range(20):
        out, seen = jax.tree.map(np.asarray, augment.stretch(keys_of(seed), features, valid, spec))
        assert out.shape == (SIZE, 80, 3)
        np.testing.assert_allclose((out - out[..., :1])[seen] - [0, 1000, 2000], 0, atol=1e-3)
        speed = np.diff(out[:5, :, 0]).mean(1)
        np.testing.assert_allclose(out[:5, :, 0], speed[:, None] * np.arange(80), atol=1e-2)
        assert seen[:5].all()
        assert not out[~seen].any()
        slow = out[5, 1, 0]
        np.testing.assert_allclose(seen[5:].sum(1)[0], min(40 / slow, 80), atol=1.1)
        assert not seen[7].any()
        speeds.extend(speed)
    assert 0.8 <= np.min(speeds) < 0.83
    assert 1.22 < np.max(speeds) <= 1.2501
    same, _ = augment.stretch(keys_of(0), features, valid, dataclasses.replace(spec, speed=1.0))
    np.testing.assert_array_equal(same[:5], features[:5, :80])


LENGTHS = np.array([100, 60, 31, 9, 2, 1, 0])
VALID = np.arange(100) < LENGTHS[:, None]


hide = jax.jit(augment.spec_augment, static_argnames="spec", compiler_options=FAST)


def hidden_by(seed, **changes):
    """[B, T, F] bool: what SpecAugment sets to zero."""
    features = np.ones((len(LENGTHS), 100, 16), np.float32)
    spec = dataclasses.replace(OFF, **changes)
    out = hide(jax.random.key(seed), features, VALID, spec)
    assert set(np.unique(out)) <= {0.0, 1.0}
    return np.asarray(out) == 0


def test_time_masks_are_spans_inside_the_clip_and_at_most_half_of_it():
    longest = np.zeros(len(LENGTHS), int)
    for seed in range(60):
        hidden = hidden_by(seed, time_masks=1, time_mask_frames=20)
        assert (hidden == hidden[..., :1]).all()  # whole frames
        hidden = hidden[..., 0]
        assert not (hidden & ~VALID).any()
        assert (np.abs(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int))).sum(-1) <= 2).all()
        longest = np.maximum(longest, hidden.sum(-1))
    assert (longest <= np.minimum(20, LENGTHS // 2)).all()
    assert longest[0] >= 18
    assert longest[3] == 4


def test_frequency_masks_are_bands_of_all_frames():
    widest = 0
    for seed in range(40):
        hidden = hidden_by(seed, freq_masks=1, freq_mask_bins=5)
        assert (hidden == hidden[:, :1]).all()
        hidden = hidden[:, 0]
        assert (np.abs(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int))).sum(-1) <= 2).all()
        widest = max(widest, hidden.sum(-1).max())
    assert widest == 5


def test_masks_differ_between_clips_keys_and_repeats():
    hidden = hidden_by(0, time_masks=2, freq_masks=2)
    assert (hidden[0, :60] != hidden[1, :60]).any()
    assert (hidden != hidden_by(1, time_masks=2, freq_masks=2)).any()
    np.testing.assert_array_equal(hidden, hidden_by(0, time_masks=2, freq_masks=2))
    once, twice = (hidden_by(5, time_masks=n)[0].sum() for n in (1, 2))
    assert twice > once


def test_no_masks_is_the_identity():
    features = np.random.default_rng(0).standard_normal((2, 10, 16)).astype(np.float32)
    out = augment.spec_augment(jax.random.key(0), features, np.ones((2, 10), bool), OFF)
    np.testing.assert_array_equal(out, features)


def test_the_spec_turns_seconds_into_frames():
    settings = base.get_config().augment
    settings.time_mask_s = 0.25
    for hop_s, frames in ((0.01, 25), (0.02, 12)):
        spec = augment.make_spec(settings, crop_s=0.0, sample_rate=16_000, hop_s=hop_s)
        assert spec.time_mask_frames == frames


@pytest.mark.parametrize("name", ["time_masks", "freq_masks"])
def test_a_mask_of_length_zero_hides_nothing(name):
    size = {"time_masks": "time_mask_frames", "freq_masks": "freq_mask_bins"}[name]
    assert not hidden_by(0, **{name: 3, size: 0}).any()


def keys_of(seed, size=SIZE):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(size))


SHIFT = dataclasses.replace(OFF, shift_samples=300)
turn = jax.jit(lambda keys, batch: augment.shift(keys, batch, SHIFT), compiler_options=FAST)


def test_a_shift_turns_the_valid_samples_and_leaves_the_padding():
    lengths = np.array([4000, 2500, 1000, 301, 40, 2, 1, 0])
    batch = batch_of() | {"num_samples": lengths.astype(np.int32)}
    batch["audio"] = np.arange(SAMPLES, dtype=np.int16) * np.ones((SIZE, 1), np.int16)
    offsets = []
    for seed in range(20):
        out = np.asarray(turn(keys_of(seed), batch)["audio"])
        assert out.dtype == np.int16
        for row, length in zip(out, lengths, strict=True):
            start = row[0] if length else 0
            np.testing.assert_array_equal(row[:length], (start + np.arange(length)) % length)
            np.testing.assert_array_equal(row[length:], np.arange(length, SAMPLES))
        offsets.append([(out[i, 0] + 1000) % lengths[i] - 1000 for i in range(2)])
    offsets = np.array(offsets)
    assert np.abs(offsets).max() <= 300
    assert offsets.min() < -150 < 150 < offsets.max()
    assert (offsets[:, 0] != offsets[:, 1]).any()  # each clip draws its own
    # What is drawn for a clip follows from its own key, whatever else is in the batch.
    some = {name: value[2:5] for name, value in batch.items()}
    whole = turn(keys_of(1), batch)["audio"][2:5]
    np.testing.assert_array_equal(turn(keys_of(1)[2:5], some)["audio"], whole)


def test_gain_is_uniform_in_decibels_and_reads_int16_at_full_scale():
    spec = dataclasses.replace(OFF, gain_db=6.0)
    amplify = jax.jit(lambda keys, batch: augment.gain(keys, batch, spec), compiler_options=FAST)
    batch = batch_of()
    batch["audio"] = (batch["audio"] * 3000).astype(np.int16)
    decibels = []
    for seed in range(40):
        out = np.asarray(amplify(keys_of(seed), batch)["audio"])
        assert out.dtype == np.float32
        ratio = out[:, 0] / (batch["audio"][:, 0] / 32768)
        np.testing.assert_allclose(out, ratio[:, None] * batch["audio"] / 32768, rtol=1e-5)
        decibels.extend(20 * np.log10(ratio))
    assert -6 <= min(decibels) < -5
    assert 5 < max(decibels) <= 6
    assert abs(np.mean(decibels)) < 1
    assert len(np.unique(np.round(decibels, 4))) > 300


def test_gain_and_shift_off_return_the_batch_itself():
    batch = batch_of()
    assert augment.gain(keys_of(0), batch, OFF) is batch
    assert augment.shift(keys_of(0), batch, OFF) is batch
