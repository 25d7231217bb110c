"""The one error a user of this package sees."""

import sys


class UserError(Exception):
    """Bad input, bad data or wrong usage. Its text is one line: what was expected, what was received, what to do."""


def tensorflow_reason(error: Exception) -> str:
    """What TensorFlow, which reaches `gs://` and the like, says of its failure; empty for any other error."""
    tensorflow = sys.modules.get("tensorflow")
    return error.message if tensorflow and isinstance(error, tensorflow.errors.OpError) else ""
