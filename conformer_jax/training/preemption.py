"""SIGTERM: the scheduler takes the machine away. The loop saves, and the process says 'try again'.
Ctrl-C: the user does, and the loop saves likewise.

TPU VMs that are preempted, Slurm at a time limit and Kubernetes all send SIGTERM first and
SIGKILL half a minute later.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h; the scripts in launch/ retry on it


class Preempted(Exception):
    """The run was asked to stop, and has saved; the same command goes on.

    Attributes:
      by_user: whether by Ctrl-C.
    """

    def __init__(self, step: int, by_user: bool):
        super().__init__(f"stopped at step {step} by {'Ctrl-C' if by_user else 'SIGTERM'}")
        self.by_user = by_user


# Of `due` in this process; the coordination service knows the places by their number.
_CALLS = itertools.count(1)


class Watch:
    """Notes SIGTERM and the first Ctrl-C; a second Ctrl-C interrupts at once.

    A process that is alone listens from the second call of `due` to `close`: before that there is
    nothing to save, and either ends the process at once, as it does by itself (exit code 143, 130).
    Outside the main thread no signal can be heard, and an ignored Ctrl-C stays ignored. Where there
    are several processes, JAX's coordination service has listened since they joined: it hears the
    SIGTERM of any one and finds a call of `due` that none has made yet, at which it is true for
    all; Ctrl-C interrupts there.
    """

    def __init__(self):
        self._asked, self._before = None, {}  # the first signal; what each meant before
        self._interrupted = False
        self._new = True  # `due` has not been called
        self._alone = jax.process_count() == 1
        self._can_listen = threading.current_thread() is threading.main_thread()

    @property
    def heard(self) -> bool:
        """Whether a signal came to this process, which is alone."""
        return self._asked is not None

    def due(self) -> bool:
        """Whether to save and stop here; all processes ask at the same places."""
        if not self._alone:
            return multihost_utils.reached_preemption_sync_point(next(_CALLS))
        if not self._new and not self._before and self._can_listen:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
        self._new = False
        return self.heard

    def close(self) -> None:
        """Gives the signals their former meaning back."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def preempted(self, step: int) -> Preempted:
        """What to raise after saving."""
        return Preempted(step, self._asked == signal.SIGINT)

    def _note(self, number, _):
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            # Not print: a signal may come in the middle of one.
            os.write(2, b"\nsaving, then stopping; Ctrl-C again stops at once\n")
        self._asked = self._asked or number
