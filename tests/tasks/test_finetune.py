import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from commands import TINY, command, refused, succeed
from PIL import Image
from tiny import tiny_config

import pf_keras
from pf_keras.config import DataConfig
from pf_keras.data.labels import labelled_subset
from pf_keras.data.pipeline import training_batches
from pf_keras.data.sources import open_source
from pf_keras.evaluation.scores import predict_logits, top_k
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.models.classifier import Classifier
from pf_keras.tasks.finetune import part_to_train, warn_if_nothing_learned
from pf_keras.training.callbacks import Guard
from pf_keras.training.checkpoint import latest_checkpoint, save_checkpoint
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import RunIdentity, find_run, start_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.weights import load_backbone, record_init
from pf_keras.training.workdir import Workdir


def assert_refused(flags, *words):
    line = refused(*flags)
    assert len(line) < 500
    for word in words:
        assert word in line, line


def test_workdir_has_result_and_names_of_the_labelled_images(finetuned):
    result = finetuned.result
    assert result["train_images"] == result["labels"] and not (finetuned.workdir / "holdout.txt").exists()
    assert set(result) >= {"top1", "top5", "images", "labels", "label_fraction", "init", "seed", "steps"}
    assert result["images"] == 360 and result["label_fraction"] == 0.1 and result["init_step"] == 20
    names = (finetuned.workdir / "labels.txt").read_text().split()
    assert len(names) == result["labels"] and len(set(names)) == len(names)
    assert result["steps"] == round(6 * len(names) / 16)


def test_standard_error_says_what_was_loaded_and_what_is_new(finetuned):
    line = next(line for line in finetuned.err.splitlines() if line.startswith("loaded the backbone from"))
    assert "head" in line and "residual" in line and "decoder" in line


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A fine-tuning from scratch that logs each step: its metrics, its result, and how often the step was traced."""
    traced, original = [], Classifier.call

    def call(self, inputs, training=False):
        traced.append(training)
        return original(self, inputs, training)

    workdir = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "call", call)
        result = succeed("--mode=finetune", *TINY, "--init=scratch", f"--workdir={workdir}", "--label_fraction=0.1",
                         "--config.finetune.epochs=2", "--config.finetune.batch=16", "--config.finetune.learning_rate=0.01",
                         "--config.finetune.warmup=0.5", "--config.run.log_every=1")  # fmt: skip
    assert result["init_step"] is None
    return MetricsLog(Workdir(workdir)).lines(), result, traced.count(True)


def test_training_step_is_traced_once(logged):
    assert logged[2] == 1


def test_learning_rate_rises_during_the_warm_up(logged):
    lines, result, _ = logged
    steps = result["steps"]
    rates = {line["step"]: line["learning_rate"] for line in lines}
    highest = max(rates, key=rates.get)
    assert abs(highest - steps / 2) <= 1 and rates[highest] == pytest.approx(0.01, rel=0.05)
    assert all((rates[k + 1] > rates[k]) == (k < highest) for k in range(1, steps))


def test_fine_tuning_from_scratch_needs_no_pretraining(logged):
    assert logged[1]["init"] == "scratch" and 0 <= logged[1]["top1"] <= 1


def test_linear_head_is_trained_and_evaluated(pretrained, tmp_path):
    done = command("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path / 'run'}", "--label_fraction=0.1",
                   "--config.finetune.head=linear", "--config.finetune.epochs=30", "--config.finetune.batch=16",
                   "--config.finetune.learning_rate=0.01", "--config.finetune.layer_decay=0.75")  # fmt: skip
    assert done.code == 0, done.err
    line = next(line for line in done.err.splitlines() if line.startswith("loaded the backbone from"))
    assert "new: head (170)" in line  # 16 x 10 and 10
    scored = succeed("--mode=evaluate", f"--workdir={tmp_path / 'run'}")
    assert scored["top1"] == done.result["top1"] > 0.15


def test_all_weights_of_the_backbone_are_loaded(pretrained):
    workdir, config = Workdir(pretrained.workdir), find_run(Workdir(pretrained.workdir)).config
    model = build_classifier(config, 10)
    load_backbone(model, str(pretrained.workdir), config)
    pretrainer = build_pretrainer(config)
    latest_checkpoint(workdir.checkpoints).load_into(pretrainer)
    pairs = list(zip(model.backbone.variables, pretrainer.backbone.variables, strict=True))
    assert len(pairs) > 20
    for left, right in pairs:
        np.testing.assert_array_equal(left.numpy(), right.numpy())


@pytest.mark.parametrize(("before", "now"), [("0.1", "0.1"), ("0.1", "0"), ("0", "0.1")])
def test_weights_are_loaded_whatever_the_dropout(tmp_path, before, now):
    config = tiny_config({"model.dropout": before})
    workdir = Workdir(tmp_path)
    start_run(workdir, RunIdentity("pretrain", config))
    pretrainer = build_pretrainer(config)
    save_checkpoint(workdir.checkpoints, 1, pretrainer)
    config = tiny_config({"model.dropout": now})
    model = build_classifier(config, 3)
    load_backbone(model, str(tmp_path), config)
    for left, right in zip(model.backbone.weights, pretrainer.backbone.weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


@pytest.mark.parametrize("field", ["heads=4", "stem=imagenet", "norm_order=pre_norm", "width=32", "stacks=(2,)"])
def test_weights_are_not_loaded_into_another_network_even_where_they_fit(pretrained, finetuned, tmp_path, field):
    change, name = f"--config.model.{field}", f"model.{field.split('=')[0]}"
    before, after = f"--workdir={pretrained.workdir}", f"--workdir={finetuned.workdir}"
    assert_refused(("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", change), name)
    assert_refused(("--mode=reconstruct", before, change), name)
    assert_refused(("--mode=evaluate", after, change), name)


def test_heads_and_targets_must_be_those_of_the_run(pretrained, finetuned):
    before, after = f"--workdir={pretrained.workdir}", f"--workdir={finetuned.workdir}"
    assert_refused(("--mode=evaluate", before, "--config.model.heads=4"), "model.heads")
    assert_refused(("--mode=evaluate", after, "--config.finetune.head=linear"), "finetune.head")
    assert_refused(("--mode=reconstruct", before, "--config.target.crop=subsample"), "target.crop")
    result = succeed("--mode=evaluate", after, "--config.finetune.dropout=0")  # has no seed to restore
    assert result["top1"] == finetuned.result["top1"]


def test_labelled_subsets_are_nested_stratified_and_of_the_training_split():
    train = open_source(DataConfig()).train
    parts = [labelled_subset(train, fraction) for fraction in (0.01, 0.1, 0.2, 1.0)]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert set(smaller.names) < set(larger.names)
    counts = np.bincount(parts[1].labels)
    expected = np.bincount(train.labels) * 0.1
    assert np.abs(counts - expected).max() <= 0.5


def test_label_list_is_used_as_it_is(pretrained, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"digit-{i:04d}.png\n" for i in (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14)))
    flags = ("--mode=finetune", f"--workdir={tmp_path / 'run'}", f"--init={pretrained.workdir}",
             f"--label_list={listed}", "--config.finetune.epochs=1", "--config.finetune.batch=4")  # fmt: skip
    assert succeed(*flags)["labels"] == 12
    assert (tmp_path / "run" / "labels.txt").read_text() == listed.read_text()
    listed.write_text("".join(f"digit-{i:04d}.png\n" for i in range(21, 39) if i % 5))
    assert_refused(flags, "label_list_sha256", "another --workdir")


def test_list_of_some_classes_is_reported_and_of_one_class_refused(pretrained, tmp_path):
    train = open_source(find_run(Workdir(pretrained.workdir)).config.data).train
    one, few = ([name for name, label in zip(train.names, train.labels, strict=True) if label < n] for n in (1, 2))
    (tmp_path / "one.txt").write_text("\n".join(one))
    (tmp_path / "two.txt").write_text("\n".join(few))
    flags = ("--mode=finetune", "--init=scratch", *TINY, "--config.finetune.epochs=1", f"--workdir={tmp_path / 'a'}")
    assert_refused((*flags, f"--label_list={tmp_path / 'one.txt'}"), "one class")
    assert_refused((*flags, f"--label_list={tmp_path}"), str(tmp_path))
    done = command(*flags, f"--label_list={tmp_path / 'two.txt'}")
    assert f"{len(few)} labelled images of 2 of 10 classes" in done.err


def blank_photos(folder):
    """Two classes of blank images, 10 and 5, and a flat folder of validation images. Nothing can be learned from them."""
    for name, count in (("train/ant", 10), ("train/bee", 5), ("test", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20, 20)).save(folder / name / f"{i}.png")
    return folder


def test_flat_validation_folder_is_replaced_by_a_hold_out_and_a_run_that_learned_nothing_says_so(tmp_path):
    flags = ("--mode=finetune", "--init=scratch", f"--workdir={tmp_path / 'run'}", *TINY, "--config.finetune.epochs=1",
             "--config.finetune.batch=4", "--config.data.holdout=0.4", "--config.run.eval_batch=8",
             f"--data=folder:{blank_photos(tmp_path / 'photos')}")  # fmt: skip
    done = command(*flags)
    assert done.code == 0 and (done.result["labels"], done.result["images"]) == (9, 6), done.err
    assert "classes: ant (10), bee (5)\n" in done.err
    assert f"validation: 40% of each class of the training images, because {tmp_path}/photos/test/0.png is not" in done.err
    assert "learned nothing that counts" in done.err and "always answering ant gives 66.7%" in done.err
    assert command(*flags).result["top1"] == done.result["top1"]


def test_images_without_a_class_are_named(tmp_path):
    photos, flags = blank_photos(tmp_path / "photos"), ("--mode=finetune", "--init=scratch", *TINY)
    flags += (f"--workdir={tmp_path / 'run'}", f"--data=folder:{photos}")
    (photos / "train" / "wasp").mkdir()
    assert_refused(flags, "The class wasp has no image to train on")
    (photos / "test" / "0.png").rename(photos / "train" / "stray.png")
    assert_refused(flags, f"{photos}/train/stray.png is not in a class folder", "--data=csv:FILE")


def test_run_better_than_the_largest_class_has_no_warning(capsys):
    for top1, warned in ((0.5, True), (0.75, True), (0.76, False)):
        warn_if_nothing_learned(top1, np.array([1, 1, 1, 0]), ["ant", "bee"])
        assert ("always answering bee gives 75.0%" in capsys.readouterr().err) is warned


def test_bad_input_is_one_line(pretrained, finetuned, tmp_path):
    new, init = ("--mode=finetune", f"--workdir={tmp_path / 'new'}"), f"--init={pretrained.workdir}"
    unknown, listed = tmp_path / "unknown.txt", tmp_path / "listed.txt"
    unknown.write_text("digit-0001.png\nno-such.png\n")
    listed.write_text("digit-0001.png\ndigit-0002.png\n")
    assert_refused(new, "--init")
    assert_refused((*new, "--init=/no/such/run"), "/no/such/run")
    assert_refused((*new, f"--init={finetuned.workdir}"), "--mode=finetune")
    assert_refused((*new, init, "--label_fraction=0"), "label fraction is 0.0")
    assert_refused((*new, init, "--label_fraction=2"), "2")
    assert_refused((*new, init, "--label_fraction=0.1,0.2"), "--label_fraction", "one")
    assert_refused((*new, init, f"--label_list={unknown}"), "no-such.png")
    assert_refused((*new, init, f"--label_list={listed}", "--label_fraction=0.1"), "Both", "--label_list", "--label_fraction")


def test_refused_command_leaves_the_workdir_free(pretrained, tmp_path):
    """The corrected command can run in the same workdir."""
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.05",
             "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    for wrong, word in (
        (("--config.run.steps_per_execution=7",), "run.steps_per_execution=7"),
        (("--config.model.heads=4",), "model.heads"),
        (("--config.finetune.batch=15", "--config.finetune.mix=0.5"), "finetune.mix"),
    ):
        assert_refused((*flags, *wrong), word)
        assert not (tmp_path / "config.json").exists()


def test_result_has_the_step_of_the_pretraining_that_it_first_started_from(pretrained, tmp_path, monkeypatch):
    """Before its first checkpoint a run starts again, from what its pre-training has by then. Later it resumes."""
    init, run = tmp_path / "pre", tmp_path / "run"
    shutil.copytree(pretrained.workdir, init)
    flags = ("--mode=finetune", f"--init={init}/", f"--workdir={run}", "--label_fraction=0.05",
             "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    Workdir(run).folder("")
    record_init(Workdir(run), 7)  # by a start that was stopped before it saved
    assert succeed(*flags)["init_step"] == 20
    monkeypatch.setattr("pf_keras.tasks.finetune.load_backbone", lambda *_: type("Newer", (), {"step": 30}))
    flags = [flag.removesuffix("/") for flag in flags]  # a shell's completion appends a slash to a folder
    assert succeed(*flags)["init_step"] == 20


CHOOSING = ("--label_fraction=0.2", "--config.finetune.epochs=20", "--config.finetune.batch=16",
            "--config.finetune.learning_rate=0.01", "--config.finetune.holdout=0.2", "--config.run.log_every=10",
            "--config.finetune.patience=3")  # fmt: skip


@pytest.fixture(scope="module")
def chosen(pretrained, tmp_path_factory):
    """A fine-tuning that holds images out and ends when three scores were not better: its workdir, result and metrics."""
    workdir = tmp_path_factory.mktemp("chosen")
    done = command("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={workdir}", *CHOOSING)
    assert done.code == 0, done.err
    return SimpleNamespace(workdir=workdir, lines=MetricsLog(Workdir(workdir)).lines(), **vars(done))


@pytest.mark.long
def test_best_checkpoint_by_the_held_out_images_is_scored_and_evaluated(chosen):
    result, scores = chosen.result, {line["step"]: line["holdout_top1"] for line in chosen.lines}
    assert result["holdout_top1"] == max(scores.values()) == scores[result["best_step"]]
    assert [p.name for p in (chosen.workdir / "best").iterdir()] == [f"step-{result['best_step']:08d}"]
    evaluated = succeed("--mode=evaluate", f"--workdir={chosen.workdir}")
    assert (evaluated["top1"], evaluated["steps"]) == (result["top1"], result["best_step"])
    assert "validation_top1" not in chosen.lines[-1]


@pytest.mark.long
def test_training_ends_when_the_patience_is_over(chosen):
    scores = [line["holdout_top1"] for line in chosen.lines]
    assert chosen.result["stopped_at"] == chosen.result["steps"] == chosen.lines[-1]["step"]
    assert chosen.result["steps"] < int(re.search(r", (\d+) steps of", chosen.err)[1])
    assert len(scores) == scores.index(max(scores)) + 1 + 3


@pytest.mark.long
def test_held_out_images_are_not_trained_on(chosen):
    result = chosen.result
    assert (result["labels"], result["train_images"], result["holdout_images"]) == (289, 232, 57)
    assert "232 labelled images of 10 of 10 classes" in chosen.err
    assert "57 labelled images are held out to choose the best checkpoint by" in chosen.err
    config = find_run(Workdir(chosen.workdir)).config
    labelled = labelled_subset(open_source(config.data).train, 0.2)
    train, held_out = part_to_train(config, labelled)
    assert not set(train.names) & set(held_out.names) and {*train.names, *held_out.names} == set(labelled.names)
    assert (chosen.workdir / "labels.txt").read_text().split() == labelled.names
    assert (chosen.workdir / "holdout.txt").read_text().split() == held_out.names
    model, devices = pf_keras.load(chosen.workdir), open_devices("float32")
    devices.compile(model)
    score = top_k(predict_logits(model, held_out, config, devices), held_out.labels, 1)
    assert score == pytest.approx(result["holdout_top1"], abs=0.5 / held_out.size)  # the same images are right
    report = (chosen.workdir / "report.html").read_text()
    assert "Of 289 labelled images the training used 232. The other 57 were held out, and chose the checkpoint of" in report


def test_only_images_that_are_not_held_out_reach_the_training(pretrained, tmp_path, monkeypatch):
    seen = []

    def spied(split, *arguments, **options):
        seen.append(split.names)
        return training_batches(split, *arguments, **options)

    monkeypatch.setattr("pf_keras.tasks.finetune.training_batches", spied)
    succeed("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.05",
            "--config.finetune.holdout=0.2", "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    held, labelled = ((tmp_path / name).read_text().split() for name in ("holdout.txt", "labels.txt"))
    assert held and seen and all(sorted([*names, *held]) == sorted(labelled) for names in seen)


def test_how_often_the_held_out_images_choose_may_not_change(pretrained, tmp_path):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.05",
             "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    succeed(*flags, "--config.finetune.holdout=0.2")
    assert_refused((*flags, "--config.finetune.holdout=0.2", "--config.run.log_every=3"), "run.log_every: ", "-> 3")


def test_validation_scores_are_logged_and_leave_the_training_as_it_is(pretrained, finetuned, tmp_path):
    done = command("--mode=finetune", f"--workdir={tmp_path}", f"--init={pretrained.workdir}", "--label_fraction=0.1",
                   "--config.finetune.epochs=6", "--config.finetune.batch=16", "--config.finetune.evaluate_every=20")
    assert done.code == 0, done.err
    assert "validation_top1 is for watching only: nothing is chosen by it" in done.err
    lines = MetricsLog(Workdir(tmp_path)).lines()
    scores = {line["step"]: line["validation_top1"] for line in lines if "validation_top1" in line}
    last = done.result["steps"]
    assert list(scores) == [20, 40, last] and scores[last] == done.result["top1"] and not (tmp_path / "best").exists()
    same = ("top1", "top5", "labels", "steps")
    assert [done.result[name] for name in same] == [finetuned.result[name] for name in same]
    assert lines[-1]["loss"] == MetricsLog(Workdir(finetuned.workdir)).lines()[-1]["loss"]


@pytest.mark.long
@pytest.mark.parametrize("step", [23, 30])
def test_stopped_run_chooses_as_one_that_was_not_stopped(pretrained, chosen, tmp_path, monkeypatch, step):
    original = Guard.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    flags = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", *CHOOSING)
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "on_train_batch_end", end)
        assert command(*flags).code == 128 + signal.SIGTERM
    result = succeed(*flags)

    def without_clock(values):
        return {name: value for name, value in values.items() if name != "images_per_second"}

    assert without_clock(result) == without_clock(chosen.result)
    assert [*map(without_clock, MetricsLog(Workdir(tmp_path)).lines())] == [*map(without_clock, chosen.lines)]
    assert without_clock(succeed(*flags)) == without_clock(result)  # a run that is done trains no further


def test_bad_input_of_watching_and_choosing_is_one_line(pretrained, tmp_path):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.001")
    assert_refused((*flags, "--config.finetune.evaluate_every=15"), "finetune.evaluate_every is 15", "run.log_every=10")
    assert_refused((*flags, "--config.finetune.patience=2"), "finetune.patience is 2", "Set finetune.holdout")
    assert_refused((*flags, "--config.finetune.holdout=1"), "finetune.holdout is 1.0. Use a fraction in [0, 1)")
    assert_refused((*flags, "--config.finetune.holdout=0.2"), "only labelled image of its class", "Use more labelled images")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_same_seed_gives_the_same_loss_and_another_seed_another(pretrained, finetuned, tmp_path):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", "--label_fraction=0.1", "--config.finetune.epochs=6",
             "--config.finetune.batch=16")  # fmt: skip
    losses = [MetricsLog(Workdir(finetuned.workdir)).lines()[-1]["loss"]]
    for name, seed in (("again", 0), ("other", 1)):
        succeed(*flags, f"--workdir={tmp_path / name}", f"--seed={seed}")
        losses.append(MetricsLog(Workdir(tmp_path / name)).lines()[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_setting_of_the_probes_of_a_pretraining_does_not_bind_its_fine_tuning(pretrained, tmp_path):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.001",
             "--config.pretrain.probe_every=10", "--config.run.log_every=7", "--config.finetune.holdout=0.2")  # fmt: skip
    assert_refused(flags, "only labelled image of its class")
