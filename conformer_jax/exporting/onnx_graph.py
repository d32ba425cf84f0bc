"""The model as an ONNX graph, written node by node: any batch, any length.

The same equations as models/features.py, models/conformer.py and models/classifier.py, in their
order; where those change, tests/exporting holds this to them.
"""

import math

import numpy as np

from conformer_jax.exporting.portable import INPUTS, Portable, need
from conformer_jax.models.features import fourier_and_mel, silence

_EPS = 1e-5  # of the norms
_LOWEST = float(np.finfo(np.float32).min)


class Graph:
    """Collects nodes; every method adds some and returns the name of what comes out."""

    def __init__(self):
        self._helper = need("onnx").helper
        self._numpy_helper = need("onnx.numpy_helper")
        self.nodes, self.initializers, self._constants = [], [], {}

    def constant(self, value, dtype=np.float32) -> str:
        """An array; equal ones are kept once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"constant_{len(self._constants)}"
            self.initializers.append(self._numpy_helper.from_array(array, name))
        return self._constants[key]

    def add(self, kind: str, *inputs: str, name: str = "", outputs=(), **attributes):
        """One node; its output's name, or a list of several."""
        number = len(self.nodes)
        made = list(outputs) or [f"{name or kind}_{number}"]
        node = self._helper.make_node(
            kind, list(inputs), made, name=f"{name or kind}_{number}", **attributes
        )
        self.nodes.append(node)
        return made[0] if len(made) == 1 else made

    def ints(self, *values) -> str:
        """A vector of int64."""
        return self.constant(values, np.int64)

    def size(self, x: str, axis: int) -> str:
        """The size of an axis, int64 [1]."""
        return self.add("Shape", x, start=axis, end=axis + 1)

    def cut(self, x: str, end: str, axis: int) -> str:
        """The first `end` (int64 [1]) along an axis."""
        return self.add("Slice", x, self.ints(0), end, self.ints(axis))

    def below(self, length: str, count: str) -> str:
        """bool [B, T]: whether a place, of `length` int64 [1], lies below count int64 [B]."""
        empty = self.constant(0, np.int64)
        places = self.add("Range", empty, self.add("Squeeze", length), self.constant(1, np.int64))
        return self.add("Less", places, self.add("Unsqueeze", count, self.ints(1)))

    def dense(self, x: str, kernel, bias, name="") -> str:
        """x [..., I] times kernel [I, O] plus bias [O]."""
        product = self.add("MatMul", x, self.constant(kernel), name=name)
        return product if bias is None else self.add("Add", product, self.constant(bias))

    def layer_norm(self, x: str, params) -> str:
        """Over the last axis."""
        scale, bias = self.constant(params["scale"]), self.constant(params["bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPS)

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.add("Mul", x, self.add("Sigmoid", x))

    def total(self, x: str, *axes: int, keep=True) -> str:
        """The sum over axes."""
        return self.add("ReduceSum", x, self.ints(*axes), keepdims=int(keep))


def build(model: Portable, opset: int):
    """The graph as an ONNX model, checked for nothing yet."""
    onnx, graph = need("onnx"), Graph()
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    params, spec = model.params["encoder"], model.classifier.encoder_spec
    features, frames = _log_mel(graph, model.classifier.features)
    weights = None
    if model.classifier.crops:
        features, frames, weights = _crops(graph, model.classifier, features, frames)
    x, valid = _tokens(graph, params, spec, features, frames)
    layers, real = [x], _real(graph, valid)
    x = graph.dense(x, params["projection"]["kernel"], params["projection"]["bias"])
    for i, kernel_size in enumerate(spec.kernel_sizes):
        x = _block(graph, params[f"block_{i}"], spec, kernel_size, x, valid, real)
        layers.append(x)
    if model.classifier.layers == "all":
        x = graph.add("Concat", *layers, axis=-1)
    _head(graph, model, x, real, weights)
    outputs = {"probabilities": len(model.label_names), "embeddings": _width(model)}
    made = helper.make_graph(
        graph.nodes,
        "conformer_jax",
        [
            helper.make_tensor_value_info(INPUTS[0], float32, ["batch", "samples"]),
            helper.make_tensor_value_info(INPUTS[1], onnx.TensorProto.INT32, ["batch"]),
        ],
        [
            helper.make_tensor_value_info(name, float32, ["batch", outputs[name]])
            for name in model.outputs
        ],
        graph.initializers,
    )
    imports = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(imports)
    return helper.make_model(
        made, opset_imports=imports, ir_version=version, producer_name="conformer_jax"
    )


def _width(model):
    classifier = model.classifier
    spec, several = classifier.encoder_spec, classifier.layers == "all"
    width = spec.feature_dim + len(spec.kernel_sizes) * spec.width if several else spec.width
    return 2 * width if classifier.pooling == "statistics" else width


def _log_mel(g, spec):
    """features [B, T, F], 0 where not valid; how many frames of each clip are, int64 [B]."""
    audio, num_samples = INPUTS
    count = g.add("Cast", num_samples, to=7)  # int64
    length, hop = g.size(audio, 1), g.ints(spec.hop_length)

    def num_frames(samples):
        covered = samples if spec.center else g.add("Sub", samples, g.ints(spec.fft_size))
        return g.add("Max", g.add("Add", g.add("Div", covered, hop), g.ints(1)), g.ints(1))

    zero = g.constant(0.0)
    audio = g.add("Where", g.below(length, count), audio, zero)
    start = (spec.fft_size - spec.window_length) // 2
    before = spec.fft_size // 2 - start if spec.center else -start
    # More frames than there are, cut off below: their number follows from a length left open.
    after = spec.fft_size + spec.hop_length
    if before < 0:
        audio = g.add("Slice", g.add("Pad", audio, g.ints(0, 0, 0, after), zero), g.ints(-before),
                      g.ints(np.iinfo(np.int64).max), g.ints(1))  # fmt: skip
    else:
        audio = g.add("Pad", audio, g.ints(0, before, 0, after), zero)
    fourier, mel = fourier_and_mel(spec)
    kernel = g.constant(fourier.T[:, None])
    parts = g.add("Conv", g.add("Unsqueeze", audio, g.ints(1)), kernel, strides=[spec.hop_length],
                  name="fourier")  # fmt: skip
    parts = g.add("Transpose", g.cut(parts, num_frames(length), 2), perm=[0, 2, 1])
    squares = g.add("Mul", parts, parts)
    bins = fourier.shape[1] // 2
    real, imaginary = g.add("Split", squares, g.ints(bins, bins), axis=-1, outputs=("re", "im"))
    energy = g.add("Add", real, imaginary)
    if spec.power != 2:
        energy = g.add("Pow", energy, g.constant(spec.power / 2))
    energy = g.add("MatMul", energy, g.constant(mel), name="mel")
    x = g.add("Log", g.add("Max", energy, g.constant(spec.log_floor)))
    if spec.mean:
        x = g.add("Sub", x, g.constant(spec.mean))
        x = g.add("Div", x, g.constant(spec.deviation))
    some = g.add("Cast", g.add("Greater", count, g.ints(0)), to=7)
    frames = g.add("Mul", num_frames(count), some)
    valid = g.below(num_frames(length), frames)
    return g.add("Where", g.add("Unsqueeze", valid, g.ints(2)), x, zero), frames


def _crops(g, classifier, features, frames):
    """features [B K, L, F] and frames [B K] of K crops a clip; what each counts, [B, K, 1]."""
    count, length = classifier.crops, classifier.crop_frames
    room = g.add("Max", g.add("Sub", frames, g.ints(length)), g.ints(0))
    room = g.add("Unsqueeze", room, g.ints(1))
    starts = g.add("Mul", room, g.constant([range(count) if count > 1 else [1]], np.int64))
    starts = g.add("Div", starts, g.ints(max(count - 1, 1) if count > 1 else 2))  # [B, K]
    places = g.constant(np.arange(length)[None, None], np.int64)
    at = g.add("Add", g.add("Unsqueeze", starts, g.ints(2)), places)  # [B, K, L]
    last = g.add("Sub", g.size(features, 1), g.ints(1))
    at = g.add("Reshape", g.add("Min", at, last), g.ints(0, -1, 1))
    cut = g.add("GatherND", features, at, batch_dims=1)
    cut = g.add("Reshape", cut, g.ints(-1, length, classifier.features.num_mels))
    left = g.add("Sub", g.add("Unsqueeze", frames, g.ints(1)), starts)
    left = g.add("Min", g.add("Max", left, g.ints(0)), g.ints(length))
    frames = g.add("Reshape", left, g.ints(-1))
    seen = g.add("Unsqueeze", g.below(g.ints(length), frames), g.ints(2))
    low = g.constant(np.asarray(silence(classifier.features)))
    sound = g.add("And", g.add("Greater", cut, low), seen)
    sound = g.add("ReduceMax", g.add("Cast", sound, to=1), g.ints(1, 2), keepdims=0)
    sound = g.add("Reshape", sound, g.ints(-1, count, 1))
    total = g.total(sound, 1)
    shares = g.add("Div", sound, g.add("Max", total, g.constant(1.0)))
    none = g.add("Equal", total, g.constant(0.0))
    weights = g.add("Where", none, g.constant(1.0 / count), shares)
    return g.add("Where", seen, cut, g.constant(0.0)), frames, weights


def _tokens(g, params, spec, features, frames):
    """tokens [B, T, feature_dim]; valid [B, T]."""
    stride = g.ints(spec.stride)
    one = g.ints(1)
    number = g.add("Max", g.add("Div", g.size(features, 1), stride), one)
    padded = g.add("Pad", features, g.ints(0, 0, 0, 0, spec.stride, 0), g.constant(0.0))
    whole = g.cut(padded, g.add("Mul", number, stride), 1)
    stacked = g.add("Reshape", whole, g.ints(0, -1, params["stack"]["kernel"].shape[0]))
    x = g.dense(stacked, params["stack"]["kernel"], params["stack"]["bias"])
    some = g.add("Cast", g.add("Greater", frames, g.ints(0)), to=7)
    count = g.add("Max", g.add("Div", frames, stride), some)
    return g.layer_norm(x, params["token_norm"]), g.below(number, count)


def _real(g, valid):
    """valid as float32 [B, T, 1]."""
    return g.add("Cast", g.add("Unsqueeze", valid, g.ints(2)), to=1)


def _block(g, params, spec, kernel_size, x, valid, real):
    half = g.constant(0.5)
    feed_in, feed_out = params["feed_forward_in"], params["feed_forward_out"]
    x = g.add("Add", x, g.add("Mul", half, _feed_forward(g, feed_in, x)))
    x = g.add("Add", x, _convolution(g, params["convolution"], spec, kernel_size, x, real))
    x = g.add("Add", x, _attention(g, params["attention"], spec, x, valid))
    x = g.add("Add", x, g.add("Mul", half, _feed_forward(g, feed_out, x)))
    return g.layer_norm(x, params["norm"])


def _feed_forward(g, params, x):
    x = g.layer_norm(x, params["norm"])
    x = g.silu(g.dense(x, params["expand"]["kernel"], params["expand"]["bias"]))
    return g.dense(x, params["contract"]["kernel"], params["contract"]["bias"])


def _convolution(g, params, spec, kernel_size, x, real):
    number, width = len(g.nodes), spec.width
    x = g.layer_norm(x, params["norm"])
    x = g.dense(x, params["pointwise_in"]["kernel"], params["pointwise_in"]["bias"])
    halves = (f"value_{number}", f"gate_{number}")
    value, gate = g.add("Split", x, g.ints(width, width), axis=-1, outputs=halves)
    x = g.add("Mul", g.add("Mul", value, g.add("Sigmoid", gate)), real)
    kernel = g.constant(params["depthwise_kernel"].T[:, None])
    bias, side = g.constant(params["depthwise_bias"]), kernel_size // 2
    x = g.add("Transpose", x, perm=[0, 2, 1])
    x = g.add("Conv", x, kernel, bias, group=width, pads=[side, side], name="depthwise")
    x = g.add("Transpose", x, perm=[0, 2, 1])
    norm = params["group_norm"]
    elements = g.add("Mul", g.total(real, 1, 2), g.constant(float(width)))
    elements = g.add("Max", elements, g.constant(1.0))
    mean = g.add("Div", g.total(g.add("Mul", x, real), 1, 2), elements)
    x = g.add("Sub", x, mean)
    squares = g.add("Mul", g.add("Mul", x, x), real)
    variance = g.add("Add", g.add("Div", g.total(squares, 1, 2), elements), g.constant(_EPS))
    x = g.add("Div", x, g.add("Sqrt", variance))
    x = g.add("Add", g.add("Mul", x, g.constant(norm["scale"])), g.constant(norm["bias"]))
    return g.dense(g.silu(x), params["pointwise_out"]["kernel"], params["pointwise_out"]["bias"])


def _attention(g, params, spec, x, valid):
    heads, width = spec.num_heads, spec.width
    size, number = width // heads, len(g.nodes)
    x = g.layer_norm(x, params["norm"])
    kernel, bias = (params["qkv"][name] for name in ("kernel", "bias"))
    x = g.dense(x, kernel.reshape(width, 3 * width), bias.reshape(-1))
    x = g.add("Transpose", g.add("Reshape", x, g.ints(0, 0, 3, heads, size)), perm=[2, 0, 3, 1, 4])
    names = tuple(f"{part}_{number}" for part in ("query", "key", "values"))
    parts = g.add("Split", x, g.ints(1, 1, 1), axis=0, outputs=names)
    query, key, values = (g.add("Squeeze", part, g.ints(0)) for part in parts)
    query = g.add("Mul", query, g.constant(1 / math.sqrt(size)))
    logits = g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2]))
    seen = g.add("Unsqueeze", valid, g.ints(1, 2))
    weights = g.add("Softmax", g.add("Where", seen, logits, g.constant(_LOWEST)), axis=-1)
    x = g.add("Transpose", g.add("MatMul", weights, values), perm=[0, 2, 1, 3])
    x = g.add("Reshape", x, g.ints(0, 0, width))
    return g.dense(x, params["out"]["kernel"].reshape(width, width), params["out"]["bias"])


def _head(g, model, x, real, weights):
    """Adds the outputs; weights [B, K, 1] of a clip's crops, or None."""
    pooling = model.classifier.pooling
    of_tokens = pooling == "linear_softmax"

    pooled = _pool(g, model.params, "mean" if of_tokens else pooling, x, real)
    if weights is not None:
        apart = g.add("Reshape", pooled, g.ints(-1, model.classifier.crops, _width(model)))
        pooled = g.total(g.add("Mul", apart, weights), 1, keep=False)
    if "embeddings" in model.outputs:
        g.add("Identity", pooled, outputs=("embeddings",))
    if "probabilities" not in model.outputs:
        return
    kernel, bias = (model.params["head"][name] for name in ("kernel", "bias"))
    if of_tokens:
        logits = _linear_softmax(g, g.dense(g.add("Mul", x, real), kernel, bias, "head"), real)
    else:
        logits = g.dense(pooled, kernel, bias, "head")
    if model.multi_label:
        g.add("Sigmoid", logits, outputs=("probabilities",))
    else:
        g.add("Softmax", logits, axis=-1, outputs=("probabilities",))


def _pool(g, params, pooling, x, real):
    """x [B, T, E] -> [B, E]."""
    if pooling == "max":
        seen = g.add("Greater", real, g.constant(0.0))
        top = g.add("ReduceMax", g.add("Where", seen, x, g.constant(_LOWEST)), g.ints(1),
                    keepdims=0)  # fmt: skip
        some = g.add("ReduceMax", real, g.ints(1), keepdims=0)
        return g.add("Where", g.add("Greater", some, g.constant(0.0)), top, g.constant(0.0))
    if pooling == "attention":
        scores = g.dense(x, params["query"]["kernel"], None)
        lowest = g.constant(_LOWEST)
        seen = g.add("Greater", real, g.constant(0.0))
        weights = g.add("Softmax", g.add("Where", seen, scores, lowest), axis=1)
        weights = g.add("Mul", weights, real)
        return g.total(g.add("Mul", weights, x), 1, keep=False)
    count = g.add("Max", g.total(real, 1), g.constant(1.0))  # [B, 1, 1]
    mean = g.add("Div", g.total(g.add("Mul", x, real), 1), count)
    flat = g.add("Squeeze", mean, g.ints(1))
    if pooling == "mean":
        return flat
    difference = g.add("Mul", g.add("Sub", x, mean), real)
    squares = g.add("Mul", difference, difference)
    variance = g.add("Squeeze", g.add("Div", g.total(squares, 1), count), g.ints(1))
    root = g.add("Sqrt", g.add("Add", variance, g.constant(1e-8)))
    deviation = g.add("Sub", root, g.constant(1e-4))
    return g.add("Concat", flat, deviation, axis=-1)


def _linear_softmax(g, logits, real):
    """Token logits [B, T, C] -> those of the clip [B, C]."""
    minus = g.add("Neg", logits)
    # log sigmoid(x) = -softplus(-x)
    present, absent = (g.add("Neg", g.add("Softplus", part)) for part in (minus, logits))
    # A clip without a valid token keeps its first one.
    number = g.size(logits, 1)
    first = g.add("Unsqueeze", g.below(number, g.ints(1)), g.ints(2))
    none = g.add("Equal", g.total(real, 1), g.constant(0.0))
    some = g.add("Or", g.add("Greater", real, g.constant(0.0)), g.add("And", first, none))
    sums = [
        g.add(
            "ReduceLogSumExp",
            g.add("Where", some, g.add("Add", present, other), g.constant(_LOWEST)),
            g.ints(1),
            keepdims=0,
        )
        for other in (present, absent)
    ]
    return g.add("Sub", *sums)
