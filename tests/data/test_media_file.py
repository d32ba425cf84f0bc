"""What phones and browsers record, where the extra `media` is installed."""

import builtins

import numpy as np
import pytest

from conformer_jax.data.audio import audio_length, read_audio
from conformer_jax.data.sound_file import BadAudio
from conformer_jax.inference import windows

RATE = 48000
SECONDS = 3.0
FORMATS = [
    ("a.m4a", "ipod", "aac"),
    ("a.mp4", "mp4", "aac"),
    ("a.3gp", "3gp", "aac"),
    ("a.aac", "adts", "aac"),
    ("a.webm", "webm", "libopus"),
    ("lossless.m4a", "ipod", "alac"),
]


def tone():
    """Its frequency rises, so that a place tells itself."""
    t = np.arange(round(SECONDS * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 * t + 100 * t**2))).astype(np.float32)


def encode(path, container, codec):
    av = pytest.importorskip("av", reason="needs the extra 'media': pip install -e '.[media]'")
    audio = np.stack([tone(), tone()])
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, layout="stereo")
        stream.bit_rate = 128_000
        for i in range(0, audio.shape[1], 4096):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(audio[:, i : i + 4096]), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = RATE, i
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("media")
    for name, container, codec in FORMATS:
        encode(found / name, container, codec)
    return found


def shift_of(audio, expected):
    """Samples by which `audio` is late."""
    size = 1 << (len(audio) + len(expected)).bit_length()
    product = np.fft.irfft(np.fft.rfft(audio, size) * np.conj(np.fft.rfft(expected, size)))
    best = int(product.argmax())
    return best - size if best > size // 2 else best


@pytest.mark.parametrize("name", [name for name, _, _ in FORMATS])
def test_it_is_the_sound_that_was_encoded_and_a_crop_is_a_part_of_it(name, folder):
    frames, rate = audio_length(folder / name)
    assert rate == RATE
    assert frames / rate == pytest.approx(SECONDS, abs=0.1)
    whole = read_audio(folder / name, RATE)
    assert len(whole) == frames
    assert abs(shift_of(whole, tone())) < 0.05 * RATE
    crop = read_audio(folder / name, RATE, RATE // 2, 0.8)
    start = int(0.8 * (frames - RATE // 2 + 1))
    late = shift_of(crop, whole[start : start + len(crop)])
    assert abs(late) <= (RATE // 1000 if name == "a.webm" else 0)  # WebM tells time in ms
    np.testing.assert_allclose(crop, whole[start - late : start - late + len(crop)], atol=2e-3)
    assert np.abs(crop).max() > 0.4
    blocks = list(windows.open_file(folder / name, 16000).blocks)
    assert sum(map(len, blocks)) == pytest.approx(frames / 3, abs=1)


def test_damage_is_told(folder, tmp_path):
    # A table of contents may lie at the end.
    for name in ("a.m4a", "a.webm"):
        whole = (folder / name).read_bytes()
        cut = tmp_path / name
        cut.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadAudio):
            read_audio(cut, RATE)
    silent = tmp_path / "film.webm"
    av = pytest.importorskip("av")
    with av.open(str(silent), "w") as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(BadAudio, match="no sound"):
        read_audio(silent, RATE)


def test_a_playlist_opens_nothing(tmp_path, folder):
    (tmp_path / "a.m4a").write_text(f"ffconcat version 1.0\nfile '{folder}/a.m4a'\n")
    with pytest.raises(BadAudio, match="not audio"):
        read_audio(tmp_path / "a.m4a", RATE)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **named):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\0\0")
    with pytest.raises(BadAudio, match=r"pip install 'conformer_jax\[media\]'") as caught:
        read_audio(tmp_path / "a.m4a", RATE)
    assert "\n" not in str(caught.value)
