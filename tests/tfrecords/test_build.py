"""Builds from the command line: the ImageNet download, folders, corrupt files, settings, errors."""

import errno
import hashlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

import tfrecords
from pf_keras.data.shard_files import read_manifest, split_files
from pf_keras.errors import UserError


def check_contents(helpers, imagenet, output, wnids):
    found = {}
    for split in ("train", "validation"):
        for record in helpers.records(output, split):
            found[split, record["image/filename"].decode()] = record
    assert set(found) == set(imagenet.expected)
    for key, (data, wnid) in imagenet.expected.items():
        record = found[key]
        assert hashlib.sha256(record["image/encoded"]).digest() == hashlib.sha256(data).digest()
        assert record["image/class/synset"].decode() == wnid
        assert record["image/class/label"] == wnids.index(wnid) + 1
        assert (record["image/width"], record["image/height"], record["image/channels"]) == (40, 30, 3)
        assert (record["image/format"], record["image/colorspace"]) == (b"JPEG", b"RGB")


def test_imagenet_download_becomes_shards(helpers, imagenet, archives, built):
    check_contents(helpers, imagenet, built, sorted(helpers.wnids))
    assert sorted(path.name for path in built.iterdir()) == [
        "manifest.json",
        *(f"train-0000{i}-of-00003" for i in range(3)),
        *(f"validation-0000{i}-of-00002" for i in range(2)),
    ]


def test_manifest_describes_the_shards(helpers, built):
    manifest = read_manifest(str(built))
    assert manifest["images"] == 28 and manifest["format"] == "pf_keras tfrecords 1"
    assert {split: values["images"] for split, values in manifest["splits"].items()} == {"train": 20, "validation": 8}
    assert manifest["splits"]["train"]["classes"] == {"1": 5, "2": 5, "3": 5, "4": 5}
    stored = Counter(str(record["image/class/label"]) for record in helpers.records(built, "validation"))
    assert manifest["splits"]["validation"]["classes"] == dict(sorted(stored.items()))
    assert [entry["synset"] for entry in manifest["classes"]] == sorted(helpers.wnids)
    assert manifest["settings"]["seed"] == 0 and manifest["settings"]["source"] == "imagenet"
    hashes = helpers.hashes(built)
    for shard in manifest["shards"]:
        assert shard["sha256"] == hashes[shard["file"]]
        assert shard["bytes"] == (built / shard["file"]).stat().st_size
    assert sum(shard["records"] for shard in manifest["shards"]) == 28
    assert str(built.parent) not in (built / "manifest.json").read_text()


def test_extracted_folders_give_the_same_shards(helpers, imagenet, built, tmp_path):
    folders = imagenet.write_folders(tmp_path / "in")
    first = imagenet.train[helpers.wnids[0]]
    shutil.rmtree(folders / "train" / helpers.wnids[0])  # one class is still a tar
    helpers.write(folders / "train" / f"{helpers.wnids[0]}.tar", helpers.tar(first))
    shards = ("--train_shards=3", "--validation_shards=2", "--source=imagenet")
    helpers.build(f"--input={folders}", f"--output={tmp_path / 'out'}", *shards)
    ours, theirs = helpers.hashes(tmp_path / "out"), helpers.hashes(built)
    del ours["manifest.json"], theirs["manifest.json"]
    assert ours == theirs


def test_another_seed_gives_another_order_and_shards_are_equal_parts(helpers, archives, built, tmp_path):
    helpers.build("--source=imagenet", f"--input={archives}", f"--output={tmp_path}", "--seed=1", "--train_shards=6")
    names = [record["image/filename"] for record in helpers.records(tmp_path, "train")]
    others = [record["image/filename"] for record in helpers.records(built, "train")]
    assert names != others and sorted(names) == sorted(others) and names != sorted(names)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    counts = [shard["records"] for shard in manifest["shards"] if shard["file"].startswith("train")]
    assert set(counts) == {3, 4}
    assert len(list(tmp_path.glob("validation-*-of-00128"))) == 128


def test_part_of_imagenet_gets_the_labels_of_the_whole(helpers, imagenet, archives, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(archives, source)
    all_synsets = sorted([*helpers.wnids, "n00000001", "n02000000"])
    (source / "labels" / "synsets.txt").write_text("\n".join(all_synsets))
    (source / "labels" / "wnid_to_name.tsv").write_text("n01440764\ttench\nn02097209\tstandard schnauzer\n")
    helpers.build("--source=imagenet", f"--input={source}", f"--output={tmp_path / 'o'}", "--train_shards=2")
    check_contents(helpers, imagenet, tmp_path / "o", all_synsets)
    texts = {r["image/class/synset"]: r.get("image/class/text") for r in helpers.records(tmp_path / "o", "train")}
    assert texts[b"n01440764"] == b"tench" and texts[b"n02097209"] == b"standard schnauzer"


def folder(helpers, root, splits=("train", "val")):
    for split in splits:
        for label in ("cat", "dog's"):
            for i in range(3):
                mode = "L" if i == 0 else "RGB"
                helpers.write(root / split / label / f"{i}.jpg", helpers.image(f"{split}{label}{i}", mode=mode))
    return root


@pytest.mark.parametrize("name, prefix", [("val", "validation"), ("valid", "validation"), ("test", "test")])
def test_class_folders_become_labels(helpers, tmp_path, name, prefix):
    root = folder(helpers, tmp_path / "in", ("train", name))
    shards = ("--train_shards=2", "--validation_shards=1")
    helpers.build("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}", *shards)
    rows = helpers.records(tmp_path / "o", "train") + helpers.records(tmp_path / "o", prefix)
    found = {(row["image/filename"], row["image/class/label"], row["image/class/text"]) for row in rows}
    cats = {(f"cat/{i}.jpg".encode(), 1, b"cat") for i in range(3)}
    assert len(rows) == 12 and found == cats | {(f"dog's/{i}.jpg".encode(), 2, b"dog's") for i in range(3)}
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["odd"]["grey"] == 4


def test_folder_without_splits_is_unlabelled(helpers, tmp_path):
    for i in range(5):
        helpers.write(tmp_path / "in" / ("deep/er" if i % 2 else "") / f"{i}.JPG", helpers.image(i))
    shards = ("--train_shards=2", "--source=folder")
    done = helpers.build(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}", *shards)
    assert "unlabelled" in done.stderr
    rows = helpers.records(tmp_path / "o", "train")
    assert sorted(row["image/filename"] for row in rows) == [
        b"0.JPG",
        b"2.JPG",
        b"4.JPG",
        b"deep/er/1.JPG",
        b"deep/er/3.JPG",
    ]
    assert not any("image/class/label" in row for row in rows)
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["splits"]["train"]["classes"] == {"unlabelled": 5}


def test_corrupt_files_are_named_or_skipped_and_listed(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in")
    cut = helpers.image("whole")[:300]
    helpers.write(root / "train/cat/cut.jpg", cut)
    helpers.write(root / "train/cat/page.jpg", b"<html>404</html>")
    helpers.write(root / "val/cat/empty.jpg", b"")
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}", "--train_shards=2")
    arguments += ("--validation_shards=2", "--processes=2")
    done = helpers.command("build", *arguments)
    helpers.fails(
        done, "3 files are corrupt or not images", "train/cat/cut.jpg", "train/cat/page.jpg", "validation/cat/empty.jpg"
    )
    assert not (tmp_path / "o" / "manifest.json").exists()
    done = helpers.command("build", *arguments, "--skip_bad")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "o" / "bad.txt").read_text().splitlines()
    files = ["train/cat/cut.jpg", "train/cat/page.jpg", "validation/cat/empty.jpg"]
    assert [line.split("\t")[0] for line in lines] == files and "empty file" in lines[2]
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["odd"]["bad_skipped"] == 3 and manifest["images"] == 12
    assert manifest["splits"]["train"]["classes"] == {"1": 3, "2": 3}
    assert helpers.command("verify", tmp_path / "o", "--decode").returncode == 0


def test_hidden_files_and_other_folders_are_reported(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in")
    helpers.write(root / "train/.DS_Store", b"?")
    helpers.write(root / "train/.thumbnails/0.jpg", helpers.image("small"))
    helpers.write(root / "val/cat/.thumbnails/0.jpg", helpers.image("small"))
    helpers.write(root / "more/cat/0.jpg", helpers.image("more"))
    helpers.write(root / "train/cat/@eaDir/0.jpg", helpers.image("small"))
    helpers.write(root / "train/cat/notes.txt", b"notes")
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}", "--train_shards=2")
    done = helpers.build(*arguments)
    assert f"ignoring more in {root}" in done.stderr and "skipped: 3 hidden, 1 .txt, 1 @eaDir" in done.stderr, done.stderr
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["images"] == 12 and [entry["synset"] for entry in manifest["classes"]] == ["cat", "dog's"]


def test_hidden_files_among_unlabelled_images_are_skipped_and_counted(helpers, tmp_path):
    for name in ("0.jpg", "1.jpg", ".hidden.jpg", ".thumbnails/0.jpg"):
        helpers.write(tmp_path / "in" / "train" / name, helpers.image(name))
    arguments = ("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}", "--train_shards=1")
    done = helpers.build(*arguments)
    assert sorted(row["image/filename"] for row in helpers.records(tmp_path / "o", "train")) == [b"0.jpg", b"1.jpg"]
    assert done.stderr.count("skipped: 2 hidden") == 1 and not (tmp_path / "o" / "bad.txt").exists()


def test_class_folders_without_splits_are_labelled(helpers, tmp_path):
    for label in ("cat", "dog"):
        for i in range(20):
            helpers.write(tmp_path / "in" / label / f"{i}.jpg", helpers.image(f"{label}{i}", size=(9, 9)))
    helpers.build("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}")
    assert [path.name for path in (tmp_path / "o").glob("*-of-*")] == ["train-00000-of-00001"]
    rows = helpers.records(tmp_path / "o", "train")
    assert {(row["image/filename"].split(b"/")[0], row["image/class/label"]) for row in rows} == {(b"cat", 1), (b"dog", 2)}
    assert len(rows) == 40


def test_splits_are_recognised_in_any_case_and_classes_in_either_form_of_unicode(helpers, tmp_path):
    for split, form in (("Train", "NFC"), ("DEV", "NFD")):
        for label in ("café", "tea"):
            folder = tmp_path / "in" / split / unicodedata.normalize(form, label)
            helpers.write(folder / "0.jpg", helpers.image(split + label, size=(9, 9)))
    helpers.build("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}")
    for split in ("train", "validation"):
        assert sorted(row["image/class/label"] for row in helpers.records(tmp_path / "o", split)) == [1, 2]
    helpers.write(tmp_path / "in" / "val" / "tea" / "0.jpg", helpers.image("another", size=(9, 9)))
    done = helpers.command("build", "--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'p'}")
    helpers.fails(done, "several validation folders, DEV and val")


@pytest.mark.parametrize("images, size, resized, expected", [
    (0, 0, False, 1),
    (40, 4_000_000, False, 1),
    (40, 400_000_000, False, 4),
    (400, 4_000_000_000, False, 40),
    (400, 4_000_000_000, True, 1),
    (2001, 1_000_000, False, 3),
    (1_281_167, 147_000_000_000, False, 1024),
])  # fmt: skip
def test_shards_have_about_a_thousand_images_or_100_mb(images, size, resized, expected):
    from tfrecords import shards

    assert shards.shard_count(images, size, resized) == expected


def test_build_without_a_number_of_shards_keeps_that_of_the_build_it_resumes(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in", ("train",))
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}")
    helpers.build(*arguments, "--train_shards=3")
    before = helpers.hashes(tmp_path / "o")
    helpers.build(*arguments)
    assert helpers.hashes(tmp_path / "o") == before and len(before) == 4


def test_link_loops_and_names_that_end_in_a_space_are_skipped(helpers, tmp_path):
    helpers.write(tmp_path / "in/train/cat/a.png", helpers.image("a", format="PNG"))
    helpers.write(tmp_path / "in/train/cat/space.png ", helpers.image("b", format="PNG"))
    (tmp_path / "in/train/cat/loop.png").symlink_to(tmp_path / "in/train/cat/loop.png")
    arguments = ("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--train_shards=1")
    helpers.fails(helpers.command("build", *arguments), "1 files", "in a space")
    helpers.build(*arguments, "--skip_bad")
    assert [record["image/filename"] for record in helpers.records(tmp_path / "out", "train")] == [b"cat/a.png"]


def test_file_removed_before_it_is_read_is_corrupt(tmp_path, helpers):
    from tfrecords.shards import make_shard

    path = helpers.write(tmp_path / "a.png", helpers.image("a", format="PNG"))
    (tmp_path / "out" / ".build").mkdir(parents=True)
    rows = [["gone.png", str(tmp_path / "gone.png"), 0, 10, None], ["a.png", str(path), 0, path.stat().st_size, None]]
    task = {"output": str(tmp_path / "out"), "file": "train-00000-of-00001", "resize_shorter": None, "quality": None,
            "max_pixels": 10**8, "skip_bad": True, "items": rows, "classes": {}, "done": None}  # fmt: skip
    note = make_shard(task)
    with pytest.raises(FileNotFoundError):  # the whole folder is gone, not just an image
        make_shard({**task, "items": [["cat/gone.png", str(tmp_path / "cat" / "gone.png"), 0, 10, None]]})
    assert note["records"] == 1 and note["bad"] == [["gone.png", "it cannot be read (No such file or directory)", None]]


def test_path_of_the_input_may_be_any_bytes(helpers, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.makedirs(os.path.join(folder, b"train", b"cat"))
    with open(os.path.join(folder, b"train", b"cat", b"a.png"), "wb") as file:
        file.write(helpers.image("a", format="PNG"))
    helpers.build("--source=folder", f"--input={os.fsdecode(folder)}", f"--output={tmp_path / 'out'}", "--train_shards=1")
    assert len(helpers.records(tmp_path / "out", "train")) == 1


def test_full_disk_is_an_error_and_leaves_no_partial_file(helpers, tmp_path, monkeypatch):
    from pf_keras import processes
    from tfrecords import build, shards

    helpers.write(tmp_path / "in/train/cat/a.png", helpers.image("a", format="PNG"))
    arguments = ["--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--train_shards=1"]

    def full(task, path):
        Path(path).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(processes, "run", lambda work, tasks, _: map(work, tasks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_write", full)
        with pytest.raises(UserError, match=f"{tmp_path / 'out'} is full .*No space left"):
            build.main(arguments)
    assert not list((tmp_path / "out").rglob("*.partial"))
    left = helpers.write(tmp_path / "out/.build/train-00000-of-00001.1-ab.partial", b"left by a killed build")
    (tmp_path / "out/train-00000-of-00001").touch()
    assert (tmp_path / "out/.build/settings.json").exists()
    with pytest.raises(UserError, match="has not finished"):
        split_files(str(tmp_path / "out"))
    assert build.main(arguments) == 0 and not left.exists() and not (tmp_path / "out/.build").exists()


def test_build_locks_its_output_and_keeps_unfinished_work_only(tmp_path):
    from tfrecords.work import work_directory

    work = tmp_path / ".build"
    with work_directory(str(tmp_path)):
        (work / "train-00000-of-00001.json").write_text("{}")
        with pytest.raises(UserError, match="Another build is writing"), work_directory(str(tmp_path)):
            pass
        assert (work / "lock").exists() and (work / "train-00000-of-00001.json").exists()
    assert not work.exists()
    with work_directory(str(tmp_path)):
        (work / "settings.json").write_text("{}")
    assert (work / "settings.json").exists()
    with work_directory(str(tmp_path)):
        (tmp_path / "manifest.json").write_text("{}")
    assert not work.exists()


def test_foreign_shard_beside_a_finished_build_stays(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in", ("train",))
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}", "--train_shards=1")
    helpers.build(*arguments)
    (tmp_path / "o" / "validation-00000-of-00001").write_bytes(b"theirs")
    helpers.build(*arguments)
    assert (tmp_path / "o" / "validation-00000-of-00001").read_bytes() == b"theirs"


def test_repaired_file_of_the_same_size_is_no_longer_skipped(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in")
    place = root / "train/cat/0.jpg"
    whole = place.read_bytes()
    place.write_bytes(bytes(len(whole)))
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}", "--train_shards=2", "--skip_bad")
    helpers.build(*arguments)
    assert "train/cat/0.jpg" in (tmp_path / "o" / "bad.txt").read_text()
    place.write_bytes(whole)
    helpers.build(*arguments)
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["images"] == 12
    assert not (tmp_path / "o" / "bad.txt").exists()


def test_split_removed_before_the_build_finished_leaves_no_shard(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in")
    arguments = ("--source=folder", f"--input={root}", f"--output={tmp_path / 'o'}")
    arguments += ("--train_shards=1", "--validation_shards=1")
    helpers.write(root / "train/cat/page.jpg", b"<html>404</html>")
    helpers.fails(helpers.command("build", *arguments), "page.jpg")
    assert (tmp_path / "o" / "validation-00000-of-00001").exists()
    shutil.rmtree(root / "val")
    (root / "train/cat/page.jpg").unlink()
    helpers.build(*arguments)
    assert helpers.command("verify", tmp_path / "o").returncode == 0
    assert [path.name for path in (tmp_path / "o").glob("*-of-*")] == ["train-00000-of-00001"]


def test_build_resumes_after_a_corrupt_file_is_repaired(helpers, tmp_path):
    root = folder(helpers, tmp_path / "in")
    damaged = root / "train/cat/0.jpg"
    whole = damaged.read_bytes()
    arguments = ("--source=folder", f"--input={root}", "--train_shards=3", "--validation_shards=1", "--processes=1")
    helpers.build(*arguments, f"--output={tmp_path / 'expected'}")
    damaged.write_bytes(b"<html>404</html>")
    helpers.fails(helpers.command("build", *arguments, f"--output={tmp_path / 'o'}"), "train/cat/0.jpg", "same command")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("*-of-*")}
    assert len(made) == 3  # the shard with the corrupt file is missing
    helpers.write(damaged, whole)
    helpers.build(*arguments, f"--output={tmp_path / 'o'}")
    assert helpers.hashes(tmp_path / "o") == helpers.hashes(tmp_path / "expected")
    assert {name: (tmp_path / "o" / name).stat().st_mtime_ns for name in made} == made  # still the same files
    helpers.write(damaged, helpers.image("another"))
    done = helpers.command("build", *arguments, f"--output={tmp_path / 'o'}")
    helpers.fails(done, "source_fingerprint")


def test_resized_build_refuses_other_settings(helpers, tmp_path):
    for i in range(4):
        helpers.write(tmp_path / "in/train/a" / f"{i}.jpg", helpers.image(i, size=(200, 100 + i)))
    arguments = ("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}", "--train_shards=1")
    helpers.build(*arguments, "--resize_shorter=32", "--quality=80")
    assert {row["image/height"] for row in helpers.records(tmp_path / "o", "train")} == {32}
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["odd"]["resized"] == 4
    done = helpers.command("build", *arguments, "--seed=3", "--resize_shorter=32")
    helpers.fails(done, "seed=0, not 3; quality=80, not 90")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["manifest.json", "train-00000-of-00001"]


def test_usage_errors_are_one_line(helpers, archives, built, tmp_path):
    out = f"--output={tmp_path / 'o'}"
    folder(helpers, tmp_path / "in")
    cases = [
        ((), "required"),
        (("--source=imagenet", f"--input={tmp_path / 'none'}", out), "none is missing. Give a directory"),
        (("--source=imagenet", f"--input={tmp_path}", out), "ILSVRC2012_img_train.tar"),
        (("--source=imagenet", f"--input={archives}", out, "--sede=1"), "--sede=1"),
        (("--source=imagenet", f"--input={archives}", out, "--quality=80"), "--resize_shorter"),
        (("--source=imagenet", f"--input={archives}", out, "--quality=101", "--resize_shorter=9"), "--quality is 101"),
        (("--source=imagenet", f"--input={archives}", out, "--train_shards=0"), "at least 1"),
        (("--source=imagenet", f"--input={archives}", out, "--train_shards=100000"), "100000 shards are too many"),
        (("--source=folder", f"--input={archives}", out, "--validation_labels=a"), "no effect with --source=folder"),
        (("--source=imagenet", f"--input={archives}", out, "--validation_labels=/none"), "--validation_labels=/none"),
        (("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'in/out'}"), "is inside --input"),
        (("--source=folder", "--input=gs://b/in/", "--output=gs://b/in/out"), "is inside --input"),
        (("--source=folder", "--input=in", "--output=out", "--runner=DirectRunner", "--processes=77"), "with --runner"),
        (("--source=imagenet", f"--input={archives}", f"--output={built.parent}/f/x"), "Not a directory"),
    ]
    (built.parent / "f").write_text("")
    for arguments, words in cases:
        helpers.fails(helpers.command("build", *arguments), words)


def test_missing_or_wrong_validation_labels_are_an_error(helpers, imagenet, tmp_path):
    source = imagenet.write_archives(tmp_path / "in", labels=False)
    arguments = ("--source=imagenet", f"--input={source}", f"--output={tmp_path / 'o'}")
    helpers.fails(helpers.command("build", *arguments), "--validation_labels=")
    short = helpers.write(tmp_path / "short.txt", b"n01440764\n")
    done = helpers.command("build", *arguments, f"--validation_labels={short}")
    helpers.fails(done, "1 validation labels for 8 images")


def test_foreign_shards_in_the_output_are_not_touched(helpers, archives, tmp_path):
    foreign = helpers.write(tmp_path / "train-00000-of-00002", b"theirs")
    done = helpers.command("build", "--source=imagenet", f"--input={archives}", f"--output={tmp_path}")
    helpers.fails(done, "has shards but no manifest.json")
    assert foreign.read_bytes() == b"theirs"


@pytest.mark.slow
def test_urls_are_read_and_written_by_tensorflow(helpers, archives, built, tmp_path):
    arguments = ("--source=imagenet", "--train_shards=3", "--validation_shards=2")
    for _ in range(2):  # the second build checks what is there
        helpers.build(*arguments, f"--input=file://{archives}", f"--output=file://{tmp_path}/out")
        assert helpers.hashes(tmp_path / "out") == helpers.hashes(built)
    done = helpers.command("verify", f"file://{tmp_path}/out", "--decode", "--processes=1")
    assert done.returncode == 0, done.stdout + done.stderr
    done = helpers.command("subsets", f"file://{tmp_path}/out", "--fraction=0.4", "--processes=1")
    assert done.returncode == 0 and "8 of 20 images" in done.stdout


@pytest.mark.parametrize("module", ["tensorflow", "keras"])
def test_local_commands_never_import_tensorflow_or_keras(helpers, tmp_path, monkeypatch, module):
    """Neither the command nor its workers: an import would fail here."""
    helpers.write(tmp_path / f"path/{module}.py", b"raise RuntimeError('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
    assert "RuntimeError: imported" in done.stderr
    root = folder(helpers, tmp_path / "in")
    arguments = ("--source=folder", f"--input={root}", "--train_shards=2", "--resize_shorter=20")
    helpers.build(*arguments, f"--output={tmp_path / 'out'}")
    for name, *arguments in (("verify", "--decode"), ("subsets", "--fraction=0.5")):
        done = helpers.command(name, tmp_path / "out", *arguments)
        assert done.returncode == 0, done.stderr
    modules = ", ".join(f"tfrecords.{found.name}" for found in pkgutil.iter_modules(tfrecords.__path__))
    done = subprocess.run([sys.executable, "-c", f"import {modules}"], cwd=helpers.root, capture_output=True, text=True)
    assert done.returncode == 0 and "beam" in modules, done.stderr
