"""Native code that holds the interpreter is ended in time, with one line and exit code 2."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pf_keras.training.time_limit import time_limit

ROOT = Path(__file__).parents[2]
STUCK = """
import ctypes, os, sys
from pf_keras.training.time_limit import time_limit
if sys.argv[2] == "diverted":
    sys.stderr = open(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
with time_limit(float(sys.argv[1]), "It took too long. Do something else."):
    print("inside", flush=True)
    ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter, as TensorFlow does where it registers workers
"""


def start(seconds, kind="plain"):
    line = [sys.executable, "-c", STUCK, str(seconds), kind]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["plain", "diverted"])
def test_a_call_that_holds_the_interpreter_ends_with_one_line(kind):
    began = time.monotonic()
    process = start(1, kind)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 2 and err == "error: It took too long. Do something else.\n"
    assert time.monotonic() - began < 45, "the call itself takes 60 s"


def test_ctrl_c_ends_it_at_once():
    process = start(50)
    assert process.stdout.readline() == "inside\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 2 and not process.stderr.read()


def test_the_watcher_ends_with_a_parent_that_is_killed():
    process = start(3)
    assert process.stdout.readline() == "inside\n"
    process.kill()
    assert process.stderr.read() == "", "its standard error closes when the watcher has ended, which says nothing"


def test_a_call_in_time_is_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with time_limit(30, "never"):
        pass
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    with pytest.raises(ValueError, match="of the body"), time_limit(30, "never"):
        raise ValueError("of the body")
