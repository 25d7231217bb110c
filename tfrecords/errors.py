"""The one error a user of this package sees."""


class UserError(Exception):
    """Bad input, bad data or wrong usage. Its text is one line: what was expected, what was received, what to do."""
