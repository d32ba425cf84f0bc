"""Formats that cannot seek, cut files, odd rates and scales, and what is no file."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conformer_jax.data import decoder_lines
from conformer_jax.data.audio import audio_length, read_audio
from conformer_jax.data.sound_file import BadAudio

RATE = 16000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype("f4")


def save(path, file_format, subtype=None, audio=NOISE, rate=RATE):
    with path.open("wb") as file:
        soundfile.write(file, audio, rate, format=file_format, subtype=subtype)
    return path


def reason(path):
    with pytest.raises(BadAudio) as info:
        read_audio(path, RATE)
    return str(info.value)


@pytest.mark.parametrize(
    ("file_format", "subtype", "rate"),
    [
        ("WAV", "GSM610", 8000),
        ("WAV", "GSM610", RATE),
        ("WAV", "NMS_ADPCM_32", RATE),
        ("AIFF", "GSM610", RATE),
        ("AIFF", "DWVW_16", RATE),
        ("AU", "G721_32", RATE),
        ("W64", "GSM610", RATE),
        ("XI", "DPCM_16", 44100),
    ],
)
def test_a_crop_of_a_format_that_cannot_seek(tmp_path, file_format, subtype, rate):
    path = save(tmp_path / "a", file_format, subtype, rate=rate)
    whole, crop = read_audio(path, rate), read_audio(path, rate, 3000, 0.5)
    start = int(0.5 * (len(whole) - 3000 + 1))
    np.testing.assert_array_equal(crop, whole[start : start + 3000])
    assert np.std(crop) > 0.05


@pytest.mark.parametrize("file_format", ["MP3", "FLAC", "WAV"])
def test_a_long_file_is_read_in_blocks(tmp_path, file_format):
    stereo = np.tile(np.stack([NOISE, 0.5 * NOISE], 1), (40, 1))  # more than a block
    path = save(tmp_path / "a", file_format, audio=stereo)
    expected = soundfile.read(path.open("rb"), dtype="float32")[0].mean(axis=1)
    # An MP3 decoded twice differs in the last bit.
    np.testing.assert_allclose(read_audio(path, RATE), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.98])
@pytest.mark.parametrize(
    ("file_format", "subtype"),
    [
        ("W64", "PCM_16"),
        ("W64", "MS_ADPCM"),
        ("RF64", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("NIST", "PCM_16"),
        ("MAT4", "FLOAT"),
        ("SVX", "PCM_16"),
        ("VOC", "PCM_16"),
    ],
)
def test_a_cut_file_is_told_from_its_header(tmp_path, file_format, subtype, cut):
    path = save(tmp_path / "a", file_format, subtype, audio=np.tile(NOISE, 4))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(BadAudio) as info:
        audio_length(path)
    assert str(info.value).startswith(("truncated: ", "not audio or unknown format"))


def test_garbage_behind_an_ogg_file_is_no_truncation(tmp_path):
    path = save(tmp_path / "a", "OGG")
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert len(read_audio(path, RATE)) == RATE


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_recorder_has(tmp_path, rate):
    path = save(tmp_path / "a", "WAV", rate=rate)
    assert reason(path) == f"sample rate of {rate} Hz: 1 kHz to 1 MHz can be read"


def test_a_float_file_of_another_scale(tmp_path):
    assert "samples of up to 1.64e+04" in reason(
        save(tmp_path / "a", "WAV", "FLOAT", 32768 * NOISE)
    )
    assert len(read_audio(save(tmp_path / "b", "WAV", "FLOAT", 1000 * NOISE), RATE)) == RATE


def test_pipes_devices_and_loops_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    for name in ("pipe.wav", "link.wav", "zero.wav"):
        assert reason(tmp_path / name) == "cannot be opened: a pipe or a device, not a file"
    assert reason(tmp_path / "loop.wav").startswith("cannot be opened: ")
    assert reason("a\0b.wav").startswith("cannot be opened: ")


NOISY = """
import ctypes, sys
from conformer_jax.data.audio import BadAudio, read_audio
for path in sys.argv[1:]:
    try:
        read_audio(path, 16000)
    except BadAudio as e:
        print(e)
libc = ctypes.CDLL(None)
libc.fputs(b"of another library\\n", ctypes.c_void_p.in_dll(libc, "stderr"))
print("of Python", file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="decoders are silenced on Linux only")
def test_decoders_say_nothing_and_others_are_heard(tmp_path):
    mp3, dump = save(tmp_path / "a.mp3", "MP3"), save(tmp_path / "a.sds", "SDS")
    content = bytearray(mp3.read_bytes())
    content[2000:2600] = b"\x55" * 600
    mp3.write_bytes(content)
    content = bytearray(dump.read_bytes())
    content[2000:2600] = b"\x55" * 600
    dump.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", NOISY, mp3, dump], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["of another library", "of Python"]
    assert "Error" not in done.stdout
    assert "damaged packets of a MIDI sample dump" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="decoders are silenced on Linux only")
@pytest.mark.parametrize("maps", ["missing", "not ELF", "cut", "other addresses"])
def test_where_decoders_are_not_as_expected_nothing_is_written(maps, tmp_path, monkeypatch):
    (real,) = [one for one in decoder_lines._loaded() if "libsndfile" in one.path]
    content = pathlib.Path(real.path).read_bytes()
    other = tmp_path / "libsndfile.so"
    other.write_bytes({"not ELF": b"text", "cut": content[:5000]}.get(maps, content))
    # Elsewhere in memory: whole pages of it can be read, and hold other things.
    shifted = real._replace(path=str(other), base=real.base - 4096)

    def loaded():
        if maps == "missing":
            raise FileNotFoundError("/proc/self/maps")
        return [shifted]

    monkeypatch.setattr(decoder_lines, "_loaded", loaded)
    monkeypatch.setattr(decoder_lines, "_redirect", lambda *_: 1)
    assert decoder_lines.silence_decoders() == 0
