"""The one exception that reaches the user as a single line, shared with the `tfrecords` package.

`main.py` prints its message on standard error and exits with code 2, without a traceback.
"""

from tfrecords.errors import UserError

__all__ = ["UserError"]
