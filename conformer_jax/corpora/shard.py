"""One shard: its clips in, one ArrayRecord file and what is known of its records out.

A job is a JSON file in the staging folder, so that a worker anywhere needs only its path; the
result is written last. A shard whose result belongs to the same job is not made again.
"""

import hashlib
import json
import os
import pathlib
import tempfile
from typing import NamedTuple

from conformer_jax.corpora import encoding, places
from conformer_jax.data import content, prepared
from conformer_jax.data.sound_file import BadAudio

_IN_MEMORY = 64 << 20  # bytes of a clip; more of it waits on the disk


class Result(NamedTuple):
    """What a shard holds.

    records: one prepared.Record each, as lists. bad: (id, reason) of clips that have none.
    """

    job: str
    records: list
    bad: list
    num_bytes: int


def write_job(path, options: encoding.Options, clips) -> str:
    """Writes a job; returns its digest.

    Args:
      path: of the JSON file, `<shard>.job`.
      options: how audio is stored.
      clips: list of (id, label numbers, fold, source, place, state of the file of that place).
    """
    text = json.dumps({"options": options, "clips": clips})
    _write(pathlib.Path(path), text.encode())
    return digest_of(text.encode())


def make(job_path: str) -> str:
    """Makes the shard of a job, unless its result is there; returns the path of the result."""
    job_path = pathlib.Path(job_path)
    text = job_path.read_bytes()
    digest = digest_of(text)
    result_path = job_path.with_suffix(".json")
    if (found := read(result_path)) and found.job == digest:
        return str(result_path)
    job = json.loads(text)
    options = encoding.Options(*job["options"])
    shard = job_path.with_suffix(".array_record")
    temporary = shard.with_suffix(f".{os.getpid()}.tmp")
    records, bad, reader = [], [], places.Reader()
    writer = _writer(temporary, options.encoding)
    try:
        for clip in job["clips"]:
            _add(clip, options, reader, writer, records, bad, shard.parent)
        writer.close()
        size = temporary.stat().st_size
        os.replace(temporary, shard)
    finally:
        temporary.unlink(missing_ok=True)
    _write(result_path, json.dumps(Result(digest, records, bad, size)).encode())
    return str(result_path)


def read(result_path) -> Result | None:
    """A result; None where there is none, or half of one."""
    try:
        return Result(*json.loads(pathlib.Path(result_path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def without(shard, target, leave_out, stored: str) -> int:
    """Copies a shard without some of its records, as they are stored; returns its size in bytes.

    Args:
      shard, target: paths.
      leave_out: set of numbers of records.
      stored: the encoding.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    reader, writer = ArrayRecordReader(str(shard)), _writer(target, stored)
    for i in range(reader.num_records()):
        if i not in leave_out:
            writer.write(reader.read([i])[0])
    reader.close()
    writer.close()
    return pathlib.Path(target).stat().st_size


def _add(clip, options, reader, writer, records, bad, folder):
    """Writes the pieces of a clip; of one that breaks off, none: they wait in a file till then."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder) as waiting:
        try:
            made = list(_pieces(clip, options, reader, waiting))
        except BadAudio as e:
            bad.append((clip[0], str(e)))
            return
        waiting.seek(0)
        for record, size in made:
            writer.write(waiting.read(size))
            records.append(record)


def _pieces(clip, options, reader, waiting):
    """Yields (prepared.Record, size in bytes) of the pieces of a clip, once they are in `waiting`;
    raises BadAudio."""
    id_, labels, fold, source, place, _ = clip
    with reader.path(place) as path:
        # Of a part that of the whole file, too: both lie on one side of a split.
        digest = content.of_file(path)
        for i, piece in enumerate(encoding.pieces(path, options, places.part(place))):
            # Several pieces of a long recording are told apart by their number.
            name = f"{id_}#{i}" if i or options.segment_s else id_
            record = prepared.Record(
                name,
                digest,
                encoding.audio_hash(piece),
                len(piece.pcm),
                piece.rate,
                labels,
                fold,
                source or id_,
                piece.start_s,
            )
            audio = encoding.encode(piece, options.encoding)
            yield record, waiting.write(prepared.serialize(record, audio))


def _writer(path, stored):
    from array_record.python.array_record_module import ArrayRecordWriter

    # Records are read one by one, in random order; FLAC is compressed already.
    options = "group_size:1,uncompressed" if stored == "flac" else "group_size:1,zstd:3"
    return ArrayRecordWriter(str(path), options)


def digest_of(text: bytes) -> str:
    """Of a job, or of a plan."""
    return hashlib.sha256(text).hexdigest()[:16]


def _write(path, text):
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text)
    os.replace(temporary, path)
