"""The one exception that a user's mistake or a full disk may end in."""

TOO_LITTLE_MEMORY = (
    "the device has too little memory: lower data.batch_size, raise train.accumulate or set "
    "conformer.remat=full"
)


class UserError(Exception):
    """A problem the user can mend; the message is one line that names the thing and the mend."""
