"""TFLite (LiteRT) by jax2tf, where TensorFlow is installed: one batch size, one length.

A file of this kind answers a wrong batch size silently wrongly; what `read` returns refuses it.
"""

import os
import pathlib
import tempfile
import warnings

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.exporting.portable import INPUTS, Portable, need


def write(model: Portable, path, *, batch: int, samples: int) -> None:
    """Writes the flat buffer to `path`, for audio [batch, samples]."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes; errors are said
    tf = need("tensorflow")
    tf.config.set_visible_devices([], "GPU")  # JAX has it
    from jax.experimental import jax2tf

    shapes = (
        tf.TensorSpec((batch, samples), tf.float32, name=INPUTS[0]),
        tf.TensorSpec((batch,), tf.int32, name=INPUTS[1]),
    )
    converted = jax2tf.convert(lambda *args: model(*args), with_gradient=False)
    module = tf.Module()
    module.run = tf.function(
        lambda audio, num_samples: converted(audio, num_samples),
        autograph=False,
        input_signature=shapes,
    )
    with tempfile.TemporaryDirectory() as folder:  # the way that keeps the names
        tf.saved_model.save(module, folder, signatures=module.run)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        pathlib.Path(path).write_bytes(converter.convert())


def read(path):
    """(audio, num_samples) -> dict of arrays, as portable.py says.

    It raises UserError for audio of any other shape than that of the file.
    """
    tf = need("tensorflow")
    with warnings.catch_warnings():  # that there is a package ai-edge-litert of the same
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    answer = interpreter.get_signature_runner()
    shape = tuple(int(size) for size in answer.get_input_details()[INPUTS[0]]["shape"])

    def run(audio, num_samples):
        audio, num_samples = np.asarray(audio, np.float32), np.asarray(num_samples, np.int32)
        if audio.shape != shape or num_samples.shape != shape[:1]:
            raise UserError(
                f"audio of shape {audio.shape}: {path} takes {shape} alone; pad it, or export with "
                f"another --batch= or --seconds="
            )
        return dict(answer(audio=audio, num_samples=num_samples))

    return run
