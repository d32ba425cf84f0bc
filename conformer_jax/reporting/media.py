"""Pictures and sounds as data URIs: spectrograms, heat maps, FLAC."""

import base64
import dataclasses
import functools
import io
import struct
import zlib

import jax
import matplotlib
import numpy as np
import soundfile

from conformer_jax.models.features import FeatureSpec, log_mel

_MOST_COLUMNS = 500  # of a spectrogram; longer ones are averaged
_SHORTEST_S, _PIECE_S = 5, 30  # of a sound looked at at once: few lengths are compiled
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def png(indices: np.ndarray, palette: np.ndarray) -> str:
    """A picture of palette colours as a data URI.

    Args:
      indices: uint8 [height, width].
      palette: uint8 [up to 256, 4], red, green, blue, opacity.
    """
    height, width = indices.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), indices.astype(np.uint8)], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].astype(np.uint8).tobytes()),
        (b"tRNS", palette[:, 3].astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return _uri("image/png", b"\x89PNG\r\n\x1a\n" + body)


def spectrograms(settings, clips: list[np.ndarray]) -> list[str]:
    """Log-mel spectrograms as the model takes them in, low frequencies at the bottom.

    Args:
      settings: config.features of the run.
      clips: float32 [n] each, at its sample rate.

    Returns:
      a PNG data URI of each clip, each from its loudest cell down by 52 dB at most.
    """
    spec = dataclasses.replace(FeatureSpec(**settings), mean=(), deviation=())
    audio = np.zeros((len(clips), max(map(len, clips))), np.float32)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    lengths = np.array([len(clip) for clip in clips], np.int32)
    features, valid = jax.device_get(_log_mel(audio, lengths, spec))
    pictures = [_narrow(f[v]) for f, v in zip(features, valid, strict=True)]
    colours = matplotlib.colormaps["magma"](np.arange(256), bytes=True)
    return [png(_levels(picture).T[::-1], colours) for picture in pictures]


def spectrogram(spec: FeatureSpec, audio: np.ndarray, columns: int = 1200) -> str:
    """The log-mel of a sound of any length as `spectrograms` shows it, in a piece of memory.

    Args:
      spec: of the features.
      audio: float32 [n] at its sample rate.
      columns: at most so many; more frames are averaged.

    Returns:
      a PNG data URI.
    """
    spec = dataclasses.replace(spec, mean=(), deviation=())
    short = len(audio) <= _SHORTEST_S * spec.sample_rate
    size = (_SHORTEST_S if short else _PIECE_S) * spec.sample_rate
    found = []
    for first in range(0, len(audio), size):  # all of one size: compiled once
        piece = np.zeros((1, size), np.float32)
        here = audio[first : first + size]
        piece[0, : len(here)] = here
        features, valid = jax.device_get(_log_mel(piece, np.int32([len(here)]), spec))
        found.append(features[0][valid[0]])
    whole = np.concatenate(found)
    if not len(whole):  # of less than a frame
        whole = np.zeros((1, spec.num_mels), np.float32)
    colours = matplotlib.colormaps["magma"](np.arange(256), bytes=True)
    return png(_levels(_narrow(whole, columns)).T[::-1], colours)


def small_sound(audio: np.ndarray, sample_rate: int) -> str:
    """As `flac`, but as MP3 of about 4 kB a second where libsndfile writes it."""
    if "MP3" not in soundfile.available_formats() or sample_rate not in _MP3_RATES:
        return flac(audio, sample_rate)
    file = io.BytesIO()
    options = {"compression_level": 0.8, "bitrate_mode": "CONSTANT"}
    soundfile.write(file, np.clip(audio, -1, 1), sample_rate, format="MP3", **options)
    return _uri("audio/mpeg", file.getvalue())


def flac(audio: np.ndarray, sample_rate: int) -> str:
    """Mono audio, float32 [n] in [-1, 1], as FLAC of 16 bits in a data URI."""
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", file.getvalue())


def _levels(picture):
    """0 to 255; 12 nepers of power are 52 dB."""
    high = picture.max()
    low = max(picture.min(), high - 12)
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1) * 255


@functools.partial(jax.jit, static_argnums=2)
def _log_mel(audio, lengths, spec):
    return log_mel(audio, lengths, spec)


def _narrow(picture, columns=_MOST_COLUMNS):
    """[T, F] to at most so many frames, by the mean of neighbours."""
    size = -(-len(picture) // columns)
    edges = np.arange(0, len(picture), size)
    return np.add.reduceat(picture, edges) / np.diff(edges, append=len(picture))[:, None]


def _uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
