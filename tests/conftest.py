"""Compilations are cheap, and shared by all tests of a run, whichever process they run in.

Most of the suite's time was XLA compiling toy programs: again in every worker and in every command
that a test starts, and with optimizations that pay in no program that runs a dozen steps.
tests/kill_and_resume.py runs what users run.
"""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

if "XLA_FLAGS" not in os.environ:  # a quarter of the time to compile
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if importlib.metadata.version("jax").startswith("0.10."):  # the flag is gone in 0.11
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit the controller's
    _FOLDER = tempfile.mkdtemp(prefix="conformer_jax_tests_")
    atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
