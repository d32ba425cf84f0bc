"""The benchmark: one run of the command on a toy, and how its figures belong together."""

import copy
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from configs.finetune import get_config
from conformer_jax import benchmark
from conformer_jax.errors import UserError
from conformer_jax.measuring import measure
from conformer_jax.models import flops

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 3


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "conformer_jax.benchmark", *map(str, args)],
        cwd=ROOT,
        # Compiling is most of the time.
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    done = command(
        "--config=configs/finetune.py:smoke",
        "--config.conformer.kernel_sizes=(5,)",
        "--config.data.loader=threads",
        "--config.data.eval_batch_size=2",
        "--config.data.clip_s=0.5",
        f"--steps={STEPS}",
        f"--profile={folder}/trace",
        f"--output={folder}/x.json",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((folder / "x.json").read_text()), folder


def test_figures_of_the_step_agree(ran):
    _, result, _ = ran
    step = result["step"]
    low, high = step["quartiles_s"]
    least, most = step["range_s"]
    assert step["count"] == STEPS
    assert 0 < least <= low <= step["median_s"] <= high <= most
    assert step["clips_per_s"] == pytest.approx(4 / step["median_s"])
    assert step["audio_hours_per_hour"] == pytest.approx(0.5 * step["clips_per_s"])
    assert step["model_flops_per_s"] == pytest.approx(step["model_flops"] / step["median_s"])
    assert step["mfu"] == pytest.approx(step["model_flops_per_s"] / step["peak_flops_per_s"])
    assert 0 < step["mfu"] < 1
    assert "measured" in step["peak_source"]
    assert 3 * 2 * 16 * 20 * 4 < step["model_flops"] < 1e8  # more than the head of 20 classes


def test_the_other_sections_are_plausible(ran):
    _, result, _ = ran
    start, memory, loop = result["start"], result["memory"], result["loop"]
    stages = start["lower_s"] + start["compile_s"] + result["step"]["range_s"][0]
    assert stages < start["process_to_first_step_s"] < 300
    assert memory["peak_source"].startswith("resident")
    assert memory["peak_bytes"] > memory["step_temp_bytes"] > 0
    assert memory["step_argument_bytes"] > 4 * result["config"]["parameters"] * 3  # with Adam's two
    assert result["input"]["batches_per_s"] == pytest.approx(1 / result["input"]["mean_s"])
    assert result["input"]["clips_per_s"] == pytest.approx(4 * result["input"]["batches_per_s"])
    assert loop["clips_per_s"] == pytest.approx(4 / loop["mean_s"])
    assert 0 <= loop["stall_share"] < 1
    evaluation, inference = result["evaluation"], result["inference"]
    assert evaluation["clips_per_s"] == pytest.approx(2 / evaluation["median_s"])
    assert inference["real_time_factor"] == pytest.approx(inference["median_s"] / 0.5)


def test_the_profile_accounts_for_the_steps(ran):
    _, result, folder = ran
    assert list(folder.rglob("*.xplane.pb"))
    profile = result["profile"]
    parts = profile["parts"]
    assert sum(p["seconds"] for p in parts.values()) == pytest.approx(profile["total_s"])
    assert 0 < profile["total_s"] < 10 * result["step"]["range_s"][1]
    for part in ("matrix products", "attention", "features", "norms", "optimizer"):
        assert parts[part]["seconds"] > 0, part
    assert parts["depthwise convolution"]["backward_s"] > 0
    assert parts["features"]["backward_s"] == 0
    assert parts["unattributed"]["share"] < 0.05
    assert parts["other"]["share"] < 0.1


def test_the_table_says_the_same(ran):
    out, result, _ = ran
    assert out == benchmark.describe(result) + "\n"
    assert f"{result['step']['clips_per_s']:.3g} clips/s, 4 of 0.5 s a step" in out
    assert f"real-time factor {result['inference']['real_time_factor']:.3g}" in out


def test_what_was_not_measured_says_so(ran):
    result = copy.deepcopy(ran[1])
    result["step"] |= {"mfu": None, "peak_flops_per_s": None, "peak_source": None}
    result["memory"] = {"peak_bytes": None, "peak_source": None}
    result |= {"inference": None, "profile": None}
    lines = benchmark.describe(result).splitlines()
    assert sum("not measured" in line for line in lines) == 3
    assert not [line for line in lines if "real-time" in line or "None" in line]


def test_a_field_that_varies_changes_the_step_and_not_the_config():
    config = get_config("smoke")
    config.conformer.kernel_sizes = (5,)
    config.data.clip_s = 0.5
    before = config.to_json()
    (row,) = rows = list(measure.vary(config, "data.batch_size", [2], steps=1))
    assert config.to_json() == before
    assert row["value"] == row["config"]["batch_size"] == 2
    assert row["step"]["clips_per_s"] == pytest.approx(2 / row["step"]["median_s"])
    assert row["temp_bytes"] > 0
    table = benchmark.describe_vary("data.batch_size", rows).splitlines()
    assert [line.split()[0] for line in table] == ["data.batch_size", "2"]


def test_too_little_memory_ends_a_row_and_not_the_table(monkeypatch):
    def out_of_memory(config):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no")

    monkeypatch.setattr(measure, "_Bench", out_of_memory)
    rows = list(measure.vary(get_config("smoke"), "data.batch_size", [2, 4]))
    assert [(row["value"], row["step"]) for row in rows] == [(2, None), (4, None)]
    table = benchmark.describe_vary("data.batch_size", rows)
    assert table.count("too little memory") == 2


@pytest.mark.parametrize("field", ["data.nothing", "nowhere.clip_s", "name.more", "data"])
def test_a_field_that_cannot_vary_is_named(field):
    with pytest.raises(UserError, match=f"config.{field}( cannot be 'many'|: did you mean)"):
        next(measure.vary(get_config("smoke"), field, ["many"]))


def test_all_values_are_looked_at_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(measure, "_Bench", lambda config: pytest.fail("timed"))
    with pytest.raises(UserError, match="'many'"):
        next(measure.vary(get_config("smoke"), "data.batch_size", [8, "many"]))


def test_what_varies_is_read_from_the_flag():
    read = benchmark.field_and_values
    assert read("data.clip_s=0.5,1,2") == ("data.clip_s", [0.5, 1, 2])
    assert read("config.conformer.remat=none,full") == ("conformer.remat", ["none", "full"])
    assert read("conformer.kernel_sizes=(15,5),(5,)")[1] == [(15, 5), (5,)]
    for wrong in ("data.clip_s", "data.clip_s=", "=1,2"):
        with pytest.raises(UserError, match=f"--vary={wrong}"):
            read(wrong)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--vary=data.clip_s=1,2", "--profile=x"], "--profile"),
        (["--output=nowhere/x.json"], "nowhere"),
        (["--config.data.manifest=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_mistake_is_one_line(args, expected):
    done = command("--config=configs/finetune.py:smoke", *args)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr
    assert done.stdout == ""


def test_the_peak_of_a_cpu_is_measured_once():
    assert flops.peak_flops() == flops.peak_flops() > 1e9
