"""Where a step's time goes: the operations of a trace (trace.py), sorted into parts of the model.

The compiled program's text says which operations of the model an instruction was made from: their
names hold the Flax module and `jax.named_scope`. Rules, so that the parts add up to the total:

- An operation belongs to what its name says (`category`); one that the compiler made up, without a
  name, to what the operation belongs to that it reads.
- A fusion with a matrix product belongs to that product. Any other fusion is divided among what it
  fuses, in proportion to the number of elements that each named instruction computes (reads, for a
  reduction): an estimate.
- The backward pass counts in the same parts as the forward one; its share is told as well.
- A GPU's kernel that is of no instruction is a library's: a matrix product (of which it cannot be
  said whether it is of the backward pass) or a collective where its name says so. Kernels that
  several instructions share count where the one is that they are named after.
- What has no name even so is 'unattributed'; what has one that fits no part is 'other'; the time in
  which nothing ran is 'no operation running'.
"""

import collections
import functools
import re

from conformer_jax.measuring import hlo, trace

IDLE, UNATTRIBUTED, OTHER = "no operation running", "unattributed", "other"

# Part by what a word of an operation's path says; the first that fits. 'product' stands for a
# matrix product, and 'attention' only for what is between its projections.
_PARTS = (
    ("features", r"features|augment"),
    ("optimizer", r"optimizer|train_state\..*"),
    (
        "dropout and randomness",
        r"dropout|masking|\w*(threefry|random_|randint|_uniform|_gumbel|_beta|_gamma)\w*",
    ),
    ("depthwise convolution", r"depthwise"),
    ("norms", r"\w*norm"),
    ("loss", r"loss"),
    ("attention", r"attention"),
    ("matrix products", r"product"),
    ("loss", r"quantizer"),
    ("activations, biases, residuals", r"encoder[\w.]*|block_\d+|ConformerBlock|\w*projection"),
)
_UNKNOWN = {(UNATTRIBUTED, False): 1.0}
_PRODUCTS = ("dot", "convolution")
# Parts of library kernels by their names: of cuBLAS and of NCCL.
_LIBRARIES = (
    ("matrix products", re.compile(r"gemm|gemv|splitK|cublas|cutlass|nvjet")),
    ("collectives", re.compile(r"nccl")),
)
_CONTAINERS = ("while", "call", "conditional")
# Instructions of a fusion that compute nothing.
_FREE = {"parameter", "constant", "bitcast", "broadcast", "reshape", "iota"}
_FREE |= {"get-tuple-element", "tuple"}


@functools.lru_cache(maxsize=1 << 16)
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
    words = set(path)
    if words & {"qkv", "out"}:
        words.discard("attention")
    if opcode in _PRODUCTS or path[-1] in ("dot_general", "conv_general_dilated"):
        words.add("product")
    for part, pattern in _PARTS:
        if any(re.fullmatch(pattern, word) for word in words):
            return part
    # Neither in the model nor in a named scope: the rest of the loss function.
    return "loss" if "jvp()" in op_name else OTHER


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
            self._known[name] = _UNKNOWN  # where operands go in circles
            self._known[name] = self._shares(name, self.instructions.get(name))
        return self._known[name]

    def _shares(self, name, instruction):
        if instruction is None:
            parts = [part for part, kernels in _LIBRARIES if kernels.search(name)]
            return {(parts[0], False): 1.0} if parts else _UNKNOWN
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
        part = _part(instruction)
        if part[0] != UNATTRIBUTED:
            return {part: 1.0}
        operands = [self.shares(operand) for operand in instruction.operands]
        return next((shares for shares in operands if shares != _UNKNOWN), _UNKNOWN)

    def rank(self, name: str) -> int:
        """0 where an operation counts always, 1 while nothing of rank 0 runs, 2 likewise."""
        if name not in self.instructions:  # a library's kernel
            return int(("collectives", False) in self.shares(name))
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
    events = trace.read_events(file, attribution.instructions)
    return _summary(*trace.busy(events, attribution.rank), attribution, steps)


def estimated_shares(text: str) -> dict[str, float]:
    """Shares of the compiler's estimated cycles of one step by part, the largest first.

    Args:
      text: `jax.stages.Compiled.as_text()` of a program for TPU; others have no estimate.
    """
    attribution, parts = Attribution(text), collections.Counter()
    for name, cycles in hlo.cycles(text).items():
        for (part, _), share in attribution.shares(name).items():
            parts[part] += cycles * share
    total = sum(parts.values())
    return {part: cycles / total for part, cycles in parts.most_common()}


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
                "op_name": _told_name(attribution.instructions.get(op)),
            }
            for op in longest
        ],
    }


def _told_name(instruction):
    if instruction is None:
        return ""
    names = [instruction.op_name, *(inner.op_name for inner in instruction.body.values())]
    return next((name for name in names if name), "")


def table(result: dict) -> str:
    """`breakdown` as text."""
    width = max(map(len, result["parts"]), default=0)
    lines = [
        f"{'a step of ' + format(result['total_s'], '.4g') + ' s':<{width}}     share  backward"
    ]
    for part, of in result["parts"].items():
        share = of["backward_s"] / result["total_s"] if result["total_s"] else 0.0
        lines.append(f"{part:<{width}}  {of['share']:8.1%}  {share:8.1%}")
    return "\n".join(lines)
