"""How a process hears a signal to stop, whatever it is doing."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from pf_keras.errors import Stopped, UserError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a preemption, Ctrl-C, a closed terminal
RETRY_SECONDS = 0.01


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handler` at the stop signals, except those that are ignored, as `nohup` asks."""
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the body at a stop signal.

    Python discards an exception that is raised in a destructor or in a callback of the garbage collector, and tracing a model
    spends much time near those. A signal that is lost in this way is sent again until it is heard. Where a library's cleanup
    fails because of the `Stopped`, that failure does not hide it.
    """
    hook = sys.unraisablehook

    def send_again(unraisable) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            return hook(unraisable)
        number = unraisable.exc_value.signal
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)

    sys.unraisablehook = send_again
    try:
        with handling(_stop):
            yield
    except Exception as error:
        if stopped := _stopped_behind(error):
            raise stopped from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # after the body the signal would kill the process
        sys.unraisablehook = hook


def _stopped_behind(error: BaseException | None) -> Stopped | None:
    """The `Stopped` that was being handled when `error` was raised. None where a UserError replaces it on purpose."""
    if isinstance(error, UserError) and isinstance(error.__context__, Stopped) and error.__suppress_context__:
        return None
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number, "outside training")
