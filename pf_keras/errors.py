"""The one exception that reaches the user as a single line."""


class UserError(Exception):
    """Something the user can put right: one line saying what was expected, what was received and what to do.

    `main.py` prints the message on standard error and exits with code 2, without a traceback.
    """
