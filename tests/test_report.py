"""`report.html`: it says what is in the workdir, needs nothing else, and never makes a command fail."""

import html
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
from browser import open_browser
from commands import TINY, command, refused
from html_page import Page
from PIL import Image

from pf_keras.commands_log import read_commands
from pf_keras.config import Config
from pf_keras.report import main, write_report
from pf_keras.training.identity import RunIdentity
from pf_keras.training.workdir import Workdir

OLD = Path(__file__).parent / "old_runs" / "version_0.1"
HOSTILE = "<img src=x onerror=alert(1)> & co"
SHORT = (*TINY, "--config.pretrain.batch=8", "--config.run.log_every=5", "--config.pretrain.warmup_steps=2")


def read(workdir):
    """The report of a workdir, written now. It needs no other file."""
    path = write_report(workdir)
    text = path.read_text()
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["style"] - 1 == 0
    assert all(address.startswith("data:image/") or address.endswith("/report.html") for address in page.addresses)
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    page.text = words(text)
    return page


def words(text):
    """The text of a page without its tags, with a space between any two cells."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())


def write(file, content):
    """Write JSON, or rows of a table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(str, content)) + "\n" if isinstance(content, list) else json.dumps(content))


def made(workdir, mode="finetune", result=None, facts=None, **overrides):
    """A workdir with the config and the result of a run."""
    config = Config().override({name.replace("__", "."): value for name, value in overrides.items()})
    write(workdir / "config.json", RunIdentity(mode, config, facts or {}).to_dict())
    if result:
        write(workdir / "result.json", result)
    return workdir


def made_sweep(workdir, labels=143, pretrained=0.8, scratch=0.6, sd=0.01):
    scores = {"pretrained": pretrained, "scratch": scratch}
    result = {"points": 4, "seeds": 3, "labels": labels, "init_step": 20, "bad_images": 0}
    rows = ["start,labels,batch,learning_rate,held_out_top1,top1_mean,top1_sd,top5_mean,top5_sd,seeds,diverged,steps,images"]
    for start, score in scores.items():
        result |= {f"{start}_top1_mean": score, f"{start}_top1_sd": sd, f"{start}_diverged": 0}
        rows.append(f"{start},{labels},16,0.001,{score},{score},{sd},0.9,0.01,3,0,90,360")
        for batch in (16, 32):
            point = {"start": start, "batch": batch, "learning_rate": 0.001, "held_out_top1": score - batch / 1000}
            write(workdir / "grid" / f"{start}-b{batch}-lr0.001" / "point.json", point)
        for seed in (0, 1):
            lines = [json.dumps({"step": step, "accuracy": score * step / 90}) for step in (30, 60, 90)]
            write(workdir / "final" / start / f"seed-{seed}" / "result.json", {"top1": score, "majority_top1": 0.125})
            write(workdir / "final" / start / f"seed-{seed}" / "metrics.jsonl", lines)
    write(workdir / "table.csv", rows)
    return made(workdir, "sweep", result, {"init": "scratch", "seeds": [0, 1, 2]})


def test_answers_of_an_export_are_no_run(tmp_path):
    write(tmp_path / "predict" / "result.json", {"model": "export", "data": "folder:photos", "images": 3})
    page = read(tmp_path)
    assert "Predictions for folder:photos" in page.text and "Several runs" not in page.text
    assert "The rest is missing" not in page.text


@pytest.fixture(scope="module")
def everything(pretrained, tmp_path_factory):
    """A workdir with something of every kind in it, with names that are HTML."""
    workdir = tmp_path_factory.mktemp("everything") / "a run & <b>more"
    without = ("checkpoints", "tensorboard", "evaluate", "embed", "attention.png")  # other tests have used the run too
    shutil.copytree(pretrained.workdir, workdir, ignore=shutil.ignore_patterns(*without))
    before = made(workdir.parent / "before", "pretrain", {"loss_ratio": 0.7})
    config = json.loads((workdir / "config.json").read_text())
    write(workdir / "config.json", {**config, "mode": "finetune", "init": str(before), "classes": [HOSTILE, "dog"]})
    write(workdir / "result.json", {"top1": 0.5, "images": 360, "labels": 30, "loss_ratio": 0.7, HOSTILE: HOSTILE})
    found = {"top1": 0.5, "images": 360, "steps": 20, "data": "digits", "changed": [HOSTILE]}
    write(workdir / "evaluate" / "result.json", found)
    classes = [f"{HOSTILE},240,20,0.0833", "dog,120,120,1.0000"]
    write(workdir / "evaluate" / "classes.csv", ["class,images,correct,accuracy", *classes])
    kinds = ("pretrained", "untrained", "pixels")
    rows = [f"{kind},{n / 1437},{n},{n / 1000},{n / 900}" for kind in kinds for n in (30, 143, 720)]
    for place in (workdir, before):
        write(place / "evaluate" / "probes.csv", ["features,label_fraction,labels,linear,knn", *rows])
    write(workdir / "predict" / "result.json", {"images": 3, "top1": 0.25, "data": f"folder:{HOSTILE}"})
    answer = f"{HOSTILE}/{'long-name-without-a-space' * 8}.jpg,dog,0.9,0.1,{HOSTILE},1"
    write(workdir / "predict" / "predictions.csv", ["path,class,probability,entropy,true_class,mistake", *[answer] * 30])
    write(workdir / "embed" / "result.json", {"images": 3, "near_duplicates": 1})
    for name in ("evaluate/confusion", "predict/mistakes", "embed/map", "embed/neighbours"):
        pixels = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), "uint8")
        Image.fromarray(pixels).save(workdir / f"{name}.png")
    corrupt = {"split": "train", "name": HOSTILE + "\udcff", "reason": "cut short"}
    write(workdir / "bad.jsonl", [json.dumps(corrupt)] * 40)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = {"accuracy": 0.4, "holdout_top1": 0.3, "validation_top1": 0.2, "knn_top1": 0.5, "linear_top1": 0.6}
    write(workdir / "metrics.jsonl", [json.dumps(line | scores) for line in lines])
    return workdir


def test_a_run_leaves_a_report_and_the_command(pretrained):
    assert f"report: {pretrained.workdir / 'report.html'}" in pretrained.err
    line, *_ = read_commands(Workdir(pretrained.workdir))
    assert line["command"].startswith("pf-keras --mode=pretrain --workdir=")
    assert " '--config.model.stacks=(1,)' " in line["command"]
    assert line["ended"] == "done" and line["seconds"] > 0 and {"pf_keras", "Python", "Keras"} <= set(line["versions"])
    page = read(pretrained.workdir)
    assert "Finished, after" in page.text and "The rest is missing" not in page.text
    assert f"{pretrained.result['loss']:.3f} nats per pixel" in page.text
    assert page.tags["img"] >= 1 and page.tags["polyline"] >= 2 + 1 + 1  # the loss and its baseline, rate, gradient
    assert "--config.pretrain.steps=20" in page.text and line["versions"]["Keras"] in page.text
    assert "pretrain.steps 20 300,000" in page.text and "finetune.epochs 80" not in page.text


def test_a_fine_tuning_is_compared_with_its_pretraining(finetuned, pretrained):
    assert finetuned.result["majority_top1"] == 48 / 360
    assert "most frequent class is right for 13.3%" in words((finetuned.workdir / "report.html").read_text())
    evaluated = command("--mode=evaluate", f"--workdir={finetuned.workdir}")
    assert evaluated.code == 0, evaluated.err
    page = read(finetuned.workdir)
    assert f"that run has a loss_ratio of {pretrained.result['loss_ratio']:.3f} on digits" in page.text
    assert f"right for {finetuned.result['top1']:.1%} of 360 validation images (one seed)" in page.text
    assert "Always answering the most frequent class is right for 13.3%" in page.text
    assert "Classes by accuracy" in page.text and "--mode=evaluate" in page.text and page.tags["img"] >= 1
    assert "The rest is missing" not in page.text


def test_the_page_depends_on_the_workdir_alone(pretrained, tmp_path):
    first = write_report(pretrained.workdir).read_bytes()
    copy = tmp_path / pretrained.workdir.name
    shutil.copytree(pretrained.workdir, copy)
    (copy / "report.html").unlink()
    done = subprocess.run([sys.executable, "-m", "pf_keras.report", copy], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{copy / 'report.html'}\n", done.stderr
    assert (copy / "report.html").read_bytes() == first


def test_names_that_are_html_are_shown_as_text(everything):
    page = read(everything)
    assert page.tags["b"] and page.tags["img"] == 5 and "The rest is missing" not in page.text
    assert page.text.count(HOSTILE) >= 20 + 20 + 5 and "alert" not in str(page.tags)
    assert "a run & <b>more" in page.text and "20 more are in bad.jsonl" in page.text and r"\udcff" in page.text
    assert "right for 66.7%" in page.text and "So the model learned nothing that counts." in page.text


def test_what_was_watched_is_drawn(everything):
    text = read(everything).text
    for name in ("training images 40.0%", "held-out labelled images 30.0%", "validation images, only watched 20.0%"):
        assert name in text
    assert "kNN 50.0%" in text and "linear probe 60.0%" in text
    assert "linear probe on pre-trained features 30 3.0%" in text  # the probe with as many labels as the run


def test_a_sweep_shows_its_grid_and_its_winners(tmp_path):
    page = read(made_sweep(tmp_path / "sweep"))
    assert "from pre-trained weights, the first answer is right for 80.0% ± 1.0%" in page.text
    assert "most frequent class is right for 12.5%" in page.text
    assert "changes it by +20.0 points." in page.text and "within noise" not in page.text
    assert "batch lr 0.001 16 78.4% 32 76.8%" in page.text
    assert "from scratch 143 16 0.001 60.0% ± 1.0%" in page.text
    assert page.tags["polyline"] == 4 and "from scratch 2 runs" in page.text
    near = read(made_sweep(tmp_path / "near", pretrained=0.61)).text
    assert "changes it by +1.0 points, which is within noise." in near


def test_a_folder_of_runs_shows_accuracy_by_labels(tmp_path):
    made_sweep(tmp_path / "sweep-0.01", labels=30, pretrained=0.4, scratch=0.3)
    write_report(made_sweep(tmp_path / "sweep-0.1"))
    for seed, top1 in enumerate((0.9, 0.92)):
        result = {"top1": top1, "labels": 1437, "images": 360}
        made(tmp_path / f"all-{seed}", result=result, facts={"init": "scratch"}, run__seed=str(seed))
    probes = ["features,label_fraction,labels,linear,knn", "pretrained,0.1,143,0.7,0.5", "pixels,0.1,143,0.1,0.1"]
    write(made(tmp_path / "pretrain", "pretrain") / "evaluate" / "probes.csv", probes)
    page = read(tmp_path)
    assert "30 40.0% ± 1.0% 30.0% ± 1.0% – –" in page.text
    assert "143 80.0% ± 1.0% 60.0% ± 1.0% 70.0% 50.0%" in page.text
    assert "1,437 – 91.0% ± 1.4% – –" in page.text
    assert page.tags["polyline"] == 4 and page.addresses == ["sweep-0.1/report.html"]
    assert "Several runs" in page.text and "The rest is missing" not in page.text


def finetunes(folder, scores, **settings):
    """Fine-tunings from scratch with 1,437 labels, one for each seed of `{name: (seed, top-1)}`."""
    for name, (seed, top1) in scores.items():
        result = {"top1": top1, "labels": 1437, "images": 360}
        made(folder / name, result=result, facts={"init": "scratch"}, run__seed=str(seed), **settings)


def test_runs_are_one_mean_only_where_they_differ_in_nothing_but_the_seed(tmp_path):
    finetunes(tmp_path, {"short-0": (0, 0.7), "short-1": (1, 0.72)}, finetune__epochs="10")
    finetunes(tmp_path, {"long-0": (0, 0.9), "long-1": (1, 0.92), "long-2": (2, 0.94)}, finetune__epochs="99")
    finetunes(tmp_path, {"long-2-copy": (2, 0.94)}, finetune__epochs="99")
    text = read(tmp_path).text
    names = "from scratch: long-0, long-1, long-2 from scratch: long-2-copy from scratch: short-0, short-1"
    assert f"labels {names} 1,437 92.0% ± 2.0% 94.0% 71.0% ± 1.4%" in text
    assert "Runs that differ in more than their seed are shown separately:" in text
    assert "from scratch: short-0, short-1 finetune.epochs=10" in text and "long-2-copy finetune.epochs=99" in text


def test_a_copy_of_a_run_and_other_starts_or_labels_are_shown_separately(tmp_path):
    finetunes(tmp_path / "copy", {"a": (0, 0.5), "b": (0, 0.5)})
    text = read(tmp_path / "copy").text
    assert "1,437 50.0% 50.0%" in text and "from scratch: b the same settings and seed" in text and "±" not in text
    for name, facts in (("a", {"init": "x"}), ("b", {"init": "y"}), ("c", {"init": "x", "label_list_sha256": "1"})):
        run = made(tmp_path / "starts" / name, result={"top1": 0.5, "labels": 9}, facts=facts)
        write(run / "result.json", {"top1": 0.5, "labels": 9, "images": 3})
    text = read(tmp_path / "starts").text
    assert "9 50.0% 50.0% 50.0%" in text and "weights: a init=x" in text and "weights: b init=y" in text and "±" not in text
    made_sweep(tmp_path / "sweeps" / "a")
    made_sweep(tmp_path / "sweeps" / "b", scratch=0.5)
    text = read(tmp_path / "sweeps").text
    assert "143 80.0% ± 1.0% 80.0% ± 1.0% 60.0% ± 1.0% 50.0% ± 1.0%" in text


def test_an_unlabelled_prediction_shows_what_means_something(tmp_path):
    run = made(tmp_path / "run", result={"top1": 0.5, "images": 3})
    found = {"steps": 71, "data": "folder:x", "images": 3, "unreadable": 25, "classes": 2}
    found |= {"labelled": 0, "mistakes": 0, "top1": None}
    write(run / "predict" / "result.json", found)
    rows = [["path", "class", "probability", "true_class", "error"]]
    rows += [[f"{n}.jpg", name, 0.5, "", ""] for n, name in enumerate("aab")]
    rows += [[f"bad-{n}.jpg", "", "", "", f"{HOSTILE} " * 20] for n in range(25)]
    Workdir(run).write_csv(run / "predict" / "predictions.csv", rows)
    text = read(run).text
    assert "The checkpoint is of step 71." in text and "updates of the weights" not in text
    for name in ("labelled", "mistakes", "top1 –", "true_class", "bad-20.jpg", f"{HOSTILE} " * 20):
        assert name not in text
    assert "predicted class images fraction a 2 66.7% b 1 33.3%" in text
    assert f"bad-19.jpg {HOSTILE}" in text and "5 more are in predict/predictions.csv" in text and "unreadable 25" in text
    write(run / "predict" / "result.json", found | {"labelled": 3, "mistakes": 1, "top1": 0.5})
    text = read(run).text
    assert "labelled 3" in text and "mistakes 1" in text and "true_class" in text
    (run / "predict" / "result.json").unlink()  # it is being replaced
    assert "0.jpg" not in read(run).text


def test_features_show_unreadable_files_and_neighbours_first(tmp_path):
    run = made(tmp_path / "run", result={"top1": 0.5, "images": 3})
    write(run / "embed" / "result.json", {"steps": 71, "images": 3, "unreadable": 1})
    write(run / "embed" / "unreadable.csv", ["path,error", "page.jpg,it is an HTML page"])
    for name in ("attention", "map", "other", "duplicates", "neighbours"):
        Image.new("RGB", (9, 9)).save(run / "embed" / f"{name}.png")
    text = read(run).text
    places = [text.index(f"embed/{name}.png") for name in ("neighbours", "duplicates", "map", "attention", "other")]
    assert places == sorted(places) and "page.jpg it is an HTML page" in text and "updates of the weights" not in text


def test_probes_of_the_start_and_an_average_are_told(tmp_path):
    start = made(tmp_path / "start", "pretrain", {"loss_ratio": 0.7, "probe_labels": 150}, pretrain__probe_every="5")
    lines = [(5, {"knn_top1": 0.1, "linear_top1": 0.2}), (10, {"knn_top1": 0.625, "linear_top1": 0.75}), (12, {})]
    write(start / "metrics.jsonl", [json.dumps({"step": step} | found) for step, found in lines])
    result = {"top1": 0.5, "labels": 30, "holdout_images": 6, "best_step": 9, "images": 360}
    run = made(tmp_path / "run", result=result, facts={"init": str(start)}, finetune__ema="0.9")
    text = read(run).text
    assert "this run 30 50.0%" in text and "linear probe of that run at its step 10 150 75.0%" in text
    assert "kNN of that run at its step 10 150 62.5%" in text
    assert "running average over the steps (ema=0.9)" in text
    assert "Of 30 labelled images the training used 24. The other 6 were held out, and chose the checkpoint of step 9." in text
    write(start / "result.json", {"loss_ratio": 0.7})  # of an earlier version, which did not count them
    assert "at its step 10 at most 2,048 75.0%" in read(run).text
    weights = tmp_path / "a.weights.h5"
    weights.write_bytes(b"")
    text = read(made(tmp_path / "next", "pretrain", facts={"init": str(weights)})).text
    assert f"This run started from {weights}." in text and "not there now" not in text


def test_time_of_a_killed_part_is_not_known(tmp_path):
    run = made(tmp_path / "run", result={"top1": 0.5, "images": 3})
    part = {"command": "pf-keras", "mode": "finetune", "folder": "/", "began": "2026-01-01T00:00:00Z", "backend": "jax",
            "versions": {}}  # fmt: skip
    killed = {"seconds": None, "ended": "it was killed, or it is still running"}
    parts = [part | killed, part | {"seconds": 51, "ended": "done"}]
    write(run / "commands.jsonl", [json.dumps(one) for one in parts])
    assert "Finished, after at least 51 s." in read(run).text
    write(run / "commands.jsonl", [json.dumps(parts[1])] * 2)
    assert "Finished, after 1 min 42 s." in read(run).text
    write(run / "commands.jsonl", [json.dumps(parts[0])])
    (run / "result.json").unlink()
    assert "Not finished: it was killed, or it is still running." in read(run).text


def test_a_stopped_run_has_a_report(tmp_path, monkeypatch):
    from pf_keras.training.callbacks import Log

    logged = Log.on_epoch_end

    def stop(self, epoch, logs=None):
        logged(self, epoch, logs)
        if self.step == 10:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Log, "on_epoch_end", stop)
    done = command("--mode=pretrain", f"--workdir={tmp_path}", *SHORT, "--config.pretrain.steps=20")
    assert done.code == 128 + signal.SIGTERM, done.err
    text = (tmp_path / "report.html").read_text()
    assert Page(text).tags["polyline"] == 3
    text = words(text)
    assert "Not finished: stopped by SIGTERM at step 10, which is saved" in text
    assert "The last logged step is 10 of 20." in text


def test_a_run_that_diverges_has_a_report(tmp_path):
    flags = (f"--workdir={tmp_path}", *SHORT, "--config.pretrain.learning_rate=1e30", "--config.pretrain.clip_norm=0")
    message = refused("--mode=pretrain", *flags, "--config.pretrain.steps=20")
    text = words((tmp_path / "report.html").read_text())
    assert f"Not finished: {message.removeprefix('error: ')[:60]}" in text


def test_a_command_that_is_refused_leaves_nothing(pretrained):
    files = {name: (pretrained.workdir / name).read_bytes() for name in ("report.html", "commands.jsonl")}
    refused("--mode=pretrain", f"--workdir={pretrained.workdir}", "--config.pretrain.steps=99")
    refused("--mode=finetune", f"--workdir={pretrained.workdir}", "--init=scratch")
    refused("--mode=evaluate", f"--workdir={pretrained.workdir}", "--data=folder:nowhere")
    assert files == {name: (pretrained.workdir / name).read_bytes() for name in files}


@pytest.mark.parametrize("error", [RuntimeError("no\nroom"), None])
def test_a_report_that_fails_is_one_warning(pretrained, monkeypatch, error):
    def fail(path):
        if error is None:
            signal.raise_signal(signal.SIGTERM)
        raise error

    monkeypatch.setattr("pf_keras.report.write_report", fail)
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}")
    warned = [line for line in done.err.splitlines() if line.startswith("warning: the report was not written: ")]
    assert done.code == 0 and done.result["step"] == 20 and len(warned) == 1
    assert ("no room" if error else "SIGTERM") in warned[0]


def test_a_process_that_does_not_write_the_run_leaves_nothing(pretrained, monkeypatch):
    lines = (pretrained.workdir / "commands.jsonl").read_text()
    monkeypatch.setattr("pf_keras.training.devices.is_chief", lambda: False)
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}")
    assert done.code == 0 and "report:" not in done.err
    assert (pretrained.workdir / "commands.jsonl").read_text() == lines


def test_damaged_files_cost_their_section_alone(everything, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(everything, workdir)
    (workdir / "evaluate" / "classes.csv").write_text("nothing\n1\n")
    (workdir / "embed" / "map.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    (workdir / "embed" / "result.json").write_text("{")
    (workdir / "predict" / "mistakes.png").write_bytes((everything / "predict" / "mistakes.png").read_bytes()[:9999])
    page = read(workdir)
    assert page.text.count("The rest is missing") == 3 and page.tags["img"] == 2  # the result needs classes.csv too
    assert "predict/mistakes.png is not shown, because it cannot be read" in page.text


@pytest.mark.parametrize("run", ["pretrain", "finetune"])
def test_runs_of_version_0_1_have_a_report(run, tmp_path):
    shutil.copytree(OLD / run, tmp_path / run)
    text = read(tmp_path / run).text
    assert "Finished." in text and "The rest is missing" not in text


def test_many_large_pictures_are_scaled_down_and_counted(tmp_path):
    workdir = made(tmp_path / "run", result={"top1": 0.5, "images": 3})
    write(workdir / "embed" / "result.json", {"images": 3})
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2500, 3), "uint8")
    Image.fromarray(pixels).save(workdir / "embed" / "00.png")
    for number in range(1, 13):
        shutil.copy(workdir / "embed" / "00.png", workdir / "embed" / f"{number:02}.png")
    page = read(workdir)
    assert page.tags["img"] >= 3 and "12.png is not shown, because this page has many pictures" in page.text
    assert (workdir / "report.html").stat().st_size < 5e6 < (workdir / "embed" / "00.png").stat().st_size


def test_a_report_in_a_bucket(bucket, pretrained, tmp_path):
    shutil.copytree(pretrained.workdir, tmp_path / "bucket" / "run")
    (tmp_path / "bucket" / "run" / "report.html").unlink()
    assert str(write_report(f"{bucket}/run")) == "gs://bucket/run/report.html"
    page = Page((tmp_path / "bucket" / "run" / "report.html").read_text())
    assert page.tags["img"] >= 1 and page.tags["polyline"] >= 4 and "The rest is missing" not in page.text


def test_a_report_of_nothing_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "photos" / "figures").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "figures" / "a.png")
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["ViT"]}')
    for arguments, words in (
        ([], "There are 0 arguments. Use python -m pf_keras.report WORKDIR."),
        ([str(tmp_path / "nowhere")], "There is no directory"),
        ([str(tmp_path / "photos")], "There is no run in"),
        ([str(tmp_path / "photos" / "figures" / "a.png")], "is a file, not a directory"),
        ([str(tmp_path / "other")], "config.json is not the config of a run"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("report.html"))


# In a browser

OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().width
    && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)).map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def chromium():
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("kind", ["run", "sweep", "folder"])
def test_a_report_in_a_browser(chromium, everything, tmp_path, kind, width, scheme):
    workdir = everything
    if kind != "run":
        made_sweep(tmp_path / "first", labels=30)
        workdir = tmp_path if kind == "folder" else tmp_path / "first"
        write_report(made_sweep(tmp_path / "second"))
    chromium.open(write_report(workdir), width, scheme)
    assert chromium.messages() == []
    chromium.ask("[...document.querySelectorAll('details')].map(d => d.open = true)")
    sizes = chromium.ask("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.clientHeight])")
    assert len(sizes) == (5 if kind == "run" else 0) and all(all(size) for size in sizes)
    assert chromium.ask("document.documentElement.scrollWidth") == width
    assert chromium.ask(OVERFLOWING) == []
    charts = chromium.ask("[...document.querySelectorAll('.chart > svg')].map(c => [c.clientHeight, c.getBBox().height])")
    assert len(charts) == (7 if kind == "run" else 1) and all(180 < height and drawn < 245 for height, drawn in charts)
    paper, ink = (chromium.ask(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (sum(map(int, paper[4:-1].split(","))) < sum(map(int, ink[4:-1].split(",")))) == (scheme == "dark")


def test_wide_pictures_and_tables_scroll_on_a_phone(chromium, everything):
    chromium.open(write_report(everything), 360)
    pictures = chromium.ask(
        "[...document.querySelectorAll('.picture')].map(p => [p.querySelector('img').clientWidth, "
        "p.querySelector('.scroll').clientWidth, !!p.querySelector('.swipe')?.offsetWidth])"
    )
    assert len(pictures) == 5 and all(box <= 332 for _, box, _ in pictures)
    assert sum(width > 700 and hint for width, _, hint in pictures) >= 4  # the captions in a sheet stay readable
    shadow = "getComputedStyle(document.querySelector('.scroll')).backgroundImage"
    assert chromium.ask(shadow).count("linear-gradient") == 4
    chromium.open(write_report(everything), 1200)
    assert chromium.ask("[...document.images].every(i => i.clientWidth <= 960)")
    assert not chromium.ask("[...document.querySelectorAll('.swipe')].some(s => s.offsetWidth)")


def test_a_report_prints(chromium, everything, tmp_path):
    chromium.open(write_report(everything), 1200, "dark")
    chromium.print(tmp_path / "report.pdf")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and 3 <= printed.count(b"/Type /Page\n") <= 15


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="no pdftotext: apt-get install poppler-utils")
def test_the_last_printed_page_is_not_the_footer_alone(chromium, tmp_path):
    """Whatever the length of the page, which a few more entries change."""
    page = write_report(made(tmp_path / "run", result={"top1": 0.5, "images": 3})).read_text()
    pages = set()
    for count in range(20, 44):
        longer = page.replace("<footer>", "<div class='entry'><p>An entry.</p></div>" * count + "<footer>")
        (tmp_path / "page.html").write_text(longer)
        chromium.open(tmp_path / "page.html", 1200)
        chromium.print(tmp_path / "page.pdf")
        text = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True).stdout
        *_, last = text.strip("\f\n").split("\f")
        assert "Made by" in last and not last.strip().startswith("Made by"), count
        pages.add(text.count("\f"))
    assert len(pages) > 1  # some lengths end near the end of a page


def test_the_browser_reports_what_a_page_must_not_do(chromium, tmp_path):
    """So that an empty list of messages says something."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{policy}<script>1</script><img src='missing.png'>")
    chromium.open(tmp_path / "page.html", 360)
    assert any("Content Security Policy" in message for message in chromium.messages())
