"""SIGTERM: the scheduler takes the machine away. The loop saves, and the process says 'try again'.

TPU VMs that are preempted, Slurm at a time limit and Kubernetes all send SIGTERM first and
SIGKILL half a minute later.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h; the scripts in launch/ retry on it


class Preempted(Exception):
    """The run was asked to stop, and has saved; the same command goes on."""


class Watch:
    """Notes SIGTERM from the second call of `due` to `close`.

    Before that there is nothing to save, and SIGTERM ends the process at once, as it does by
    itself (exit code 143). Of several processes, JAX's coordination service hears the signal of
    any one and finds a call of `due` that none has made yet, at which it is true for all. Outside
    the main thread no signal can be heard.
    """

    def __init__(self):
        self._asked, self._calls, self._before = False, 0, None
        self._alone = jax.process_count() == 1
        self._can_listen = threading.current_thread() is threading.main_thread()

    def due(self) -> bool:
        """Whether to save and stop here; all processes ask at the same places."""
        self._calls += 1
        if not self._alone:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        if self._calls == 2 and self._can_listen:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self._asked

    def close(self) -> None:
        """Gives SIGTERM its former meaning back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._asked = True
