"""One recording in, the pieces of it that are stored out: trimmed, cut, as FLAC or 16-bit PCM."""

import hashlib
import io
import math
from typing import NamedTuple

import numpy as np
import soundfile

from conformer_jax.data.audio import part_of, plan_span, resample, span_length
from conformer_jax.data.sound_file import BadAudio, OpenSound

ENCODINGS = ("flac", "pcm16")
LONGEST_S = 600.0  # a record holds at most this much, so that 10 hours fit into little memory
_FRAME_S = 0.02  # trimming measures the loudest sample of frames of this length


class Options(NamedTuple):
    """How audio is stored.

    encoding: of ENCODINGS. sample_rate: Hz, 0 keeps each recording's own. segment_s: length of the
    pieces that recordings are cut into, 0: whole, but for those of more than LONGEST_S. overlap_s:
    what a piece shares with the one before. trim_db: at both ends, what lies this far below the
    loudest sample is left out; 0: nothing.
    """

    encoding: str = "flac"
    sample_rate: int = 0
    segment_s: float = 0.0
    overlap_s: float = 0.0
    trim_db: float = 0.0


class Piece(NamedTuple):
    """pcm: int16 [n], mono, at `rate` Hz; start_s: where it begins in the recording."""

    pcm: np.ndarray
    rate: int
    start_s: float


def pieces(path, options: Options, part=(0.0, None)):
    """Yields the Pieces of a recording, each when it has been decoded; raises BadAudio.

    part: start and end in s (None: the recording's), if only these are to be stored: as if cut out.
    """
    with OpenSound(path) as sound:
        rate = sound.rate
        at, frames = part_of(part, sound)
    first, end = 0, frames
    if options.trim_db:
        first, end = _trimmed(path, at, frames, rate, options.trim_db)
    wanted = options.sample_rate or rate
    begin = span_length(first, rate, wanted) if first else 0
    total = max(1, span_length(end, rate, wanted) - begin)
    size = round((options.segment_s or LONGEST_S) * wanted)
    hop = size - round(options.overlap_s * wanted) if options.segment_s else size
    for start in _starts(total, size, hop):
        count = min(size, total - start)
        where, length, offset, keep = plan_span(frames, rate, wanted, begin + start, count)
        with OpenSound(path) as sound:  # anew: some formats decode from the beginning only
            audio = sound.read(at + where, length)
        audio = resample(audio, rate, wanted)[offset : offset + keep]
        # As loaders round what they read, so that batches of both are equal.
        pcm = np.clip(np.rint(audio * np.float32(32768)), -32768, 32767).astype("<i2")
        yield Piece(pcm, wanted, at / rate + (begin + start) / wanted)


def encode(piece: Piece, encoding: str) -> bytes:
    """The bytes that are stored. Raises BadAudio: a rate that FLAC does not know."""
    if encoding == "pcm16":
        return piece.pcm.tobytes()
    file = io.BytesIO()
    try:
        soundfile.write(file, piece.pcm, piece.rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as e:
        raise BadAudio(
            f"cannot be stored as FLAC at {piece.rate} Hz ({e.error_string}): use "
            "--encoding=pcm16 or --sample_rate"
        ) from None
    return file.getvalue()


def audio_hash(piece: Piece) -> int:
    """63 bits of the samples and their rate: equal for equal audio, whatever file it came in."""
    digest = hashlib.blake2b(str(piece.rate).encode() + b"\n", digest_size=8)
    digest.update(piece.pcm.tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def _starts(total, size, hop):
    """Of pieces; the last one may be shorter, but is not only what the one before held."""
    count = 1 if total <= size else 1 + math.ceil((total - size) / hop)
    return range(0, count * hop, hop)


def _trimmed(path, at, frames, rate, trim_db):
    """(first, end) of what is not silence, counted from sample `at`; all of it if all is."""
    size = max(1, round(_FRAME_S * rate))
    loudest, left = [], np.zeros(0, np.float32)
    with OpenSound(path) as sound:
        for block in sound.stream(at, frames):
            block = np.abs(np.concatenate([left, block]))
            whole = len(block) // size * size
            loudest.append(block[:whole].reshape(-1, size).max(1))
            left = block[whole:]
    if len(left):
        loudest.append(left.max(keepdims=True))
    levels = np.concatenate(loudest)
    heard = np.flatnonzero(levels > levels.max() * 10 ** (-trim_db / 20))
    if not len(heard):
        return 0, frames
    return int(heard[0]) * size, min(frames, (int(heard[-1]) + 1) * size)
