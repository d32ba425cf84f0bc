"""Several processes on this machine, with real collectives, against one process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions
from conformer_jax.training import checkpoint, distributed

ROOT = pathlib.Path(__file__).parents[2]


TASKS = ("pretrain", "finetune")


def make_labelled(folder):
    """Nine clips of three labels, which the evaluations of pre-training tell."""
    rows = ["path,label"]
    for i in range(9):
        sound = np.random.default_rng(i).standard_normal(8000) * np.sin(
            np.arange(8000) * (1 + i % 3)
        )
        soundfile.write(folder / f"{i}.wav", 0.1 * sound, 16000)
        rows.append(f"{i}.wav,{i % 3}")
    (folder / "labelled.csv").write_text("\n".join(rows))


def start(folder, tasks, count, stop_at=-1):
    """Starts `count` processes of tests/processes.py."""
    make_labelled(folder)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tests" / "processes.py"), str(folder), ",".join(tasks)]
    return [
        subprocess.Popen(
            [*command, address, str(count), str(i), str(stop_at)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def said_by(processes, timeout):
    """What each says until its end; none is left alive, whatever happens."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # nothing where it has ended
            process.wait()


def run(folder, tasks, count, stop_at=-1):
    """Runs them to their end; their exit codes, and what they said."""
    processes = start(folder, tasks, count, stop_at)
    said = said_by(processes, timeout=400)
    return [process.returncode for process in processes], "\n".join(said)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Pre-training and fine-tuning in one process: what the others must equal."""
    folder = tmp_path_factory.mktemp("alone")
    codes, said = run(folder, TASKS, 1)
    assert codes == [0], said
    return folder


def hashes(folder, task, process=0):
    return json.loads((folder / f"{task}_hashes_{process}.json").read_text())


def params(folder, task):
    return checkpoint.read_item(folder / task / "checkpoints" / "5" / "params")


def leaves(tree, name=""):
    if not isinstance(tree, dict):
        return {name: np.asarray(tree)}
    return {k: v for key, part in tree.items() for k, v in leaves(part, f"{name}/{key}").items()}


def records(folder, task):
    lines = (folder / task / "metrics.jsonl").read_text().splitlines()
    clock = {"clips_per_s", "audio_hours_per_s", "mfu", "split"}
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def assert_same_run(folder, alone, task):
    ours, theirs = leaves(params(folder, task)), leaves(params(alone, task))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-6, rtol=0, err_msg=name)
    for ours, theirs in zip(records(folder, task), records(alone, task), strict=True):
        if "gradient_norm" in theirs:  # of up to 54
            expected = pytest.approx(theirs.pop("gradient_norm"), rel=1e-5)
            assert ours.pop("gradient_norm") == expected
        assert ours == pytest.approx(theirs, abs=1e-5)


def assert_same_predictions(folder, alone):
    ours, theirs = (predictions.load(f / "finetune" / "predictions.npz") for f in (folder, alone))
    assert ours.ids.tolist() == [f"synthetic/eval/{i:06d}" for i in range(11)]  # each clip once
    assert (ours.ids == theirs.ids).all()
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
    assert ours.step == theirs.step == 5


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])  # 1 min
def test_several_processes_train_and_evaluate_as_one(alone, tmp_path, count):
    codes, said = run(tmp_path, TASKS, count)
    assert codes == [0] * count, said
    for task in TASKS:
        for process in range(count):
            assert hashes(tmp_path, task, process) == hashes(alone, task)
        assert_same_run(tmp_path, alone, task)
    assert_same_predictions(tmp_path, alone)
    # 5 training batches, and before each save 2 of held-out and 2 of labelled clips.
    assert len(hashes(alone, "pretrain")) == 5 + 5 * (2 + 2)
    told = [r for r in records(alone, "pretrain") if "retrieval_at_1" in r]
    assert len(told) == 5
    assert all(r["neighbors_clips"] == 9 for r in told)
    for task in TASKS:
        files = {path.name for path in (tmp_path / task).iterdir()}
        assert files == {path.name for path in (alone / task).iterdir()}  # one writer


def test_preempted_processes_save_at_the_same_step_and_another_number_goes_on(alone, tmp_path):
    # The batch after the first save, in which Orbax would ask the coordination service, too.
    codes, said = run(tmp_path, ["pretrain"], 2, stop_at=5)
    assert codes == [75, 75], said
    first = hashes(tmp_path, "pretrain")
    steps = [int(path.name) for path in (tmp_path / "pretrain" / "checkpoints").glob("[0-9]*")]
    assert 1 < max(steps) < 5
    codes, said = run(tmp_path, ["pretrain"], 1)
    assert codes == [0], said
    # From the very next batch; an evaluation that was cut short is done again.
    whole, rest = hashes(alone, "pretrain"), hashes(tmp_path, "pretrain")
    assert rest == whole[-len(rest) :]
    assert len(first) + len(rest) >= len(whole)
    assert_same_run(tmp_path, alone, "pretrain")


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])  # 30 s
def test_a_process_that_dies_ends_the_job_within_a_minute(tmp_path, victim):
    environment = {**os.environ, "PYTHON": sys.executable, "LOG_DIR": str(tmp_path)}
    arguments = [
        "--config=configs/pretrain.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.loader=threads",
        "--config.data.clip_s=0.5",
        "--config.train.num_steps=1000000",
        "--config.train.eval_every=0",
        "--config.checkpoint.every_steps=0",
    ]
    job = subprocess.Popen(
        ["launch/local.sh", "2", *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    records, deadline = tmp_path / "run" / "metrics.jsonl", time.time() + 120
    while not (records.exists() and '"step": 4' in records.read_text()):
        assert job.poll() is None, job.stderr.read()
        assert time.time() < deadline
        time.sleep(0.1)
    children = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    killed = time.time()
    os.kill(int(children[victim]), signal.SIGKILL)
    said = job.communicate(timeout=60)[1]
    assert time.time() - killed < 60
    assert job.returncode not in (0, 1, 75)
    assert f"process {victim} ended with exit code 137" in said
    assert not any(pathlib.Path(f"/proc/{child}").exists() for child in children)


def test_a_tensor_axis_over_two_processes_is_refused_and_all_end(tmp_path):
    job = subprocess.run(
        [
            *["launch/local.sh", "2", "--config=configs/pretrain.py:smoke"],
            *[f"--workdir={tmp_path}", "--config.sharding.data=1", "--config.sharding.tensor=2"],
            "--config.data.loader=threads",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert job.returncode == 1
    assert "error: config.sharding.tensor = 2 reaches over several processes" in job.stderr


OPENS = """
import sys

from configs import pretrain
from conformer_jax.data.sources import source_spec
from conformer_jax.errors import UserError
from conformer_jax.training import clips, distributed

address, process, manifest = sys.argv[1:]
distributed.initialize(address, 2, int(process))
config = pretrain.get_config("smoke")
config.data.manifest = manifest
try:
    clips.open_all(source_spec(config), None, "none", None, "")
except UserError as error:
    print("error:", error)
else:
    print("the same")
"""


@pytest.mark.parametrize("what", ["same", "other file", "no manifest"])
def test_processes_that_see_other_clips_end_all_in_one_line(tmp_path, what):
    for process in "01":
        folder = tmp_path / process
        folder.mkdir()
        for i in range(4):
            other = what == "other file" and process + str(i) == "12"
            (folder / f"{i}.wav").write_bytes(bytes([i + 100 * other]))
        if what != "no manifest" or process == "0":
            (folder / "m.csv").write_text("path\n0.wav\n1.wav\n2.wav\n3.wav\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, address, process, str(tmp_path / process / "m.csv")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in "01"
    ]
    said = [words.splitlines()[-1] for words in said_by(both, timeout=100)]
    if what == "same":
        assert said == ["the same"] * 2
    elif what == "other file":
        line = "error: processes 0 and 1 see different clips: give all of them the same manifest"
        assert all(words.startswith(line) for words in said)
    else:
        assert said[0] == "error: process 1 cannot go on: see what it says"
        assert said[1].startswith("error: cannot read the manifest")


def test_what_the_environment_says_of_other_processes():
    expected = distributed.several_expected
    assert not expected({})
    assert not expected({"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"})
    assert expected({"SLURM_STEP_NUM_TASKS": "2"})
    assert expected({"OMPI_COMM_WORLD_SIZE": "4"})
    assert expected({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert expected({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"})


def test_a_process_that_hangs_is_not_left_behind():
    hang = lambda: subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True)
    both = [hang(), hang()]
    with pytest.raises(subprocess.TimeoutExpired):
        said_by(both, timeout=0.1)
    assert [process.returncode for process in both] == [-signal.SIGKILL] * 2


def test_half_of_the_flags_is_refused():
    with pytest.raises(UserError, match=r"--num_processes, --process_id is missing"):
        distributed.initialize("localhost:1")


def test_one_process_calls_it_itself():
    assert distributed.on_first(lambda: {"a": (1, 2)}) == {"a": (1, 2)}
