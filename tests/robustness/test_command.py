"""Faults of a run end with one line on standard error and exit code 2."""

import contextlib
import fcntl
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.data import images_made as made
from tests.robustness.runs import TINY, Run

ROOT = Path(__file__).parents[2]


def last_line(run, code=2):
    assert run.wait() == code, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.splitlines()[-1]


def test_learning_rate_that_is_too_high(tmp_path):
    run = Run(tmp_path / "run", {"pretrain.learning_rate": "1e30", "pretrain.warmup_steps": "0"})
    line = last_line(run)
    found = re.match(r"error: The loss is nan at step (\d+), with a learning rate of (\S+)\. Use a lower learning rate", line)
    done = (int(found[1]) - 1) / int(TINY["pretrain.steps"])  # as a fraction of the cosine
    expected = 1e30 * (1 + math.cos(math.pi * done)) / 2
    assert found[2] == f"{expected:.3g}", line
    assert "the last good checkpoint is none" in line and run.saved() == []


def test_second_process_in_a_workdir(tmp_path):
    first = Run(tmp_path / "run", {"pretrain.steps": "100000"})
    assert first.wait_until(lambda: (tmp_path / "run" / "config.json").exists())
    second = Run(tmp_path / "run", {"pretrain.steps": "100000"}, stderr_file=tmp_path / "second")
    line = last_line(second)
    assert line.startswith(f"error: process {first.process.pid} on ") and f"is already running in {tmp_path}/run" in line
    assert first.process.is_alive()
    first.kill()


@pytest.mark.long
def test_corrupt_image(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(made.encoded(made.pixels(seed=number), "PNG"))
    (tmp_path / "page.jpg").write_bytes(made.HTML)
    fields = {"data.source": f"folder:{tmp_path}", "data.holdout": "0.2"}
    line = last_line(Run(tmp_path / "run", fields))
    assert line.startswith("error: page.jpg cannot be read: it is an HTML page, not an image")

    run = Run(tmp_path / "other", {**fields, "data.max_bad_fraction": "0.2", "pretrain.steps": "3"})
    assert '"bad_images": 1' in last_line(run, code=0)


def test_full_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        fields = {"pretrain.steps": "120", "run.checkpoint_every": "1", "run.keep_checkpoints": "100"}
        line = last_line(Run(place / "run", fields, stderr_file=tmp_path / "stderr"))
        assert line.startswith(f"error: Cannot write in {place}/run") and "No space left on device" in line
        with open(place / "fill", "wb", buffering=0) as file:
            file.write(bytes(2**21))  # now nothing more fits
        line = last_line(Run(place / "run", fields, stderr_file=tmp_path / "stderr"))
        assert line.startswith(f"error: Cannot write in {place}/run") and "No space left on device" in line
        (place / "fill").unlink()
        assert digest_of_newest(place / "run")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_storage_that_fails_for_a_while_does_not_change_the_run(tmp_path):
    fields = {"pretrain.steps": "10"}
    whole = Run(tmp_path / "whole", fields)
    run = Run(tmp_path / "run", fields, storage_fails=(5, 3))
    run.result()
    whole.result()
    place = tmp_path / "run" / "checkpoints"
    tries = [f"{place} failed: Input/output error. Trying again in {seconds} s" for seconds in (1, 2, 4)]
    assert [line for line in run.stderr.splitlines() if "failed" in line] == tries
    assert run.saved() == [5, 10] and digest_of_newest(run.workdir) == digest_of_newest(whole.workdir)


@pytest.mark.long
def test_storage_that_keeps_failing_ends_the_run_which_resumes_later(tmp_path):
    fields = {"pretrain.steps": "15"}
    run = Run(tmp_path / "run", fields, storage_fails=(10, 1000))
    line = last_line(run)
    assert run.stderr.count("Trying again in ") == 7
    assert line.startswith(f"error: Cannot write in {tmp_path}/run/checkpoints: Input/output error. ")
    assert run.saved() == [5]
    run, whole = Run(tmp_path / "run", fields), Run(tmp_path / "whole", fields)
    run.result()
    whole.result()
    assert "step-00000005" in run.stderr and digest_of_newest(run.workdir) == digest_of_newest(whole.workdir)


def digest_of_newest(workdir):
    from pf_keras.training.checkpoint import latest_checkpoint

    return latest_checkpoint(workdir / "checkpoints").state["sha256"]


@pytest.mark.long
def test_ctrl_c_in_a_terminal_ends_the_progress_bar_with_one_message(tmp_path):
    fields = [f"--config.{name}={value}" for name, value in {**TINY, "pretrain.steps": "100000"}.items()]
    command = [sys.executable, "main.py", "--mode=pretrain", f"--workdir={tmp_path}/run", *fields]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # else there is no room for a bar
    shown, interrupted = b"", False
    with contextlib.suppress(OSError):  # the process ended
        while select.select([terminal], [], [], 300)[0] and (read := os.read(terminal, 2**16)):
            shown += read
            if b"loss=" in shown and not interrupted:
                os.write(terminal, b"\x03")
                interrupted = True
    os.close(terminal)  # which ends a process that hangs
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGINT, shown.decode()
    *_, bar, message = shown.decode().splitlines()
    assert ("step/s" in bar or "s/step" in bar) and "loss=" in bar  # by how busy the machine is
    assert message.startswith("stopped by SIGINT at step ") and b"Traceback" not in shown
