"""One audio file in, mono float32 at the wanted rate out; and what becomes of bad ones."""

import contextlib
import csv
import logging
import math
import os
import threading

import numpy as np
import soxr

from conformer_jax.data.sound_file import BadAudio, OpenSound
from conformer_jax.errors import UserError

# A crop that is resampled is read with this many samples (at the lower of the two rates) around
# it, more than half the length of soxr's filter, so it equals the crop of the resampled file.
_FILTER_MARGIN = 512
END_TOLERANCE_S = 0.05  # a part may end so much beyond its file: programs round


class DataError(UserError):
    """A problem for the user; `str(e)` is one line naming the file or field and the mend."""


class BadAudioReport:
    """Counts and lists what cannot be read, and stops the run where it is too much.

    The run stops once at least 20 files have been tried and more than `max_share` of them are
    bad, or where all of the first 20 files (or of a smaller source) are bad.
    """

    ENOUGH = 20

    def __init__(self, path_csv, max_share):
        """`path_csv`: list to append to (path, reason), or None; `max_share`: 0 to 1.

        Files listed there by an earlier run are not listed again, and count when met again.
        """
        self._path = path_csv
        self._max_share = max_share
        self._lock = threading.Lock()
        self._good, self._bad = set(), {}  # of the bad ones also why
        self._listed = set() if path_csv is None else _listed(path_csv)

    @property
    def num_bad(self) -> int:
        """Distinct bad files met by this run."""
        return len(self._bad)

    def forget(self) -> None:
        """Lists only what this run has met: what an earlier one had listed counts no more."""
        with self._lock:
            self._listed = set(self._bad)
            if self._path is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                for example_id, reason in self._bad.items():
                    self._append(example_id, reason)

    def ok(self, example_id) -> None:
        """Counts a file that was read."""
        with self._lock:
            self._good.add(example_id)

    def bad(self, example_id, reason, source_size=None) -> None:
        """Lists a file once; `source_size` is the number of files of its source.

        Raises DataError where the run must stop.
        """
        with self._lock:
            self._bad.setdefault(example_id, reason)
            self._good.discard(example_id)  # another crop of it may have been readable
            if self._path is not None and example_id not in self._listed:
                self._append(example_id, reason)
            self._listed.add(example_id)
            bad, tried = len(self._bad), len(self._bad) + len(self._good)
            too_many = tried >= self.ENOUGH and bad > self._max_share * tried
            enough = min(self.ENOUGH, source_size or self.ENOUGH)
            if too_many or (bad >= enough and not self._good):
                where = f"listed in {self._path}" if self._path else f"the last: {example_id}"
                raise DataError(
                    f"{bad} of the {tried} audio files read so far cannot be used "
                    f"({bad / tried:.0%}; {where}; {reason}): mend or remove them, or raise "
                    f"--config.data.max_bad_share (now {self._max_share:g})"
                )

    def _append(self, example_id, reason):
        is_new = not os.path.exists(self._path)
        if is_new:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
        # Names of files may hold bytes that are no text.
        with open(self._path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("path", "reason"))
            writer.writerow((example_id, reason))


def _listed(path):
    """The files that a bad_audio.csv names; one that is damaged is begun anew, which is said."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = list(csv.reader(file))
        if lines and (lines[0] != ["path", "reason"] or any(len(line) != 2 for line in lines)):
            raise ValueError("its lines are not 'path,reason'")
        return {line[0] for line in lines[1:]}
    except FileNotFoundError:
        return set()
    except (csv.Error, ValueError) as error:
        logging.warning("WARNING %s is damaged (%s): begun anew", path, error)
        os.unlink(path)
        return set()


def read_audio(
    path, sample_rate, num_samples=None, position=0.0, *, part=(0.0, None)
) -> np.ndarray:
    """Reads a file in any format libsndfile knows (from its content, not from its name).

    Args:
      path: the file. Integer formats are scaled to [-1, 1); channels are averaged.
      sample_rate: Hz of the result; a file at another rate is resampled.
      num_samples: longest result, in samples at `sample_rate`; None for the whole file.
      position: where a longer file is cropped: 0 <= position < 1 from the first possible start
        to the last, None for the middle.
      part: start and end in s (None: the file's), if only these are the sound: as if cut out.

    Returns:
      float32 [n], 1 <= n <= num_samples. Of a longer file only the crop is decoded, but for formats
      that cannot seek (GSM, G.72x, NMS ADPCM, DWVW, XI), which are decoded from the beginning.

    Raises:
      BadAudio: the file is missing, no regular file, empty, truncated, undecodable, not finite,
        beyond 1000 times full scale, of a rate outside 1 kHz to 1 MHz, or shorter than its part.
    """
    with OpenSound(path) as sound:
        rate = sound.rate
        begin, frames = part_of(part, sound)
        first, count, offset, keep = plan_crop(frames, rate, sample_rate, num_samples, position)
        audio = sound.read(begin + first, count)
    return resample(audio, rate, sample_rate)[offset : offset + keep]


def part_of(part, sound) -> tuple[int, int]:
    """The first sample of a part of an OpenSound, and how many it has; raises BadAudio."""
    start, end = part
    begin = round(start * sound.rate)
    stop = sound.frames if end is None else round(end * sound.rate)
    if begin >= sound.frames or stop > sound.frames + END_TOLERANCE_S * sound.rate:
        seconds = sound.frames / sound.rate
        beyond = f"begins at {start:g} s" if begin >= sound.frames else f"ends at {end:g} s"
        raise BadAudio(f"its part {beyond}, and the file has {seconds:.3f} s")
    return begin, max(1, min(stop, sound.frames) - begin)


def audio_length(path) -> tuple[int, int]:
    """(samples of one channel, sample rate in Hz) from the header; raises BadAudio."""
    with OpenSound(path) as sound:
        return sound.frames, sound.rate


def plan_crop(frames, rate, sample_rate, num_samples, position) -> tuple[int, int, int, int]:
    """Which source samples to read, and which to keep of them after resampling.

    Args:
      frames: samples of the source at `rate` Hz.
      rate, sample_rate: Hz before and after resampling.
      num_samples, position: as in `read_audio`.

    Returns:
      first, count: the source's samples to read.
      offset, keep: of these, resampled, the part that is the crop.
    """
    total = span_length(frames, rate, sample_rate)
    if num_samples is None or total <= num_samples:
        return 0, frames, 0, total
    starts = total - num_samples + 1
    start = (starts - 1) // 2 if position is None else min(int(position * starts), starts - 1)
    return plan_span(frames, rate, sample_rate, start, num_samples)


def span_length(frames, rate, sample_rate) -> int:
    """How many samples `frames` samples at `rate` Hz are at `sample_rate` Hz, at least one."""
    return max(1, (2 * frames * sample_rate + rate) // (2 * rate))  # rounded, as soxr does


def plan_span(frames, rate, sample_rate, start, num_samples) -> tuple[int, int, int, int]:
    """As `plan_crop`, for the crop that begins with sample `start` of the resampled source."""
    if rate == sample_rate:
        return start, num_samples, 0, num_samples
    # In one period `down` source samples become `up` result samples; reading from the start of
    # a period keeps the two grids aligned.
    up = sample_rate // math.gcd(rate, sample_rate)
    down = rate // math.gcd(rate, sample_rate)
    margin = -(-_FILTER_MARGIN // min(up, down))
    begin = max(0, start // up - margin)
    end = -(-(start + num_samples) // up) + margin
    first = begin * down
    return first, min(frames, end * down) - first, start - begin * up, num_samples


def to_pcm16(audio) -> np.ndarray:
    """Float audio as batches have it: int16, 32768 times as large, rounded and clipped."""
    return np.clip(np.rint(audio * np.float32(32768)), -32768, 32767).astype(np.int16)


def resample(audio, rate, sample_rate) -> np.ndarray:
    """float32 [n] at `rate` Hz -> float32 [about n * sample_rate / rate], at least one sample.

    Raises BadAudio where the result contains NaN or infinity.
    """
    if rate != sample_rate:
        # soxr makes nothing of a file shorter than half an output sample.
        audio = soxr.resample(audio, rate, sample_rate, quality="HQ") if len(audio) else audio
        audio = audio if len(audio) else np.zeros(1, np.float32)
    if not np.isfinite(audio).all():
        raise BadAudio("contains NaN or infinity")
    return audio
