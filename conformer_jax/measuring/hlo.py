"""Reads the text of a compiled program (HLO): instructions, estimated cycles, collectives."""

import dataclasses
import math
import re

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# Of the types that do not take 4.
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "c64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program.

    opcode: such as 'fusion'; elements: of its result; operands: names of instructions; op_name:
    what JAX called the operation, '' where the compiler made it up; body: what a fusion runs, by
    name.
    """

    opcode: str
    elements: int
    operands: tuple[str, ...]
    op_name: str
    body: "dict[str, Instruction]" = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Cost:
    """Of one run of a computation, loops counted as often as they turn.

    cycles: the compiler's estimate, collectives left out: it gives none for them.
    sent: bytes that each device sends, by kind of collective.
    largest: bytes of the largest single result, by kind of collective.
    """

    cycles: float = 0.0
    sent: dict[str, float] = dataclasses.field(default_factory=dict)
    largest: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, other: "Cost", times: int = 1) -> None:
        """Adds what `times` runs of another computation cost."""
        self.cycles += times * other.cycles
        for kind, size in other.sent.items():
            self.sent[kind] = self.sent.get(kind, 0.0) + times * size
        for kind, size in other.largest.items():
            self.largest[kind] = max(self.largest.get(kind, 0), size)


def cost(text: str, num_devices: int) -> Cost:
    """Cost of a program's entry computation.

    Args:
      text: `jax.stages.Compiled.as_text()`.
      num_devices: of the program; the group of a collective that names none.
    """
    computations, entry = _computations(text)
    known: dict[str, Cost] = {}

    def of(name):
        if name not in known:
            known[name] = total = Cost()
            for line in computations.get(name, ()):
                total.add(_own(line, num_devices))
                for called, times in _called(line, computations):
                    total.add(of(called), times)
        return known[name]

    return of(entry)


def cycles(text: str) -> dict[str, float]:
    """The compiler's estimate of one run of a program by instruction, those without one left out.

    Args:
      text: `jax.stages.Compiled.as_text()`.
    """
    computations, entry = _computations(text)
    total: dict[str, float] = {}

    def walk(computation, runs):
        for line in computations.get(computation, ()):
            if (estimate := _estimate(line)) and (instruction := _INSTRUCTION.match(line)):
                total[instruction[1]] = total.get(instruction[1], 0.0) + runs * estimate
            for called, times in _called(line, computations):
                walk(called, runs * times)

    walk(entry, 1)
    return total


def instructions(text: str) -> dict[str, Instruction]:
    """All instructions of a program by name, those inside of fusions left to their `body`.

    Args:
      text: `jax.stages.Compiled.as_text()`.
    """
    lines, _ = _computations(text)
    fused = {name for body in lines.values() for line in body for name in _fused(line)}
    known: dict[str, dict[str, Instruction]] = {}

    def of(computation):
        if computation not in known:
            known[computation] = {}
            for line in lines.get(computation, ()):
                if match := _INSTRUCTION.match(line):
                    bodies = [of(name) for name in _fused(line)]
                    known[computation][match[1]] = _parsed(match, bodies[0] if bodies else {})
        return known[computation]

    return {
        name: instruction
        for computation in lines
        if computation not in fused
        for name, instruction in of(computation).items()
    }


def _fused(line):
    return re.findall(r" calls=%?([\w.\-]+)", line) if " fusion(" in line else ()


def _parsed(match, body):
    _, result, opcode, rest = match.groups()
    name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', rest)
    return Instruction(
        opcode,
        sum(_count(dimensions) for _, dimensions in _SHAPE.findall(result)),
        tuple(re.findall(r"%([\w.\-]+)", rest.partition("), ")[0])),
        name[1] if name else "",
        body,
    )


def _computations(text):
    """({name: lines of its instructions}, name of the entry)."""
    result, entry, lines = {}, "", []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = result[header[2]] = []
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return result, entry


def _called(line, computations):
    """(computation, how often) of what an instruction calls, reductions of a collective apart."""
    calls = []
    if loop := re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
        calls.append((loop[2], _turns(computations.get(loop[1], ()))))
    calls += [(name, 1) for name in re.findall(r"calls=%?([\w.\-]+)", line)]
    if branches := re.search(r"branch_computations=\{([^}]*)\}", line):
        calls += [(name.strip(" %"), 1) for name in branches[1].split(",")]
    return calls


def _turns(condition):
    """How often a loop turns: jax counts from 0 up to the constant of its condition."""
    limits = [int(n) for line in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)", line)]
    return max(limits, default=1)


def _own(line, num_devices):
    """Cost of an instruction itself."""
    instruction = _INSTRUCTION.match(line)
    if not instruction:
        return Cost()
    _, result, kind, _ = instruction.groups()
    kind = kind.removesuffix("-start")
    if kind not in COLLECTIVES:
        return Cost(_estimate(line))
    shapes = [_size(*shape) for shape in _SHAPE.findall(result)]
    if "-start(" in line and kind == "collective-permute":
        shapes = shapes[1:2]  # (operand, result, two flags)
    elif "-start(" in line and kind != "all-reduce":
        shapes = shapes[len(shapes) // 2 :]  # operands, then results
    size = sum(shapes)
    group = _group_size(line, num_devices)
    share = (group - 1) / group
    factor = {"all-reduce": 2 * share, "reduce-scatter": group - 1, "collective-permute": 1.0}
    return Cost(0.0, {kind: size * factor.get(kind, share)}, {kind: size})


def _estimate(line):
    """The compiler's cycles of an instruction, 0 where it gives none."""
    found = re.search(r'estimated_cycles":"?(\d+)', line)
    return float(found[1]) if found else 0.0


def _size(kind, dimensions):
    return _count(dimensions) * _BYTES.get(kind, 4)


def _count(dimensions):
    return math.prod(int(length or 1) for length in dimensions.split(","))


def _group_size(line, num_devices):
    """Devices that take part in one group of a collective, in any of the three notations."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(shaped[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        group = 1
        for axis in re.findall(r"'(\w+)'", named[2]):
            group *= int(sizes[axis])
        return group
    return num_devices
