"""Opens and decodes a file that may be damaged: finite samples of it, or BadAudio."""

import os
import re
import stat

import numpy as np
import soundfile

from conformer_jax.data import media_file
from conformer_jax.data.decoder_lines import silence_decoders

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz
_LOUDEST = 1e3  # in float files, where 1 is full scale: beyond it the scale is another one

# libsndfile shortens a truncated file's length silently; only its log tells what the header said:
# of the samples, or of the whole file (Wave64), in bytes, or in samples (RF64).
_DECLARED = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_DECLARED_SAMPLES = re.compile(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
# An odd byte fills up the samples of GSM in WAV, and libsndfile misses 64 others behind it.
_CUT = re.compile(
    r"File seems to be truncated|Seems to be a truncated|Warning : short read \((?!1 != 65)"
)
_NIST_SAMPLES = re.compile(rb"sample_count -i (\d+)")
_STREAMED = 0x7FFFF000  # programs that write to a pipe declare about this size, or twice it

# An MP3 frame borrows bits from earlier frames: after a seek the first ones decode wrongly, so
# decoding starts this many samples early and throws them away.
_MP3_LEAD = 12 * 1152
_BLOCK = 1 << 20  # samples of all channels decoded at once: a header may declare any number

silence_decoders()


class BadAudio(Exception):
    """One file cannot be used; `str(e)` is the reason in a few plain words."""


class _SoundFile(soundfile.SoundFile):
    """Reads on and on: soundfile seeks after each read, which disturbs MP3 and fails for DWVW."""

    def seekable(self):
        return False

    def can_seek(self):
        """Whether decoding may begin elsewhere than at the first sample."""
        return super().seekable() and not self.subtype.startswith("DWVW")


class OpenSound:
    """An open file, for use in a `with` statement.

    Attributes:
      frames: samples of one channel, as the header and the size of the file tell.
      rate: Hz, LOWEST_RATE to HIGHEST_RATE.
    """

    def __init__(self, path):
        """Raises BadAudio: not a regular file, not audio, truncated, or an impossible rate."""
        self._descriptor = _open_regular(path)
        try:
            self._sound = _decoder(self._descriptor)
            self.frames, self.rate = _length(self._sound), self._sound.samplerate
            if self._sound.format == "NIST":
                _check_nist(self._descriptor, self.frames)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        try:
            self._sound.close()
        finally:
            os.close(self._descriptor)

    def read(self, first, count) -> np.ndarray:
        """Decodes `count` samples from `first` on, where the format cannot seek all before, too.

        Returns:
          float32 [count], the mean of the channels.

        Raises:
          BadAudio: undecodable, truncated, not finite, or of another scale than -1 to 1.
        """
        return np.concatenate(list(self.stream(first, count)))

    def stream(self, first, count):
        """What `read` gives, in blocks of at most about a million samples; raises as it does."""
        found = 0
        try:
            skip = self._go_to(first)
            for block in self._blocks(skip, count):
                found += len(block)
                yield block
            is_cut = _CUT.search(self._sound.extra_info)
        except OSError as e:
            raise BadAudio(f"cannot be read: {e.strerror or e}") from None
        except soundfile.LibsndfileError as e:
            raise BadAudio(f"cannot be decoded: {_detail(e)}") from None
        except media_file.MediaError as e:
            raise BadAudio(f"cannot be decoded: {e}") from None
        if found < count:
            raise BadAudio(f"truncated: {first + found} of {self.frames} samples")
        if is_cut:
            raise BadAudio("truncated: it ends within its last block")

    def _go_to(self, first):
        """Seeks as near as may be; returns how many samples to throw away from there."""
        if not first or not self._sound.can_seek():
            return first
        lead = min(first, _MP3_LEAD) if self._sound.format == "MP3" else 0
        if first > lead:
            self._sound.seek(first - lead)
        return lead

    def _blocks(self, skip, count):
        size = max(1, _BLOCK // self._sound.channels)
        left = skip + count
        while left:
            channels = self._sound.read(min(left, size), dtype="float32", always_2d=True)
            if not len(channels):
                return
            left -= len(channels)
            thrown = min(skip, len(channels))
            skip -= thrown
            if thrown < len(channels):
                yield _mono(channels[thrown:])


def _mono(channels):
    loudest = max(channels.max(), -channels.min())  # NaN where there is one
    if not np.isfinite(loudest):
        raise BadAudio("contains NaN or infinity")
    if loudest > _LOUDEST:
        raise BadAudio(f"samples of up to {loudest:.3g}, where full scale is 1: convert its scale")
    return channels.mean(axis=1)


def _open_regular(path) -> int:
    """A descriptor; of no pipe and no device, where opening alone may wait for ever."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadAudio("cannot be opened: a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise BadAudio("cannot be opened: a pipe or a device, not a file")
        if not status.st_size:
            raise BadAudio("empty file")
        return os.open(path, os.O_RDONLY | _BINARY)
    except FileNotFoundError:
        raise BadAudio("file not found") from None
    except OSError as e:
        raise BadAudio(f"cannot be opened: {e.strerror or e}") from None
    except ValueError as e:  # a zero byte, or what the file system cannot spell
        raise BadAudio(f"cannot be opened: {e}") from None


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _decoder(descriptor) -> "_SoundFile | media_file.MediaFile":
    start = os.pread(descriptor, 4, 0) if hasattr(os, "pread") else b""
    if start[:2] == b"\xf0\x7e" and start[3:] == b"\x01":
        _check_dump(descriptor)
    if start == b"OggS":
        _check_ogg(descriptor)
    try:
        # By descriptor: given a name, libsndfile and soundfile trust some extensions blindly.
        return _SoundFile(descriptor, closefd=False)
    except soundfile.LibsndfileError as e:
        if media_file.begins_like_one(_start(descriptor)):
            return _media(descriptor)
        raise BadAudio(f"not audio or unknown format: {_detail(e)}") from None


def _start(descriptor) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 12)


def _media(descriptor):
    try:
        return media_file.MediaFile(descriptor)
    except media_file.MediaError as e:
        raise BadAudio(str(e)) from None


def _check_dump(descriptor) -> None:
    """A MIDI sample dump is packets of 127 bytes; libsndfile prints what is wrong with one."""
    at, size = 21, os.fstat(descriptor).st_size
    while at < size:
        packets = os.pread(descriptor, 127 << 10, at)
        starts = {packets[i : i + 2] for i in range(0, len(packets), 127)}
        if not packets or starts != {b"\xf0\x7e"}:
            raise BadAudio("cannot be decoded: damaged packets of a MIDI sample dump")
        at += len(packets)


def _check_ogg(descriptor) -> None:
    """libsndfile takes an Ogg file to end with the last page that is whole."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 1 << 17, max(0, size - (1 << 17)))  # two pages of the largest size
    last = tail.rfind(b"OggS")
    if last < 0:
        return
    page = tail[last:]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(lengths):
        raise BadAudio("truncated: the last page of the Ogg stream is not whole")


def _check_nist(descriptor, frames) -> None:
    declared = _NIST_SAMPLES.search(os.pread(descriptor, 1024, 0))
    if declared and int(declared[1]) > frames:
        raise BadAudio(f"truncated: {frames} of {int(declared[1])} samples")


def _length(sound) -> int:
    if sound.frames <= 0:
        raise BadAudio("no samples")
    if sound.frames >= 2**62:
        raise BadAudio("header does not say how long it is")
    if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
        raise BadAudio(f"sample rate of {sound.samplerate} Hz: 1 kHz to 1 MHz can be read")
    log, expected = sound.extra_info, sound.frames
    if (declared := _DECLARED.search(log)) and int(declared[2]) > 0:
        if not _STREAMED <= int(declared[1]) <= 0xFFFFFFFF and int(declared[1]) < 2**62:
            expected = sound.frames * int(declared[1]) // int(declared[2])
    elif declared := _DECLARED_SAMPLES.search(log):
        expected = int(declared[2])
    if expected > sound.frames:
        raise BadAudio(f"truncated: {sound.frames} of {expected} samples")
    if _CUT.search(log):
        raise BadAudio("truncated: the file ends before its samples do")
    return sound.frames


def _detail(error: soundfile.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").rstrip(".").strip()
