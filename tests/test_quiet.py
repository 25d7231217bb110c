"""Native libraries write to a log file, Python to the terminal, and failures are visible."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pf_keras import quiet
from pf_keras.quiet import native_output_diverted

ROOT = Path(__file__).parents[1]
DIVERTED = "import os, sys; from pf_keras.quiet import native_log, native_output_diverted\n"


def run(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    line = [sys.executable, "-c", DIVERTED + code]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**kept, **environment})


def test_native_output_does_not_reach_the_terminal_but_python_output_does():
    done = run(
        "with native_output_diverted():\n"
        "    os.write(2, b'native noise\\n'); print('a warning', file=sys.stderr)\n"
        "    kept = open(native_log()).read()\n"
        "print('afterwards', file=sys.stderr); os.write(2, b'native again\\n'); print(kept, os.path.exists(native_log()))"
    )
    assert done.returncode == 0 and done.stderr == "a warning\nafterwards\nnative again\n"
    assert done.stdout == "native noise\n False\n"


def test_the_log_level_that_jax_sets_is_not_the_users():
    done = run(
        "os.environ['TF_CPP_MIN_LOG_LEVEL'] = '1'  # as importing JAX does\n"
        "with native_output_diverted():\n"
        "    os.write(2, b'native noise\\n')"
    )
    assert done.returncode == 0 and not done.stderr


def test_an_unexpected_error_says_where_the_native_messages_are():
    done = run(
        "with native_output_diverted():\n"
        "    print(native_log()); os.write(2, b'the cause of it\\n'); raise RuntimeError('broken')"
    )
    log = Path(done.stdout.strip())
    assert done.returncode == 1 and "RuntimeError: broken" in done.stderr and str(log) in done.stderr
    assert log.read_text() == "the cause of it\n"
    log.unlink()


def test_a_users_mistake_leaves_no_log():
    done = run(
        "from pf_keras.errors import UserError\n"
        "try:\n"
        "    with native_output_diverted():\n"
        "        raise UserError('wrong')\n"
        "except UserError:\n"
        "    print(os.path.exists(native_log()))"
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_native_crash_shows_where_it_happened_and_keeps_the_native_log():
    done = run(
        "with native_output_diverted():\n"
        "    print(native_log(), flush=True); os.write(2, b'fatal: out of memory\\n'); os.abort()"
    )
    assert done.returncode < 0 and "Fatal Python error: Aborted" in done.stderr
    log = Path(done.stdout.strip())
    assert "fatal: out of memory" in log.read_text()
    log.unlink()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    done = run(
        "os.symlink('/etc/passwd', native_log())\n"
        "with native_output_diverted():\n"
        "    os.write(2, b'native noise\\n'); print('fine')",
        TMPDIR=str(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_tensorflows_own_variable_shows_the_messages():
    done = run("with native_output_diverted():\n    os.write(2, b'native noise\\n')", TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stderr == "native noise\n"


def test_a_replaced_stderr_is_left_alone(monkeypatch):
    monkeypatch.setattr(quiet, "ASKED_FOR_MESSAGES", False)
    text = io.StringIO()
    with contextlib.redirect_stderr(text), native_output_diverted():
        print("to the replacement", file=sys.stderr)
        os.write(2, b"native noise\n")
    assert text.getvalue() == "to the replacement\n"


def test_loggers_and_warnings_are_as_before(monkeypatch):
    monkeypatch.setattr(quiet, "ASKED_FOR_MESSAGES", False)
    logging.getLogger("absl").setLevel(logging.DEBUG)
    with pytest.raises(RuntimeError), native_output_diverted():
        assert logging.getLogger("absl").level == logging.ERROR
        warnings.warn("not shown", FutureWarning, stacklevel=1)
        raise RuntimeError
    assert logging.getLogger("absl").level == logging.DEBUG
    with pytest.warns(FutureWarning):
        warnings.warn("shown", FutureWarning, stacklevel=1)


def test_the_libraries_are_quiet_through_a_whole_import():
    done = run(
        "with native_output_diverted():\n"
        "    os.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "    import tensorflow as tf, keras\n"
        "    tf.print(tf.io.decode_png(tf.io.encode_png(tf.zeros((2, 2, 3), tf.uint8))).shape, output_stream=sys.stdout)"
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
