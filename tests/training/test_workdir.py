"""The work directory belongs to one run and to one process."""

import json
import os
import subprocess
import sys

import pytest

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.training.workdir import Workdir


def started(path, **overrides):
    workdir = Workdir(path)
    workdir.start("pretrain", Config().override({name.replace("__", "."): v for name, v in overrides.items()}))
    return workdir


def test_another_config_is_refused_by_its_fields(tmp_path):
    started(tmp_path)
    with pytest.raises(UserError, match=r"pretrain.steps: 300000 -> 5; run.seed: 0 -> 1"):
        started(tmp_path, pretrain__steps="5", run__seed="1")
    with pytest.raises(UserError, match="of --mode=finetune"):
        Workdir(tmp_path).start("finetune", Config())


def test_what_does_not_change_what_is_learned_may_change(tmp_path):
    started(tmp_path)
    changed = {"run__log_every": "9", "run__checkpoint_every": "3", "run__keep_checkpoints": "1"}
    workdir = started(tmp_path, **changed, data__max_bad_fraction="0.5")
    assert workdir.config().run.log_every == 9


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    code = (
        "import sys, time; from tests.training.test_workdir import started\n"
        f"kept = started({str(tmp_path)!r}); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"to be free, received .*, in which process {first.pid} on .* runs"):
            started(tmp_path)
        first.kill()
        first.wait()
    started(tmp_path)


def test_what_was_cut_short_or_will_be_done_again_leaves_the_metrics(tmp_path):
    workdir = started(tmp_path)
    for step in (5, 10, 15):
        workdir.log({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')
    workdir.forget_metrics_after(10)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [5, 10]


@pytest.mark.parametrize("content", ["[]", '{"architectures": ["ViT"]}', '{"mode": "pretrain"}'])
def test_a_config_of_another_program_is_no_run(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json of a run, received a file without"):
        Workdir.of_run(tmp_path, "pretrain")


def test_the_precision_that_was_taken_has_to_stay(tmp_path):
    Workdir(tmp_path).start("pretrain", Config(), {"precision": "mixed_bfloat16"})
    with pytest.raises(UserError, match="precision: mixed_bfloat16 -> float32.*--config.run.precision=mixed_bfloat16"):
        Workdir(tmp_path).start("pretrain", Config(), {"precision": "float32"})
    named = Config().override({"run.precision": "mixed_bfloat16"})  # what another machine takes by itself
    Workdir(tmp_path).start("pretrain", named, {"precision": "mixed_bfloat16"})


def test_other_labelled_images_than_before_are_told_of(tmp_path, capsys):
    from pf_keras.data.images import Images

    names = ["a/1.jpg", "#b/2.jpg", "c/3.jpg"]
    workdir = started(tmp_path)
    workdir.write_labels(Images(names, [0, 1, 2], [b""] * 3))
    workdir.write_labels(Images(names, [0, 1, 2], [b""] * 3))
    assert capsys.readouterr().err == ""
    workdir.write_labels(Images(["a/1.jpg", "c/4.jpg"], [0, 2], [b""] * 2))
    assert "began 2 are gone and 1 are new" in capsys.readouterr().err


def test_a_folder_may_have_a_slash_behind_it(tmp_path):
    config = Config().override({"data.source": "folder:photos"})
    workdir = Workdir(tmp_path)
    workdir.start("finetune", config, {"init": "runs/pre/"})
    workdir.start("finetune", config.override({"data.source": "folder:photos/"}), {"init": "runs/pre"})
    with pytest.raises(UserError, match="init: runs/pre/ -> scratch; data.source: folder:photos/ -> folder:other"):
        workdir.start("finetune", config.override({"data.source": "folder:other"}), {"init": "scratch"})


def test_a_start_and_a_list_are_the_same_wherever_they_are_named_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = {"label_list": "ten.txt", "label_list_sha256": "abc"}
    workdir = Workdir(tmp_path / "run")
    workdir.start("finetune", Config(), {"init": "runs/pre", **kept})
    workdir.start("finetune", Config(), {"init": f"{tmp_path}/runs/pre", **kept, "label_list": "/elsewhere/ten.txt"})
    for other in ({"init": "runs/other", **kept}, {"init": "runs/pre", **kept, "label_list_sha256": "def"}):
        with pytest.raises(UserError, match="received another"):
            workdir.start("finetune", Config(), other)
    remote = Workdir(tmp_path / "remote")
    remote.start("finetune", Config(), {"init": "gs://bucket/pre"})
    with pytest.raises(UserError, match="init: gs://bucket/pre -> gs://bucket//pre"):
        remote.start("finetune", Config(), {"init": "gs://bucket//pre"})


def test_damaged_files_are_named(tmp_path):
    workdir = started(tmp_path)
    (tmp_path / "config.json").write_text('{"mode": "pre')
    with pytest.raises(UserError, match="config.json as JSON"):
        workdir.mode()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"expected to write in {tmp_path}/file/run, received Not a directory"):
        started(tmp_path / "file" / "run")
    assert os.listdir(tmp_path) == ["file"]


def test_a_place_is_found_from_home_and_one_of_a_scheme_that_is_unknown_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(Workdir("~/run").path) == str(tmp_path / "run")
    assert os.fspath(Workdir("gs://bucket/run").path) == "gs://bucket/run"
    with pytest.raises(UserError, match="received hdfs://a/b"):
        Workdir("hdfs://a/b")
