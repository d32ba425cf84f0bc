"""From a listing to a data set: plans shards, has them made side by side, and puts them together.

Beam's part is one pipeline of whole shards, Create | Reshuffle | Map, which needs little memory
however many there are. What is finished stays in a staging folder, so that the same command goes
on after an interruption.
"""

import concurrent.futures
import contextlib
import csv
import functools
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from conformer_jax.corpora import metadata, places, shard
from conformer_jax.data import prepared
from conformer_jax.data.audio import DataError

VERSION = "1.0.0"
LEFT_OUT = "left_out.csv"
STAGING = ".staging"  # in <output>/<name>
_KEEP_FIRST = prepared.HELD_OUT_SPLITS  # copies of their clips are dropped elsewhere


class Plan(NamedTuple):
    """shards: path of the job of each, in order, by split; jobs: digest of each by its path;
    digest: of all that the data set follows from."""

    staging: pathlib.Path
    shards: dict[str, list[str]]
    jobs: dict[str, str]
    digest: str


class Work(NamedTuple):
    """How shards are made.

    engine: 'beam' or 'processes'. workers: processes on this machine. beam_options: of Beam's
    pipeline, such as '--runner=DataflowRunner'.
    """

    engine: str
    workers: int
    beam_options: tuple[str, ...] = ()


class Made(NamedTuple):
    """records: prepared.Records in order, and shards: (path, number of records), both by split;
    bad: (id, split, reason); duplicates: (id, split, id of the same audio)."""

    records: dict
    shards: dict
    bad: list
    duplicates: list


def plan(folder, listing, options, shard_clips: int, *, drop_duplicates: bool = False) -> Plan:
    """Writes the jobs into the staging folder of `folder`, which nobody else may be at work in.

    Args:
      folder: <output>/<name>.
      listing: corpus.Listing, without the clips that are missing.
      options: encoding.Options.
      shard_clips: clips of a shard.
      drop_duplicates: as `collect` is to be told.
    """
    staging = pathlib.Path(folder, STAGING)
    staging.mkdir(parents=True, exist_ok=True)
    number = {name: i for i, name in enumerate(listing.classes)}
    by_split = {}
    for clip in listing.clips:
        by_split.setdefault(clip.split, []).append(clip)
    shards, jobs, state = {}, {}, functools.lru_cache(1 << 16)(places.state)
    for split, clips in by_split.items():
        # Shards of equal size; the clips of a source lie side by side, as they are read.
        count = -(-len(clips) // shard_clips)
        edges = [i * len(clips) // count for i in range(count + 1)]
        for i in range(count):
            path = str(staging / f"{split}-{i:05d}.job")
            part = [
                (c.id, [number[n] for n in c.labels], c.fold, c.source, c.place, state(c.place[:2]))
                for c in clips[edges[i] : edges[i + 1]]
            ]
            jobs[path] = shard.write_job(path, options, part)
            shards.setdefault(split, []).append(path)
    whole = json.dumps([list(jobs.values()), listing.classes, drop_duplicates])
    return Plan(staging, shards, jobs, shard.digest_of(whole.encode()))


def run(planned: Plan, work: Work) -> None:
    """Makes all shards that are not there yet. Raises DataError: Beam is not installed."""
    jobs = [path for paths in planned.shards.values() for path in paths]
    if work.engine == "beam":
        _run_beam(jobs, work)
        return
    if work.workers == 1 or len(jobs) == 1:
        for i, path in enumerate(jobs, 1):
            shard.make(path)
            logging.info("shard %d of %d", i, len(jobs))
        return
    # Not forked: a copy of a process with threads, JAX's or TensorFlow's, may hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(work.workers, context) as pool:
        for i, _ in enumerate(pool.map(shard.make, jobs), 1):
            logging.info("shard %d of %d", i, len(jobs))


def _run_beam(jobs, work):
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise DataError(
            "Apache Beam is not installed: pip install -e '.[prepare]', or --engine=processes"
        ) from None
    given = list(work.beam_options)
    runner = next((o.partition("=")[2] for o in given if o.startswith("--runner=")), None)
    if runner is None:
        # By name: 'DirectRunner' is a switch that may fetch a program from the network.
        runner = "FnApiRunner"
        mode = "multi_processing" if work.workers > 1 else "in_memory"
        given += [f"--direct_num_workers={work.workers}", f"--direct_running_mode={mode}"]
    given = [o for o in given if not o.startswith("--runner=")]
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    with _quiet_workers(jobs[0]), beam.Pipeline(runner, PipelineOptions(given)) as pipeline:
        _ = (
            pipeline
            | "Jobs" >> beam.Create(jobs)
            | "Spread" >> beam.Reshuffle()
            | "Make" >> beam.Map(shard.make)
        )


@contextlib.contextmanager
def _quiet_workers(job):
    """Worker processes of FnApiRunner are not told the pipeline's log level, and say a lot."""
    path = pathlib.Path(job).with_name("worker_options.json")
    path.write_text('{"beam:option:default_sdk_harness_log_level:v1": "ERROR"}')
    os.environ.setdefault("PIPELINE_OPTIONS_FILE", str(path))
    try:
        yield
    finally:
        if os.environ["PIPELINE_OPTIONS_FILE"] == str(path):
            del os.environ["PIPELINE_OPTIONS_FILE"]


def collect(planned: Plan, encoding: str, *, drop_duplicates: bool) -> Made:
    """What all shards hold; raises DataError where one is missing, or no clip could be read.

    Equal audio is found by its hash. With drop_duplicates the first clip stays, of those of a
    split by which papers judge before others, and its copies are taken out of their shards.
    """
    records, shards, bad = {}, {}, []
    for split, jobs in planned.shards.items():
        records[split], shards[split] = [], []
        for job in jobs:
            found = shard.read(pathlib.Path(job).with_suffix(".json"))
            if found is None or found.job != planned.jobs[job]:
                raise DataError(f"{job} was not made: run the same command again")
            made = [prepared.Record(*record) for record in found.records]
            shards[split].append((pathlib.Path(job).with_suffix(".array_record"), made))
            bad += [(id_, split, reason) for id_, reason in found.bad]
    duplicates, drop = _duplicates(shards)
    for split, parts in shards.items():
        for i, (path, made) in enumerate(parts):
            if drop_duplicates and (leave_out := drop.get((split, i))):
                target = path.with_suffix(".kept")
                shard.without(path, target, leave_out, encoding)
                made = [r for j, r in enumerate(made) if j not in leave_out]
                path = target
            parts[i] = (path, len(made))
            records[split] += made
        shards[split] = [(path, count) for path, count in parts if count]
    shards = {split: parts for split, parts in shards.items() if parts}
    if not shards:
        why = f", such as {bad[0][0]}: {bad[0][2]}" if bad else ""
        raise DataError(f"none of {len(bad)} clips could be prepared{why}")
    return Made({s: records[s] for s in shards}, shards, bad, duplicates)


def _duplicates(shards):
    """(id, split, id of the first of its kind) of copies; numbers of records by (split, shard)."""
    seen, copies, drop = {}, [], {}
    for split in sorted(shards, key=lambda split: split not in _KEEP_FIRST):
        for i, (_, made) in enumerate(shards[split]):
            for j, record in enumerate(made):
                first = seen.setdefault(record.audio, record.id)
                if first is not record.id:
                    copies.append((record.id, split, first))
                    drop.setdefault((split, i), set()).add(j)
    return copies, drop


def hand_over(planned: Plan, made: Made, corpus, name, classes, options, summary: dict):
    """Puts the data set together at <output>/<name>/<version>, all at once; returns that folder."""
    final = planned.staging.parent / VERSION
    building = planned.staging / "building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    shards = {}
    for split, parts in made.shards.items():
        shards[split] = []
        for i, (path, count) in enumerate(parts):
            file = f"{name}-{split}.array_record-{i:05d}-of-{len(parts):05d}"
            _link(path, building / file)
            shards[split].append((file, count))
        index = prepared.make_index(made.records[split])
        np.savez(building / f"clips-{split}.npz", **index._asdict())
    if made.bad:
        with open(building / LEFT_OUT, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "split", "reason"), *made.bad])
    metadata.write(building, name, VERSION, corpus, classes, options, shards)
    summary = {**summary, "plan": planned.digest, "shards": shards}
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (building / prepared.SUMMARY).write_text(text, "utf-8")
    os.replace(building, final)
    shutil.rmtree(planned.staging)
    return final


def forget(planned: Plan) -> None:
    """Removes the staging folder."""
    shutil.rmtree(planned.staging)


def _link(path, target):
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
