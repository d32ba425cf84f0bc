"""Measures how fast a config trains, evaluates, infers and reads its audio on this machine.

docs/performance.md says how. Nothing is trained that would be kept: parameters start from scratch
and the features are not normalised, neither of which changes a time.
"""

import os
import pathlib
import platform
import sys
import tempfile
import time

import jax
import numpy as np

from conformer_jax import flops, profiling, program, sharding, trace, train
from conformer_jax.data import host_loader
from conformer_jax.data.sources import BadAudioReport

_IMPORTED = time.perf_counter()
_WARM_UP = 2  # calls before the timed ones, the compilation apart
_TRACED = 3  # steps


def measure(config, *, steps: int = 20, profile: str | None = None) -> dict:
    """Takes all the measurements.

    Args:
      config: the full config (configs/base.py); not changed.
      steps: timed ones, of each kind, at least 1.
      profile: folder for a trace of a few steps.

    Returns:
      sections of figures as JSON holds them; times in s, sizes in bytes. None: not measured.

    Raises:
      UserError: anything that the user can mend.
    """
    config = program.without_statistics(config)
    config.init_from = ""
    with tempfile.TemporaryDirectory() as nowhere:
        report = BadAudioReport(None, config.data.max_bad_share)
        source, held_out, names = train.prepare_data(config, nowhere, report)
    built = program.build(config, len(names))
    loader = host_loader.pick(config.data.loader)
    host = jax.process_index(), jax.process_count()
    init_key, root_key, eval_key = jax.random.split(jax.random.key(config.seed), 3)
    state = built.init(init_key)
    batch = sharding.put_batch(
        _first(loader.train_batches(source, config, 0, report, *host)), built.batch_sharding
    )
    compiled, start = _compile(built.train_step, state, batch, root_key)

    def step(batch):
        nonlocal state  # its buffers are donated
        state, pairs = compiled(state, batch, root_key)
        jax.block_until_ready((state, pairs))

    step(batch)
    start["process_to_first_step_s"] = _age()
    timed = _distribution(_times(lambda: step(batch), steps))
    result = {
        "config": _about_config(config, state),
        "machine": _about_machine(),
        "start": start,
        "step": timed | _speed(config, timed["median_s"], len(names)),
        "memory": _memory(compiled),
    }
    batches = loader.train_batches(source, config, 1, report, *host)
    try:
        result["input"] = _input_alone(config, loader, batches, steps)
        result["loop"] = _loop(config, batches, built.batch_sharding, step, steps)
    finally:
        batches.close()
    clips = _first(loader.eval_batches(held_out, config, report, *host))
    result["evaluation"] = _evaluation(config, clips, built, state, eval_key, steps)
    result["inference"] = _inference(config, clips, state, steps)
    result["profile"] = _profile(profile, compiled, lambda: step(batch)) if profile else None
    return result


def _first(batches):
    batch = next(batches)
    batches.close()
    return batch


def _compile(function, *arguments):
    """The compiled function, and how long each of the two stages took."""
    begun = time.perf_counter()
    lowered = function.lower(*arguments)
    between = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"lower_s": between - begun, "compile_s": time.perf_counter() - between}
    return compiled, seconds


def _age():
    """Seconds since this process began; where the system does not say, since the imports."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begun = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    except (OSError, AttributeError):
        return time.perf_counter() - _IMPORTED


def _times(function, count):
    """Wall times of `count` calls, after the warm-up."""
    for _ in range(_WARM_UP):
        function()
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return times


def _distribution(times):
    least, quarter, median, three_quarters, most = np.quantile(times, [0, 0.25, 0.5, 0.75, 1])
    return {
        "count": len(times),
        "median_s": float(median),
        "mean_s": float(np.mean(times)),
        "quartiles_s": [float(quarter), float(three_quarters)],
        "range_s": [float(least), float(most)],
    }


def _speed(config, seconds, num_classes):
    clips = config.data.batch_size / seconds
    work, peak = flops.train_step_flops(config, num_classes), flops.peak_flops()
    return {
        "clips_per_s": clips,
        "audio_hours_per_hour": clips * config.data.clip_s,
        "model_flops": work,
        "model_flops_per_s": work / seconds,
        "peak_flops_per_s": peak or None,
        "peak_source": flops.peak_source() if peak else None,
        "mfu": work / seconds / peak if peak else None,
    }


def _memory(compiled):
    """Peak so far, of the fullest device or of the process, and what the compiler planned."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        peak, source = max(s["peak_bytes_in_use"] for s in stats), "of the fullest device"
    else:
        peak, source = _peak_resident(), "resident, of the whole process"
    planned = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp") if planned is not None else ()
    return {"peak_bytes": peak, "peak_source": source if peak else None} | {
        f"step_{kind}_bytes": getattr(planned, f"{kind}_size_in_bytes") for kind in kinds
    }


def _peak_resident():
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _input_alone(config, loader, batches, count):
    for _ in range(config.data.prefetch):  # those that were read while nobody asked
        next(batches)
    timed = _distribution(_times(lambda: next(batches), count))
    return timed | {
        "loader": loader.__name__.rpartition(".")[2],
        # Batches come in bursts: the mean tells the speed and not the median.
        "batches_per_s": 1 / timed["mean_s"],
        "clips_per_s": config.data.batch_size / timed["mean_s"],
    }


def _loop(config, batches, place, step, count):
    """As in a run: next batch, to the device, step."""
    waited = []

    def once():
        begun = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - begun)
        step(sharding.put_batch(batch, place))

    times = _times(once, count)
    return _distribution(times) | {
        "clips_per_s": config.data.batch_size * count / sum(times),
        "stall_share": sum(waited[_WARM_UP:]) / sum(times),
    }


def _evaluation(config, clips, built, state, key, count):
    batch = sharding.put_batch(clips, built.batch_sharding)
    timed = _distribution(
        _times(lambda: jax.block_until_ready(built.eval_step(state, batch, key)), count)
    )
    return timed | {"clips_per_s": config.data.eval_batch_size / timed["median_s"]}


def _inference(config, clips, state, count):
    """Of a classifier: from the audio of one clip to its logits, on one device."""
    if config.task != "finetune" or jax.process_count() > 1:
        return None
    params = jax.device_put(jax.device_get(state.eval_params), jax.local_devices()[0])

    @jax.jit
    def logits(params, audio, num_samples):
        return state.model.apply({"params": params}, audio, num_samples, train=False)

    clip = clips["audio"][:1], clips["num_samples"][:1]
    timed = _distribution(_times(lambda: logits(params, *clip).block_until_ready(), count))
    return timed | {"real_time_factor": timed["median_s"] / config.data.clip_s}


def _profile(folder, compiled, step):
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would slow the step down and says nothing here
    with jax.profiler.trace(folder, profiler_options=options):
        for _ in range(_TRACED):
            step()
    return profiling.breakdown(trace.newest(folder), compiled.as_text(), _TRACED)


def _about_config(config, state):
    return {
        "name": config.name,
        "task": config.task,
        "target": config.target if config.task == "pretrain" else None,
        "batch_size": config.data.batch_size,
        "eval_batch_size": config.data.eval_batch_size,
        "clip_s": config.data.clip_s,
        "dtype": config.conformer.dtype,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


def _about_machine():
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
