"""`inspect` counts what a source holds, and reports it as text, JSON and a page of HTML."""

import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from commands import TINY, command, refused
from html_page import Page
from PIL import Image

from pf_keras.config import DataConfig
from pf_keras.data.duplicates import exact_copies, near_copies
from pf_keras.data.reader import ReadOptions
from pf_keras.data.sources import open_source
from pf_keras.data.survey import perceptual_hash, survey
from tests.data import images_made as made

SMALL = (*TINY, "--config.target.size=2", "--config.augment.jitter_size=0")  # for 16 patches of 4 x 4 pixels
CLASS = "<img src=x onerror=alert(1)> & co"


def inspect(data, workdir, *flags):
    done = command("--mode=inspect", f"--data={data}", f"--workdir={workdir}", *SMALL, *flags)
    assert done.code == 0, done.err
    assert done.result == json.loads((workdir / "result.json").read_text())
    return done


def picture(seed, size=(60, 40)):
    """An image that looks like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3)).astype("uint8")
    return Image.fromarray(noise).resize(size, Image.BICUBIC)


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A train and a val folder of two classes, with something of every kind that `inspect` looks for."""
    root = tmp_path_factory.mktemp("messy")
    for number in range(20):
        place = root / ("train" if number < 14 else "val") / (CLASS if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:02d}.jpg", quality=95)
    dog, other, val = root / "train" / "dog", root / "train" / CLASS, root / "val" / "dog"
    shutil.copy(dog / "00.jpg", val / "leak.jpg")  # the same bytes in both splits
    shutil.copy(dog / "02.jpg", dog / "again.jpg")  # and in one split
    shutil.copy(dog / "04.jpg", other / "wrong.jpg")  # and in two classes
    picture(6, (240, 160)).save(val / "larger.png")  # looks like train/dog/06.jpg
    exif = Image.Exif()
    exif[274] = 6
    picture(100).transpose(Image.ROTATE_90).save(dog / "phone.jpg", exif=exif, quality=95)
    picture(101).convert("RGBA").save(dog / "alpha.png")
    Image.fromarray(np.asarray(picture(102).convert("L")).astype("uint16") * 257).save(dog / "xray.png")
    Image.new("RGB", (60, 40), "black").save(dog / "black.png")
    (dog / "page.jpg").write_bytes(made.HTML)
    (dog / "page2.jpg").write_bytes(made.HTML)
    (val / "empty.png").write_bytes(b"")
    (dog / "cut.jpg").write_bytes(made.jpeg()[:-600])
    (dog / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def inspected(messy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("inspected")
    return workdir, inspect(f"folder:{messy}", workdir)


def test_images_of_each_split_and_class_are_counted(inspected):
    result = inspected[1].result
    assert (result["images"], result["read"]) == (32, 32)
    train, validation = result["splits"]["train"], result["splits"]["validation"]
    assert (train["images"], validation["images"]) == (23, 9)
    assert train["classes"] == {CLASS: 8, "dog": 15} and validation["classes"] == {CLASS: 3, "dog": 6}
    assert result["skipped"] == {".txt": 1}


def test_formats_modes_and_sizes_are_counted(inspected):
    result = inspected[1].result
    assert result["formats"] == {"jpeg": 24, "png": 4}
    assert sum(result["modes"].values()) == 28 and result["modes"]["RGBA"] == 1
    assert result["bits"] == {"8": 27, "16": 1}
    assert (result["alpha"], result["turned"], result["one_colour"]) == (1, 1, 1)
    assert result["orientations"]["6"] == 1
    assert result["width"] == {"min": 60, "median": 60, "max": 240}  # the phone's picture counts as it is shown
    assert result["height"] == {"min": 40, "median": 40, "max": 160}
    assert result["shorter_side"]["histogram"] == {"32-63": 27, "64-127": 0, "128-255": 1}


def test_unreadable_files_are_grouped_by_what_they_are(inspected):
    found = {kind["kind"]: kind for kind in inspected[1].result["unreadable"]}
    assert {name: (kind["split"], kind["count"]) for name, kind in found.items()} == {
        "an HTML page": ("train", 2),
        "an empty file": ("validation", 1),
        "a damaged or unsupported JPEG": ("train", 1),
    }
    assert [image["name"] for image in found["an HTML page"]["examples"]] == ["dog/page.jpg", "dog/page2.jpg"]
    assert "truncated" in found["a damaged or unsupported JPEG"]["examples"][0]["reason"]


def test_copies_within_and_across_splits_are_found(inspected):
    workdir, done = inspected
    result = done.result
    assert result["splits"]["train"]["exact_copies"] == 2 and result["splits"]["validation"]["exact_copies"] == 0
    assert result["exact_copies_across"] == 1 and result["near_copies_across"] == 1
    assert result["exact_copies_with_other_labels"] == 1
    groups = [json.loads(line) for line in (workdir / "copies.jsonl").read_text().splitlines()]
    assert Counter(group["copies"] for group in groups) == {"exact": 3, "near": 1}
    assert [image["name"] for image in groups[-1]["images"]] == ["dog/06.jpg", "dog/larger.png"]


def test_the_findings_name_what_to_look_at(inspected):
    said = "\n".join(inspected[1].result["findings"])
    assert "4 images cannot be read: an HTML page (2)" in said
    assert "1 image of the validation split is also in the training split" in said
    assert "1 image is in several classes at once" in said
    assert "1 image has one colour only" in said


def test_the_table_is_on_standard_error_and_the_result_alone_on_standard_output(inspected):
    done = inspected[1]
    assert done.out.count("\n") == 1
    assert "validation" in done.err and "JPEG 24, PNG 4" in done.err and "report.html" in done.err


def test_the_report_needs_nothing_else_and_escapes_names(inspected):
    text = (inspected[0] / "report.html").read_text()
    page = Page(text)
    assert page.tags["img"] >= 2 + 2 * 4 and page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
    assert CLASS in page.text and "<img src=x" not in text
    for name in ("dog/page.jpg", "dog/leak.jpg", "an HTML page"):
        assert name in page.text


def test_the_sheets_show_readable_images_alone(inspected):
    for picture in inspected[1].result["figures"]:
        with Image.open(picture) as image:
            assert image.width > 400


def test_an_image_that_is_not_upright_is_a_near_copy_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    upright, turned = io.BytesIO(), io.BytesIO()
    picture(1).save(upright, "PNG")
    picture(1).transpose(Image.ROTATE_90).save(turned, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(upright.getvalue())
    (tmp_path / "b.png").write_bytes(turned.getvalue())
    (tmp_path / "c.png").write_bytes(made.encoded(made.pixels(seed=2), "PNG"))
    (tmp_path / "d.png").write_bytes(made.encoded(made.pixels(seed=3), "PNG"))
    source = open_source(DataConfig(source=f"folder:{tmp_path}"), whole=True)
    rows = survey(source.validation, ReadOptions(), 10).rows
    near = near_copies(rows["look"], rows["flat"], exact_copies(rows["content"]).first)
    assert near.groups()[0].tolist() == [0, 1] and near.repeats() == 1


def test_copies_survive_scaling_and_compression_and_others_are_not_copies():
    looks = [perceptual_hash(np.asarray(picture(seed, (300, 200)))) for seed in range(50)]
    small = [perceptual_hash(np.asarray(picture(seed, (300, 200)).resize((90, 60)))) for seed in range(50)]
    squeezed = []
    for seed in range(50):
        data = made.encoded(picture(seed, (300, 200)), "JPEG", quality=30)
        squeezed.append(perceptual_hash(np.asarray(Image.open(io.BytesIO(data)))))
    every = np.array(looks + small + squeezed, "uint64")
    copies = near_copies(every, np.zeros(150, bool), np.arange(150))
    np.testing.assert_array_equal(copies.first, np.tile(np.arange(50), 3))


def test_near_copies_agree_with_comparing_all_pairs(monkeypatch):
    monkeypatch.setattr("pf_keras.data.duplicates.CHUNK", 7)
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 2**64, 60, dtype="uint64")
    two, five = np.uint64(0b101), np.uint64(0b11111 << 30)  # bits that differ
    looks = np.concatenate([looks, looks[:40] ^ two, looks[:20] ^ five, looks[:5]])
    flat = rng.random(len(looks)) < 0.1
    group = np.arange(len(looks))
    for i in range(len(looks)):
        for j in range(i):
            if not flat[i] and not flat[j] and bin(int(looks[i] ^ looks[j])).count("1") <= 4:
                group[group == group[i]] = group[j]
    found = near_copies(looks, flat, np.arange(len(looks))).first
    assert all((found[i] == found[j]) == (group[i] == group[j]) for i in range(len(looks)) for j in range(i))


def test_images_of_one_colour_are_copies_only_if_their_bytes_are():
    looks, flat = np.array([5, 5, 5, 9], "uint64"), np.array([True, True, True, False])
    exact = exact_copies(np.array([1, 1, 2, 3], "uint64"))
    assert near_copies(looks, flat, exact.first).first.tolist() == [0, 0, 2, 3]


def test_records_are_inspected_as_folders_are(messy, inspected, tmp_path):
    from pf_keras.data.record_container import frame
    from pf_keras.data.record_schema import make_example

    for split, name in (("train", "train"), ("validation", "val")):
        files = sorted(path for path in (messy / name).rglob("*.*") if path.suffix != ".txt")
        with open(tmp_path / f"{split}-00000-of-00001", "wb") as shard:
            for path in files:
                label = 1 + sorted([CLASS, "dog"]).index(path.parent.name)
                shard.writelines(frame(make_example(filename=path.name, label=label, encoded=path.read_bytes())))
    result, folder = inspect(f"tfrecord:{tmp_path}", tmp_path / "run").result, inspected[1].result
    copies = ("exact_copies_across", "near_copies_across", "exact_copies_with_other_labels")
    for name in ("images", "read", "formats", "modes", "bits", "alpha", "turned", "width", *copies):
        assert result[name] == folder[name], name
    assert result["splits"]["train"]["classes"] == {"1": 8, "2": 15}  # as stored, where nobody says which is the first
    assert "record" in result["unreadable"][0]["examples"][0]["name"]


def test_a_large_split_is_sampled_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("pf_keras.tasks.inspect.LIMIT", 100)
    done = inspect("digits", tmp_path)
    assert (done.result["images"], done.result["read"]) == (1797, 200)
    assert sum(done.result["splits"]["train"]["classes"].values()) == 1437  # labels are known without reading
    assert "200 of 1,797 images were read" in done.err


def test_images_without_labels_are_inspected(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    done = inspect(f"folder:{tmp_path}", tmp_path / "run")
    assert all(split["classes"] == {} for split in done.result["splits"].values()) and "no labels" in done.err


def test_a_folder_of_unreadable_files_is_reported(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(made.HTML)
    result = inspect(f"folder:{tmp_path}", tmp_path / "run").result
    assert result["formats"] == {} and result["figures"] == [] and "4 images cannot be read" in result["findings"][0]


def test_classes_without_a_readable_image_are_named(tmp_path):
    for name, count in (("ant", 6), ("bee", 2), ("cat", 2), ("dog", 0)):
        (tmp_path / name).mkdir()
        for number in range(count):
            if name == "cat":
                (tmp_path / name / f"{number}.jpg").write_bytes(made.HTML)
            else:
                picture(number + 10 * ord(name[0])).save(tmp_path / name / f"{number}.png")
    said = inspect(f"folder:{tmp_path}", tmp_path / "run").result["findings"]
    assert "1 class has a folder without images: dog." in said
    assert "1 class has no readable training image: cat." in said
    assert any("classes have fewer than 5 training images: bee (" in sentence for sentence in said)


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path):
    for name in ("a", "b\x1b[31m"):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture(number + 10 * ord(name[0])).save(tmp_path / name / f"{number}.png")
    assert "\x1b[31m" not in inspect(f"folder:{tmp_path}", tmp_path / "run").err


def test_a_workdir_of_another_mode_is_refused(pretrained):
    assert "is the workdir of a --mode=pretrain" in refused("--mode=inspect", f"--workdir={pretrained.workdir}")


def test_tpu_is_refused():
    assert "does not use --tpu" in refused("--mode=inspect", "--tpu=local", "--workdir=any")
