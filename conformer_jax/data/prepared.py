"""Corpora that `python -m conformer_jax.prepare` has made: what a record is, and reading them.

A prepared corpus is a TFDS data set of ArrayRecord shards; every record is a tf.train.Example:

  audio         bytes      FLAC, or int16 PCM (little-endian), mono
  sample_rate   int64      Hz, of this record
  num_samples   int64
  labels        int64 [n]  indices into the class names; left out of a corpus without labels
  id, source    bytes      UTF-8: the clip's name, and of the recording that it is from
  fold          bytes      UTF-8, '' where there is none
  start_s       float32    where it begins in the file that it was prepared from, s

Beside the shards lie `summary.json`, and `clips-<split>.npz`, from which labels, folds and contents
are known without reading the audio: two million clips open in seconds.
"""

import io
import json
import pathlib
from typing import NamedTuple

import numpy as np
import soundfile

from conformer_jax.data.audio import BadAudio, DataError, plan_crop, resample, to_pcm16
from conformer_jax.data.content import of_bytes, of_name
from conformer_jax.data.labels import Labels, joined
from conformer_jax.data.packed import each, pack, text_of
from conformer_jax.data.source import Source

SUMMARY = "summary.json"
_AT_ONCE = 32 << 20  # bytes of audio: records may hold ten minutes
# Splits by which papers judge: trained on only where config.data.train_folds names them.
HELD_OUT_SPLITS = ("validation", "test", "eval")


class Record(NamedTuple):
    """What is known of a record; audio: hash of its samples; the rest as above."""

    id: str
    content: int
    audio: int
    num_samples: int
    sample_rate: int
    labels: list
    fold: str
    source: str
    start_s: float


class Index(NamedTuple):
    """What is known of all records of a split, in order; the numbers are arrays [n].

    ids, sources: of UTF-8, one after the other, with [n + 1] offsets. labels: numbers of all
    records, likewise. fold: number in `folds`.
    """

    content: np.ndarray
    audio: np.ndarray
    num_samples: np.ndarray
    sample_rate: np.ndarray
    fold: np.ndarray
    folds: np.ndarray
    labels: np.ndarray
    label_starts: np.ndarray
    ids: np.ndarray
    id_starts: np.ndarray
    sources: np.ndarray
    source_starts: np.ndarray


def serialize(record: Record, audio: bytes) -> bytes:
    """A record as its shard holds it."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["audio"].bytes_list.value.append(audio)
    for name in ("id", "source", "fold"):
        text = getattr(record, name).encode("utf-8", "backslashreplace")
        feature[name].bytes_list.value.append(text)
    for name in ("sample_rate", "num_samples"):
        feature[name].int64_list.value.append(getattr(record, name))
    feature["start_s"].float_list.value.append(record.start_s)
    feature["labels"].int64_list.value.extend(record.labels)
    return example.SerializeToString()


def make_index(records) -> Index:
    """From Records."""
    folds = sorted({r.fold for r in records})
    number = {fold: i for i, fold in enumerate(folds)}
    ids, id_starts = pack([r.id for r in records])
    sources, source_starts = pack([r.source for r in records])
    counts = [len(r.labels) for r in records]
    return Index(
        np.array([r.content or 0 for r in records], np.uint64),
        np.array([r.audio for r in records], np.uint64),
        np.array([r.num_samples for r in records], np.int64),
        np.array([r.sample_rate for r in records], np.int32),
        np.array([number[r.fold] for r in records], np.int32),
        np.array(folds or [""], np.str_),
        np.array([c for r in records for c in r.labels], np.int32),
        np.cumsum([0, *counts], dtype=np.int64),
        ids,
        id_starts,
        sources,
        source_starts,
    )


class Opened(NamedTuple):
    """A prepared corpus. files: paths of its shards, records: how many each of them holds, and
    index: Index, all by split."""

    folder: pathlib.Path
    summary: dict
    files: dict
    records: dict
    index: dict


def open_folder(folder) -> Opened:
    """Opens DIR/<corpus>/<version>, or a folder above it that holds one corpus only.

    Raises DataError: there is none, several, or one that is damaged.
    """
    folder = find(folder)
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        files, records, index = {}, {}, {}
        for split, shards in summary["shards"].items():
            with np.load(folder / f"clips-{split}.npz", allow_pickle=False) as file:
                index[split] = Index(*(file[name] for name in Index._fields))
            files[split] = [folder / name for name, _ in shards]
            records[split] = [count for _, count in shards]
        for path in (path for paths in files.values() for path in paths):
            if not path.is_file():
                raise DataError(f"{path} is missing: copy the whole folder, or prepare it again")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"config.data.prepared: {folder} is damaged ({e}): prepare it again"
        ) from None
    return Opened(folder, summary, files, records, index)


def folds(opened: Opened) -> list[tuple[str, bool]]:
    """Of every record its fold, '' where there is none, and whether it has a label."""
    return [
        found
        for index in opened.index.values()
        for found in zip(
            index.folds[index.fold].tolist(),
            (np.diff(index.label_starts) > 0).tolist(),
            strict=True,
        )
    ]


def citation(summary: dict) -> str:
    """One line that says which clips these are."""
    parts = [
        f"{one['found']} {split} clips (ids sha256 {one['ids_sha256'][:8]})"
        for split, one in summary["splits"].items()
    ]
    name, corpus = summary.get("name", summary["corpus"]), summary["corpus"]
    if corpus not in (name, "any"):
        name = f"{name} ({corpus})"
    stored = summary["stored"]
    rate = f"{stored['sample_rate']} Hz by {stored['resampler']}" if stored["sample_rate"] else ""
    how = rate or "at the rates of the recordings"
    return (
        f"{name}: {', '.join(parts)}, {how}, {len(summary['classes'])} classes "
        f"(order sha256 {summary['classes_sha256'][:8]})"
    )


def cite(folder) -> str:
    """`citation` of a corpus; raises DataError as `open_folder`."""
    folder = find(folder)
    try:
        return citation(json.loads((folder / SUMMARY).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{folder / SUMMARY} is damaged ({e}): prepare it again") from None


class PreparedSource(Source):
    """Records of a prepared corpus: of some splits, those that `chosen` has."""

    def __init__(self, opened: Opened, chosen: dict, sample_rate: int, label_names=()):
        """Args:
        opened: from `open_folder`.
        chosen: for each split int64 [n], which of its records, in order.
        sample_rate: Hz of what `read` returns.
        label_names: the corpus's class names, or () to ignore its labels.
        """
        self.sample_rate, self.label_names = sample_rate, tuple(label_names)
        self._stored = opened.summary["stored"]["encoding"]
        self.at_once = True
        splits = [split for split in chosen if len(chosen[split])]
        self._index = [opened.index[split] for split in splits]
        self._reader = [_Shards(opened.files[s], opened.records[s]) for s in splits]
        lengths = [len(chosen[split]) for split in splits]
        self._split = np.repeat(np.arange(len(splits)), lengths)
        empty = np.zeros(0, np.int64)
        self._record = np.concatenate([empty, *(chosen[split] for split in splits)])
        self._wholes = None

    def __len__(self):
        return len(self._record)

    def _where(self, i):
        return self._index[self._split[i]], int(self._record[i])

    def example_id(self, i):
        index, record = self._where(i)
        return text_of(index.ids, index.id_starts, record)

    def content(self, i):
        index, record = self._where(i)
        return int(index.content[record])

    def whole(self, i):
        index, record = self._where(i)
        recording = text_of(index.sources, index.source_starts, record)
        return of_name(recording) if recording else self.content(i)

    def labels(self, i):
        if not self.label_names:
            return ()
        index, record = self._where(i)
        return tuple(index.labels[slice(*index.label_starts[record : record + 2])].tolist())

    def ids(self):
        return [
            text.decode()
            for index, records in self._parts()
            for text in each(index.ids, index.id_starts, records)
        ]

    def contents(self):
        parts = [index.content[records] for index, records in self._parts()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def wholes(self):
        if self._wholes is None:  # seconds, of millions
            found = self.contents()
            texts = (
                text
                for index, records in self._parts()
                for text in each(index.sources, index.source_starts, records)
            )
            for i, text in enumerate(texts):
                if text:
                    found[i] = of_bytes(text)
            self._wholes = found
        return self._wholes

    def all_labels(self):
        if not self.label_names:
            return super().all_labels()
        parts = [
            Labels(index.labels, index.label_starts).take(records)
            for index, records in self._parts()
        ]
        return joined(parts) if parts else super().all_labels()

    def _parts(self):
        """(Index, records) of the splits, in order."""
        for number, index in enumerate(self._index):
            yield index, self._record[self._split == number]

    def read_stored(self, i, longest_s):
        """(float32 [n], its rate in Hz), as it is stored; of longer clips the middle."""
        feature = self._reader[self._split[i]].example(int(self._record[i])).features.feature
        rate = feature["sample_rate"].int64_list.value[0]
        frames = feature["num_samples"].int64_list.value[0]
        count = min(frames, round(longest_s * rate))
        stored = feature["audio"].bytes_list.value[0]
        return decode(stored, self._stored, (frames - count) // 2, count), rate

    def read(self, i, num_samples, position):
        found = self._reader[self._split[i]].example(int(self._record[i]))
        return self._crop(found.features.feature, num_samples, position)

    def read_pcm(self, indices, num_samples, positions):
        found = [None] * len(indices)
        for split in set(self._split[indices].tolist()):
            rows = [row for row, i in enumerate(indices) if self._split[i] == split]
            records = self._record[np.asarray(indices)[rows]]
            sizes = np.cumsum(2 * self._index[split].num_samples[records])
            for group in np.split(
                np.arange(len(rows)), np.flatnonzero(np.diff(sizes // _AT_ONCE)) + 1
            ):
                examples = self._reader[split].examples(records[group].tolist())
                for one, example in zip(group, examples, strict=True):
                    found[rows[one]] = self._pcm(example, num_samples, positions[rows[one]])
        return found

    def _pcm(self, example, num_samples, position):
        if isinstance(example, BadAudio):
            return example
        feature = example.features.feature
        try:
            if feature["sample_rate"].int64_list.value[0] != self.sample_rate:
                return to_pcm16(self._crop(feature, num_samples, position))
            frames, rate = feature["num_samples"].int64_list.value[0], self.sample_rate
            crop = plan_crop(frames, rate, rate, num_samples, position)
            return decode(feature["audio"].bytes_list.value[0], self._stored, *crop[:2], "int16")
        except BadAudio as e:
            return e
        except (ValueError, IndexError) as e:
            return BadAudio(f"damaged record: {e}")

    def _crop(self, feature, num_samples, position):
        rate = feature["sample_rate"].int64_list.value[0]
        frames = feature["num_samples"].int64_list.value[0]
        crop = plan_crop(frames, rate, self.sample_rate, num_samples, position)
        audio = decode(feature["audio"].bytes_list.value[0], self._stored, *crop[:2])
        return resample(audio, rate, self.sample_rate)[crop[2] : crop[2] + crop[3]]


def decode(stored: bytes, encoding: str, first: int, count: int, dtype="float32") -> np.ndarray:
    """A record's audio from sample `first` on: float32 [count] in [-1, 1), or the int16 that is
    stored; raises BadAudio."""
    if encoding == "pcm16":
        pcm = np.frombuffer(stored, "<i2", count, 2 * first)
        return pcm if dtype == "int16" else pcm.astype(np.float32) / np.float32(2**15)
    try:
        with soundfile.SoundFile(io.BytesIO(stored)) as sound:
            if first:
                sound.seek(first)
            audio = sound.read(count, dtype=dtype)
    except soundfile.LibsndfileError as e:
        raise BadAudio(f"damaged record: {e.error_string}") from None
    if len(audio) < count:
        raise BadAudio("damaged record: too short")
    return audio


class _Shards:
    """The records of a split; shards are opened when they are first read."""

    def __init__(self, files, counts):
        # Here: it takes a second, and only prepared corpora need it.
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from tensorflow_datasets.proto import tf_example_pb2

        # With the counts no shard is opened to ask for its length.
        paths = [f"{path}[0:{count}]" for path, count in zip(files, counts, strict=True)]
        self._records = ArrayRecordDataSource(paths)
        self._parse = tf_example_pb2.Example.FromString

    def example(self, record):
        try:
            return self._parse(self._records[record])
        except Exception as e:  # of C++, protobuf and etils, each its own
            reason = str(e).strip().split("\n")[0][:200]
            raise BadAudio(f"damaged record: {reason}") from None

    def examples(self, records) -> list:
        """All of them, or the BadAudio of one; read together, by threads of C++."""
        try:
            return [self._parse(x) for x in self._records.__getitems__(records)]
        except Exception:  # one is damaged: which, shows one by one
            return [self._example_or_error(record) for record in records]

    def _example_or_error(self, record):
        try:
            return self.example(record)
        except BadAudio as e:
            return e


def find(folder) -> pathlib.Path:
    """The folder of the corpus; as `open_folder`."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"config.data.prepared: there is no folder {folder}; `python -m conformer_jax.prepare` "
            "makes one"
        )
    for pattern in (SUMMARY, f"*/{SUMMARY}", f"*/*/{SUMMARY}"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0].parent
        if found:
            several = ", ".join(str(path.parent) for path in found)
            raise DataError(f"config.data.prepared: {folder} holds several: name one of {several}")
    raise DataError(
        f"config.data.prepared: {folder} holds no prepared corpus (no {SUMMARY}): "
        "`python -m conformer_jax.prepare` makes one"
    )
