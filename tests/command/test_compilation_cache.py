"""Compilations are kept for the next start, unless told otherwise."""

import os
import subprocess
import sys

import pytest

COMPILE = """
from conformer_jax.command import compilation_cache
compilation_cache.turn_on()
import jax
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize(
    ("switch", "expected"),
    [({}, "{home}/conformer_jax/xla"), ({"CONFORMER_JAX_CACHE": "0"}, "None")],
)
def test_the_folder_and_its_switch(switch, expected, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", **switch}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected.format(home=tmp_path)
