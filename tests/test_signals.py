"""A process that is told to stop hears it, wherever it has come to."""

import gc
import signal
import sys
import time

import pytest

from pf_keras.errors import Stopped
from pf_keras.signals import STOP_SIGNALS, handling, stopping


@pytest.fixture
def lost_in_the_collector():
    """Tell the process to stop whenever the garbage collector calls back, where what is raised is lost."""
    told = []

    def callback(phase, info):
        if not told:
            told.append(phase)
            signal.raise_signal(signal.SIGTERM)

    gc.callbacks.append(callback)
    yield told
    gc.callbacks.remove(callback)


class LostInADestructor:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def wait(until=lambda: False):
    end = time.monotonic() + 5
    while not until() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_signal_that_the_garbage_collector_loses_is_sent_again(lost_in_the_collector):
    with pytest.raises(Stopped) as stopped, stopping():
        gc.collect()
        assert lost_in_the_collector
        wait()
    assert stopped.value.signal == signal.SIGTERM


def test_a_signal_that_a_destructor_loses_goes_to_the_handler_of_that_moment():
    heard = []

    def handler(number, frame):
        heard.append(number)
        if len(heard) == 1:
            raise Stopped(number, "in a destructor")

    with stopping(), handling(handler):
        LostInADestructor()
        wait(until=lambda: len(heard) == 2)
    assert heard == [signal.SIGTERM] * 2


def test_a_library_that_trips_over_the_signal_does_not_hide_it():
    def library():
        try:
            signal.raise_signal(signal.SIGTERM)
            result = 1
        finally:
            return_value = result  # noqa: F841 - not bound where the signal came first

    with pytest.raises(Stopped) as stopped, stopping():
        library()
    assert stopped.value.signal == signal.SIGTERM


def test_an_error_that_no_signal_is_behind_is_raised_as_it_is():
    error = ValueError("of the body")
    with pytest.raises(ValueError) as raised, stopping():
        try:
            raise KeyError("handled before")
        except KeyError:
            raise error from None
    assert raised.value is error


def test_other_errors_that_are_lost_are_shown_as_ever(monkeypatch):
    class Broken:
        def __del__(self):
            raise ValueError("in a destructor")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))
    with stopping():
        Broken()
    assert shown == ["in a destructor"]


def test_what_was_there_before_is_there_again():
    before = [signal.getsignal(number) for number in STOP_SIGNALS], sys.unraisablehook
    with stopping():
        assert signal.getsignal(signal.SIGTERM) != before[0][0]
    assert ([signal.getsignal(number) for number in STOP_SIGNALS], sys.unraisablehook) == before


def test_a_signal_lost_at_the_very_end_is_not_sent_outside():
    with stopping():
        LostInADestructor()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
