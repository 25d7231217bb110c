"""A workdir belongs to one run, and to one process at a time."""

import csv
import errno
import json
import os
import subprocess
import sys

import pytest

from pf_keras import errors
from pf_keras.commands_log import read_commands
from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.training.data_record import record_labels
from pf_keras.training.identity import RunIdentity, earlier_run, find_run, start_run
from pf_keras.training.lock import unlock
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir, csv_text


def started(path, mode="pretrain", facts=None, **overrides):
    workdir = Workdir(path)
    config = Config().override({name.replace("__", "."): value for name, value in overrides.items()})
    start_run(workdir, RunIdentity(mode, config, facts or {}))
    return workdir


def test_a_run_with_other_settings_is_refused_by_its_fields(tmp_path):
    started(tmp_path)
    with pytest.raises(UserError, match=r"other settings \(pretrain.steps: 300000 -> 5; run.seed: 0 -> 1\)"):
        started(tmp_path, pretrain__steps="5", run__seed="1")
    with pytest.raises(UserError, match="is the workdir of a --mode=pretrain"):
        started(tmp_path, mode="finetune")


def test_settings_that_do_not_change_what_is_learned_may_change(tmp_path):
    started(tmp_path)
    changed = {"run__log_every": "9", "run__checkpoint_every": "3", "run__keep_checkpoints": "1"}
    started(tmp_path, **changed, data__max_bad_fraction="0.5")
    assert find_run(Workdir(tmp_path)).config.run.log_every == 9


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    code = (
        "import sys, time; from tests.training.test_workdir import started\n"
        f"started({str(tmp_path)!r}); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"process {first.pid} on .* is already running in"):
            started(tmp_path)
        first.kill()
        first.wait()
    started(tmp_path)


def test_metrics_forget_lines_that_were_cut_short_or_will_be_repeated(tmp_path):
    metrics = MetricsLog(started(tmp_path))
    for step in (5, 10, 15):
        metrics.append({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')
    metrics.forget_after(10)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [5, 10]


@pytest.mark.parametrize("content", ["[]", '{"architectures": ["ViT"]}', '{"mode": "pretrain"}'])
def test_the_config_of_another_program_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json is not the config of a run"):
        earlier_run(tmp_path, "pretrain")


def test_an_earlier_run_must_exist_and_be_of_the_mode(tmp_path):
    with pytest.raises(UserError, match="There is no run in .*nowhere"):
        earlier_run(tmp_path / "nowhere", "pretrain")
    started(tmp_path / "run")
    with pytest.raises(UserError, match="is the workdir of a --mode=pretrain. Name the workdir of an earlier --mode=finetune"):
        earlier_run(tmp_path / "run", "finetune")


def test_a_run_keeps_the_precision_that_auto_came_to(tmp_path):
    started(tmp_path, facts={"precision": "mixed_bfloat16"})
    with pytest.raises(UserError, match="precision: mixed_bfloat16 -> float32.*--config.run.precision=mixed_bfloat16"):
        started(tmp_path, facts={"precision": "float32"})
    # What another machine would take by itself, asked for by name:
    started(tmp_path, facts={"precision": "mixed_bfloat16"}, run__precision="mixed_bfloat16")


def test_a_fact_that_an_earlier_version_did_not_record_does_not_count(tmp_path):
    started(tmp_path)
    started(tmp_path, facts={"precision": "float32"})
    assert find_run(Workdir(tmp_path)).facts == {"precision": "float32"}


def test_any_line_break_in_a_name_stays_in_its_cell_of_a_table(tmp_path):
    rows = [["path", "n"], *([f"a{end}b, \"c\"", "1"] for end in ("\r", "\n", "\r\n", "\x0b", "\u2028")), ["plain.jpg", "2"]]
    Workdir(tmp_path).write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rows
    assert (tmp_path / "t.csv").read_bytes().endswith(b"\nplain.jpg,2\n") and csv_text([[1, "b"]]) == "1,b\n"


def test_changed_labelled_images_are_reported(tmp_path, capsys):
    from pf_keras.data.images import Images

    names = ["a/1.jpg", "#b/2.jpg", "c/3.jpg"]
    workdir = started(tmp_path)
    record_labels(workdir, Images(names, [0, 1, 2], [b""] * 3))
    record_labels(workdir, Images(names, [0, 1, 2], [b""] * 3))
    assert capsys.readouterr().err == ""
    record_labels(workdir, Images(["a/1.jpg", "c/4.jpg"], [0, 2], [b""] * 2))
    assert "began: 2 are gone, 1 are new" in capsys.readouterr().err


def test_init_is_compared_by_where_its_path_leads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = {"label_list": "ten.txt", "label_list_sha256": "abc"}
    started(tmp_path / "run", "finetune", {"init": "runs/pre/", **labels})
    for same in ("runs/pre", f"{tmp_path}/runs/pre"):
        started(tmp_path / "run", "finetune", {"init": same, **labels})
    with pytest.raises(UserError, match="init: runs/pre/ -> scratch"):
        started(tmp_path / "run", "finetune", {"init": "scratch", **labels})
    started(tmp_path / "remote", "finetune", {"init": "gs://bucket/pre"})
    with pytest.raises(UserError, match="init: gs://bucket/pre -> gs://bucket//pre"):
        started(tmp_path / "remote", "finetune", {"init": "gs://bucket//pre"})


def test_a_pretraining_without_a_recorded_start_is_from_scratch(tmp_path):
    started(tmp_path, facts={"precision": "float32"})  # as an earlier version recorded it
    with pytest.raises(UserError, match="init: scratch -> runs/pre"):
        started(tmp_path, facts={"precision": "float32", "init": "runs/pre"})
    started(tmp_path, facts={"precision": "float32", "init": "scratch"})


def test_a_grid_may_grow(tmp_path):
    started(tmp_path, "sweep", sweep__batches="(16,32)", sweep__learning_rates="(1e-3,)")
    started(tmp_path, "sweep", sweep__batches="(64,32,16)", sweep__learning_rates="(1e-3,2e-3)")
    with pytest.raises(UserError, match=r"sweep.batches: \(64, 32, 16\) -> \(16, 32\)"):
        started(tmp_path, "sweep", sweep__batches="(16,32)", sweep__learning_rates="(1e-3,2e-3)")


def test_a_label_list_is_compared_by_what_it_holds(tmp_path):
    labels = {"label_list": "ten.txt", "label_list_sha256": "abc"}
    started(tmp_path, "finetune", labels)
    started(tmp_path, "finetune", {**labels, "label_list": "/elsewhere/ten.txt"})
    with pytest.raises(UserError, match="label_list_sha256: abc -> def"):
        started(tmp_path, "finetune", {**labels, "label_list_sha256": "def"})


def test_a_damaged_config_is_named(tmp_path):
    started(tmp_path)
    (tmp_path / "config.json").write_text('{"mode": "pre')
    with pytest.raises(UserError, match="config.json is damaged"):
        find_run(Workdir(tmp_path))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file is a file, not a directory. Move it away"):
        started(tmp_path / "file" / "run")
    assert os.listdir(tmp_path) == ["file"]


def test_workdir_paths_expand_home_and_reject_unknown_schemes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(Workdir("~/run").path) == str(tmp_path / "run")
    assert os.fspath(Workdir("gs://bucket/run").path) == "gs://bucket/run"
    with pytest.raises(UserError, match="hdfs://a/b is neither"):
        Workdir("hdfs://a/b")


def test_scratch_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started(tmp_path / "run", "finetune", {"init": "scratch"})
    with pytest.raises(UserError, match="init: scratch -> ./scratch"):
        started(tmp_path / "run", "finetune", {"init": "./scratch"})


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=f"Cannot write in {tmp_path}: Is a directory"):
        started(tmp_path)


def test_an_unlocked_workdir_is_free_for_another_process(tmp_path):
    started(tmp_path)
    code = f"from tests.training.test_workdir import started; started({str(tmp_path)!r})"
    command = [sys.executable, "-c", code]
    assert b"is already running" in subprocess.run(command, capture_output=True).stderr
    unlock()
    assert subprocess.run(command).returncode == 0


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "commands.jsonl"])
def test_reading_is_tried_again_where_network_storage_fails(pretrained, name, monkeypatch, capsys):
    place, fails = type(Workdir(pretrained.workdir).path), [errno.EIO, errno.ETIMEDOUT]
    read_text = place.read_text

    def flaky(path, *arguments, **options):
        if path.name == name and fails:
            number = fails.pop()
            raise OSError(number, os.strerror(number))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(errors, "RETRY_SECONDS", (0, 0, 0))
    monkeypatch.setattr(place, "read_text", flaky)
    workdir = Workdir(pretrained.workdir)
    if name == "config.json":
        assert find_run(workdir).mode == "pretrain"
    elif name == "metrics.jsonl":
        assert MetricsLog(workdir).lines()
    else:
        assert read_commands(workdir)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "Connection timed out. Trying again in 0 s" in said[0] and "Input/output error" in said[1]
