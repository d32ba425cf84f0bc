"""Films and what phones record (m4a, mp4, 3gp, webm, aac, ...), by PyAV, the extra `media`.

Only for what libsndfile does not read, and only what begins like one of these formats: FFmpeg would
take a text for a playlist and open what it names.
"""

import os

import numpy as np

MISSING = (
    "its format is read by the extra 'media', which is not installed: pip install "
    "'conformer_jax[media]', or convert the file with `ffmpeg -i IN OUT.flac`"
)
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,asf,avi,flv,amr,ac3,eac3,ape,wv,tta"
_LEAD_S = 0.5  # decoders need what lies before a place to be right there
_MISSING_S = 0.2  # headers round, and encoders pad: fewer samples than declared are silence


class MediaError(Exception):
    """The file cannot be used; `str(e)` is the reason."""


def begins_like_one(start: bytes) -> bool:
    """Whether the first 12 bytes of a file are of a format that is read here."""
    if start[:2] == b"\xff\xf1" or start[:2] == b"\xff\xf9":  # AAC in ADTS
        return True
    begins = (b"\x1aE\xdf\xa3", b"0&\xb2u", b"FLV", b"#!AMR", b"\x0bw", b"MAC ", b"wvpk", b"TTA1")
    return (
        start[4:8] in (b"ftyp", b"moov", b"wide")
        or start.startswith(begins)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
    )


class MediaFile:
    """The first stream of sound; what sound_file.py uses of soundfile.SoundFile.

    Attributes:
      frames: samples of one channel; samplerate: Hz; channels.
    """

    format, subtype, extra_info = "MEDIA", "", ""

    def __init__(self, descriptor: int):
        """Raises MediaError: no PyAV, no sound in it, or damaged."""
        try:
            import av
        except ImportError:
            raise MediaError(MISSING) from None
        self._av, self._descriptor = av, descriptor
        self._open()
        if not self._container.streams.audio:
            self.close()
            raise MediaError("there is no sound in it")
        self.samplerate, self.channels = self._stream.rate, self._stream.channels
        self._exact = self._container.format.name != "aac"  # no table of contents
        try:
            self.frames = self._count()
        except BaseException:
            self.close()
            raise
        self._go_to(0)

    def _open(self):
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._file = os.fdopen(self._descriptor, "rb", closefd=False)
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        try:
            self._container = self._av.open(
                self._file, container_options=options, metadata_errors="replace"
            )
        except (self._av.FFmpegError, ValueError) as error:
            raise MediaError(_words(error)) from None

    @property
    def _stream(self):
        return self._container.streams.audio[0]

    def _count(self):
        """Samples, as the header tells, or the packets where there is no header."""
        stream = self._stream
        if self._exact and stream.duration:
            return round(stream.duration * stream.time_base * stream.rate)
        if self._exact and self._container.duration:
            start = self._container.start_time or 0
            return round((self._container.duration + min(start, 0)) * stream.rate / 1e6)
        try:
            lengths = [p.duration or 0 for p in self._container.demux(stream) if p.size]
        except self._av.FFmpegError as error:
            raise MediaError(_words(error)) from None
        self.close()
        self._open()
        return round(sum(lengths) * self._stream.time_base * self._stream.rate)

    def can_seek(self) -> bool:
        """Whether decoding may begin elsewhere than at the first sample."""
        return self._exact

    def seek(self, frame: int) -> None:
        """The next `read` begins at this sample; where the file tells time in ms, next to it."""
        self._go_to(frame)

    def read(self, count, dtype="float32", always_2d=True) -> np.ndarray:
        """The next `count` samples, float32 [n, channels]; fewer where they end."""
        while self._held < count and (block := next(self._blocks, None)) is not None:
            self._parts.append(block)
            self._held += len(block)
        if self._held < count:
            missing = min(count, self.frames - self._at) - self._held
            if 0 < missing <= _MISSING_S * self.samplerate:
                self._parts.append(np.zeros((missing, self.channels), np.float32))
        whole = np.concatenate([np.zeros((0, self.channels), np.float32), *self._parts])
        count = min(count, self.frames - self._at)
        self._parts, self._held = [whole[count:]], max(0, len(whole) - count)
        found = whole[:count]
        self._at += len(found)
        return found

    def close(self) -> None:
        """The descriptor stays open."""
        self._container.close()

    def _go_to(self, frame):
        self._at, self._parts, self._held = frame, [], 0
        self._blocks = self._decoded(frame)

    def _decoded(self, first):
        """Blocks [n, channels] from sample `first` on."""
        stream, rate = self._stream, self.samplerate
        begin = stream.start_time or 0  # in units of time_base
        lead = max(0, first - round(_LEAD_S * rate))
        convert = self._av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        at = None  # sample that the next block begins with
        try:
            self._container.seek(begin + int(lead / rate / stream.time_base), stream=stream)
            for frame in self._container.decode(stream):
                if at is None:
                    start = 0 if frame.pts is None else (frame.pts - begin) * stream.time_base
                    at = round(start * rate) if lead else 0
                for part in convert.resample(frame):
                    block = part.to_ndarray().T
                    skip = max(0, first - at)
                    at += len(block)
                    if skip < len(block):
                        yield np.ascontiguousarray(block[skip:], np.float32)
        except (self._av.FFmpegError, ValueError) as error:
            raise MediaError(_words(error)) from None


def _words(error) -> str:
    return getattr(error, "strerror", None) or str(error).split("\n")[0]
