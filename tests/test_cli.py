"""The command line as a user types it: errors are one line and exit code 2."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def shell(*flags, timeout=300):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *flags], capture_output=True, text=True, timeout=timeout,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )


def check_one_line(done, *words):
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    for word in words:
        assert word in lines[0], lines[0]


def test_help_answers_without_loading_keras():
    line = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), "--help"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0 and "--mode" in done.stdout and "pretrain" in done.stdout
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "absl" in loaded and not loaded & {"keras", "tensorflow", "jax", "numpy"}


def test_an_unknown_mode_is_one_line():
    check_one_line(shell("--mode=pretrian"), "pretrian", "pretrain, reconstruct, finetune")


def test_an_unknown_flag_is_named():
    done = shell("--mode=pretrain", "--no_such_flag=1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no_such_flag" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mode=pretrain", "--label_fraction=0.1"), ("--label_fraction", "only finetune, evaluate, sweep", "pretrain")),
        (("--mode=evaluate", "--checkpoint=20"), ("--checkpoint", "only reconstruct", "evaluate")),
        (("--mode=export", "--data=digits"), ("--data", "export")),
        (("--mode=export", "--config.model.depth=3"), ("--config.model.depth", "export")),
        (("--mode=plan", "--tpu=local"), ("--tpu", "plan")),
        (("--mode=plan", "--data=digits"), ("--data", "plan")),
        (("--mode=evaluate", "--checkpoint_every=3"), ("--checkpoint_every", "only pretrain, finetune, sweep")),
    ],
)
def test_a_flag_that_the_mode_does_not_read_is_refused(flags, words):
    from commands import command

    done = command(*flags, "--workdir=any")
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("error: --mode="), done.err
    for word in words:
        assert word in done.err


def test_a_flag_that_contradicts_a_config_field_is_refused():
    from commands import command

    done = command("--mode=pretrain", "--seed=5", "--config.run.seed=1", "--workdir=any")
    assert done.code == 2 and "--seed=5 and --config.run.seed=1 contradict" in done.err


def test_an_unknown_backend_is_named(monkeypatch):
    from commands import command

    monkeypatch.setenv("KERAS_BACKEND", "torch")
    done = command("--mode=pretrain")
    assert done.code == 2 and done.err == "error: KERAS_BACKEND is torch. Use tensorflow or jax.\n"


@pytest.mark.parametrize("flag", ["--label_list", "--config", "--tpu", "--init", "--workdir", "--data"])
def test_an_empty_flag_is_refused(flag):
    from commands import command

    done = command("--mode=finetune", f"{flag}=")
    assert done.code == 2 and done.err.startswith(f"error: {flag} has no value"), done.err


def test_the_users_keras_json_changes_nothing(tmp_path):
    """In a process of its own: Keras reads them as it is imported."""
    from commands import TINY

    (tmp_path / ".keras").mkdir()
    settings = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    steps = ("--config.pretrain.steps=2", "--config.pretrain.batch=4", "--config.run.log_every=1")
    line = [sys.executable, str(ROOT / "main.py"), "--mode=pretrain", f"--workdir={tmp_path / 'run'}", *TINY, *steps]
    environment = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "KERAS_HOME")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**environment, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["precision"] == "float32"
    assert "the learning rate only rises" in done.stderr


def test_an_interrupt_while_tensorflow_loads_ends_the_process(tmp_path):
    line = [sys.executable, str(ROOT / "main.py"), "--mode=pretrain", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT) and out == "", (process.returncode, err[-2000:])
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_an_earlier_run_is_read_with_the_fields_that_the_command_line_changes(pretrained):
    from commands import command

    run = f"--workdir={pretrained.workdir}"
    middle = command("--mode=evaluate", run, "--label_fraction=0.05", "--config.data.eval_crop=0.25").result
    assert 0.1 < middle["pixels_linear_0.05"] < 0.6  # raw pixels of whole digits score above 0.8 (test_finetune.py)
    before = (pretrained.workdir / "figures" / "reconstruction.png").read_bytes()
    assert command("--mode=reconstruct", run, "--config.mask.ratio=0.8").code == 0
    assert (pretrained.workdir / "figures" / "reconstruction.png").read_bytes() != before
    refused = command("--mode=evaluate", run, "--config.model.wdth=32")
    assert refused.code == 2 and "model.wdth" in refused.err and "Traceback" not in refused.err, refused.err


def test_native_libraries_add_nothing_to_an_error(tmp_path):
    """In a process of its own, because native libraries bypass Python's sys.stderr."""
    check_one_line(shell("--mode=pretrain", f"--workdir={tmp_path}", "--config.model.wdth=3"), "model.wdth", "width")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config=no_such",), ("no_such", "digits", "cifar10")),
        (("--config=experiments/cifar10.py",), ("experiments/cifar10.py", "cifar10")),
        (("--config.modle.width=3",), ("modle", "model")),
        (("--config.model.width=wide",), ("model.width", "whole number", "wide")),
        (("--config.model.grid=5",), ("grid=5", "32")),
        (("--config.model.stem=vgg",), ("model.stem", "vgg", "no_pool")),
        (("--config.mask.ratio=1.5",), ("mask.ratio", "1.5")),
        (("--config.finetune.learning_rate=1e999",), ("finetune.learning_rate", "finite", "inf")),
        (("--config.model=4",), ("--config.model.FIELD=VALUE", "--config.model=4")),
        (("--config.target.size=5",), ("target.size", "4 px")),
        (("--data=imagenet",), ("folder:DIR", "imagenet")),
        (("--data=folder:/no/such/dir",), ("/no/such/dir",)),
        (("--data=tfds:no_such_set",), ("no_such_set",)),
        (("--checkpoint_every=often",), ("often",)),
    ],
)
def test_bad_input_is_one_line_that_names_it(flags, words, tmp_path, monkeypatch):
    from commands import command

    monkeypatch.chdir(ROOT)
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.code == 2
    assert done.err.count("\n") == 1 and done.err.startswith("error: "), done.err
    for word in words:
        assert word in done.err


def test_an_empty_folder_and_a_corrupt_image_are_named(tmp_path):
    from commands import TINY, command

    (tmp_path / "empty").mkdir()
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'a'}", f"--data=folder:{tmp_path / 'empty'}")
    assert done.code == 2 and str(tmp_path / "empty") in done.err and done.err.count("\n") == 1

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        Image.new("RGB", (30, 30), (i, i, i)).save(photos / f"{i}.jpg")
    (photos / "7.jpg").write_text("<html>not found</html>")
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'b'}", f"--data=folder:{photos}", *TINY,
                   "--config.pretrain.steps=4", "--config.pretrain.batch=8", "--config.run.eval_batch=8")
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "7.jpg" in line


def test_a_config_file_that_fails_is_named(tmp_path):
    from commands import command

    for text, word in (("config = 3", "does not define"), ("1 / 0", "ZeroDivisionError"), ("x = 1", "does not define")):
        path = tmp_path / "mine.py"
        path.write_text(text)
        done = command("--mode=pretrain", f"--config={path}", f"--workdir={tmp_path / 'run'}")
        assert done.code == 2 and word in done.err and done.err.count("\n") == 1


def test_a_run_resumes_from_its_workdir_alone(pretrained):
    from commands import command

    done = command("--mode=pretrain", f"--workdir={pretrained.workdir}")
    assert done.code == 0, done.err
    assert "resuming from" in done.err and done.result["steps"] == 20
    assert done.result["loss"] == pytest.approx(pretrained.result["loss"])


def test_a_run_in_the_default_workdir_keeps_its_config(tmp_path, monkeypatch):
    from commands import TINY, command

    monkeypatch.chdir(tmp_path)
    found = {"ops_without_tpu_kernel": [], "dynamic_shapes": []}
    steps = {"pretrain": found, "finetune": found}
    monkeypatch.setattr("pf_keras.tasks.plan.check_steps", lambda *_: steps)  # it would compile for minutes
    first = command("--mode=plan", *TINY, "--topology=v3-8", "--config.run.seed=7")
    assert first.code == 0, first.err
    again = command("--mode=plan", "--topology=v3-8")
    assert again.result["parameters"] == first.result["parameters"]
    assert json.loads((tmp_path / "runs" / "plan" / "config.json").read_text())["config"]["run"]["seed"] == 7


def test_a_workdir_that_cannot_be_made_is_one_line():
    from commands import command

    done = command("--mode=plan", "--topology=v3-8", "--workdir=/dev/null/plan")
    assert done.code == 2 and "/dev/null/plan" in done.err and done.err.count("\n") == 1, done.err


@pytest.mark.parametrize("mode", ["pretrain", "evaluate"])
def test_a_store_that_cannot_be_reached_is_one_line(mode):
    from commands import command

    done = command(f"--mode={mode}", "--workdir=s3://no-such-bucket/run", "--config=digits")
    assert done.code == 2 and done.err.count("\n") == 1 and "Cannot read s3://no-such-bucket/run" in done.err, done.err
    done = command("--mode=finetune", "--init=s3://no-such-bucket/run", "--workdir=any")
    assert done.code == 2 and done.err.count("\n") == 1 and "Cannot read s3://no-such-bucket/run" in done.err, done.err


def test_other_settings_on_a_workdir_are_refused_by_field(pretrained):
    from commands import TINY, command

    done = command("--mode=pretrain", f"--workdir={pretrained.workdir}", *TINY, "--config.pretrain.batch=16")
    assert done.code == 2 and "pretrain.batch: 32 -> 16" in done.err


@pytest.mark.parametrize("command", [("main.py",), ("-m", "pf_keras.cli")])
def test_main_py_and_the_module_are_the_same_command(command):
    done = subprocess.run([sys.executable, *command, "--mode=nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: There is no --mode=nothing")


def test_a_terminal_shows_a_progress_bar_and_no_native_messages(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    from commands import TINY

    steps = ("--config.pretrain.steps=4", "--config.pretrain.batch=4", "--config.run.log_every=2")
    line = [sys.executable, str(ROOT / "main.py"), "--mode=pretrain", f"--workdir={tmp_path / 'run'}", *TINY, *steps]
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # rows, columns
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(terminal, 4096):
            shown += part
    out, _ = process.communicate(timeout=300)
    text = shown.decode()
    assert process.returncode == 0 and json.loads(out)["steps"] == 4
    assert "4/4" in text and "loss=" in text and "images/s=" in text and "step 2/4" not in text, text
    for noise in ("oneDNN", "absl", "E0000", "I0000", "Warning"):
        assert noise not in text, text


def test_a_second_command_in_one_process_does_not_keep_the_flags_of_the_first(tmp_path, capsys):
    from pf_keras.cli import main

    assert main(["pf-keras", "--mode=plan", "--seed=7", "--topology=nothing", f"--workdir={tmp_path}"]) == 2
    assert main(["pf-keras", "--mode=export", f"--workdir={tmp_path}"]) == 2
    assert "There is no run in" in capsys.readouterr().err.splitlines()[-1]


def test_the_backend_is_imported_without_garbage_collection(monkeypatch):
    from pf_keras import cli

    seen = []
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: seen.append((name, gc.isenabled())) or MagicMock())
    cli.read_flags(["pf-keras", "--mode=pretrain"])
    cli.import_backend()
    assert seen == [("tensorflow", False), ("keras", False)] and gc.isenabled()
