"""A run killed with SIGKILL at random moments; more kills: tests/kill_and_resume.py by hand."""

from kill_and_resume import kill_and_resume


def test_five_kills_change_no_bit(tmp_path):
    different, in_save = kill_and_resume(tmp_path, kills=5)
    assert different == []
    assert in_save >= 1
