"""One run at a time in a workdir."""

import os
import subprocess
import sys

import pytest

from configs import finetune
from conformer_jax.errors import UserError
from conformer_jax.training import lock, workdir


def test_a_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path):
    code = (
        "import sys, time\n"
        "from conformer_jax.training import lock\n"
        "with lock.alone(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    folder = tmp_path / "run"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=rf"another run is at work there \(process {first.pid} "),
            lock.alone(folder),
        ):
            pytest.fail("both runs hold the workdir")
    finally:
        first.kill()  # nothing is tidied up
        first.communicate()
    with lock.alone(folder):
        pass


def test_one_process_may_run_one_after_the_other_and_one_inside_the_other(tmp_path):
    for _ in range(2):
        with lock.alone(tmp_path), lock.alone(tmp_path / "scratch"):
            pass


def test_the_lock_is_left_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.alone(tmp_path):
        1 / 0  # noqa: B018
    with lock.alone(tmp_path):
        pass


def test_a_file_system_without_locks_holds_nobody_up(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.alone(tmp_path), lock.alone(tmp_path):
        pass


def test_a_probe_does_not_replace_the_results_of_another_task(tmp_path):
    config = finetune.get_config("probe")
    workdir.claim(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "split": "eval"}\n')
    workdir.claim(tmp_path, config)  # the same again: done anew
    config.task = "knn"
    with pytest.raises(UserError, match=r"another task .*'linear_probe' -> 'knn'"):
        workdir.claim(tmp_path, config)
