"""What is due before a step and after it: pure, from the numbers of the config and the step."""

from typing import NamedTuple


class Due(NamedTuple):
    """What the loop does before it takes the next step."""

    last: bool  # there is no next step
    evaluate: bool
    save: bool


def before_step(step: int, train, checkpoint, *, fresh: bool) -> Due:
    """What is due where `step` steps are done.

    Args:
      step: from 0.
      train: config.train.
      checkpoint: config.checkpoint.
      fresh: whether the step has not been evaluated and saved by the process before.
    """
    last = step >= train.num_steps
    save = last or (fresh and _every(step, checkpoint.every_steps))
    return Due(last, save or (fresh and _every(step, train.eval_every)), save)


def after_validation(due: Due, standing) -> Due:
    """The same once a validation split has judged: what improves is saved, and patience ends.

    Args:
      standing: selection.Standing.
    """
    save = due.save or standing.improved or standing.over
    return due._replace(last=due.last or standing.over, save=save)


def record_due(done: int, train, checkpoint, *, validates: bool) -> bool:
    """Whether the window of training metrics ends after `done` steps.

    Saving ends one, so that a resumed run logs the same windows; so does a validation, which may
    save.
    """
    return (
        done in (1, train.num_steps)
        or _every(done, train.log_every)
        or _every(done, checkpoint.every_steps)
        or (validates and _every(done, train.eval_every))
    )


def _every(step, every):
    return every > 0 and step % every == 0
