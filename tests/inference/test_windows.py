"""Sound of any length in windows, and samples of any kind."""

import numpy as np
import pytest
import soundfile

from conformer_jax.data.audio import read_audio
from conformer_jax.errors import UserError
from conformer_jax.inference import windows

RATE = 16000


def blocks_of(audio, size):
    return [audio[i : i + size] for i in range(0, len(audio), size)]


@pytest.mark.parametrize("block", [3, 64, 1000])
@pytest.mark.parametrize(("size", "hop"), [(50, 50), (50, 20), (50, 7), (500, 100)])
def test_windows_are_the_same_whatever_the_blocks(block, size, hop):
    audio = np.arange(233, dtype=np.float32)
    found = list(windows.cut(windows.Sound(233, blocks_of(audio, block)), size, hop))
    assert [w.start for w in found] == windows.starts(233, size, hop)
    for window in found:
        np.testing.assert_array_equal(window.audio, audio[window.start : window.start + size])
        assert window.audio.base is None  # it keeps no block alive
    assert found[-1].start + len(found[-1].audio) == 233
    assert len({w.start for w in found}) == len(found)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_file_in_blocks_is_the_file_at_once(rate, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(size=(3 * rate, 2)) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, rate)
    monkeypatch.setattr("conformer_jax.data.sound_file._BLOCK", 5000)
    sound = windows.open_file(tmp_path / "a.wav", RATE)
    audio = np.concatenate(list(sound.blocks))
    np.testing.assert_allclose(audio, read_audio(tmp_path / "a.wav", RATE), atol=1e-5)
    assert sound.total == len(audio) == 3 * RATE


def test_samples_of_every_type_are_one_sound():
    wave = np.round(100 * np.sin(np.arange(800) / 10)) / 128
    kinds = {
        "int8": wave * 2**7,
        "int16": wave * 2**15,
        "int32": wave * 2**31,
        "uint8": wave * 128 + 128,
        "float16": wave,
        "float64": wave,
    }
    for dtype, samples in kinds.items():
        for shaped in (samples, np.stack([samples, samples], 1)):
            found = windows.of_samples(shaped.astype(dtype), RATE, RATE)
            np.testing.assert_allclose(found.blocks[0], wave, atol=1e-6, err_msg=dtype)
            assert found.blocks[0].dtype == np.float32
    assert len(windows.of_samples(np.zeros(1), 48000, RATE).blocks[0]) == 1


@pytest.mark.parametrize(
    ("samples", "rate", "said"),
    [
        (np.zeros(10), None, "without a rate"),
        (np.zeros(10), 0, "1 kHz"),
        (np.zeros(10), "16k", "a number"),
        (np.zeros(10), float("nan"), "1 kHz"),
        (np.zeros(0), RATE, "empty"),
        (np.zeros((2, 16000)), RATE, "transposed"),
        (np.zeros((2, 2, 2)), RATE, "shape"),
        (np.array([0, np.nan]), RATE, "NaN"),
        (np.full(10, 20000.0), RATE, "full scale is 1"),
        (np.zeros(10, complex), RATE, "complex"),
        (np.zeros(10, bool), RATE, "bool"),
        (np.array(["a"]), RATE, "type"),
    ],
)
def test_samples_that_mean_nothing_are_refused_in_words(samples, rate, said):
    with pytest.raises(UserError, match=said) as caught:
        windows.of_samples(samples, rate, RATE)
    assert "\n" not in str(caught.value)
