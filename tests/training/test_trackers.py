"""Where metrics and pictures go beside metrics.jsonl, and that a training that resumes adds to the same tracker run."""

import contextlib
import csv
import importlib.util
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from commands import TINY, refused

from pf_keras.config import Config
from pf_keras.errors import Stopped, UserError
from pf_keras.training import trackers
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.monitoring import Monitor
from pf_keras.training.trackers import Tracker, check_tracker, finish, flat_config, open_tracker, sheet
from pf_keras.training.workdir import Workdir
from tests.training.test_loop import STEPS, At, lines, run_training


def needs(package):
    """Skips a test where an optional package is not installed."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'pf-keras[{package}]'")


PICTURES = {"images": np.linspace(0, 1, 2 * 4 * 6 * 3).reshape(2, 4, 6, 3), "decoded and true": np.ones((2, 4, 6, 1))}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The workdir of a run with a config."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = Workdir(tmp_path / "my run")
    start_run(workdir, RunIdentity("pretrain", Config().override({"model.width": "64"})))
    return workdir


def killed_and_resumed(workdir, tracker):
    """A training of 23 steps that is stopped at step 12 and resumes from step 8, with a measurement at steps 10, 20 and 23."""

    def die():
        raise Stopped(15, "here")

    for extra in ([At(12, die)], []):
        measured = Monitor(lambda: {"knn_top1": 0.5}, 10, STEPS)
        with pytest.raises(Stopped) if extra else contextlib.nullcontext():
            run_training(workdir.path, callbacks=[measured, *extra], tracker=tracker)


def test_tensorboard_has_scalars_and_pictures(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed(workdir, "tensorboard")
    with open_tracker("tensorboard", workdir) as tracker:
        tracker.pictures(5, PICTURES)
    found = EventAccumulator(str(workdir.tensorboard), {"tensors": 0}).Reload()
    names = {"loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second", "knn_top1"}
    assert set(found.Tags()["tensors"]) == names | {"images", "decoded and true"}
    assert {event.step for event in found.Tensors("loss")} == {5, 10, 15, 20, 23}
    assert len(found.Tensors("images")[0].tensor_proto.string_val) == 2 + 2  # width, height and two pictures


def test_csv_is_the_log_as_a_table(workdir):
    killed_and_resumed(workdir, "csv")
    with (workdir.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items() if v and k != "images_per_second"} for row in rows] == lines(workdir.path)
    assert not workdir.tensorboard.exists()


@needs("mlflow")
def test_mlflow_has_one_run_with_config_metrics_and_pictures(workdir):
    from mlflow import MlflowClient

    killed_and_resumed(workdir, "mlflow")
    with open_tracker("mlflow", workdir) as tracker:
        tracker.pictures(5, PICTURES)
    client = MlflowClient(f"sqlite:///{workdir.path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'pf_keras'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")
    assert json.loads((workdir.path / "tracker.json").read_text()) == {"mlflow": run.info.run_id}
    assert run.data.params["model.width"] == "64" and run.data.params["mode"] == "pretrain" and len(run.data.params) > 80
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {line["step"]: line["loss"] for line in lines(workdir.path)}
    assert {metric.step for metric in client.get_metric_history(run.info.run_id, "knn_top1")} == {10, 20, 23}
    assert sorted({name.name.split("+")[0] for name in (workdir.path / "mlflow").glob("*/artifacts/images/*.png")})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of MLflow outside of any workdir, which takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/all.db"


@needs("mlflow")
def test_mlflow_run_that_was_stopped_or_failed_says_so(workdir, monkeypatch, store):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for error, status in ((Stopped(15, "here"), "KILLED"), (UserError("NaN"), "FAILED"), (None, "FINISHED")):
        tracker = open_tracker("mlflow", workdir)
        assert MlflowClient(store).get_run(tracker.run_id).info.status == "RUNNING"
        tracker.close(error)
        assert MlflowClient(store).get_run(tracker.run_id).info.status == status


@needs("mlflow")
def test_mlflow_stores_where_its_environment_says(workdir, monkeypatch, store):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "photographs")
    (workdir.path / "tracker.json").write_text('{"mlflow": "0123456789abcdef0123456789abcdef"}')  # of a store that is gone
    with open_tracker("mlflow", workdir) as tracker:
        tracker.scalars(5, {"loss": 1.0})
    experiment = MlflowClient(store).get_experiment_by_name("photographs").experiment_id
    assert MlflowClient(store).get_run(tracker.run_id).info.experiment_id == experiment
    assert not (workdir.path / "mlflow.db").exists()


@needs("mlflow")
def test_mlflow_that_cannot_start_is_one_line_and_one_that_fails_later_is_a_warning(workdir, monkeypatch, capsys, store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://place")
    with pytest.raises(UserError, match="run.tracker is mlflow, which cannot start: .* Set MLFLOW_TRACKING_URI") as error:
        open_tracker("mlflow", workdir)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    with open_tracker("mlflow", workdir) as tracker:
        tracker.client.log_batch = fail
        for step in (5, 10):
            tracker.scalars(step, {"loss": 1.0})
        tracker.pictures(10, PICTURES)
    assert capsys.readouterr().err == "warning: mlflow failed (no network.): metrics go to metrics.jsonl only\n"


@needs("wandb")
def test_wandb_offline_has_one_run_with_config_metrics_and_pictures(workdir):
    killed_and_resumed(workdir, "wandb")
    with open_tracker("wandb", workdir) as tracker:
        tracker.pictures(20, PICTURES)
    run_id = json.loads((workdir.path / "tracker.json").read_text())["wandb"]
    folders = [path for path in sorted((workdir.path / "wandb").iterdir()) if path.name.startswith("offline-run-")]
    # W&B numbers folders that were begun in the same second.
    assert folders and all(re.fullmatch(rf"offline-run-[\d_]+-{run_id}(-\d+)?", path.name) for path in folders)
    records = [record for path in folders for record in transactions(path / f"run-{run_id}.wandb")]
    assert {record.run.run_id for record in records if record.HasField("run")} == {run_id}
    settings = {item.key: item.value_json for record in records for item in record.run.config.update}
    assert settings["model.width"] == "64" and settings["mode"] == '"pretrain"'
    rows = [{name_of(item): item.value_json for item in record.history.item} for record in records]
    losses = {int(row["step"]): float(row["loss"]) for row in rows if "loss" in row}
    assert losses == {line["step"]: line["loss"] for line in lines(workdir.path)}
    assert {int(row["step"]) for row in rows if "knn_top1" in row} == {10, 20, 23}
    assert len(list((workdir.path / "wandb").glob("offline-run-*/files/media/images/*.png"))) == 2


def name_of(item):
    return item.key or "/".join(item.nested_key)


def transactions(path):
    """The records of W&B's log of an offline run, a log as LevelDB's: blocks of 32 KiB, 7 bytes of header before each piece."""
    from wandb.proto import wandb_internal_pb2

    content, block = path.read_bytes(), 2**15
    place, whole = 7, b""  # after the header of the file
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block  # a block ends with zeros where no header fits
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a record in one piece, or its last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@needs("wandb")
def test_wandb_without_a_key_is_one_line(workdir, monkeypatch, tmp_path):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()  # it reads its environment once
    with pytest.raises(UserError, match="run.tracker is wandb, which cannot start: No API key configured.* WANDB_MODE=offline"):
        open_tracker("wandb", workdir)
    wandb.teardown()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_missing_package_is_one_line(tmp_path, monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: None if package == name else find(package))
    line = refused("--mode=pretrain", f"--workdir={tmp_path / 'run'}", *TINY, f"--tracker={name}")
    assert f"run.tracker is {name}, but the package {name} is not installed. Install it with pip install" in line
    assert f"'pf-keras[{name}]'" in line and not (tmp_path / "run").exists()


def test_folder_that_wandb_left_is_not_taken_for_the_package(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: SimpleNamespace(origin=None))
    with pytest.raises(UserError, match="the package wandb is not installed"):
        check_tracker("wandb")
    check_tracker("csv")


def test_unknown_tracker_is_one_line(tmp_path):
    line = refused("--mode=pretrain", f"--workdir={tmp_path / 'run'}", *TINY, "--tracker=excel")
    assert "run.tracker is 'excel'. Use tensorboard, csv, mlflow or wandb." in line


def test_process_that_does_not_write_has_a_tracker_that_ignores_everything(workdir):
    workdir.chief = False
    with open_tracker("csv", workdir) as tracker:
        tracker.scalars(5, {"loss": 1.0})
        tracker.pictures(5, PICTURES)
    assert type(tracker) is Tracker and not (workdir.path / "metrics.csv").exists()


RESULT = {"steps": 23, "top1": 0.75, "init": "scratch", "stopped_at": None, "images": 360, "yes": True}
SENT = {"result/steps": 23, "result/top1": 0.75, "result/images": 360}


@pytest.mark.parametrize("name", ["csv", "tensorboard", pytest.param("mlflow", marks=needs("mlflow"))])
def test_numbers_of_the_result_are_sent_once(workdir, name):
    config = Config().override({"run.tracker": name})
    run_training(workdir.path, tracker=name)
    for top1 in (0.75, 0.5):  # the command is given again
        finish(workdir, config, RESULT | {"top1": top1})
    assert json.loads(workdir.result_file.read_text())["top1"] == 0.5
    if name == "csv":
        rows = list(csv.DictReader((workdir.path / "metrics.csv").open()))
        last = {k: float(v) for k, v in rows[-1].items() if v}
        assert last == {"step": 23, **SENT} and [int(row["step"]) for row in rows] == [5, 10, 15, 20, 23, 23]
    elif name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(workdir.tensorboard), {"tensors": 0}).Reload()
        for key, value in SENT.items():
            (event,) = found.Tensors(key)
            assert event.step == 23 and np.frombuffer(event.tensor_proto.tensor_content, "float32")[0] == value
    else:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{workdir.path}/mlflow.db")
        run_id = json.loads((workdir.path / "tracker.json").read_text())["mlflow"]
        for key, value in SENT.items():
            (metric,) = client.get_metric_history(run_id, key)
            assert (metric.step, metric.value) == (23, value)
        assert client.get_run(run_id).info.status == "FINISHED"


@needs("wandb")
def test_wandb_has_the_numbers_of_the_result(workdir):
    import wandb

    finish(workdir, Config().override({"run.tracker": "wandb"}), RESULT)
    wandb.teardown()  # its own process writes the file, maybe after the run has ended
    (file,) = (workdir.path / "wandb").glob("offline-run-*/run-*.wandb")
    rows = [{name_of(item): item.value_json for item in record.history.item} for record in transactions(file)]
    (found,) = [{name: float(value) for name, value in row.items()} for row in rows if "result/top1" in row]
    assert {name: found[name] for name in SENT} == SENT and found["step"] == 23


def test_tracker_that_fails_at_the_end_is_a_warning(workdir, monkeypatch, capsys):
    def fail(*_):
        raise UserError("no network")

    monkeypatch.setattr(trackers, "open_tracker", fail)
    finish(workdir, Config(), RESULT)
    assert workdir.result_file.exists()
    assert capsys.readouterr().err == "warning: the result was not sent to tensorboard: no network\n"


def test_config_is_flat_and_a_workdir_without_one_has_no_config(workdir, tmp_path):
    flat = flat_config(workdir)
    assert flat["mode"] == "pretrain" and flat["model.width"] == 64 and flat["data.source"] == "digits"
    assert flat_config(Workdir(tmp_path / "none")) == {}


def test_pictures_become_one_sheet():
    colour, grey = (sheet(images) for images in PICTURES.values())
    assert colour.shape == grey.shape == (8, 6, 3) and colour.dtype == grey.dtype == "uint8"
    assert colour[0, 0, 0] == 0 and colour[-1, -1, -1] == 255 and (grey == 255).all()
