"""Questions to modules in other processes: their answers, and every way to fail as one line."""

import json
import os
import signal

import pytest

from pf_keras.errors import UserError
from pf_keras.tpu.process import Question

ABORTS = """
import os, sys
print("F1130 12:00:00.0 7 layout.cc:12] Check failed: IsArray(shape) tuple", file=sys.stderr)
print("*** SIGABRT received ***", file=sys.stderr, flush=True)
os.abort()
"""
NOTES = """
import json, sys
from pf_keras.tpu.process import note
note("compiling")
print("something of a library")
print(json.dumps({"got": json.load(sys.stdin)}))
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    def ask(source, seconds=100):
        (tmp_path / "asked_module.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with Question("asked_module", {"a": 1}, {}, seconds, "Compiling", "step: ") as question:
            return question.answer()

    return ask


def test_answer_is_the_last_line_and_notes_are_shown(ask, capsys):
    assert ask(NOTES) == {"got": {"a": 1}}
    assert capsys.readouterr().err == "step: compiling\n"


def test_abort_of_a_native_library_is_one_line_with_its_reason(ask):
    with pytest.raises(UserError, match=r"^Compiling was ended by SIGABRT: F1130 .* Check failed: IsArray\(shape\) tuple\. "):
        ask(ABORTS)


def test_process_that_the_system_kills_is_one_line(ask):
    with pytest.raises(UserError, match=r"^Compiling was killed, probably because this machine ran out of memory\. Use "):
        ask("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")


def test_exception_is_one_line(ask):
    with pytest.raises(UserError, match=r"^Compiling failed with exit code 1: KeyError: 'config'$"):
        ask("raise KeyError('config')")


def test_time_limit_is_one_line_and_ends_the_process(ask, tmp_path):
    sleeps = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    with pytest.raises(UserError, match=r"^Compiling did not end within 5 s\. Use a faster machine or a smaller model\.$"):
        ask(sleeps, seconds=5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)


def test_process_ends_with_the_question(tmp_path, monkeypatch):
    (tmp_path / "asked_module.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), Question("asked_module", {}, {}, 100, "Compiling") as question:
        raise KeyboardInterrupt
    assert question._process.returncode == -signal.SIGKILL and json.dumps(question._output) == '""'
