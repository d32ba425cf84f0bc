"""What a run shows and writes: progress bar, metrics.jsonl, TensorBoard events, curves.png."""

import contextlib
import hashlib
import json
import logging
import math
import os
import sys
import time

import tqdm
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from conformer_jax.training import curves

_SPLITS = ("train", "validation", "eval")
# What the bar shows, in this order, where it is logged.
_BAR = {
    "loss": ("loss", "{:.3f}"),
    "contrastive_accuracy": ("contrastive acc", "{:.3f}"),
    "clip_accuracy": ("clip acc", "{:.3f}"),
    "retrieval_at_1": ("retrieval", "{:.3f}"),
    "neighbors_accuracy": ("labelled clips", "{:.3f}"),
    "accuracy": ("acc", "{:.3f}"),
    "clips_per_s": ("clips/s", "{:.1f}"),
}


def set_up_logging(*, active: bool = True) -> None:
    """Plain lines on stderr, from this package only; warnings alone where not `active`."""
    level = logging.INFO if active else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Once())
    for noisy in ("absl", "asyncio", "jax", "matplotlib", "orbax", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class _Once(logging.Filter):
    """Drops a warning in the very words of one before: a run and its control, which has the same
    clips, would say each twice."""

    def __init__(self):
        super().__init__()
        self._said = set()

    def filter(self, record):
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


class Log:
    """The log of one run; only process 0 is `active`, the others write nothing.

    Records of steps after `start_step`, left by a run that was killed before its next checkpoint,
    are dropped, so metrics.jsonl reads as if nothing had happened.

    Args:
      workdir: folder of the run.
      start_step: step at which this process begins.
      name: of the run, config.name.
      num_steps: of the whole run, config.train.num_steps; 0 of a probe, which has none.
      heading: of curves.png.
      keep_eval: whether that step's evaluation, where there is one, is kept.
      active: whether to write.
      expected: `digest()` when the checkpoint was saved; where the records are others, a warning
        says so.
    """

    def __init__(
        self,
        workdir,
        start_step: int,
        *,
        name: str,
        num_steps: int,
        heading: curves.Heading,
        keep_eval: bool = True,
        active: bool = True,
        expected: str | None = None,
    ):
        self.step = 0  # of the newest train record
        self._num_steps, self._heading = num_steps, heading
        self._workdir, self._active = workdir, active
        self._path = workdir / "metrics.jsonl"
        self._warned = set()
        self._start, self._begun = start_step, None  # since when time and steps are counted
        self._records = [
            r
            for r in read_records(self._path)
            if r["step"] < start_step
            or (r["step"] == start_step and (keep_eval or r["split"] == "train"))
        ]
        self.step = max((r["step"] for r in self._records if r["split"] == "train"), default=0)
        if not active:
            return
        if expected not in (None, self.digest()) or (start_step and not self._records):
            logging.warning(
                "%s is lost, cut or damaged: %d records of the steps before %d are left",
                self._path,
                len(self._records),
                start_step,
            )
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in self._records))
        os.replace(temporary, self._path)
        self._file = self._path.open("a")
        self._events = _Events(workdir / "tensorboard", start_step + 1)
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=start_step,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            # Short enough for 80 columns; the bar itself takes what is left.
            bar_format="{desc}{bar} {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
            # In a log file a bar of carriage returns is noise: one line a record instead.
            disable=not (num_steps and _is_terminal(sys.stderr)),
        )

    def write(self, step: int, split: str, record: dict) -> None:
        """Adds a record of `split` ('train', 'validation' or 'eval') after `step` steps."""
        record = {name: _plain(value) for name, value in record.items()}
        self._records.append({"step": step, "split": split, **record})
        if split == "train":
            self.step = step
        if not self._active:
            return
        self._file.write(json.dumps(self._records[-1]) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())  # a mounted bucket keeps it nowhere else before it is closed
        for name, value in record.items():
            if value is not None:
                self._events.add(f"{split}/{name}", value, step)
        self._events.flush()
        shown = {
            label: form.format(record[name])
            for name, (label, form) in _BAR.items()
            if record.get(name) is not None
        }
        if split != "train":
            of = {"eval": "held out", "validation": "validation"}[split]
            when = f"step {step} " if self._num_steps else ""
            self._say(f"{when}{of}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
        elif self._bar.disable:
            self._say(
                f"step {step}/{self._num_steps}: "
                + ", ".join(f"{k} {v}" for k, v in shown.items())
                + self._time_left(step)
            )
        else:
            self._bar.set_postfix(shown, refresh=False)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._active and not self._bar.disable:
            self._bar.update(step - self._bar.n)

    def warn(self, message: str) -> None:
        """Says a warning, the first time it comes up for its metric."""
        subject = message.split(" ", 1)[0]
        if self._active and subject not in self._warned:
            self._warned.add(subject)
            self._say(f"WARNING {message}")

    def all(self, split: str) -> list[dict]:
        """The records of a split, oldest first."""
        return [r for r in self._records if r["split"] == split]

    def last(self, split: str) -> dict:
        """The newest record of a split, {} where there is none."""
        return next((r for r in reversed(self._records) if r["split"] == split), {})

    def digest(self, unevaluated: int | None = None) -> str:
        """Of all records so far; goes into the checkpoint, which then knows what belongs to it.

        Without evaluations of the step `unevaluated`, which are made again where one was cut off.
        """
        kept = (r for r in self._records if r["step"] != unevaluated or r["split"] == "train")
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Draws curves.png and closes the files."""
        if not self._active:
            return
        self._bar.close()
        with contextlib.suppress(OSError):  # each record is on disk, or its writing has failed
            self._file.close()
        self._events.close()
        if len({record["step"] for record in self._records}) < 2:  # a probe has no steps
            return
        try:
            curves.draw(self._heading, self._records, self._workdir / "curves.png")
        except OSError as error:
            logging.warning("curves.png not written: %s", error)

    def _time_left(self, step):
        now = time.perf_counter()
        if self._begun is None:  # all so far was compilation
            self._begun, self._start = now, step
            return ""
        seconds = (now - self._begun) / max(step - self._start, 1)
        left = tqdm.tqdm.format_interval(seconds * (self._num_steps - step))
        return f", {left} left"

    def _say(self, text):
        tqdm.tqdm.write(text, file=sys.stderr)


class _Events:
    """TensorBoard's events, written at once: tensorboardX's SummaryWriter does it in a thread, and
    where that finds the disk full the next record waits for ever."""

    def __init__(self, folder, purge_step):
        folder.mkdir(exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        for content in (
            {"file_version": "brain.Event:2"},
            {"session_log": event_pb2.SessionLog(status=event_pb2.SessionLog.START)},
        ):
            self._write(purge_step, **content)

    def add(self, tag, value, step):
        self._write(step, summary=summary.scalar(tag, value))

    def flush(self):
        self._writer.flush()

    def close(self):
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()

    def _write(self, step, **content):
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))


def read_records(path) -> list[dict]:
    """Records of a metrics.jsonl; lines that are none, such as one cut short by a kill, are left
    out."""
    records = []
    if not path.exists():
        return records
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError):
            continue
        if _is_record(record):
            records.append(record)
    return records


def _is_record(record):
    if not isinstance(record, dict) or record.get("split") not in _SPLITS:
        return False
    step = record.get("step")
    if not isinstance(step, int) or step < 0:
        return False
    numbers = (value for name, value in record.items() if name != "split")
    return all(value is None or type(value) in (int, float) for value in numbers)


def _is_terminal(stream):
    """Whether a bar can be drawn there; some pseudo-terminals are no columns wide."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return False


def _plain(value):
    """A float, None where it is not finite: JSON has neither NaN nor infinity."""
    value = float(value)
    return value if math.isfinite(value) else None
