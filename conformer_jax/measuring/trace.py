"""The events of a profiler trace, as the wall time of each operation of a compiled program.

The total is the wall time from the first operation's start to the last one's end, on one device.
Each moment is divided equally among the threads (CPU) or streams (GPU, TPU) that are busy then,
whatever their number: two busy threads do not count twice. Collectives and other asynchronous
operations count only while nothing else runs, which is what they really cost; loops and calls only
while nothing inside them runs.
"""

import collections
import heapq
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax


class Event(NamedTuple):
    """Something that one thread or stream (`line`) did from `start` to `end`, in ns.

    op: the instruction of the program, '' for the runtime's own affairs. On the CPU an operation
    may hand parts of its work to other threads: `sends` is the number of a task handed over here,
    `task` that of the one that runs here.
    """

    line: str
    start: float
    end: float
    op: str = ""
    sends: int | None = None
    task: int | None = None


def busy(events: Iterable[Event], rank: Callable[[str], int]) -> tuple[dict[str, float], float]:
    """Wall time by operation, by the rules above.

    Args:
      events: of all lines; those of one line are nested or apart.
      rank: operation -> int, 0 where it counts always, 1 while nothing of rank 0 runs, and so on.

    Returns:
      {operation: ns}; ns from the first operation's start to the last one's end.
    """
    events = sorted(events, key=lambda event: (event.start, -event.end))
    spans = [event for event in events if event.op]
    if not spans:
        return {}, 0.0
    first, last = spans[0].start, max(event.end for event in spans)
    sweep = _Sweep(first, last, rank)
    for event in events:
        sweep.take(event)
    sweep.pass_to(last)
    return dict(sweep.times), last - first


class _Sweep:
    """Goes through the events from the first operation's start to the last one's end."""

    def __init__(self, first, last, rank):
        self.times: collections.Counter = collections.Counter()  # by operation, ns
        self._now, self._first, self._last, self._rank = first, first, last, rank
        self._owners: dict[int, str] = {}  # of tasks
        # Of each line: (end, operation) of what it is in, innermost last.
        self._stacks = collections.defaultdict(list)
        self._ends: list[tuple[float, str]] = []  # heap of (end, line)

    def take(self, event):
        """Enters an event; they come by their starts."""
        self.pass_to(event.start)
        stack = self._stacks[event.line]
        if event.sends is not None:
            self._owners[event.sends] = stack[-1][1] if stack else ""
        elif event.end > event.start:
            stack.append((event.end, event.op or self._owners.get(event.task, "")))
            heapq.heappush(self._ends, (event.end, event.line))

    def pass_to(self, time):
        """Moves to `time`, leaving what ends on the way."""
        while self._ends and self._ends[0][0] <= time:
            end, line = heapq.heappop(self._ends)
            self._divide_to(end)
            stack = self._stacks[line]
            while stack and stack[-1][0] <= end:
                stack.pop()
        self._divide_to(time)

    def _divide_to(self, time):
        """Divides the time up to `time`, in which nothing starts or ends, among what is busy."""
        time = min(max(time, self._first), self._last)
        running = [stack[-1][1] for stack in self._stacks.values() if stack and stack[-1][1]]
        if time > self._now and running:
            least = min(map(self._rank, running))
            running = [op for op in running if self._rank(op) == least]
            for op in running:
                self.times[op] += (time - self._now) / len(running)
        self._now = max(self._now, time)


def newest(folder) -> pathlib.Path | None:
    """The .xplane.pb of the newest trace that jax.profiler wrote into a folder."""
    files = pathlib.Path(folder).rglob("*.xplane.pb")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def read_events(file, known) -> list[Event]:
    """Events of the first device in a trace.

    Args:
      file: .xplane.pb.
      known: names of the program's instructions; others are the runtime's own affairs, but for a
        GPU's kernels, which keep their own names.
    """
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    kernels = {re.sub(r"\W", "_", name): name for name in known}
    for plane in sorted(planes, key=lambda plane: plane.name):  # /device:... before /host:...
        gpu = plane.name.startswith("/device:GPU")
        events = [
            event
            for i, line in enumerate(plane.lines)
            for event in _line_events(
                f"{i} {line.name}",
                line,
                known,
                kernels if gpu and line.name.startswith("Stream") else None,
            )
        ]
        if any(event.op for event in events):
            return events
    return []


def _line_events(name, line, known, kernels):
    """Events of one line. CPU: the thread pool marks a task's begin and end by two events.

    kernels: of a GPU's stream, instructions by the names of their kernels. A CUDA graph is one
    operation to the profiler, and only the names of its kernels say what runs.
    """
    result, task = [], None
    for event in sorted(line.events, key=lambda event: event.start_ns):
        start, end = event.start_ns, event.start_ns + event.duration_ns
        kind = event.name.rpartition("::")[2]
        if kind == "Record":
            result.append(Event(name, start, end, sends=dict(event.stats).get("_p")))
        elif kind == "StartRegion":
            task = start, dict(event.stats).get("_c")
        elif kind == "StopRegion" and task:
            result.append(Event(name, task[0], start, task=task[1]))
            task = None
        elif kind.startswith("Execute"):
            result.append(Event(name, start, end))
        else:
            op = re.match(r"%?([\w.\-]*)", event.name)[1]  # TPUs give the whole instruction
            stats = dict(event.stats)
            op = stats.get("hlo_op", op)
            if op not in known and kernels is not None:
                result.append(Event(name, start, end, kernels.get(event.name, event.name)))
            elif op in known and not event.name.startswith("end: "):
                here = not stats.get("device_ordinal")  # of several CPU devices, the first
                result.append(Event(name, start, end, op if here else ""))
    return result
