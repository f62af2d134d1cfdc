"""The one error for mistakes a user can mend; everything else that raises is a bug of ours.

The command line prints the message of a `UserError` as a single sentence and exits with status 2, without a
traceback. The message says what is wrong, where, and what to do.
"""


class UserError(Exception):
    """A mistake in what the user gave us: a file, a column, a setting, a folder in use.

    Args:
        message: one sentence, without a trailing line break: what is wrong, where, and what to do.
    """
