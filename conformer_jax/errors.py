"""The one exception that a user's mistake or a full disk may end in, and words that recur."""

import difflib
import errno
import os

TOO_LITTLE_MEMORY = (
    "the device has too little memory: lower data.batch_size, raise train.accumulate or set "
    "conformer.remat=full"
)


class UserError(Exception):
    """A problem the user can mend; the message is one line that names the thing and the mend."""


class DiskFull(UserError):
    """No room for what is to be written: the same command goes on once there is some."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether it is a write that found no room, also as a library of C++ words it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, DiskFull) or any(os.strerror(n) in str(error) for n in _FULL)


def unknown(what: str, name: str, known: list[str]) -> str:
    """'unknown <what>: did you mean ...? known: ...'."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    meant = f": did you mean {nearest[0]!r}?" if nearest else ":"
    return f"unknown {what}{meant} known: {', '.join(known) or 'none'}"
