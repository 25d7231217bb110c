"""Scripts that run commands: reused probes, shared cores, and stopping."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import commands
from pf_keras.config import Config
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.workdir import Workdir


@pytest.fixture
def probed(tmp_path):
    """A pre-trained workdir that was probed after 7 steps with 1% and 10% of the labels."""
    start_run(Workdir(tmp_path), RunIdentity("pretrain", Config()))
    write_probes(tmp_path)
    return tmp_path


def write_probes(workdir, **changes):
    scores = {"pretrained_linear_0.01": 0.3, "pretrained_linear_0.1": 0.4}
    result = {"steps": 7, "data": Config().data.source, "changed": [], **scores}
    (workdir / "evaluate").mkdir(exist_ok=True)
    (workdir / "evaluate" / "result.json").write_text(json.dumps({**result, **changes}))


@pytest.fixture
def ran(monkeypatch):
    """The commands that ran."""
    lines = []
    monkeypatch.setattr(commands, "command", lambda *flags: lines.append(flags) or {"steps": 9})
    return lines


@pytest.mark.parametrize("fractions", ["0.1", "0.01,0.10"])
def test_probes_are_reused(probed, ran, fractions):
    assert commands.probes(str(probed), fractions, 7)["pretrained_linear_0.1"] == 0.4
    assert not ran


@pytest.mark.parametrize(("fractions", "steps"), [("0.1", 9), ("0.1,0.2", 7)])
def test_probes_of_other_steps_or_fractions_run_again(probed, ran, fractions, steps):
    assert commands.probes(str(probed), fractions, steps) == {"steps": 9}
    assert ran == [("--mode=evaluate", f"--workdir={probed}", f"--label_fraction={fractions}")]


@pytest.mark.parametrize("changes", [{"changed": ["data.eval_crop: 1.0 -> 0.25"]}, {"data": "folder:other"}])
def test_probes_of_other_data_or_crops_run_again(probed, ran, changes):
    write_probes(probed, **changes)
    assert commands.probes(str(probed), "0.1", 7) == {"steps": 9}


def test_commands_side_by_side_share_the_cores(monkeypatch):
    monkeypatch.delenv(commands.THREADS, raising=False)
    monkeypatch.setattr(commands, "cores", lambda: 8)
    with commands.side_by_side(2) as pool:
        assert pool.submit(os.environ.get, commands.THREADS).result() == "4"
    assert commands.THREADS not in os.environ
    monkeypatch.setenv(commands.THREADS, "3")  # set by the user
    with commands.side_by_side(2):
        assert os.environ[commands.THREADS] == "3"
    assert os.environ[commands.THREADS] == "3"


def test_sigterm_stops_the_commands_of_a_script(tmp_path):
    sleeps = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    script = (
        "from experiments import commands\n"
        "def main():\n"
        "    with commands.side_by_side(1) as pool:\n"
        f"        pool.submit(lambda: commands.run('-c', {sleeps!r})).result()\n"
        "commands.run_script(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=commands.ROOT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")


def test_a_script_shows_the_progress_of_its_commands_but_no_native_output():
    script = (
        "import os\n"
        "from experiments import commands\n"
        "from pf_keras.errors import UserError\n"
        "def main():\n"
        "    os.write(2, b'native\\n')\n"
        "    for label in ('', 'run-1'):\n"
        "        commands.run('-c', 'import sys; print(\"progress\", file=sys.stderr)', label=label)\n"
        "    raise UserError('The disk is full.')\n"
        "commands.run_script(main)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=commands.ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.splitlines() == ["progress", "[run-1] progress", "error: The disk is full."]
