"""`predict` answers for any images, with a run or an export, and stops at none of them."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from commands import TINY, command, refused, succeed
from PIL import Image

from pf_keras.commands_log import read_commands
from pf_keras.data.record_schema import make_example
from pf_keras.training.lock import unlock
from pf_keras.training.workdir import Workdir
from tests.data import images_made as made

HOSTILE = "<img src=x onerror=alert(1)> $x_1$ \x1b[31m\n\r.png"


def table_of(workdir):
    with (workdir / "predict" / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A tree of photographs in folders that are no classes of any model, with every kind of corrupt image."""
    root = tmp_path_factory.mktemp("messy")
    for number in range(9):
        place = root / ("2021" if number % 2 else "2022/summer")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.pixels(seed=number)).save(place / f"{number}.jpg")
    Image.fromarray(made.pixels(seed=20)).save(root / "2021" / HOSTILE)
    Image.fromarray(made.pixels(seed=21)).save(root / "2021" / "photo.tiff")
    made.add_corrupt(root / "2021")
    return root


@pytest.fixture
def run(finetuned, tmp_path):
    """A copy of the fine-tuned run, to predict in."""
    shutil.copytree(finetuned.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("export", "evaluate"))
    return tmp_path / "run"


def test_own_validation_images_have_the_scores_of_the_run(run, finetuned):
    result = succeed("--mode=predict", f"--workdir={run}")
    assert result["top1"] == pytest.approx(finetuned.result["top1"]) and result["labelled"] == result["images"] == 360
    assert result["unreadable"] == 0 and json.loads((run / "predict" / "result.json").read_text()) == result
    rows = table_of(run)
    wrong = [row for row in rows if row["class"] != row["true_class"]]
    assert len(rows) == 360 and rows[: len(wrong)] == wrong and len(wrong) == result["mistakes"]
    assert [int(row["mistake"]) for row in wrong] == list(range(1, len(wrong) + 1))
    assert not any(row["mistake"] or row["error"] for row in rows[len(wrong) :])
    confidence = [float(row["probability"]) for row in wrong]
    assert confidence == sorted(confidence, reverse=True)
    for row in rows[:20]:
        values = [float(row[name]) for name in ("probability", *(f"probability_{i}" for i in range(2, 6)))]
        assert values == sorted(values, reverse=True) and 0.3 < sum(values) <= 1.001
        assert len({row["class"], *(row[f"class_{i}"] for i in range(2, 6))}) == 5 and 0 <= float(row["entropy"]) <= np.log(10)
    assert [path.rpartition("/")[2] for path in result["figures"]] == ["certain.png", "mistakes.png", "attention.png"]
    assert all(Image.open(path).width > 500 for path in result["figures"])
    report = (run / "report.html").read_text()
    assert "predict/mistakes.png" in report and "The rest is missing" not in report


def test_any_tree_is_answered_and_its_corrupt_images_are_listed(run, messy):
    done = command("--mode=predict", f"--workdir={run}", f"--data=folder:{messy}")
    assert done.code == 0, done.err
    count = len(made.CORRUPT)
    result, rows = done.result, table_of(run)
    assert (result["images"], result["unreadable"], result["labelled"], result["top1"]) == (11, count, 0, None)
    assert f"{count} of {11 + count} images cannot be read" in done.err
    assert "the model has no class 2021, 2022: its images count as unlabelled" in done.err and "\x1b" not in done.err
    good, bad = rows[:11], rows[11:]
    assert {row["path"] for row in good} >= {f"{messy}/2021/{HOSTILE}", f"{messy}/2022/summer/0.jpg"}
    assert all(row["class"] and not row["error"] and not row["true_class"] and not row["mistake"] for row in good)
    assert {row["path"].rpartition("/")[2]: bool(row["error"]) for row in bad} == dict.fromkeys(made.CORRUPT, True)
    assert not any(row["class"] for row in bad)
    assert not (run / "predict" / "mistakes.png").exists() and not list((run / "predict").glob(".rows*"))


def test_classes_that_the_model_knows_are_scored(run, tmp_path):
    for number, name in enumerate(["3", "3", "7", "cow"]):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (60 * number,) * 3).save(tmp_path / "data" / name / f"{number}.png")
    done = command("--mode=predict", f"--workdir={run}", f"--data=folder:{tmp_path / 'data'}")
    assert done.code == 0, done.err
    assert done.result["labelled"] == 3 and "no class cow" in done.err
    assert sorted(row["true_class"] for row in table_of(run)) == ["", "3", "3", "7"]


@pytest.mark.parametrize("mode", ["predict", "embed"])
def test_labels_that_are_identifiers_count_as_none(run, tmp_path, mode):
    """Shards may store an identifier, or the year, in the key of the label. A table by label would not fit in memory."""
    labels, data = [1, 2**40, 2**62, 2021], tmp_path / "data"
    data.mkdir()
    fields = {"height": 24, "width": 24, "channels": 3, "colorspace": "RGB", "format": "PNG"}
    with tf.io.TFRecordWriter(str(data / "train-00000-of-00001")) as writer:
        for number, label in enumerate(labels):
            encoded = made.encoded(Image.fromarray(made.pixels(seed=number)), "PNG")
            writer.write(make_example(encoded=encoded, filename=f"{number}.png", label=label, **fields))
    done = command(f"--mode={mode}", f"--workdir={run}", f"--data=tfrecord:{data}", "--config.data.first_label=0")
    assert done.code == 0, done.err
    assert f"2 images have labels that are identifiers, the first {2**40}, not numbers of classes" in done.err
    if mode == "predict":
        assert done.result["labelled"] == 1 and "the model has no class 2021" in done.err
        assert sorted(row["true_class"] for row in table_of(run)) == ["", "", "", "1"]
    else:
        with np.load(run / "embed" / "features.npz") as found:
            assert found["label"].tolist() == [1, -1, -1, 2021]
        with (run / "embed" / "map.csv").open() as file:
            assert [row["label"] for row in csv.DictReader(file)] == ["1", "", "", "2021"]


def test_table_of_unlabelled_images_is_answered(run, messy, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{messy}/2021/1.jpg\n{messy}/2021/3.jpg\n")
    succeed("--mode=predict", f"--workdir={run}", f"--data=csv:{tmp_path / 'list.csv'}")
    assert [row["path"] for row in table_of(run)] == [f"{messy}/2021/1.jpg", f"{messy}/2021/3.jpg"]


@pytest.mark.long
def test_answers_of_a_stopped_command_are_kept(run, messy):
    """A command that was killed behind its first 8 images answers only for the others."""
    from pf_keras.evaluation import any_images

    flags = ("--mode=predict", f"--workdir={run}", f"--data=folder:{messy}", "--config.run.eval_batch=4")
    expected, before = succeed(*flags), (run / "predict" / "predictions.csv").read_bytes()
    collect, stopped = any_images.collect, []

    def killed(saved, size, batches, *rest):
        def first_two(after):
            for number, batch in enumerate(batches(after)):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

        return collect(saved, size, first_two, *rest)

    def counted(saved, size, batches, *rest):
        stopped.append(saved.kept)
        return collect(saved, size, batches, *rest)

    any_images.collect = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            command(*flags)
        unlock()
        any_images.collect = counted
        done = command(*flags)
    finally:
        any_images.collect = collect
    assert done.code == 0 and stopped == [8] and "resuming after 8 images" in done.err
    assert done.result == expected and (run / "predict" / "predictions.csv").read_bytes() == before


class Dies(BaseException):
    """What stops a command as a kill does, without time to clean up."""


def dies(*_, **__):
    raise Dies


FIRST, LATER = {
    "predict": ("pf_keras.tasks.predict.draw", "predictions.csv"),
    "embed": ("pf_keras.tasks.embed.draw_map", "features.npz"),
    "evaluate": ("pf_keras.tasks.evaluate.draw_confusion", "classes.csv"),
}, ("result.json", "attention.png")


@pytest.mark.parametrize("mode", FIRST)
def test_an_earlier_answer_is_never_beside_a_newer_one(run, mode, monkeypatch):
    succeed(f"--mode={mode}", f"--workdir={run}")
    (broken, first), before = FIRST[mode], (run / mode / FIRST[mode][1]).stat().st_mtime_ns
    assert all((run / mode / name).exists() for name in LATER)
    monkeypatch.setattr(broken, dies)
    with pytest.raises(Dies):
        command(f"--mode={mode}", f"--workdir={run}")
    unlock()
    assert (run / mode / first).stat().st_mtime_ns > before
    assert not any((run / mode / name).exists() for name in LATER)


def test_a_command_that_is_killed_has_left_its_line(run, messy, monkeypatch):
    from pf_keras.evaluation import any_images

    seen, collect = [], any_images.collect

    def look(*arguments):
        seen.extend(read_commands(Workdir(run)))
        return collect(*arguments)

    monkeypatch.setattr(any_images, "collect", look)
    flags = ("--mode=predict", f"--workdir={run}", f"--data=folder:{messy}")
    succeed(*flags)
    *_, last = read_commands(Workdir(run))
    assert last["ended"] == "done" and last["seconds"] > 0
    assert seen[-1] | {"ended": "done", "seconds": last["seconds"]} == last and len(read_commands(Workdir(run))) == len(seen)
    assert seen[-1]["ended"] == "it was killed, or it is still running" and seen[-1]["seconds"] is None
    assert "it was killed" not in (run / "report.html").read_text()


def test_one_image_is_one_image(run, tmp_path):
    for number in range(2):
        Image.new("RGB", (20, 20), (9, 9, 99)).save(tmp_path / f"{number}.png")
        done = command("--mode=predict", f"--workdir={run}", f"--data=folder:{tmp_path}")
        name = table_of(run)[0]["class"]
        assert f"{number + 1} image{'s' * number}, by class: {name} ({number + 1})\n" in done.err


def test_a_workdir_among_the_images_is_not_read(run, tmp_path):
    """Pictures of an earlier answer are no photographs, and a workdir with photographs in it is refused."""
    photos = tmp_path / "photos"
    for number in range(4):
        (photos / "dog").mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.pixels(seed=number)).save(photos / "dog" / f"{number}.png")
    succeed("--mode=export", f"--workdir={run}")
    export, data = f"--init={run / 'export'}", f"--data=folder:{photos}"
    for _ in range(2):
        assert succeed("--mode=predict", export, f"--workdir={photos / 'answers'}", data)["images"] == 4
    assert (photos / "answers" / "predict" / "certain.png").exists()
    for place in (photos, photos / "dog", f"{photos}/dog/../dog"):
        for flags in (("predict", export), ("inspect",), ("pretrain", *TINY)):
            line = refused(f"--mode={flags[0]}", *flags[1:], f"--workdir={place}", data)
            assert f"has images of folder:{photos} in it" in line and "Choose a --workdir of its own" in line
    assert sorted(path.name for path in photos.iterdir()) == ["answers", "dog"] and len(list((photos / "dog").iterdir())) == 4
    shutil.copytree(run, photos / "run")
    for mode in ("predict", "embed"):
        for _ in range(2):
            assert succeed(f"--mode={mode}", f"--workdir={photos / 'run'}", data)["images"] == 4
    for _ in range(2):
        found = succeed("--mode=inspect", f"--workdir={photos / 'look'}", data, *TINY)
        assert found["images"] == 4


@pytest.mark.long
def test_linear_head_has_no_heat_maps(tmp_path):
    workdir = tmp_path / "run"
    succeed("--mode=finetune", f"--workdir={workdir}", "--init=scratch", *TINY, "--label_fraction=0.02",
            "--config.target.size=2", "--config.augment.jitter_size=0", "--config.finetune.head=linear",
            "--config.finetune.epochs=1", "--config.finetune.batch=8")  # fmt: skip
    for mode in ("predict", "embed", "evaluate"):
        done = command(f"--mode={mode}", f"--workdir={workdir}")
        assert done.code == 0 and "no heat maps: finetune.head=linear" in done.err
        assert not (workdir / mode / "attention.png").exists()


@pytest.mark.long
def test_export_gives_the_answers_of_its_run(run, messy, tmp_path):
    succeed("--mode=export", f"--workdir={run}")
    flags = ("--mode=predict", f"--data=folder:{messy}")
    expected = succeed(*flags, f"--workdir={run}")
    rows, count = table_of(run), len(made.CORRUPT)
    for init in ("export", "export/saved_model"):
        new = tmp_path / init.replace("/", "-")
        done = command(*flags, f"--workdir={new}", f"--init={run / init}")
        assert done.code == 0 and "no heat maps: an export only gives its answers" in done.err, done.err
        assert (done.result["images"], done.result["unreadable"]) == (expected["images"], count)
        report = (new / "report.html").read_text()
        assert f"Predictions for folder:{messy}" in report and "The rest is missing" not in report
        for found, row in zip(table_of(new), rows, strict=True):
            assert (found["path"], found["class"], bool(found["error"])) == (row["path"], row["class"], bool(row["error"]))
            if row["class"]:
                assert float(found["probability"]) == pytest.approx(float(row["probability"]), abs=2e-4)
    own = succeed("--mode=predict", f"--workdir={run}", f"--init={run / 'export'}")  # the run's own images
    assert own["top1"] == pytest.approx(succeed("--mode=predict", f"--workdir={run}")["top1"], abs=0.01)


def test_either_split_of_the_data_can_be_chosen(run, tmp_path):
    for number, split in enumerate(["train", "train", "val"]):
        (tmp_path / "data" / split / "3").mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.pixels(seed=number)).save(tmp_path / "data" / split / "3" / f"{number}.png")
    for flags, names in (((), ["2.png"]), (["--split=validation"], ["2.png"]), (["--split=train"], ["0.png", "1.png"])):
        succeed("--mode=predict", f"--workdir={run}", f"--data=folder:{tmp_path / 'data'}", *flags)
        assert sorted(row["path"].rpartition("/")[2] for row in table_of(run)) == names
    flat = f"--data=folder:{tmp_path / 'data' / 'train'}"
    assert "has no validation split" in refused("--mode=predict", f"--workdir={run}", flat, "--split=validation")
    assert "--split" in refused("--mode=predict", f"--workdir={run}", flat, "--split=test")
    assert "does not use --split" in refused("--mode=evaluate", f"--workdir={run}", "--split=train")


def test_bad_input_is_one_line(run, pretrained, messy, tmp_path):
    data = f"--data=folder:{messy}"
    assert "/no/such/run" in refused("--mode=predict", "--workdir=/no/such/run")
    assert "--mode=pretrain. Name the workdir of an earlier --mode=finetune" in refused(
        "--mode=predict", f"--workdir={pretrained.workdir}"
    )
    assert "is no exported model" in refused("--mode=predict", f"--workdir={run}", f"--init={messy}", data)
    for path in (run / "export", run / "export" / "saved_model"):
        line = refused("--mode=predict", f"--workdir={tmp_path / 'new'}", f"--init={path}", data)
        assert f"Export the run first (--mode=export --workdir={run})" in line
    (run / "predict").write_text("")
    line = refused("--mode=predict", f"--workdir={run}", data)
    assert f"{run / 'predict'} is a file, not a directory" in line
    (run / "predict").unlink()
    assert "/no/such/data" in refused("--mode=predict", f"--workdir={run}", "--data=folder:/no/such/data")
    assert "reads an earlier run" in refused("--mode=predict", data)
    assert "does not use --seeds" in refused("--mode=predict", f"--workdir={run}", "--seeds=1")
    for name, content in made.CORRUPT.items():
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(content())
    line = refused("--mode=predict", f"--workdir={run}", f"--data=folder:{tmp_path / 'bad'}")
    assert f"None of the {len(made.CORRUPT)} images" in line
    assert "ended\": \"None of the" in (run / "commands.jsonl").read_text()


@pytest.mark.long
def test_bad_exports_are_one_line(run, pretrained, messy, tmp_path):
    data, new = f"--data=folder:{messy}", f"--workdir={tmp_path / 'new'}"
    export = succeed("--mode=export", f"--workdir={run}") and run / "export"
    assert "--data is missing" in refused("--mode=predict", new, f"--init={export}")
    names = export / "classes.txt"
    text = names.read_text()
    names.write_text(text + "one more\n")
    assert "11 names in classes.txt, but its model has 10" in refused("--mode=predict", new, f"--init={export}", data)
    names.unlink()
    assert "no classes.txt" in refused("--mode=predict", new, f"--init={export}", data)
    succeed("--mode=export", f"--workdir={pretrained.workdir}")
    line = refused("--mode=predict", new, f"--init={pretrained.workdir}/export", data)
    assert "export of a pre-training, which does not classify" in line
