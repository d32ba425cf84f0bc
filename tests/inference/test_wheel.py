"""The installed wheel, in a folder where the repository is not."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from inference.conftest import toy

from conformer_jax.training import model_file

ROOT = pathlib.Path(__file__).parents[2]
USE = """
import sys, time

started = time.perf_counter()
import conformer_jax

assert time.perf_counter() - started < 2
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
sys.modules["tensorflow"] = None  # any import of it now fails
import numpy as np

assert "site" in conformer_jax.__file__, conformer_jax.__file__
tags = conformer_jax.load("model.safetensors").tag(np.zeros(8000), 16000)
assert tags.label_names == ("b", "a", "Türe")
vectors = conformer_jax.load("pretrained:tiny").embed(np.zeros(800), 16000)
assert vectors.frames.shape[1] == 144
print("heard")
"""


@pytest.mark.slow  # 15 to 30 s: a wheel, an installation, a fresh interpreter
def test_the_wheel_works_in_an_empty_folder(tmp_path):
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    source.mkdir()
    shutil.copytree(
        ROOT / "conformer_jax",
        source / "conformer_jax",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), site, "zip")
    empty.mkdir()
    model_file.save(empty / "model.safetensors", *toy())
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "heard\n"
