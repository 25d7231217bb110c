"""Probes of an earlier time are taken where they are of these steps and shares alone; how commands share the cores."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import commands
from pf_keras.config import Config
from pf_keras.training.workdir import Workdir


@pytest.fixture
def kept(tmp_path):
    """A pre-trained workdir that was probed after 7 steps with 1% and 10% of the labels."""
    result = {"steps": 7, "changed": [], "pretrained_linear_0.01": 0.3, "pretrained_linear_0.1": 0.4}
    Workdir(tmp_path).start("pretrain", Config())
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "result.json").write_text(json.dumps(result))
    return tmp_path


@pytest.fixture
def said(monkeypatch):
    """The commands that are run."""
    lines = []
    monkeypatch.setattr(commands, "commands", lambda line: [lines.append(line) or {"steps": 9}])
    return lines


@pytest.mark.parametrize("fractions", ["0.1", "0.01,0.10"])
def test_probes_that_are_there_are_not_made_again(kept, said, fractions):
    assert commands.probes(str(kept), fractions, 7)["pretrained_linear_0.1"] == 0.4
    assert not said


@pytest.mark.parametrize(("fractions", "steps"), [("0.1", 9), ("0.1,0.2", 7)])
def test_probes_of_other_steps_or_shares_are_made_anew(kept, said, fractions, steps):
    assert commands.probes(str(kept), fractions, steps) == {"steps": 9}
    assert said == [("--mode=evaluate", f"--workdir={kept}", f"--label_fraction={fractions}")]


def test_probes_of_other_data_or_crops_are_made_anew(kept, said):
    file = kept / "evaluate" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "changed": ["data.eval_crop: 1.0 -> 0.25"]}))
    assert commands.probes(str(kept), "0.1", 7) == {"steps": 9}


def test_commands_side_by_side_share_the_cores_and_those_after_do_not(monkeypatch):
    monkeypatch.delenv(commands.THREADS, raising=False)
    monkeypatch.setattr(commands, "cores", lambda: 8)
    with commands.side_by_side(2) as pool:
        assert pool.submit(os.environ.get, commands.THREADS).result() == "4"
    assert commands.THREADS not in os.environ
    monkeypatch.setenv(commands.THREADS, "3")  # what the user says
    with commands.side_by_side(2):
        assert os.environ[commands.THREADS] == "3"
    assert os.environ[commands.THREADS] == "3"


def test_a_script_that_is_told_to_stop_stops_its_commands(tmp_path):
    sleeps = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    script = (
        "from experiments import commands\n"
        "commands.end_together()\n"
        "with commands.side_by_side(1) as pool:\n"
        f"    pool.submit(lambda: commands.wait(commands.start('-c', {sleeps!r}))).result()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=commands.ROOT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")
