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
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from conformer_jax import fields
from conformer_jax.data import host_loader
from conformer_jax.data.sources import BadAudioReport
from conformer_jax.errors import UserError, unknown
from conformer_jax.measuring import profiling, trace
from conformer_jax.models import flops
from conformer_jax.training import opening, program, sharding

_IMPORTED = time.perf_counter()
_WARM_UP = 2  # calls before the timed ones, the compilation apart
_TRACED = 3  # steps


def measure(config, *, steps: int = 20, profile: str | None = None) -> dict:
    """Takes all the measurements.

    Args:
      config: the full config (conformer_jax/fields.py); not changed.
      steps: timed ones, of each kind, at least 1.
      profile: folder for a trace of a few steps.

    Returns:
      sections of figures as JSON holds them; times in s, sizes in bytes. None: not measured.

    Raises:
      UserError: anything that the user can mend.
    """
    bench = _Bench(config)
    start, step = bench.start, bench.step
    step()
    start["process_to_first_step_s"] = _age()
    config = bench.config
    timed = _distribution(_times(step, steps))
    result = {
        "config": _about_config(config, bench.state),
        "machine": about_machine(),
        "start": start,
        "step": timed | _speed(config, timed["median_s"], bench.state.model),
        "memory": _memory(bench.compiled),
    }
    batches = bench.train_batches(start_step=1)
    try:
        result["input"] = _input_alone(config, bench.loader, batches, steps)
        result["loop"] = _loop(config, batches, bench.built.batch_sharding, step, steps)
    finally:
        batches.close()
    clips = bench.held_out_batch()
    result["evaluation"] = _evaluation(config, clips, bench, steps)
    result["inference"] = _inference(config, clips, bench.state, steps)
    result["profile"] = _profile(profile, bench.compiled, step) if profile else None
    return result


def vary(config, field: str, values, *, steps: int = 20) -> Iterator[dict]:
    """Times the training step once for each value of a field of the config.

    Args:
      config: as in `measure`.
      field: dotted name, such as 'data.clip_s'.
      values: what it is set to, one after the other; all are checked before the first is timed.
      steps: timed ones for each value, at least 1.

    Yields:
      for each value as soon as it is known: value, config and step as in `measure`, and temp_bytes,
      the step's working space. Without room on the device, step and temp_bytes are None.

    Raises:
      UserError: no such field, a value that it does not take, or any of those of `measure`.
    """
    for changed, value in [(_changed(config, field, value), value) for value in values]:
        bench = None  # the memory of the one before
        try:
            bench = _Bench(changed)
            timed = _distribution(_times(bench.step, steps))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            yield {"value": value, "step": None, "temp_bytes": None}
            continue
        yield {
            "value": value,
            "config": _about_config(bench.config, bench.state),
            "step": timed | _speed(bench.config, timed["median_s"], bench.state.model),
            "temp_bytes": _memory(bench.compiled).get("step_temp_bytes"),
        }


def _changed(config, field, value):
    config = config.copy_and_resolve_references().lock()
    try:
        old = config
        for part in field.split("."):
            if isinstance(old, ml_collections.ConfigDict) and part not in old:
                raise UserError(unknown(f"field config.{field}", part, sorted(old)))
            old = old[part]
        if isinstance(old, bool) and value in ("true", "false"):  # as --config.field takes it
            value = value == "true"
        config.update_from_flattened_dict({field: value})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"config.{field} cannot be {value!r}: {error}") from error
    return config


class _Bench:
    """A config's program compiled, its data opened, one batch on the device."""

    def __init__(self, config):
        self.config = config = program.without_statistics(config)
        config.init_from = ""
        self._report = BadAudioReport(None, config.data.max_bad_share)
        with tempfile.TemporaryDirectory() as nowhere:
            self._data = opening.prepare_data(config, nowhere, self._report)
        self.built = program.build(config, len(self._data.label_names))
        self.loader = host_loader.pick(config.data.loader)
        self._batch_spec = program.batch_spec(config)
        self._host = jax.process_index(), jax.process_count()
        init_key, self._root_key, self.eval_key = jax.random.split(jax.random.key(config.seed), 3)
        self.state = self.built.init(init_key)
        self._batch = sharding.put_batch(
            _first(self.train_batches(start_step=0)), self.built.batch_sharding
        )
        self.compiled, self.start = _compile(
            self.built.train_step, self.state, self._batch, self._root_key
        )

    def step(self, batch=None):
        """One training step, on the first batch where none is given; waits for its result."""
        batch = self._batch if batch is None else batch
        self.state, pairs = self.compiled(self.state, batch, self._root_key)  # buffers are donated
        jax.block_until_ready((self.state, pairs))

    def train_batches(self, start_step):
        """Batches as a run reads them."""
        return self.loader.train_batches(
            self._data.train, self._batch_spec, start_step, self._report, *self._host
        )

    def held_out_batch(self):
        """The first one, on the host."""
        return _first(
            self.loader.eval_batches(
                self._data.held_out, self._batch_spec, self._report, *self._host
            )
        )


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


def _speed(config, seconds, model):
    spec = program.batch_spec(config)
    clips = spec.batch_size / seconds
    work = flops.train_step_flops(model, spec.num_samples, spec.batch_size)
    peak = flops.peak_flops()
    return {
        "clips_per_s": clips,
        "audio_hours_per_hour": clips * fields.heard_s(config),
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
        peak, source = peak_resident(), "resident, of the whole process"
    planned = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp") if planned is not None else ()
    return {"peak_bytes": peak, "peak_source": source if peak else None} | {
        f"step_{kind}_bytes": getattr(planned, f"{kind}_size_in_bytes") for kind in kinds
    }


def resident() -> int | None:
    """Bytes of memory that the process holds now; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cores():
    """Those that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def peak_resident() -> int | None:
    """Most bytes of memory that the process has held; None where the system does not say."""
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


def _evaluation(config, clips, bench, count):
    batch = sharding.put_batch(clips, bench.built.batch_sharding)

    def evaluate():
        jax.block_until_ready(bench.built.eval_step(bench.state, batch, bench.eval_key))

    timed = _distribution(_times(evaluate, count))
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


def about_machine() -> dict:
    """What the figures are of."""
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
