"""ONNX: the graph with its metadata in one file, run by onnxruntime; and the same in int8."""

import json
import logging
import pathlib

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.exporting import onnx_graph
from conformer_jax.exporting.portable import Portable, need

OPSET = 18  # the oldest whose operators the graph is made of
_FULL_PRECISION = ("mel", "head")  # nodes that int8 would cost most, and weigh little


def write(model: Portable, path, *, opset: int = OPSET) -> int:
    """Writes the graph, checked, and its metadata; how many nodes it has.

    Raises:
      UserError: an opset that the graph cannot have, or that onnxruntime lacks.
    """
    onnx, newest = need("onnx"), need("onnx").defs.onnx_opset_version()
    need("onnxruntime")
    if not OPSET <= opset <= newest:
        raise UserError(
            f"--opset={opset}: the graph needs {OPSET} or newer, and the installed onnx knows up "
            f"to {newest}"
        )
    made = onnx_graph.build(model, opset)
    for name, value in model.described().items():
        made.metadata_props.add(key=name, value=_text(value))
    onnx.checker.check_model(made, full_check=True)
    pathlib.Path(path).write_bytes(made.SerializeToString())
    try:
        _session(path)
    except Exception as error:  # onnxruntime's own kinds of error have no common one
        raise UserError(
            f"--opset={opset}: the installed onnxruntime does not run it "
            f"({str(error).splitlines()[0][:150]}); leave it out for {OPSET}"
        ) from error
    return len(made.graph.node)


def quantize(path, output) -> None:
    """Writes the file with the weights of its products in int8, by onnxruntime's own tool."""
    onnx = need("onnx")
    need("onnxruntime")
    from onnxruntime import quantization

    kept = [
        node.name
        for node in onnx.load(str(path)).graph.node
        if node.name.rpartition("_")[0] in _FULL_PRECISION
    ]
    logging.disable(logging.WARNING)  # a line a node, of what is meant to be so
    try:
        _quantize(quantization, path, output, kept)
    finally:
        logging.disable(logging.NOTSET)


def _quantize(quantization, path, output, kept):
    quantization.quantize_dynamic(
        str(path),
        str(output),
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=kept,
        per_channel=True,
    )


def read(path):
    """(audio, num_samples) -> dict of arrays, as portable.py says."""
    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def run(audio, num_samples):
        feed = {
            "audio": np.asarray(audio, np.float32),
            "num_samples": np.asarray(num_samples, np.int32),
        }
        return dict(zip(names, session.run(None, feed), strict=True))

    return run


def described(path) -> dict:
    """The metadata, as portable.Portable.described."""
    found = _session(path).get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in found.items()}


def _text(value):
    return json.dumps(value, ensure_ascii=False)


def _session(path):
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
