"""How fast a config's sound is read: opening, first batch, each loader beside decoding alone.

Decoding alone reads clips in random order, one by one, as much of each as a crop is long, on as
many threads as there are cores: records of a prepared corpus (of any split, the middle of each),
or files of a manifest by soundfile. What the loaders do beyond that is their cost: resampling,
batches, order, labels, a thread's hand to another. What cannot be read does not count.
"""

import concurrent.futures
import importlib.util
import itertools
import tempfile
import time

import numpy as np
import soundfile

from conformer_jax.data import host_loader, manifest, prepared
from conformer_jax.data.sources import BadAudio, BadAudioReport
from conformer_jax.errors import UserError
from conformer_jax.measuring import measure
from conformer_jax.models import flops
from conformer_jax.training import opening, program

# What a step gets of a chip's peak, of which hosts are counted: of encoders narrower than _WIDE,
# and of others. H200: as `tiny` and `small` had (docs/performance.md); TPU: assumed, not measured.
CHIPS = {"NVIDIA H200": (0.005, 0.03), "TPU v5e": (0.3, 0.3)}
_WIDE = 256
_FAR = 1_000_000  # a step in the middle of a long run
_AT_ONCE = 64  # clips that a thread takes


def measure_reading(config, *, seconds: float = 10.0) -> dict:
    """Takes all the measurements.

    Args:
      config: the full config; its sound is that of data.prepared or data.manifest.
      seconds: of wall time for each speed.

    Returns:
      sections of figures as JSON holds them; times in s, speeds in clips/s.

    Raises:
      UserError: another kind of source, or anything that a run would refuse.
    """
    if not (config.data.prepared or config.data.manifest):
        raise UserError("--data reads config.data.prepared or config.data.manifest: name one")
    if config.data.mixture:
        raise UserError("--data compares with decoding one corpus: leave config.data.mixture out")
    program.check(config)
    config = program.without_statistics(config)
    config.init_from = ""
    before = measure.resident()
    begun = time.perf_counter()
    report = BadAudioReport(None, config.data.max_bad_share)
    with tempfile.TemporaryDirectory() as nowhere:
        data = opening.prepare_data(config, nowhere, report)
    opened = {"seconds": time.perf_counter() - begun, "clips": len(data.train)}
    after = measure.resident()
    opened["more_bytes"] = after - before if after else None
    spec = program.batch_spec(config)
    alone = _alone(config, seconds)
    loaders = {}
    for name in ("threads", "tf"):
        if name == "tf" and importlib.util.find_spec("tensorflow") is None:
            continue
        loader = host_loader.pick(name)
        speed = _speed(loader, data.train, spec, report, seconds)
        loaders[name] = {
            "clips_per_s": speed,
            "of_decoding_alone": speed / alone,
            "first_batch_s": _first_batch_s(loader, data.train, spec, report),
        }
    model = program.make_model(config, max(len(data.label_names), 1))
    return {
        "config": {
            "name": config.name,
            "clip_s": config.data.clip_s,
            "batch_size": spec.batch_size,
            "workers": spec.workers,
        },
        "machine": measure.about_machine() | {"cores_used": len(measure.cores())},
        "open": opened,
        "decoding_alone": {"clips_per_s": alone},
        "loaders": loaders,
        "chips": {
            kind: {"share_of_peak": share, "clips_per_s": _eaten(model, spec, kind, share)}
            for kind, share in _shares(config).items()
        },
    }


def _shares(config):
    """Of each of CHIPS what the config's steps get of its peak."""
    return {kind: shares[config.conformer.width >= _WIDE] for kind, shares in CHIPS.items()}


def _eaten(model, spec, kind, share):
    """Clips/s that a chip trains on at a share of its peak."""
    return share * flops.PEAK_FLOPS[kind] / flops.train_step_flops(model, spec.num_samples, 1)


def _speed(loader, source, spec, report, seconds):
    batches = loader.train_batches(source, spec, 0, report)
    try:
        for _ in range(spec.prefetch + 1):  # those that were read while nobody asked
            next(batches)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            next(batches)
            count += 1
        return count * spec.batch_size / (time.perf_counter() - begun)
    finally:
        batches.close()


def _first_batch_s(loader, source, spec, report):
    """The slower of two: of a run that begins, and of one that goes on far in."""
    times = []
    for step in (0, _FAR):
        begun = time.perf_counter()
        batches = loader.train_batches(source, spec, step, report)
        next(batches)
        times.append(time.perf_counter() - begun)
        batches.close()
    return max(times)


def _alone(config, seconds):
    read, count = _reader(config)
    rng, threads = np.random.default_rng(0), len(measure.cores())
    order = itertools.chain.from_iterable(rng.permutation(count) for _ in itertools.count())
    positions = rng.uniform(size=1 << 16)

    def some(numbers):
        return sum(read(int(number), positions[number % len(positions)]) for number in numbers)

    at_once = min(_AT_ONCE, max(1, count // threads))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, [list(itertools.islice(order, at_once)) for _ in range(threads)]))
        begun, done = time.perf_counter(), 0
        running = set()
        while time.perf_counter() - begun < seconds:
            while len(running) < 2 * threads:
                running.add(pool.submit(some, list(itertools.islice(order, at_once))))
            finished, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            done += sum(one.result() for one in finished)
        return done / (time.perf_counter() - begun)


def _reader(config):
    """(a function that reads and decodes a crop of a clip, how many clips there are)."""
    wanted = config.data.clip_s
    if config.data.prepared:
        opened = prepared.open_folder(config.data.prepared)
        sources = [
            prepared.PreparedSource(opened, {split: np.arange(sum(opened.records[split]))}, 1)
            for split in opened.records
        ]
        places = [(source, i) for source in sources for i in range(len(source))]

        def read_record(number, position):
            del position
            source, i = places[number]
            try:
                return len(source.read_stored(i, wanted)[0]) > 0
            except (BadAudio, ValueError):  # the loaders pass it over, too
                return False

        return read_record, len(places)
    rows = manifest.read_manifest(config.data.manifest)

    def read_file(number, position):
        row = rows[number]
        try:
            with soundfile.SoundFile(row.path) as sound:
                first = round(row.start * sound.samplerate)
                end = sound.frames if row.end is None else round(row.end * sound.samplerate)
                count = min(end - first, round(wanted * sound.samplerate))
                sound.seek(first + int(position * (end - first - count)))
                return len(sound.read(count, dtype="float32")) > 0
        except soundfile.LibsndfileError:
            return False

    return read_file, len(rows)


def hosts(result: dict) -> str:
    """How many hosts like this one feed each chip, in words."""
    best = max(one["clips_per_s"] for one in result["loaders"].values())
    found = []
    for kind, one in result["chips"].items():
        share = one["share_of_peak"]
        found.append(
            f"{one['clips_per_s'] / best:.2g} for one {kind} at {100 * share:.2g}% of its peak"
        )
    return ", ".join(found)
