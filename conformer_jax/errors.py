"""The one exception that a user's mistake or a full disk may end in."""


class UserError(Exception):
    """A problem the user can mend; the message is one line that names the thing and the mend."""
