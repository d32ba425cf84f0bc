"""Compiling for a TPU that is not there; the compiler itself comes with the extra `tpu`."""

import importlib.util
import subprocess
import sys

import pytest

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax import compile as tpu
from conformer_jax.data import host_loader, sources
from conformer_jax.errors import UserError
from conformer_jax.training import program

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:16", "v5e:2x2x2x2", "v4:ax2"])
def test_an_unknown_topology_is_answered_with_the_known_chips(topology):
    with pytest.raises(UserError, match=r"--topology=.*v5e:16x16 .*chips: v4, v5e, v5p"):
        tpu.estimate(pretrain_config.get_config("smoke"), topology)


def test_the_clock_follows_from_the_peak():
    """Matrix units of 128 x 128, a multiply-add a cycle: 8 a chip, 4 on v5e."""
    units = {"v4": 8, "v5e": 4, "v5p": 8}
    for name, chip in tpu.CHIPS.items():
        assert chip.peak == pytest.approx(units[name] * 128 * 128 * 2 * chip.clock, rel=0.01)


def test_what_to_change_doubles_the_passes_until_it_fits():
    config = pretrain_config.get_config("smoke")
    assert "train.accumulate=4," in tpu._mend(config, 2.5)
    config.train.accumulate = 2
    assert "train.accumulate=4," in tpu._mend(config, 1.2)


def test_the_compilers_refusal_becomes_one_line():
    config = pretrain_config.get_config("smoke")
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.20G of 15.75G hbm.\n"
    assert str(tpu._no_room(RuntimeError(text), config)).startswith(
        "does not fit: 33.5 GB a chip of 16.9 GB: try --config.train.accumulate=4"
    )
    assert str(tpu._no_room(RuntimeError("INTERNAL: x\ny"), config)).endswith("INTERNAL: x")


@pytest.mark.skipif(HAS_COMPILER, reason="the TPU compiler is installed")
def test_without_the_compiler_one_line_says_what_to_install():
    with pytest.raises(UserError, match=r"the TPU compiler is missing: pip install .*\.\[tpu\]'"):
        tpu.estimate(pretrain_config.get_config("smoke"), "v5e:2x4")


@pytest.mark.slow  # 1 min
@pytest.mark.skipif(not HAS_COMPILER, reason="needs the TPU compiler: pip install '.[tpu]'")
def test_the_smoke_step_compiles_for_a_pod():
    command = [sys.executable, "-m", "conformer_jax.compile", "--topology=v5e:2x4"]
    command += ["--config=configs/pretrain.py:smoke"]
    command += ["--config.data.batch_size=8", "--config.data.eval_batch_size=8"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "8 chips of v5e:2x4" in said
    assert "GB of 16 GB: fits" in said
    assert "all-reduce" in said
    assert "estimated step:" in said
    (parts,) = [line for line in said.splitlines() if line.startswith("compute by part: ")]
    shares = dict(part.rsplit(" ", 1) for part in parts.partition(": ")[2].split("; "))
    assert sum(int(share[:-1]) for share in shares.values()) == pytest.approx(100, abs=6)
    assert {"optimizer", "features", "depthwise convolution", "norms"} < set(shares)


def test_a_classifier_needs_its_classes():
    config = finetune_config.get_config("smoke")
    with pytest.raises(UserError, match=r"how many classes .* give --classes"):
        tpu.estimate(config, "v5e:2x4")
    config.task = "knn"
    with pytest.raises(UserError, match="a knn has no training step"):
        tpu.estimate(config, "v5e:2x4", 10)


@pytest.mark.parametrize("several", [False, True])
def test_a_batch_to_compile_is_what_the_loader_gives(several):
    """Of fine-tuning, whose labels no file is read for."""
    config = finetune_config.get_config("smoke")
    config.classifier.multi_label = several
    found = sources.open_sources(sources.source_spec(config)).train
    built = program.build(tpu._without_data(config, 20), 20)
    given = host_loader.empty_batch(found, host_loader.loader_spec(config))
    del given["index"]  # which no step reads
    shapes = {name: (value.shape, value.dtype) for name, value in given.items()}
    made = tpu._batch(config, built, 20)
    assert {name: (value.shape, value.dtype) for name, value in made.items()} == shapes
