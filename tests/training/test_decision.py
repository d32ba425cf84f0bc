"""What is due when: the whole course of small runs, on paper."""

import ml_collections
import pytest

from conformer_jax.training import decision
from conformer_jax.training.selection import Standing


def sections(num_steps=6, log_every=0, eval_every=0, every_steps=0):
    return (
        ml_collections.ConfigDict(
            {"num_steps": num_steps, "log_every": log_every, "eval_every": eval_every}
        ),
        ml_collections.ConfigDict({"every_steps": every_steps}),
    )


def course(fresh_from=1, **fields):
    """'s' where a step is saved, 'e' where it is only evaluated, '.' else; the last in capitals."""
    limits, letters = sections(**fields), ""
    for step in range(limits[0].num_steps + 1):
        due = decision.before_step(step, *limits, fresh=step >= fresh_from)
        assert due.evaluate or not due.save  # what is saved is ranked
        letter = "s" if due.save else "e" if due.evaluate else "."
        letters += letter.upper() if due.last else letter
    return letters


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "......S"),
        ({"eval_every": 2}, "..e.e.S"),
        ({"every_steps": 3}, "...s..S"),
        ({"eval_every": 2, "every_steps": 4}, "..e.s.S"),
        ({"eval_every": 1, "fresh_from": 3}, "...eeeS"),  # step 2 restored: evaluated before
        ({"every_steps": 2, "fresh_from": 2}, "..s.s.S"),  # step 2 saved in haste: still to do
        ({"num_steps": 0}, "S"),
    ],
)
def test_a_run_evaluates_and_saves_when_it_should(fields, expected):
    assert course(**fields) == expected


@pytest.mark.parametrize(
    ("improved", "over", "save", "last"),
    [
        (False, False, False, False),
        (True, False, True, False),
        (False, True, True, True),
    ],
)
def test_what_improves_is_saved_and_patience_ends(improved, over, save, last):
    due = decision.Due(last=False, evaluate=True, save=False)
    standing = Standing(best_step=1, improved=improved, over=over, rank=0.5)
    assert decision.after_validation(due, standing) == (last, True, save)
    due = decision.Due(last=True, evaluate=True, save=True)
    assert decision.after_validation(due, standing) == (True, True, True)


@pytest.mark.parametrize(
    ("fields", "validates", "expected"),
    [
        ({}, False, [1, 6]),
        ({"log_every": 4}, False, [1, 4, 6]),
        ({"every_steps": 3}, False, [1, 3, 6]),
        ({"eval_every": 2}, False, [1, 6]),
        ({"eval_every": 2}, True, [1, 2, 4, 6]),
    ],
)
def test_records_end_where_a_checkpoint_may_lie(fields, validates, expected):
    limits = sections(**fields)
    due = [n for n in range(1, 7) if decision.record_due(n, *limits, validates=validates)]
    assert due == expected
