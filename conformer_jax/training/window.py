"""Training metrics since the last record, and the clock that tells how fast they came."""

import contextlib
import time

import jax

from conformer_jax.models import flops
from conformer_jax.steps import metrics


class Window:
    """Sums of (sum, count) pairs over the steps of one record; the clock stands while paused.

    Args:
      model: a step of it is counted in FLOPs.
      spec: host_loader.LoaderSpec, for the clips of a step.
      heard_s: s, how much of each it hears.
      sums: of the steps before this process, where it goes on inside a window; else None.
    """

    def __init__(self, model, spec, heard_s: float, sums=None):
        self.sums = sums
        self._clips, self._heard_s = spec.batch_size, heard_s
        self._flops = flops.train_step_flops(model, spec.num_samples, spec.batch_size)
        self._begun = time.perf_counter()
        self._compiling = True  # the first window holds the compilation and tells no speed

    @contextlib.contextmanager
    def paused(self):
        """Time in here is no time of training."""
        before = time.perf_counter()
        yield
        self._begun += time.perf_counter() - before

    def add(self, pairs) -> None:
        """Adds the metrics of a step; waits for those of the one before, so that no more than two
        steps are under way."""
        jax.block_until_ready(self.sums)
        self.sums = metrics.add(self.sums, pairs)

    def close(self, steps: int) -> dict:
        """The means of a window of `steps` steps, with its speed; begins the next one."""
        record = metrics.means(self.sums)
        now = time.perf_counter()
        if not self._compiling:
            record |= self._speed(steps, now - self._begun)
        self.sums, self._begun, self._compiling = None, now, False
        return record

    def _speed(self, steps, seconds):
        clips = self._clips * steps / max(seconds, 1e-9)
        speed = {"clips_per_s": clips, "audio_hours_per_s": clips * self._heard_s / 3600}
        if peak := flops.peak_flops():
            speed["mfu"] = self._flops * steps / seconds / peak
        return speed
