"""A run killed with SIGKILL at random moments; more kills: tests/kill_and_resume.py by hand."""

import pytest
from kill_and_resume import kill_and_resume, stop_and_resume


def test_three_kills_change_no_bit(tmp_path):
    different, in_save = kill_and_resume(tmp_path, kills=3)
    assert different == []
    assert in_save >= 1


@pytest.mark.slow
def test_kills_change_no_bit_of_clip_contrast(tmp_path):
    """2 min."""
    assert kill_and_resume(tmp_path, kills=3, objective="clip")[0] == []


@pytest.mark.slow
def test_sigterm_to_processes_that_save_at_every_step_is_heard_and_changes_no_bit(tmp_path):
    """Ten moments, by turns to both processes and to one.

    35 min on two cores with a load of 10 to 20, most of it compiling and waiting; from SIGTERM to
    the end it took 6 to 22 s. In the fast suite test_distributed.py has one moment, beside a save.
    """
    different, seconds = stop_and_resume(tmp_path, moments=10)
    assert different == []
    assert max(seconds) < 30
