"""Mean and deviation of the log-mel features, measured once a corpus and kept."""

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conformer_jax.data import host_loader, prepared
from conformer_jax.errors import UserError
from conformer_jax.models.features import FeatureSpec, log_mel

_BATCH = 32
_AHEAD = 64 << 20  # bytes of audio that are read ahead: a clip may last an hour


class Statistics(NamedTuple):
    """Of every mel bin, each a tuple of F floats."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def feature_statistics(config, source, report, workdir) -> Statistics:
    """Mean and deviation of every mel bin over the training corpus.

    Taken from a cache where the same clips were measured with the same settings before:
    `<manifest>.statistics.json` beside the manifest, `statistics.json` in the folder of a prepared
    corpus, or `<workdir>/statistics.json` where there is neither or it cannot be written. A sample
    of config.data.statistics_clips clips, evenly spread over the corpus, is measured.

    Args:
      config: the full config.
      source: to train on.
      report: BadAudioReport.
      workdir: of the run.

    Raises:
      UserError: no clip could be read, or a field of config.features does not fit.
    """
    data = config.data
    try:
        spec = dataclasses.replace(FeatureSpec(**config.features), mean=(), deviation=())
    except (ArithmeticError, ValueError) as error:
        raise UserError(str(error)) from error
    indices = _evenly_spread(config, source)
    what = [source.content(int(i)) for i in indices]  # not names, whose files may be replaced
    if not data.manifest and not data.tfds_name and not data.prepared:
        what.append(config.synthetic.to_json())
    key = _key(spec, data.clip_s, what)
    caches = [pathlib.Path(workdir) / "statistics.json"]
    if data.manifest:
        manifest = pathlib.Path(data.manifest)
        caches.insert(0, manifest.with_name(manifest.name + ".statistics.json"))
    if data.prepared:
        caches.insert(0, prepared.find(data.prepared) / "statistics.json")
    for cache in caches:
        found = _load(cache).get(key)
        if found is not None and not _fits(found, spec.num_mels):
            logging.warning("%s is damaged: the features are measured anew", cache)
        elif found:
            return Statistics(tuple(found["mean"]), tuple(found["deviation"]))
    measured = _measure(*clip_batches(config, source, report), spec)
    for cache in caches:
        entry = {**measured._asdict(), "clips": len(indices)}
        if _store(cache, key, {**entry, "sha256": _sha256(entry)}):
            break
    return measured


def clip_batches(config, source, report):
    """Iterator over batches of the sample of clips that is measured, all of them on whatever
    process calls it; and how many clips they are."""
    reading = host_loader.loader_spec(config)
    ahead = min(reading.prefetch, _AHEAD // (2 * _BATCH * reading.num_samples))
    reading = dataclasses.replace(reading, prefetch=ahead)
    indices = _evenly_spread(config, source)
    return host_loader.batches_of(indices, _BATCH, source, reading, report), len(indices)


def _evenly_spread(config, source):
    count = min(len(source), config.data.statistics_clips)
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)


def _measure(batches, count, spec):
    @jax.jit
    def sums(audio, num_samples, valid):
        features, real = log_mel(audio, num_samples, spec)
        weights = (real * valid[:, None])[..., None]
        total = (features * weights).sum((0, 1))
        return total, (jnp.square(features) * weights).sum((0, 1)), weights.sum()

    logging.info("measuring the mean and deviation of the features on %d clips", count)
    total, square, frames = 0.0, 0.0, 0.0
    for batch in batches:
        parts = sums(batch["audio"], batch["num_samples"], batch["valid"])
        t, s, n = (np.asarray(part, np.float64) for part in parts)
        total, square, frames = total + t, square + s, frames + n
    if not frames:
        raise UserError(f"none of {count} clips could be read: see bad_audio.csv")
    mean = total / frames
    # A bin that never leaves the log floor has no spread; 1e-3 keeps it at 0 and not at infinity.
    deviation = np.sqrt(np.maximum(square / frames - mean**2, 1e-6))
    return Statistics(*(tuple(round(float(x), 6) for x in part) for part in (mean, deviation)))


def _key(spec, clip_s, clips):
    text = json.dumps([dataclasses.asdict(spec), clip_s, clips])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(path):
    """{} where there is none; a file that is none is said to be damaged."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logging.warning("%s cannot be used (%s): the features are measured anew", path, error)
        return {}


def _fits(entry, num_mels):
    """Whether an entry of the cache is what was measured; older ones have no sha256."""
    if not isinstance(entry, dict) or entry.keys() - {"mean", "deviation", "clips", "sha256"}:
        return False
    content = {name: entry.get(name) for name in ("mean", "deviation", "clips")}
    if "sha256" in entry and entry["sha256"] != _sha256(content):
        return False
    for values in (content["mean"], content["deviation"]):
        if not isinstance(values, list) or len(values) != num_mels:
            return False
        if not all(type(x) in (int, float) and math.isfinite(x) for x in values):
            return False
    return all(x > 0 for x in content["deviation"])


def _sha256(entry):
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _store(path, key, value):
    try:
        # Of its own, since several runs may measure at once; the last one's entries stay.
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(_load(path) | {key: value}, indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        logging.info("feature statistics not cached at %s: %s", path, error)
        return False
    return True
