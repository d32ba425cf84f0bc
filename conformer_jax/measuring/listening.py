"""How fast a folder is tagged and embedded, beside the compiled model alone and onnxruntime.

The parameters are random: no time depends on them.
"""

import pathlib
import tempfile
import time

import jax
import numpy as np

from conformer_jax.data.sound_file import BadAudio
from conformer_jax.errors import UserError
from conformer_jax.exporting import onnx_file, portable
from conformer_jax.inference import model as models
from conformer_jax.inference import trained, windows
from conformer_jax.inference.ahead import End
from conformer_jax.measuring import measure
from conformer_jax.training import model_file

BATCHES = 1, 2, 4, 8, 16, 32  # windows at once
_LABELS = 50
_SECONDS = 2.0  # that each batch size is timed


def measure_folder(config, files) -> dict:
    """Takes all the measurements.

    Args:
      config: the full config; its sections features, conformer, classifier and data.clip_s count.
      files: paths of the sounds.

    Returns:
      sections of figures as JSON holds them; times in s, sizes in bytes, speeds in hours of sound a
      minute. None: not measured.

    Raises:
      UserError: none of the files can be used, or a field does not fit.
    """
    found = _random(config)
    model = models.Model(found, "random")
    for want in ("logits", "embedding"):
        _hear_all(model, files[: 2 * model.batch], want)  # compiles
    before = measure.resident()
    tagged = _hear_all(model, files, "logits")
    if not tagged["sound_s"]:
        raise UserError("none of the sounds can be used")
    peak = measure.peak_resident()
    alone = {str(batch): _alone(model, found, batch) for batch in BATCHES}
    best = max(alone.values())
    return {
        "config": {
            "name": config.name,
            "clip_s": model.window_s,
            "batch": model.batch,
            "parameters": sum(x.size for x in found.tensors.values()),
        },
        "machine": measure.about_machine() | {"cores_used": len(measure.cores())},
        "tag": tagged | {"of_model_alone": tagged["speed"] / best},
        "embed": (embedded := _hear_all(model, files, "embedding"))
        | {"of_model_alone": embedded["speed"] / best},
        "decoding": _decode_all(model, files),
        "model_alone": alone,
        "onnxruntime": _onnx(found),
        "memory": {
            "loaded_bytes": before,
            "more_bytes": None if before is None else max(peak - before, 0),
        },
    }


def _random(config):
    """Random parameters for a config, as a model file would hold them."""
    described = config.to_dict()
    bins = config.features.num_mels
    described["features"] |= {"mean": (0.0,) * bins, "deviation": (1.0,) * bins}
    names = [f"label {i}" for i in range(_LABELS)]
    meta = model_file.describe(described, names, kind="classifier", step=0, versions={})
    rng = np.random.default_rng(0)
    shapes = trained.shapes_of(meta, {})
    tensors = {
        name: (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in shapes.items()
    }
    return trained.Trained(meta, tensors)


def _hear_all(model, files, want):
    begun, seconds, bad, last = time.perf_counter(), 0.0, 0, 0.0
    for _, part in model.parts_of_files(((path, 0) for path in files), want):
        if isinstance(part, End):
            seconds, last = seconds + last, 0.0
            bad += part.error is not None
        else:
            last = part.end
    return _speed(seconds, time.perf_counter() - begun) | {"files": len(files), "bad": bad}


def _decode_all(model, files):
    """Reading, resampling and cutting alone, on one thread."""
    begun, seconds = time.perf_counter(), 0.0
    size, hop = model.window_samples()
    for path in files:
        try:
            for window in windows.cut(windows.open_file(path, model.sample_rate), size, hop):
                last = window.start + len(window.audio)
            seconds += last / model.sample_rate
        except BadAudio:
            continue
    return _speed(seconds, time.perf_counter() - begun)


def _speed(sound_s, wall_s):
    return {"sound_s": sound_s, "wall_s": wall_s, "speed": sound_s / wall_s / 60}


def _alone(model, found, batch):
    """Speed of the compiled model on a batch of full windows."""
    params = jax.device_put(trained.tree(found.tensors))
    audio, counts = _full_windows(model.sample_rate, model.window_s, batch)
    classifier = trained.make_classifier(found.meta)

    def run():
        found = models._outputs(params, audio, counts, model=classifier, head=True, frames=False)
        jax.block_until_ready(found)

    return batch * model.window_s / _seconds(run) / 60


def _onnx(found):
    """As `_alone`, of the exported model in onnxruntime; None where that is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, model_file.NAME)
        model_file.save(source, *found)
        output = pathlib.Path(folder, "model.onnx")
        try:
            model = portable.take(source)
            onnx_file.write(model, output)
        except UserError:
            return None
        run = onnx_file.read(output)
        speeds = {}
        for batch in BATCHES:
            audio, counts = _full_windows(model.sample_rate, model.window_s, batch)
            seconds = _seconds(lambda audio=audio, counts=counts: run(audio, counts))
            speeds[str(batch)] = batch * model.window_s / seconds / 60
        return speeds


def _full_windows(rate, window_s, batch):
    samples = round(rate * window_s)
    audio = 0.1 * np.random.default_rng(0).normal(size=(batch, samples)).astype(np.float32)
    return audio, np.full(batch, samples, np.int32)


def _seconds(run):
    """Median wall time of a call."""
    run()
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < _SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
