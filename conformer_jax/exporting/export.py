"""Writes a model in a format, runs what was written beside the model, and only then names it."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import NamedTuple

from conformer_jax.errors import UserError
from conformer_jax.exporting import compare, onnx_file, stablehlo, tflite
from conformer_jax.exporting.portable import Portable

FORMATS = ("stablehlo", "onnx", "tflite")


class Options(NamedTuple):
    """format; opset of ONNX; batch and samples of TFLite; int8: of ONNX."""

    format: str
    opset: int = onnx_file.OPSET
    batch: int = 1
    samples: int = 0
    int8: bool = False


def read(path, format: str):
    """(audio, num_samples) -> dict of arrays, of a file in one of FORMATS."""
    return {"stablehlo": stablehlo, "onnx": onnx_file, "tflite": tflite}[format].read(path)


@contextlib.contextmanager
def exported(model: Portable, output, options: Options, audio):
    """Writes and compares; the file has its name once the block has ended well.

    Args:
      model: what is exported.
      output: the file.
      options: how.
      audio: float32 [n], 10 s to compare on, at the model's rate.

    Yields:
      (a temporary folder with the file in it, its path there, compare.Result); with int8 there is
      a second file beside it, `int8_of` the path, and it is this one that is kept.

    Raises:
      UserError: they differ too much, or the format cannot be had; there is no file then.
    """
    output = pathlib.Path(output)
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}: make it, or choose another --output")
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file")
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".export-", dir=output.parent))
    try:
        path = temporary / "model"
        _write(model, path, options)
        shape = (options.batch, options.samples) if options.format == "tflite" else None
        clips = compare.cases(model, audio, shape)
        result = compare.run(model, read(path, options.format), clips)
        if not result.largest <= compare.LARGEST:  # nor NaN
            worst = max(result.differences, key=result.differences.get)
            raise UserError(
                f"{output} is not written: on {worst} it differs from the model by "
                f"{result.largest:.2g}, more than {compare.LARGEST:g}; please report this"
            )
        if options.int8:
            onnx_file.quantize(path, int8_of(path))
        yield path, result
        beside = temporary / "json"
        if options.format != "onnx":  # which has it inside
            said = json.dumps(model.described(), indent=1, ensure_ascii=False)
            beside.write_text(said + "\n", encoding="utf-8")
            os.replace(beside, output.with_name(output.name + ".json"))
        os.replace(int8_of(path) if options.int8 else path, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def int8_of(path) -> pathlib.Path:
    """Where the int8 file lies while it is looked at."""
    return path.with_name("int8")


def _write(model, path, options):
    if options.format == "stablehlo":
        stablehlo.write(model, path)
    elif options.format == "onnx":
        onnx_file.write(model, path, opset=options.opset)
    else:
        tflite.write(model, path, batch=options.batch, samples=options.samples)
