"""One run at a time in a workdir: a lock that ends with the process that holds it."""

import contextlib
import errno
import logging
import os
import pathlib
import socket

from conformer_jax.errors import UserError
from conformer_jax.training import distributed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NAME = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def alone(workdir, flag="--workdir"):
    """Holds the workdir, which is made; process 0 does so for all.

    Args:
      workdir: the folder.
      flag: the option that named it, for what is said.

    Where the file system knows no locks (some mounted buckets), it is held by nobody.

    Raises:
      UserError: another run holds it.
    """
    held = []
    distributed.on_first(lambda: held.append(_take(pathlib.Path(workdir), flag)))
    try:
        yield
    finally:
        for file in filter(None, held):
            file.close()  # which unlocks; the file stays: to remove it would be a race


def _take(workdir, flag):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / _NAME).open("a+")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"cannot write to {flag}={workdir}: {error.strerror}") from error
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            logging.info("%s knows no locks: see that one run at a time is there", workdir)
            return file
        file.seek(0)
        owner = file.read(100).strip()
        file.close()
        raise UserError(
            f"{flag}={workdir}: another run is at work there ({owner or 'unknown'}): wait for "
            f"its end, or choose another {flag}"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
