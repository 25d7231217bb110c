"""How a process is told to stop, and that it hears it."""

import contextlib
import signal
import sys

from pf_keras.errors import Stopped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a preemption, Ctrl-C, a terminal that is closed
AGAIN = 0.01  # seconds


@contextlib.contextmanager
def handling(handler):
    """Have `handler` called at the stop signals, but for those that are ignored, as `nohup` asks."""
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def stopping():
    """Raise `Stopped` in the body at a stop signal, wherever it has come to.

    Python ends no program by what is raised in a destructor or in a callback of its garbage collector, and a model
    that is traced spends much of its time near those: a signal that was lost so is sent again, until it is heard. And
    where a library's own clean-up trips over the `Stopped`, what it raises there is not what ended the run.
    """
    hook = sys.unraisablehook

    def send_again(unraisable):
        if not isinstance(unraisable.exc_value, Stopped):
            return hook(unraisable)
        number = unraisable.exc_value.signal
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    sys.unraisablehook = send_again
    try:
        with handling(_stop):
            yield
    except Exception as error:
        if stopped := _stopped_behind(error):
            raise stopped from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # what is over needs no telling: outside, the signal would kill
        sys.unraisablehook = hook


def _stopped_behind(error):
    """The `Stopped` that was being handled when `error` was raised, or None."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error


def _stop(number, frame):
    raise Stopped(number, "outside training")
