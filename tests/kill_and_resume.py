"""Kills a training run with SIGKILL again and again, and compares its end with a run left alone.

    python tests/kill_and_resume.py --kills=100 [--processes=2] [--task=finetune] [--seed=0]

A kill falls, by turns, into the start (imports, restoring), between two steps, or into a save
that is being written. Parameters, optimizer state and metrics must come out bit-identical.
Exit code 0 says that they did. Where --processes is more than 1, one of them, drawn at random,
is killed, and the others must end by themselves within a minute.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from conformer_jax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
SAVE_EVERY = 6  # steps
CLOCK = ("clips_per_s", "audio_hours_per_s", "mfu")  # metrics that tell time
KINDS = ("save", "step", "start")


def command(workdir, task, steps, processes, objective="wav2vec2"):
    """The argv of a run."""
    arguments = [
        f"--config=configs/{task}.py:smoke",
        f"--workdir={workdir}",
        "--config.data.loader=threads",
        "--config.data.clip_s=0.5",
        f"--config.train.num_steps={steps}",
        "--config.train.log_every=1",
        f"--config.checkpoint.every_steps={SAVE_EVERY}",
    ]
    if objective != "wav2vec2":
        arguments += [
            f"--config.objective={objective}",
            "--config.views.length_s=0.32",
            "--config.clip.head_width=32",
        ]
    if task == "finetune":
        arguments.append("--config.init_from=")
    if processes == 1:
        return [sys.executable, "-m", "conformer_jax.main", *arguments]
    return ["launch/local.sh", str(processes), *arguments]


def stop_and_resume(folder, *, moments, seed=0, say=print):
    """Two processes that save at every step, SIGTERM at random moments, by turns to both and to one
    of them; returns (differences from a run left alone, seconds from each SIGTERM to the end)."""
    rng = random.Random(seed)
    alone, stopped, steps = folder / "alone", folder / "stopped", 4 * (moments + 1)
    argv = lambda workdir: [
        *command(workdir, "pretrain", steps, 2),
        "--config.checkpoint.every_steps=1",
        "--config.train.eval_every=3",
        "--config.synthetic.num_eval=16",
    ]
    code = start(argv(alone), folder).wait()
    assert code == 0, (folder / "output.log").read_text()[-2000:]
    seconds = []
    for i in range(moments):
        wanted = logged_steps(stopped) + rng.randrange(1, 3)
        run = start(argv(stopped), folder)
        while run.poll() is None and logged_steps(stopped) < wanted:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        assert run.poll() is None, (folder / "output.log").read_text()[-2000:]
        begun = time.time()
        os.kill(run.pid if i % 2 == 0 else rng.choice(processes_of(run)), signal.SIGTERM)
        try:
            code = run.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            raise
        seconds.append(time.time() - begun)
        assert code == 75, (code, (folder / "output.log").read_text()[-2000:])
        say(f"SIGTERM {i + 1}/{moments}: {seconds[-1]:.1f} s, step {logged_steps(stopped)}/{steps}")
    code = start(argv(stopped), folder).wait()
    assert code == 0, (folder / "output.log").read_text()[-2000:]
    return differences(final(alone), final(stopped)), seconds


def start(argv, folder):
    """Starts a run in a process group of its own; what it says goes to <folder>/output.log."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHON": sys.executable,
        "LOG_DIR": str(folder),
        # A restart then costs no compilation.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment.pop("XLA_FLAGS", None)  # of the tests' conftest.py: this is what users run
    with (folder / "output.log").open("a") as log:
        return subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def logged_steps(workdir):
    """Number of the newest step in metrics.jsonl."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def half_written(workdir):
    """(folder, inode) of checkpoints that are being written, or were when a run was killed."""
    folders = (workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")
    found = set()
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):  # it got its name meanwhile
            found.add((folder.name, folder.stat().st_ino))
    return found


def wait_for(moment, run, workdir, rng, old):
    """Waits for a moment of this kind, or for the end of the run; `old` saves do not count."""
    if moment == "start":
        time.sleep(rng.uniform(0.0, 6.0))
        return
    begin = logged_steps(workdir)
    wanted = begin + 1 + rng.randrange(2 * SAVE_EVERY)
    while run.poll() is None:
        if moment == "step" and logged_steps(workdir) >= wanted:
            return
        if moment == "save" and half_written(workdir) - old:
            time.sleep(rng.uniform(0.0, 0.01))
            return
        time.sleep(0.002)


def processes_of(run):
    """Process ids of the Python processes of a run: its own, or launch/local.sh's children."""
    children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text()
    return [int(pid) for pid in children.split()] or [run.pid]


def kill(run, rng, processes):
    """SIGKILL to one process; returns within a minute, when all have ended."""
    victim = run.pid if processes == 1 else rng.choice(processes_of(run))
    os.kill(victim, signal.SIGKILL)
    code = run.wait(timeout=60)
    assert code != 0, "a run that lost a process must not report success"


def final(workdir):
    """(arrays by name, records without clock) of a finished run."""
    newest = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    arrays = {}
    for item in ("params", "training"):
        arrays |= flat(checkpoint.read_item(newest / item), f"{newest.name}/{item}")
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return arrays, [{k: v for k, v in r.items() if k not in CLOCK} for r in records]


def flat(tree, name):
    """Leaves of nested dicts and lists as numpy arrays, by path."""
    if tree is None:
        return {}
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, part in items for k, v in flat(part, f"{name}/{key}").items()}
    return {name: np.asarray(tree)}


def differences(left, right):
    """Names of what is not bit-identical."""
    (arrays, records), (other_arrays, other_records) = left, right
    names = sorted(arrays.keys() ^ other_arrays.keys())
    names += [
        name
        for name in sorted(arrays.keys() & other_arrays.keys())
        if arrays[name].tobytes() != other_arrays[name].tobytes()
    ]
    return names + (["metrics.jsonl"] if records != other_records else [])


def kill_and_resume(
    folder, *, kills, processes=1, task="pretrain", objective="wav2vec2", seed=0, say=print
):
    """Runs it all in `folder`; returns (differences, kills that fell into a save)."""
    rng = random.Random(seed)
    steps = SAVE_EVERY * (kills + 2)
    argv = lambda workdir: command(workdir, task, steps, processes, objective)
    alone, killed = folder / "alone", folder / "killed"
    code = start(argv(alone), folder).wait()
    assert code == 0, (folder / "output.log").read_text()[-2000:]
    in_save = 0
    for i in range(kills):
        old = half_written(killed)
        run = start(argv(killed), folder)
        moment = KINDS[i % len(KINDS)]
        wait_for(moment, run, killed, rng, old)
        if run.poll() is not None:
            assert run.returncode == 0, (folder / "output.log").read_text()[-2000:]
            # It came through; what is left of the kills meets a run from the start.
            say(f"kill {i + 1}: the run had finished; begun again")
            assert not differences(final(alone), final(killed))
            shutil.rmtree(killed)
            continue
        kill(run, rng, processes)
        during = bool(half_written(killed) - old)
        in_save += during
        say(
            f"kill {i + 1}/{kills}: {moment}{', in a save' if during else ''}, "
            f"step {logged_steps(killed)} of {steps}"
        )
    code = start(argv(killed), folder).wait()
    assert code == 0, (folder / "output.log").read_text()[-2000:]
    return differences(final(alone), final(killed)), in_save


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="about 10 s each; default 100")
    parser.add_argument("--processes", type=int, default=1, help="of the run; default 1")
    parser.add_argument("--task", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--objective", choices=("wav2vec2", "clip", "both"), default="wav2vec2")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default 0")
    options = parser.parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        different, in_save = kill_and_resume(pathlib.Path(folder), **vars(options))
    print(
        f"{options.kills} kills ({in_save} in a save), {options.kills} resumes, "
        f"{(time.time() - begun) / 60:.0f} min: "
        + (f"differs in {', '.join(different[:5])}" if different else "bit-identical")
    )
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
