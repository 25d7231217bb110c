import csv
import json

import numpy as np
import pytest
from commands import TINY, command
from sklearn.metrics import top_k_accuracy_score
from tiny import tiny_config

from pf_keras.data.sources import open_source
from pf_keras.evaluation.scores import top_k
from pf_keras.models.classifier import Classifier
from pf_keras.tasks.finetune import load_classifier
from pf_keras.training.workdir import Workdir
from tests.data import images_made as made


def test_the_result_and_the_chosen_files_are_in_the_workdir(finetuned):
    result = finetuned.result
    assert set(result) >= {"top1", "top5", "images", "labels", "label_fraction", "init", "seed", "steps"}
    assert result["images"] == 360 and result["label_fraction"] == 0.1 and result["init_step"] == 20
    names = (finetuned.workdir / "labels.txt").read_text().split()
    assert len(names) == result["labels"] and len(set(names)) == len(names)
    assert result["steps"] == round(6 * len(names) / 16)


def test_the_report_says_what_was_loaded_and_what_is_new(finetuned):
    line = next(line for line in finetuned.err.splitlines() if line.startswith("loaded from"))
    assert "backbone" in line and "head" in line and "residual" in line and "decoder" in line


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The lines of a fine-tuning from scratch that logs each step, its result, and how often the step was traced."""
    traced, original = [], Classifier.call

    def call(self, inputs, training=False):
        traced.append(training)
        return original(self, inputs, training)

    workdir = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "call", call)
        done = command("--mode=finetune", *TINY, "--init=scratch", f"--workdir={workdir}", "--label_fraction=0.1",
                       "--config.finetune.epochs=2", "--config.finetune.batch=16", "--config.finetune.learning_rate=0.01",
                       "--config.finetune.warmup=0.5", "--config.run.log_every=1")  # fmt: skip
    assert done.code == 0, done.err
    assert done.result["init_step"] is None
    return Workdir(workdir).metrics(), done.result, traced.count(True)


def test_the_step_is_traced_once(logged):
    assert logged[2] == 1


def test_the_rate_rises_over_the_share_that_warms_up(logged):
    lines, result, _ = logged
    steps = result["steps"]
    rates = {line["step"]: line["learning_rate"] for line in lines}
    highest = max(rates, key=rates.get)
    assert abs(highest - steps / 2) <= 1 and rates[highest] == pytest.approx(0.01, rel=0.05)
    assert all((rates[k + 1] > rates[k]) == (k < highest) for k in range(1, steps))


def test_a_linear_head_is_trained_and_read_again(pretrained, tmp_path):
    done = command("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path / 'run'}", "--label_fraction=0.1",
                   "--config.finetune.head=linear", "--config.finetune.epochs=30", "--config.finetune.batch=16",
                   "--config.finetune.learning_rate=0.01", "--config.finetune.layer_decay=0.75")  # fmt: skip
    assert done.code == 0, done.err
    line = next(line for line in done.err.splitlines() if line.startswith("loaded from"))
    assert "new: head (170)" in line  # 16 x 10 and 10
    scored = command("--mode=evaluate", f"--workdir={tmp_path / 'run'}")
    assert scored.code == 0, scored.err
    assert scored.result["top1"] == done.result["top1"] > 0.15


def test_the_backbone_moves_over_whole(pretrained, monkeypatch):
    from pf_keras.models import build_classifier, build_pretrainer
    from pf_keras.training.checkpoint import latest_checkpoint
    from pf_keras.training.weights import load_backbone

    workdir = Workdir(pretrained.workdir)
    model = build_classifier(workdir.config(), 10)
    load_backbone(model, str(pretrained.workdir), workdir.config())
    pretrainer = build_pretrainer(workdir.config())
    latest_checkpoint(workdir.checkpoints).load_into(pretrainer)
    pairs = list(zip(model.backbone.variables, pretrainer.backbone.variables, strict=True))
    assert len(pairs) > 20
    for left, right in pairs:
        np.testing.assert_array_equal(left.numpy(), right.numpy())


@pytest.mark.parametrize(("before", "now"), [("0.1", "0.1"), ("0.1", "0"), ("0", "0.1")])
def test_a_backbone_with_dropout_moves_over_too(tmp_path, before, now):
    from pf_keras.models import build_classifier, build_pretrainer
    from pf_keras.training.checkpoint import save_checkpoint
    from pf_keras.training.weights import load_backbone

    config = tiny_config({"model.dropout": before})
    workdir = Workdir(tmp_path)
    workdir.start("pretrain", config)
    pretrainer = build_pretrainer(config)
    save_checkpoint(workdir.checkpoints, 1, pretrainer)
    config = tiny_config({"model.dropout": now})
    model = build_classifier(config, 3)
    load_backbone(model, str(tmp_path), config)
    for left, right in zip(model.backbone.weights, pretrainer.backbone.weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


@pytest.mark.parametrize("field", ["heads=4", "stem=imagenet", "norm_order=pre_norm", "width=32", "stacks=(2,)"])
def test_weights_go_into_no_other_network_even_where_they_fit(pretrained, finetuned, tmp_path, field):
    change, name = f"--config.model.{field}", f"model.{field.split('=')[0]}"
    before, after = f"--workdir={pretrained.workdir}", f"--workdir={finetuned.workdir}"
    check_refused(command("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", change), name)
    check_refused(command("--mode=reconstruct", before, change), name)
    check_refused(command("--mode=evaluate", after, change), name)


def test_heads_and_targets_are_those_of_the_run(pretrained, finetuned):
    before, after = f"--workdir={pretrained.workdir}", f"--workdir={finetuned.workdir}"
    check_refused(command("--mode=evaluate", before, "--config.model.heads=4"), "model.heads")
    check_refused(command("--mode=evaluate", after, "--config.finetune.head=linear"), "finetune.head")
    check_refused(command("--mode=reconstruct", before, "--config.target.crop=subsample"), "target.crop")
    done = command("--mode=evaluate", after, "--config.finetune.dropout=0")  # has no seed to restore
    assert done.code == 0 and done.result["top1"] == finetuned.result["top1"], done.err


def test_subsets_are_nested_stratified_and_of_the_train_split():
    from pf_keras.config import DataConfig
    from pf_keras.data.labels import labelled_subset

    train = open_source(DataConfig()).train
    parts = [labelled_subset(train, fraction) for fraction in (0.01, 0.1, 0.2, 1.0)]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert set(smaller.names) < set(larger.names)
    counts = np.bincount(parts[1].labels)
    expected = np.bincount(train.labels) * 0.1
    assert np.abs(counts - expected).max() <= 0.5


def test_top_k_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 12)), rng.integers(0, 12, 500)
    for k in (1, 5):
        assert top_k(logits, labels, k) == pytest.approx(top_k_accuracy_score(labels, logits, k=k))


def test_top_5_of_fewer_classes_counts_each_example_once():
    assert top_k(np.zeros((4, 3)), np.array([0, 1, 2, 2]), 5) == 1.0


def test_every_validation_image_counts_once_whatever_the_batch(finetuned):
    from pf_keras.data.pipeline import evaluation_batches
    from pf_keras.evaluation.scores import predict_logits

    workdir = Workdir(finetuned.workdir)
    model, *_ = load_classifier(workdir)
    validation = open_source(workdir.config().data).validation.subset(range(29))
    alone = predict_logits(model, evaluation_batches(validation, workdir.config(), 1), 29)
    for batch in (7, 360, 500):
        logits = predict_logits(model, evaluation_batches(validation, workdir.config(), batch), 29)
        assert logits.shape == (29, 10)
        np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_evaluate_agrees_with_the_run_and_counts_by_class(finetuned):
    done = command("--mode=evaluate", f"--workdir={finetuned.workdir}")
    assert done.code == 0, done.err
    assert done.result["top1"] == finetuned.result["top1"] and done.result["images"] == 360
    rows = list(csv.DictReader((finetuned.workdir / "evaluate" / "classes.csv").open()))
    assert [row["class"] for row in rows] == [str(i) for i in range(10)]
    assert sum(int(row["images"]) for row in rows) == 360
    assert sum(int(row["correct"]) for row in rows) == round(done.result["top1"] * 360)
    assert (finetuned.workdir / "evaluate" / "confusion.png").exists()
    assert json.loads((finetuned.workdir / "result.json").read_text()) == finetuned.result


def test_probe_features_are_the_same_whatever_the_batch(pretrained):
    from dataclasses import replace

    from pf_keras.evaluation.probes import embedder, features
    from pf_keras.training.devices import open_devices

    config = Workdir(pretrained.workdir).config()
    split = open_source(config.data).validation.subset(range(23))
    devices = open_devices()
    model, _ = embedder(config, devices, str(pretrained.workdir))
    found = [features(model, split, replace(config, run=replace(config.run, eval_batch=n)), devices) for n in (5, 23, 64)]
    assert found[0].shape == (23, 16)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-5)


def test_probes_stand_beside_pixels_and_an_untrained_network(pretrained):
    done = command("--mode=evaluate", f"--workdir={pretrained.workdir}", "--label_fraction=0.05,0.2")
    assert done.code == 0, done.err
    assert done.result["steps"] == 20
    for kind in ("pretrained", "untrained", "pixels"):
        for probe in ("linear", "knn"):
            assert 0 <= done.result[f"{kind}_{probe}_0.05"] <= 1 and f"{kind}_{probe}_0.2" in done.result
    assert done.result["pixels_linear_0.2"] > 0.8  # scikit-learn's own score on these digits is above 0.9


def test_a_published_list_is_used_as_it_is(pretrained, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"digit-{i:04d}.png\n" for i in (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14)))
    done = command("--mode=finetune", f"--workdir={tmp_path / 'run'}", f"--init={pretrained.workdir}",
                   f"--label_list={listed}", "--config.finetune.epochs=1", "--config.finetune.batch=4")
    assert done.code == 0, done.err
    assert done.result["labels"] == 12
    assert (tmp_path / "run" / "labels.txt").read_text() == listed.read_text()
    listed.write_text("".join(f"digit-{i:04d}.png\n" for i in range(21, 39) if i % 5))
    again = command("--mode=finetune", f"--workdir={tmp_path / 'run'}", f"--init={pretrained.workdir}",
                    f"--label_list={listed}", "--config.finetune.epochs=1", "--config.finetune.batch=4")
    check_refused(again, "label_list_sha256", "choose another --workdir")


def check_refused(done, *words):
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and len(lines[0]) < 500 and "Traceback" not in done.err
    for word in words:
        assert word in lines[0], lines[0]


def test_bad_input_is_one_line(pretrained, finetuned, tmp_path):
    new = f"--workdir={tmp_path / 'new'}"
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("digit-0001.png\nno-such.png\n")
    init = f"--init={pretrained.workdir}"
    check_refused(command("--mode=finetune", new), "--init")
    check_refused(command("--mode=finetune", new, "--init=/no/such/run"), "/no/such/run")
    check_refused(command("--mode=finetune", new, f"--init={finetuned.workdir}"), "--mode=finetune")
    check_refused(command("--mode=finetune", new, init, "--label_fraction=0.001"), "0.001", "class 0")
    check_refused(command("--mode=finetune", new, init, "--label_fraction=2"), "2")
    check_refused(command("--mode=finetune", new, init, f"--label_list={unknown}"), "no-such.png")
    check_refused(command("--mode=evaluate", "--workdir=/no/such/run"), "/no/such/run")
    scored = f"--workdir={finetuned.workdir}"
    check_refused(command("--mode=evaluate", scored, "--label_fraction=0.5"), "--label_fraction", "leave it out")
    listed = tmp_path / "listed.txt"
    listed.write_text("digit-0001.png\ndigit-0002.png\n")
    check_refused(command("--mode=finetune", new, init, f"--label_list={listed}", "--label_fraction=0.1"), "both", "use one")


def test_other_data_without_a_split_are_scored_whole(finetuned, tmp_path):
    from PIL import Image

    for number in range(12):
        place = tmp_path / str(number % 10)
        place.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (20 * number,) * 3).save(place / f"{number}.png")
    done = command("--mode=evaluate", f"--workdir={finetuned.workdir}", f"--data=folder:{tmp_path}")
    assert done.code == 0, done.err
    assert done.result["images"] == 12 and "validation: all of" in done.err


def test_probing_data_of_one_class_is_one_line(pretrained, tmp_path):
    from PIL import Image

    (tmp_path / "album").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (20 * number,) * 3).save(tmp_path / "album" / f"{number}.png")
    check_refused(command("--mode=evaluate", f"--workdir={pretrained.workdir}", f"--data=folder:{tmp_path}"), "two classes")


def test_data_with_other_classes_than_the_head_is_refused(finetuned, tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for name in ("0", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / split / name / "a.png")
    check_refused(command("--mode=evaluate", f"--workdir={finetuned.workdir}", f"--data=folder:{tmp_path}"), "cat")


def test_other_data_are_looked_through_for_themselves(finetuned, tmp_path):
    data = (f"--data=folder:{made.photos_with_two_bad(tmp_path)}", "--config.data.eval_crop=1.0")
    refused = command("--mode=evaluate", f"--workdir={finetuned.workdir}", *data, "--config.data.max_bad_fraction=0.01")
    check_refused(refused, "max_bad_fraction=0.01 of 30 images to be unreadable, received 2")


@pytest.mark.long
def test_two_fits_with_one_seed_are_alike_and_with_another_differ(pretrained, finetuned, tmp_path):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", "--label_fraction=0.1", "--config.finetune.epochs=6",
             "--config.finetune.batch=16")
    losses = [Workdir(finetuned.workdir).metrics()[-1]["loss"]]
    for name, seed in (("again", 0), ("other", 1)):
        done = command(*flags, f"--workdir={tmp_path / name}", f"--seed={seed}")
        assert done.code == 0, done.err
        losses.append(Workdir(tmp_path / name).metrics()[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_from_scratch_needs_no_pretraining(logged):
    assert logged[1]["init"] == "scratch" and 0 <= logged[1]["top1"] <= 1


def test_what_is_refused_takes_no_workdir(pretrained, tmp_path):
    """The same command, put right, runs in the same place."""
    words = ("--mode=finetune", f"--init={pretrained.workdir}", f"--workdir={tmp_path}", "--label_fraction=0.05",
             "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    for wrong, said in (
        ("--config.run.steps_per_execution=7", "run.log_every to be a multiple"),
        ("--config.model.heads=4", "model.heads"),
        ("--config.finetune.mix=0.5", "an even number of images a replica"),
    ):
        batch = ("--config.finetune.batch=15",) if "mix" in wrong else ()
        check_refused(command(*words, *batch, wrong), said)
        assert not (tmp_path / "config.json").exists()


def test_it_began_where_it_first_went_on_from(pretrained, tmp_path, monkeypatch):
    """Before its first checkpoint it begins anew, from what its pre-training has by then; after it, it goes on."""
    import shutil

    init, run = tmp_path / "pre", tmp_path / "run"
    shutil.copytree(pretrained.workdir, init)
    words = ("--mode=finetune", f"--init={init}/", f"--workdir={run}", "--label_fraction=0.05",
             "--config.finetune.epochs=1", "--config.finetune.batch=16")  # fmt: skip
    Workdir(run).folder("")
    Workdir(run).write_init(7)  # of a start that was stopped before it saved
    done = command(*words)
    assert done.code == 0 and done.result["init_step"] == 20, done.err
    monkeypatch.setattr("pf_keras.tasks.finetune.load_backbone", lambda *_: type("Newer", (), {"step": 30}))
    words = [word.removesuffix("/") for word in words]  # which a shell's completion puts behind a folder
    assert command(*words).result["init_step"] == 20


def test_a_list_of_one_class_is_refused_and_what_a_list_lacks_is_told(pretrained, tmp_path):
    train = open_source(Workdir(pretrained.workdir).config().data).train
    one, few = ([name for name, label in zip(train.names, train.labels, strict=True) if label < n] for n in (1, 2))
    (tmp_path / "one.txt").write_text("\n".join(one))
    (tmp_path / "two.txt").write_text("\n".join(few))
    words = ("--mode=finetune", "--init=scratch", *TINY, "--config.finetune.epochs=1")
    check_refused(command(*words, f"--workdir={tmp_path / 'a'}", f"--label_list={tmp_path / 'one.txt'}"), "two classes or more")
    check_refused(command(*words, f"--workdir={tmp_path / 'a'}", f"--label_list={tmp_path}"), "found a folder")
    done = command(*words, f"--workdir={tmp_path / 'a'}", f"--label_list={tmp_path / 'two.txt'}")
    assert f"{len(few)} labelled images of 2 of 10 classes" in done.err
