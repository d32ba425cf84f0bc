"""Batches from a pool of threads, where TensorFlow is not installed; and what a batch is.

A batch is a dict of numpy arrays (B rows of this host, N = clip_s * sample_rate samples):

  audio        int16 [B, N]      round(32768 x), clipped to the int16 range; zeros after the end
  num_samples  int32 [B]         real samples of each row
  valid        float32 [B]       1; 0 for bad audio and for what fills the last eval batch
  index        int32 [B]         the example's index in the source
  file         int32 [B]         only where the other clips of a batch are what a clip is told from:
                                 32 bits of what its file is, the same for all parts of a file
  labels       int32 [B]         only where the source has labels; with classifier.multi_label
               float32 [B, C]    instead, one where the class is present

Rows with valid = 0 are zero in every array.
"""

import collections
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from conformer_jax.data import mixture, sampling
from conformer_jax.data.audio import to_pcm16
from conformer_jax.data.sources import BadAudio, DataError


@dataclasses.dataclass(frozen=True)
class LoaderSpec:
    """What both loaders need to know of a run; B and the rows of an evaluation are over all hosts.

    num_samples: N. workers: threads that read; prefetch: batches that are read ahead.
    distinct: whether the clips of a batch are told from each other: then no training batch may
      hold one twice, and batches say of which `file` a clip is.
    shares: of the corpora of a mixture, () where there is one corpus.
    """

    seed: int
    batch_size: int
    eval_batch_size: int
    num_samples: int
    balanced: bool
    balanced_offset: float
    multi_label: bool
    workers: int
    prefetch: int
    distinct: bool = False
    shares: tuple[float, ...] = ()


def loader_spec(config, *, distinct: bool = False) -> LoaderSpec:
    """From the full config; distinct: of LoaderSpec, which the objective decides."""
    data = config.data
    return LoaderSpec(
        seed=config.seed,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        num_samples=clip_samples(data.clip_s, config.features.sample_rate),
        balanced=data.balanced,
        balanced_offset=data.balanced_offset,
        multi_label=config.classifier.multi_label,
        workers=data.workers,
        prefetch=data.prefetch,
        distinct=distinct,
        shares=mixture.shares(data.mixture),
    )


def pick(loader):
    """The module whose `train_batches` and `eval_batches` to use: this one or input_pipeline, which
    imports TensorFlow and takes seconds.

    `loader` is config.data.loader: 'tf', 'threads' or 'auto' (tf where it is installed).
    """
    return importlib.import_module(f"conformer_jax.data.{name_of(loader)}")


def name_of(loader) -> str:
    """Of the module that `pick` gives; raises DataError without importing it."""
    if loader not in ("tf", "threads", "auto"):
        raise DataError(f"config.data.loader is '{loader}': use 'tf', 'threads' or 'auto'")
    found = importlib.util.find_spec("tensorflow") is not None
    if loader == "tf" and not found:
        raise DataError(
            "config.data.loader='tf' needs TensorFlow: pip install tensorflow-cpu, or use 'threads'"
        )
    return "host_loader" if loader == "threads" or not found else "input_pipeline"


def empty_batch(source, spec: LoaderSpec, num_hosts=1) -> dict:
    """A training batch of rows that are not valid, to compile for."""
    rows = np.zeros(spec.batch_size // num_hosts, np.int64)
    shape = spec.num_samples, spec.multi_label
    return example_batch(source, rows, None, rows > 0, *shape, None, spec.distinct)


def train_batches(source, spec: LoaderSpec, start_step, report, host=0, num_hosts=1):
    """Endless iterator of training batches (this host's rows) from `start_step` on.

    Closing it ends its threads. Raises DataError where `report` stops the run; any other
    exception of a reading thread is raised here too.
    """
    plan = train_plan(source, spec, host, num_hosts)
    return _run(map(plan, itertools.count(start_step)), source, spec, report)


def eval_batches(source, spec: LoaderSpec, report, host=0, num_hosts=1):
    """Iterator over the whole source once, in order; the last batch is filled with valid = 0."""
    steps = eval_plan(source, spec, host, num_hosts)
    return _run(map(steps.plan, range(steps.count)), source, spec, report)


def batches_of(indices, batch_size: int, source, spec: LoaderSpec, report):
    """Iterator over these examples once, in their order, cropped from the middle; the last batch is
    filled with valid = 0."""
    starts = range(0, len(indices), batch_size)
    rows = np.arange(batch_size)
    plans = (
        (np.resize(indices[start:], batch_size), None, rows < len(indices) - start)
        for start in starts
    )
    return _run(plans, source, spec, report)


def train_plan(source, spec: LoaderSpec, host, num_hosts):
    """A function: step -> (indices [b], positions [b], valid [b]) of this host's b rows."""
    batch_size = spec.batch_size
    rows = sampling.host_slice(batch_size, host, num_hosts)
    balance = _balance(source, spec) if spec.balanced else None
    members = _members(source, spec)
    if spec.distinct:
        _check_files(source)

    def plan(step):
        if members and balance is None:
            shares = members, spec.shares
            indices, positions = sampling.mixed_batch(spec.seed, step, batch_size, *shares)
        elif spec.distinct:
            indices, positions = sampling.distinct_batch(spec.seed, step, batch_size, len(source))
        elif balance is None:
            indices, positions = sampling.train_batch(spec.seed, step, batch_size, len(source))
        else:
            indices, positions = sampling.balanced_batch(spec.seed, step, batch_size, balance)
        return indices[rows], positions[rows], np.ones(batch_size // num_hosts, bool)

    return plan


def check_held_out(source) -> None:
    """Warns where no held-out clip has another to be told from."""
    if _of_one_file(source):
        logging.warning(
            "WARNING the held-out clips are of one file, so that nothing will say how well clips "
            "are told apart: hold out more, such as --config.data.eval_share=0.2"
        )


def _of_one_file(source):
    files = map(source.whole, range(len(source)))
    first = next(files, None)
    return all(file == first for file in files)  # ends at the first that differs


def _check_files(source):
    if _of_one_file(source):
        raise DataError(
            f"the {len(source)} clips to train on, beside what is held out, are of one file, and "
            f"this objective tells clips of different files apart: add recordings, or take "
            f"config.objective='wav2vec2' (--config=configs/pretrain.py:tiny)"
        )


def _members(source, spec):
    """Of a mixture, for each corpus which examples are its; else []."""
    corpora = source.corpora() if spec.shares else None
    members = [np.flatnonzero(corpora == number) for number in range(len(spec.shares))]
    for number, own in enumerate(members):
        if not len(own):
            raise DataError(f"config.data.mixture: corpus {number + 1} has no clip to train on")
    return members


def _balance(source, spec):
    labels = source.all_labels()
    if not source.label_names or not len(labels.numbers):
        raise DataError("config.data.balanced needs labels: leave it False without them")
    how = len(source.label_names), spec.balanced_offset
    if members := _members(source, spec):
        mixed = labels, members, spec.shares
        return sampling.mixed_balance(*mixed, *how, negatives=spec.multi_label)
    return sampling.class_balance(labels, *how, negatives=spec.multi_label)


class EvalSteps(NamedTuple):
    """plan: as `train_plan` returns it, with None for positions: the middle; count: of steps."""

    plan: Callable
    count: int


def eval_plan(source, spec: LoaderSpec, host, num_hosts) -> EvalSteps:
    """The steps of one evaluation."""
    batch_size = spec.eval_batch_size
    rows = sampling.host_slice(batch_size, host, num_hosts)

    def plan(step):
        indices, valid = sampling.eval_batch(step, batch_size, len(source))
        return indices[rows], None, valid[rows]

    return EvalSteps(plan, sampling.num_eval_batches(batch_size, len(source)))


def clip_samples(clip_s: float, sample_rate: int) -> int:
    """N, the samples of a row."""
    return round(clip_s * sample_rate)


def example_batch(
    source, indices, positions, valid, num_samples, multi_label, report, files=False
) -> dict:
    """Reads one batch in this thread.

    Args:
      source: the Source.
      indices: int [B].
      positions: float [B] in [0, 1), or None for crops from the middle.
      valid: bool [B]; rows where it is False are not read.
      num_samples: N.
      multi_label: config.classifier.multi_label.
      report: BadAudioReport.
      files: whether rows have their `file`.

    Returns:
      The dict described at the top of this file. Raises DataError.
    """
    positions = [None] * len(indices) if positions is None else positions
    audio = [None] * len(indices)
    if source.at_once and np.any(valid):
        rows = np.flatnonzero(valid)
        found = source.read_pcm(indices[rows], num_samples, [positions[row] for row in rows])
        for row, one in zip(rows, found, strict=True):
            audio[row] = one
    shape = num_samples, multi_label, report, files
    whole = np.zeros((len(indices), num_samples), np.int16)  # filled in place: rows are large
    rows = [
        read_example(source, int(i), p, bool(v), *shape, known, into)
        for i, p, v, known, into in zip(indices, positions, valid, audio, whole, strict=True)
    ]
    return {"audio": whole} | stack(rows)


def read_example(
    source,
    index,
    position,
    valid,
    num_samples,
    multi_label,
    report,
    files=False,
    known=None,
    into=None,
) -> dict:
    """One row of a batch, as `example_batch`.

    known: what `Source.read_pcm` has found of it, where that was asked. into: zeros int16 [N] to
    write the audio to; it is no part of the answer then.
    """
    audio_row = np.zeros(num_samples, np.int16) if into is None else into
    row = {"audio": audio_row} if into is None else {}
    row |= {
        "num_samples": np.int32(0),
        "valid": np.float32(0),
        "index": np.int32(0),
    }
    if files:
        row["file"] = np.int32(0)
    if source.label_names:
        row["labels"] = (
            np.zeros(len(source.label_names), np.float32) if multi_label else np.int32(0)
        )
    if not valid:
        return row
    try:
        if isinstance(known, BadAudio):
            raise known
        audio = to_pcm16(source.read(index, num_samples, position)) if known is None else known
        labels = source.labels(index) if source.label_names else ()
        if source.label_names and not labels and not multi_label:
            raise BadAudio("no label")
    except BadAudio as e:
        report.bad(source.example_id(index), str(e), len(source))
        return row
    report.ok(source.example_id(index))
    audio_row[: len(audio)] = audio
    row["num_samples"] = np.int32(len(audio))
    row["valid"] = np.float32(1)
    row["index"] = np.int32(index)
    if files:
        row["file"] = np.uint32(source.whole(index) % 2**32).astype(np.int32)
    if source.label_names and multi_label:
        row["labels"][list(labels)] = 1
    elif source.label_names:
        row["labels"] = np.int32(labels[0])
    return row


def stack(rows) -> dict:
    """Rows of `read_example` -> the batch."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _joined(parts) -> dict:
    """Parts of a batch -> the batch."""
    if len(parts) == 1:
        return parts[0]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _run(plans, source, spec, report):
    """Yields the batches of `plans`, spec.prefetch of them being read ahead."""
    shape = spec.num_samples, spec.multi_label
    pool = concurrent.futures.ThreadPoolExecutor(spec.workers, "read-audio")

    def submit(plan):
        indices, positions, valid = plan
        if source.at_once:  # in as many parts as keep all threads at work
            parts = min(-(-spec.workers // (spec.prefetch + 1)), len(indices))
            cut = lambda values: [None] * parts if values is None else np.array_split(values, parts)
            return [
                pool.submit(example_batch, source, *part, *shape, report, spec.distinct)
                for part in zip(*map(cut, plan), strict=True)
            ]
        positions = [None] * len(indices) if positions is None else positions
        return [
            pool.submit(read_example, source, int(i), p, bool(v), *shape, report, spec.distinct)
            for i, p, v in zip(indices, positions, valid, strict=True)
        ]

    ahead = collections.deque()
    try:
        while True:
            while len(ahead) <= spec.prefetch and (plan := next(plans, None)) is not None:
                ahead.append(submit(plan))
            if not ahead:
                return
            batch = ahead.popleft()
            found = [one.result() for one in batch]
            yield _joined(found) if source.at_once else stack(found)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
