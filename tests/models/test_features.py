"""Log-mel in JAX against librosa; padding, int16, normalisation, refused settings."""

import dataclasses

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from conformer_jax.models.features import FeatureSpec, log_mel

# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
SETTINGS = {
    "default": FeatureSpec(),
    "not_centred": FeatureSpec(center=False),
    "htk_amplitude": FeatureSpec(mel_scale="htk", power=1.0),
    "long_window": FeatureSpec(window_s=0.064, fft_size=1024, hop_s=0.020, num_mels=40),
    "window_of_fft_size_odd_hop": FeatureSpec(window_s=0.032, hop_s=0.0071),
    "hop_longer_than_window": FeatureSpec(hop_s=0.050, center=False),
    "narrow_band": FeatureSpec(fmin=300.0, fmax=3400.0, num_mels=32),
    "high_floor": FeatureSpec(log_floor=1e-2),
    "32_kHz": FeatureSpec(sample_rate=32000, fft_size=1024, fmax=14000.0, num_mels=48),
    "8_kHz_htk_not_centred": FeatureSpec(
        sample_rate=8000, fft_size=256, fmax=4000.0, num_mels=24, mel_scale="htk", center=False
    ),
}


def sound(seed, samples, sample_rate=16000):
    """A tone, a click and noise that dies away, float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / sample_rate
    x = 0.3 * np.sin(2 * np.pi * 440 * time)
    x += 0.1 * rng.standard_normal(samples) * np.exp(-3 * time)
    x[samples // 3] += 0.5
    return np.clip(x, -1, 1).astype(np.float32)


def librosa_log_mel(audio, spec):
    energy = librosa.feature.melspectrogram(
        y=audio.astype(np.float64),
        sr=spec.sample_rate,
        n_fft=spec.fft_size,
        win_length=round(spec.window_s * spec.sample_rate),
        hop_length=round(spec.hop_s * spec.sample_rate),
        window="hann",
        center=spec.center,
        pad_mode="constant",
        power=spec.power,
        n_mels=spec.num_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
        htk=spec.mel_scale == "htk",
    )
    return np.log(np.maximum(energy, spec.log_floor)).T


compiled = jax.jit(log_mel, static_argnames="spec", compiler_options=FAST)


def ours(audio, spec, num_samples=None):
    audio = np.atleast_2d(audio)
    if num_samples is None:
        num_samples = [audio.shape[1]] * len(audio)
    features, valid = compiled(audio, np.asarray(num_samples), spec)
    return np.asarray(features), np.asarray(valid)


@pytest.mark.parametrize("name", SETTINGS)
def test_features_equal_librosa(name):
    spec = SETTINGS[name]
    audio = sound(1, spec.sample_rate // 2 + 37, spec.sample_rate)
    expected = librosa_log_mel(audio, spec)
    features, valid = ours(audio, spec)
    assert features.dtype == np.float32
    assert valid.all()
    assert features[0].shape == expected.shape
    np.testing.assert_allclose(features[0], expected, atol=1e-4, rtol=0)


def test_the_log_floor_is_reached_by_silence():
    spec = FeatureSpec(log_floor=1e-3)
    features, _ = ours(np.zeros(4000, np.float32), spec)
    np.testing.assert_allclose(features, np.log(1e-3), rtol=1e-6)


def test_int16_equals_float():
    audio = (sound(2, 4000) * 32767).astype(np.int16)
    from_int, _ = ours(audio, FeatureSpec())
    from_float, _ = ours(audio.astype(np.float32) / 32768, FeatureSpec())
    np.testing.assert_array_equal(from_int, from_float)
    np.testing.assert_allclose(
        from_int[0], librosa_log_mel(audio / 32768.0, FeatureSpec()), atol=1e-4, rtol=0
    )


def test_mean_and_deviation_normalise_each_bin():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(-3, 2, 64), rng.uniform(0.5, 4, 64)
    spec = FeatureSpec(mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
    audio = sound(3, 4000)
    features, _ = ours(audio, spec)
    expected = (librosa_log_mel(audio, FeatureSpec()) - mean) / deviation
    np.testing.assert_allclose(features[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("center", [True, False])
def test_what_lies_past_the_end_of_a_clip_changes_no_valid_frame(center):
    mean = tuple([-4.0] * 64)
    spec = FeatureSpec(center=center, mean=mean, deviation=tuple([2.0] * 64))
    lengths = [5000, 3217, 100, 1]
    batch = np.full((len(lengths), 5000), 0.9, np.float32)
    for i, n in enumerate(lengths):
        batch[i, :n] = sound(i + 10, max(n, 300))[:n]
    features, valid = ours(batch, spec, lengths)
    others = np.where(np.arange(5000) < np.array(lengths)[:, None], batch, -0.4)
    np.testing.assert_array_equal(ours(others.astype(np.float32), spec, lengths)[0], features)
    for i, n in enumerate(lengths):
        alone, valid_alone = ours(batch[i, :n], spec)
        frames = valid_alone.shape[1]
        assert valid_alone.all()
        assert valid[i, :frames].all()
        assert not valid[i, frames:].any()
        # The FFT of another batch shape rounds otherwise: up to 2e-5 where a bin is nearly silent.
        np.testing.assert_allclose(features[i, :frames], alone[0], atol=1e-4, rtol=0)
        assert not features[i, frames:].any()


@pytest.mark.parametrize("center", [True, False])
def test_number_of_frames(center):
    spec = FeatureSpec(center=center)
    for n in (1, 159, 160, 511, 512, 671, 672, 16000):
        if n >= spec.fft_size:
            expected = librosa_log_mel(np.zeros(n), spec).shape[0]
        else:
            expected = 1 + n // 160 if center else 1
        assert spec.num_frames(n) == expected
        assert spec.num_frames(jnp.array([n]))[0] == expected


def test_an_empty_clip_has_no_valid_frame():
    features, valid = ours(np.ones((2, 800), np.float32), FeatureSpec(), [0, 800])
    assert not valid[0].any()
    assert valid[1].all()
    assert not features[0].any()
    assert FeatureSpec().num_frames(0) == 0


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("mel_scale", {"mel_scale": "bark"}),
        ("fmax", {"fmax": 9000.0}),
        ("fmax", {"fmin": 8000.0}),
        ("fft_size", {"fft_size": 256}),
        ("hop_s", {"hop_s": 0.0}),
        ("log_floor", {"log_floor": 0.0}),
        ("mean", {"mean": (0.0,), "deviation": (1.0,)}),
        ("deviation", {"mean": (0.0,) * 64}),
    ],
)
def test_a_setting_that_does_not_fit_is_named(field, change):
    with pytest.raises(ValueError, match=rf"config\.features\.{field} "):
        dataclasses.replace(FeatureSpec(), **change)
