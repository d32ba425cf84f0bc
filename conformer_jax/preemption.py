"""SIGTERM: the scheduler takes the machine away. The loop saves, and the process says 'try again'.

TPU VMs that are preempted, Slurm at a time limit and Kubernetes all send SIGTERM first and
SIGKILL half a minute later.
"""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h; the scripts in launch/ retry on it


class Preempted(Exception):
    """The run was asked to stop, and has saved; the same command goes on."""


# Of `due` in this process; the coordination service knows the places by their number.
_CALLS = itertools.count(1)


class Watch:
    """Notes SIGTERM.

    A process that is alone listens from the second call of `due` to `close`: before that there is
    nothing to save, and SIGTERM ends the process at once, as it does by itself (exit code 143).
    Outside the main thread no signal can be heard. Where there are several processes, JAX's
    coordination service has listened since they joined: it hears the signal of any one and finds a
    call of `due` that none has made yet, at which it is true for all.
    """

    def __init__(self):
        self._asked, self._before = False, None
        self._new = True  # `due` has not been called
        self._alone = jax.process_count() == 1
        self._can_listen = threading.current_thread() is threading.main_thread()

    def due(self) -> bool:
        """Whether to save and stop here; all processes ask at the same places."""
        if not self._alone:
            return multihost_utils.reached_preemption_sync_point(next(_CALLS))
        if not self._new and self._before is None and self._can_listen:
            self._before = signal.signal(signal.SIGTERM, self._note)
        self._new = False
        return self._asked

    def close(self) -> None:
        """Gives SIGTERM its former meaning back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._asked = True
