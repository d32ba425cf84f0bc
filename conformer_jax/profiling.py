"""Where a step's time goes: the events of a profiler trace, sorted into the parts of the model.

The trace says which operation of the compiled program ran when; the program's text says which
operations of the model it was made from (their names hold the Flax module and `jax.named_scope`).
Rules, so that the parts add up to the total:

Time. The total is the wall time from the first operation's start to the last one's end, on one
device. Each moment is divided equally among the threads (CPU) or streams (GPU, TPU) that are busy
then, whatever their number: two busy threads do not count twice. Collectives and other
asynchronous operations count only while nothing else runs, which is what they really cost; loops
and calls only while nothing inside them runs. What is left is 'no operation running'.

Parts. An operation belongs to what its name says (`category`); one that the compiler made up,
without a name, to what the operation belongs to that it reads. A fusion with a matrix product
belongs to that product. Any other fusion is divided among what it fuses, in proportion to the
number of elements that each named instruction computes (reads, for a reduction): an estimate. The
backward pass counts in the same parts as the forward one; its share is told as well. What has no
name even so is 'unattributed'; what has one that fits no part is 'other'.
"""

import collections
import heapq
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import jax

from conformer_jax import hlo

IDLE, UNATTRIBUTED, OTHER = "no operation running", "unattributed", "other"

_PRODUCTS = ("dot", "convolution")
_CONTAINERS = ("while", "call", "conditional")
_RANDOM = r"dropout|masking|\w*(threefry|random_|randint|_uniform|_gumbel|_beta|_gamma)\w*"
# Instructions of a fusion that compute nothing.
_FREE = {"parameter", "constant", "bitcast", "broadcast", "reshape", "iota"}
_FREE |= {"get-tuple-element", "tuple"}


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


def category(op_name: str, opcode: str = "") -> str:
    """The part of the model that an operation belongs to.

    Args:
      op_name: such as 'jit(f)/transpose(jvp(Model))/encoder/block_0/attention/qkv/dot_general'.
      opcode: of the compiled instruction.
    """
    if opcode.removesuffix("-start").removesuffix("-done") in hlo.COLLECTIVES:
        return "collectives"
    if not op_name:
        return UNATTRIBUTED
    path = re.sub(r"[\w<>]+\(|\)", "", op_name).split("/")

    def inside(pattern):
        return any(re.fullmatch(pattern, word) for word in path)

    attention = inside("attention") and not inside("qkv|out")
    product = opcode in _PRODUCTS or path[-1] in ("dot_general", "conv_general_dilated")
    parts = {
        "features": inside("features|augment"),
        "optimizer": inside("optimizer") or op_name.startswith("train_state."),
        "dropout and randomness": inside(_RANDOM),
        "depthwise convolution": inside("depthwise"),
        "norms": inside(r"\w*norm"),
        "loss": inside("loss"),
        "attention": attention,
        "matrix products": product,
        "activations, biases, residuals": inside(r"encoder[\w.]*|block_\d+|ConformerBlock"),
    }
    # What is neither in the model nor named is the rest of the loss function.
    parts["loss"] |= inside("quantizer") and not product
    fits = [part for part, is_it in parts.items() if is_it]
    return fits[0] if fits else "loss" if "jvp()" in op_name else OTHER


class Attribution:
    """Instructions of a program to the parts they belong to.

    Args:
      text: `jax.stages.Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.instructions = hlo.instructions(text)
        self._known: dict[str, dict[tuple[str, bool], float]] = {}

    def shares(self, name: str) -> dict[tuple[str, bool], float]:
        """{(part, of the backward pass): share} of an instruction; the shares add up to 1."""
        if name not in self._known:
            self._known[name] = {(UNATTRIBUTED, False): 1.0}  # where operands go in circles
            self._known[name] = self._shares(self.instructions.get(name))
        return self._known[name]

    def _shares(self, instruction):
        unknown = {(UNATTRIBUTED, False): 1.0}
        if instruction is None:
            return unknown
        body = instruction.body
        for inner in body.values():
            if inner.opcode in _PRODUCTS and inner.op_name:
                return {_part(inner): 1.0}
        weights = collections.Counter()
        for inner in body.values():
            if inner.op_name and inner.opcode not in _FREE:
                weights[_part(inner)] += _work(inner, body)
        if total := sum(weights.values()):
            return {part: weight / total for part, weight in weights.items()}
        if instruction.op_name or _part(instruction)[0] != UNATTRIBUTED:
            return {_part(instruction): 1.0}
        operands = [self.shares(operand) for operand in instruction.operands]
        return next((shares for shares in operands if shares != unknown), unknown)

    def rank(self, name: str) -> int:
        """0 where an operation counts always, 1 while nothing of rank 0 runs, 2 likewise."""
        opcode = self.instructions[name].opcode
        if opcode in _CONTAINERS:
            return 2
        return int(opcode in hlo.COLLECTIVES or opcode.endswith(("-start", "-done")))


def _part(instruction):
    return category(instruction.op_name, instruction.opcode), "transpose(" in instruction.op_name


def _work(instruction, body):
    """Elements that an instruction of a fusion computes, or reads where it is a reduction."""
    read = [body[name].elements for name in instruction.operands if name in body]
    reduces = instruction.opcode.startswith("reduce")
    return max([instruction.elements, *(read if reduces else [])])


def busy(events: Iterable[Event], rank) -> tuple[dict[str, float], float]:
    """Wall time by operation, by the rules above.

    Args:
      events: of all lines; those of one line are nested or apart.
      rank: operation -> int, see `Attribution.rank`.

    Returns:
      {operation: ns}; ns from the first operation's start to the last one's end.
    """
    events = sorted(events, key=lambda event: (event.start, -event.end))
    spans = [event for event in events if event.op]
    if not spans:
        return {}, 0.0
    first, last = spans[0].start, max(event.end for event in spans)
    owners: dict[int, str] = {}  # of tasks
    stacks = collections.defaultdict(list)  # of each line: (end, operation), innermost last
    ends: list[tuple[float, str]] = []
    result: collections.Counter = collections.Counter()
    now = first

    def advance(to):
        """Divides the time up to `to`, in which nothing starts or ends."""
        nonlocal now
        to = min(max(to, first), last)
        running = [stack[-1][1] for stack in stacks.values() if stack and stack[-1][1]]
        if to > now and running:
            least = min(map(rank, running))
            running = [op for op in running if rank(op) == least]
            for op in running:
                result[op] += (to - now) / len(running)
        now = max(now, to)

    def close_until(time):
        while ends and ends[0][0] <= time:
            end, line = heapq.heappop(ends)
            advance(end)
            while stacks[line] and stacks[line][-1][0] <= end:
                stacks[line].pop()

    for event in events:
        close_until(event.start)
        advance(event.start)
        stack = stacks[event.line]
        if event.sends is not None:
            owners[event.sends] = stack[-1][1] if stack else ""
        elif event.end > event.start:
            stack.append((event.end, event.op or owners.get(event.task, "")))
            heapq.heappush(ends, (event.end, event.line))
    close_until(last)
    return dict(result), last - first


def newest_trace(folder) -> pathlib.Path | None:
    """The .xplane.pb of the newest trace that jax.profiler wrote into a folder."""
    files = pathlib.Path(folder).rglob("*.xplane.pb")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def read_events(file, known) -> list[Event]:
    """Events of the first device in a trace.

    Args:
      file: .xplane.pb.
      known: names of the program's instructions; others are the runtime's own affairs.
    """
    planes = sorted(jax.profiler.ProfileData.from_file(str(file)).planes, key=lambda p: p.name)
    planes.sort(key=lambda plane: not plane.name.startswith("/device:"))
    for plane in planes:
        events = [
            event
            for i, line in enumerate(plane.lines)
            for event in _line_events(f"{i} {line.name}", line, known)
        ]
        if any(event.op for event in events):
            return events
    return []


def _line_events(name, line, known):
    """Events of one line. CPU: the thread pool marks a task's begin and end by two events."""
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
            if op in known and not event.name.startswith("end: "):
                here = not stats.get("device_ordinal")  # of several CPU devices, the first
                result.append(Event(name, start, end, op if here else ""))
    return result


def breakdown(file, text: str, steps: int) -> dict:
    """The time of `steps` steps in a trace, by part.

    Args:
      file: .xplane.pb.
      text: `jax.stages.Compiled.as_text()` of the step.
      steps: in the trace.

    Returns:
      `total_s`, a step; `parts`, by part: `seconds` a step, `share` of the total and
      `backward_s`, which is contained in the seconds; `operations`, the ten that took longest.
      The parts' seconds add up to total_s.
    """
    attribution = Attribution(text)
    events = read_events(file, attribution.instructions)
    return _summary(*busy(events, attribution.rank), attribution, steps)


def _summary(times, total, attribution, steps):
    seconds, backward = collections.Counter(), collections.Counter()
    for op, ns in times.items():
        for (part, is_backward), share in attribution.shares(op).items():
            seconds[part] += ns * share / steps / 1e9
            backward[part] += ns * share * is_backward / steps / 1e9
    total = total / steps / 1e9
    seconds[IDLE] = total - sum(seconds.values())
    longest = sorted(times, key=times.get, reverse=True)[:10]
    return {
        "total_s": total,
        "parts": {
            part: {"seconds": s, "share": s / total if total else 0.0, "backward_s": backward[part]}
            for part, s in seconds.most_common()
        },
        "operations": [
            {
                "name": op,
                "seconds": times[op] / steps / 1e9,
                "op_name": _told_name(attribution.instructions[op]),
            }
            for op in longest
        ],
    }


def _told_name(instruction):
    names = [instruction.op_name, *(inner.op_name for inner in instruction.body.values())]
    return next((name for name in names if name), "")


def table(result: dict) -> str:
    """`breakdown` as text."""
    width = max(map(len, result["parts"]), default=0)
    lines = [f"{'a step of ' + format(result['total_s'], '.4g') + ' s':<{width}}     share  backward"]
    for part, of in result["parts"].items():
        share = of["backward_s"] / result["total_s"] if result["total_s"] else 0.0
        lines.append(f"{part:<{width}}  {of['share']:8.1%}  {share:8.1%}")
    return "\n".join(lines)
