"""Native libraries write to a log file, Python to the terminal, and a crash is visible."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIVERTED = "import os, sys; from pf_keras.quiet import native_log, native_output_diverted\n"


def run(code):
    return subprocess.run([sys.executable, "-c", DIVERTED + code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_native_output_does_not_reach_the_terminal_but_python_output_does():
    done = run(
        "with native_output_diverted():\n"
        "    os.write(2, b'native noise\\n'); print('a warning', file=sys.stderr)\n"
        "    kept = open(native_log()).read()\n"
        "print('afterwards', file=sys.stderr); os.write(2, b'native again\\n'); print(kept, os.path.exists(native_log()))"
    )
    assert done.returncode == 0 and done.stderr == "a warning\nafterwards\nnative again\n"
    assert done.stdout == "native noise\n False\n"


def test_an_exception_inside_is_shown_and_restores_the_terminal():
    done = run("with native_output_diverted():\n    raise RuntimeError('broken')")
    assert done.returncode == 1 and "RuntimeError: broken" in done.stderr


def test_a_native_crash_shows_where_it_happened_and_keeps_the_native_log():
    done = run(
        "with native_output_diverted():\n"
        "    print(native_log(), flush=True); os.write(2, b'fatal: out of memory\\n'); os.abort()"
    )
    assert done.returncode < 0 and "Fatal Python error: Aborted" in done.stderr
    log = Path(done.stdout.strip())
    assert "fatal: out of memory" in log.read_text()
    log.unlink()


def test_a_replaced_stderr_is_left_alone():
    import io

    from pf_keras.quiet import native_output_diverted

    text = io.StringIO()
    with contextlib.redirect_stderr(text), native_output_diverted():
        print("to the replacement", file=sys.stderr)
        os.write(2, b"native noise\n")
    assert text.getvalue() == "to the replacement\n"


def test_the_libraries_are_quiet_through_a_whole_import():
    done = run(
        "with native_output_diverted():\n"
        "    os.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "    import tensorflow as tf, keras\n"
        "    tf.print(tf.io.decode_png(tf.io.encode_png(tf.zeros((2, 2, 3), tf.uint8))).shape, output_stream=sys.stdout)"
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
