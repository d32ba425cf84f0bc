"""Batches from tf.data: the same as host_loader's, byte for byte. The only TensorFlow here."""

import atexit
import os
import sys
import weakref

import numpy as np

# Its start-up messages are noise: it only feeds audio here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Keras is a quarter of the time that TensorFlow takes to be imported, and not used here. Without
# this part of it TensorFlow goes on; who asks for tf.keras later finds all of it.
_KERAS = "keras.src.optimizers"
_LEFT_OUT = _KERAS not in sys.modules
if _LEFT_OUT:
    sys.modules[_KERAS] = None
try:
    import tensorflow as tf
finally:
    if _LEFT_OUT:
        del sys.modules[_KERAS]

from conformer_jax.data import host_loader  # noqa: E402

# TensorFlow would otherwise take the memory of every GPU, from which jax computes.
tf.config.set_visible_devices([], "GPU")

_OPEN = weakref.WeakSet()


@atexit.register
def _close_open_iterators():
    """TensorFlow's threads abort the process if they still run Python code while it exits."""
    for batches in list(_OPEN):
        batches.close()


def train_batches(source, spec, start_step, report, host=0, num_hosts=1):
    """As host_loader.train_batches."""
    plan = host_loader.train_plan(source, spec, host, num_hosts)
    steps = tf.data.Dataset.range(start_step, 2**62)
    return _run(plan, steps, spec.batch_size // num_hosts, source, spec, report)


def eval_batches(source, spec, report, host=0, num_hosts=1):
    """As host_loader.eval_batches."""
    plan, count = host_loader.eval_plan(source, spec, host, num_hosts)
    steps = tf.data.Dataset.range(count)
    return _run(plan, steps, spec.eval_batch_size // num_hosts, source, spec, report)


def _run(plan, steps, rows, source, spec, report):
    """The batches of `steps`, a tf.data set of step numbers, each of `rows` rows."""
    failures = []  # tf.data turns an exception into text; the first one is kept to raise it
    parallel = {"num_parallel_calls": spec.workers, "deterministic": True}
    if source.at_once:
        dataset = steps.map(_batch_reader(plan, rows, source, spec, report, failures), **parallel)
    else:
        dataset = steps.map(_planner(plan, rows, failures)).unbatch()
        dataset = dataset.map(_reader(source, spec, report, failures), **parallel).batch(rows)
    dataset = dataset.prefetch(spec.prefetch)
    options = tf.data.Options()
    # Nothing here is left to it, and closing can wait up to a minute for its thread to wake.
    options.autotune.enabled = False
    generator = _iterate(dataset.with_options(options), failures)
    _OPEN.add(generator)
    return generator


def _planner(plan, rows, failures):
    """`plan` for tf.data: step -> (indices, positions, valid), each [rows]."""

    def examples(step):
        try:
            indices, positions, valid = plan(int(step))
        except Exception as e:
            failures.append(e)
            raise
        # NaN is the middle, since a tensor cannot hold None.
        return indices, np.full(len(indices), np.nan) if positions is None else positions, valid

    def plan_rows(step):
        tensors = tf.numpy_function(examples, [step], [tf.int64, tf.float64, tf.bool])
        return tuple(tf.ensure_shape(tensor, (rows,)) for tensor in tensors)

    return plan_rows


def _reader(source, spec, report, failures):
    """host_loader.read_example for tf.data."""
    rest = spec.num_samples, spec.multi_label, report, spec.distinct

    def read(index, position, valid):
        position = None if np.isnan(position) else position
        return host_loader.read_example(source, int(index), position, bool(valid), *rest)

    return _mapped(read, _tensors(source, spec), failures)


def _batch_reader(plan, rows, source, spec, report, failures):
    """host_loader.example_batch for tf.data: a step's whole batch in one call of Python."""
    rest = spec.num_samples, spec.multi_label, report, spec.distinct

    def read(step):
        return host_loader.example_batch(source, *plan(int(step)), *rest)

    of_row = _tensors(source, spec)
    tensors = {key: ((rows, *shape), dtype) for key, (shape, dtype) in of_row.items()}
    return _mapped(read, tensors, failures)


def _mapped(read, tensors, failures):
    """`read`, which returns a dict of arrays, for tf.data; what it raises is added to `failures`.

    tensors: (shape, type) of what it returns, by name.
    """

    def arrays(*arguments):
        try:
            found = read(*arguments)
        except Exception as e:
            failures.append(e)
            raise
        return [found[key] for key in tensors]

    def mapped(*arguments):
        dtypes = [dtype for _, dtype in tensors.values()]
        found = tf.numpy_function(arrays, list(arguments), dtypes)
        named = dict(zip(tensors, found, strict=True))
        return {key: tf.ensure_shape(named[key], shape) for key, (shape, _) in tensors.items()}

    return mapped


def _tensors(source, spec):
    """(shape, type) of what a row holds, by name."""
    tensors = {
        "audio": ((spec.num_samples,), tf.int16),
        "num_samples": ((), tf.int32),
        "valid": ((), tf.float32),
        "index": ((), tf.int32),
    }
    if spec.distinct:
        tensors["file"] = ((), tf.int32)
    if source.label_names:
        classes = (len(source.label_names),)
        tensors["labels"] = (classes, tf.float32) if spec.multi_label else ((), tf.int32)
    return tensors


def _iterate(dataset, failures):
    """Yields the batches; raises the first of `failures` where one of them ended the data set."""
    iterator = dataset.as_numpy_iterator()
    try:
        while True:
            failure = None
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                # Raised below, without TensorFlow's frames: they would keep the iterator until the
                # interpreter ends, and there it waits for Python for ever.
                failure = failures[0] if failures else error.with_traceback(None)
            if failure is not None:
                raise failure
            yield batch
    finally:
        del iterator  # ends the reading, even where a traceback keeps this frame alive
