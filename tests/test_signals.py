"""A process that receives a stop signal stops, whatever it is doing."""

import gc
import signal
import sys
import time

import pytest

from pf_keras.errors import Stopped, UserError
from pf_keras.signals import STOP_SIGNALS, handling, stopping


@pytest.fixture
def signal_in_the_collector():
    """Send a stop signal in a callback of the garbage collector, where Python discards exceptions."""
    sent = []

    def callback(phase, info):
        if not sent:
            sent.append(phase)
            signal.raise_signal(signal.SIGTERM)

    gc.callbacks.append(callback)
    yield sent
    gc.callbacks.remove(callback)


class SignalInADestructor:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def wait(until=lambda: False):
    end = time.monotonic() + 5
    while not until() and time.monotonic() < end:
        time.sleep(0.01)


def test_signal_lost_in_the_garbage_collector_is_sent_again(signal_in_the_collector):
    with pytest.raises(Stopped) as stopped, stopping():
        gc.collect()
        assert signal_in_the_collector
        wait()
    assert stopped.value.signal == signal.SIGTERM


def test_signal_lost_in_a_destructor_is_sent_to_the_current_handler():
    received = []

    def handler(number, frame):
        received.append(number)
        if len(received) == 1:
            raise Stopped(number, "in a destructor")

    with stopping(), handling(handler):
        SignalInADestructor()
        wait(until=lambda: len(received) == 2)
    assert received == [signal.SIGTERM] * 2


def test_failing_cleanup_of_a_library_does_not_hide_the_signal():
    def library():
        try:
            signal.raise_signal(signal.SIGTERM)
            result = 1
        finally:
            return_value = result  # noqa: F841 - fails, because `result` is not bound

    with pytest.raises(Stopped) as stopped, stopping():
        library()
    assert stopped.value.signal == signal.SIGTERM


def test_error_without_a_signal_is_raised_unchanged():
    error = ValueError("of the body")
    with pytest.raises(ValueError) as raised, stopping():
        try:
            raise KeyError("handled before")
        except KeyError:
            raise error from None
    assert raised.value is error


def test_other_errors_in_destructors_are_still_shown(monkeypatch):
    class Broken:
        def __del__(self):
            raise ValueError("in a destructor")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))
    with stopping():
        Broken()
    assert shown == ["in a destructor"]


def test_earlier_handlers_are_restored():
    before = [signal.getsignal(number) for number in STOP_SIGNALS], sys.unraisablehook
    with stopping():
        assert signal.getsignal(signal.SIGTERM) != before[0][0]
    assert ([signal.getsignal(number) for number in STOP_SIGNALS], sys.unraisablehook) == before


def test_signal_lost_at_the_end_of_the_body_is_not_sent_after_it():
    with stopping():
        SignalInADestructor()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_user_error_may_replace_a_stop():
    with pytest.raises(UserError, match="the chief is lost"), stopping():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped:
            raise UserError("the chief is lost") from None
