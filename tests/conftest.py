"""Compilations are shared by all tests of a run, whichever process they run in.

Much of the suite's time is XLA compiling the same toy programs, again in every worker and in every
command that a test starts.
"""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit the controller's
    _FOLDER = tempfile.mkdtemp(prefix="conformer_jax_tests_")
    atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
