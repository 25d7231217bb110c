"""Images and labels in a CSV file."""

import unicodedata

import pytest
from PIL import Image

from pf_keras.config import DataConfig
from pf_keras.data.labels import labelled_subset, require_labels
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from tests.data import images_made as made


@pytest.fixture
def photos(tmp_path):
    """Six images in a flat folder `images`."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def open_text(folder, text, **options):
    (folder / "labels.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return open_source(DataConfig(source=f"csv:{folder / 'labels.csv'}", **options))


ROWS = [(f"images/{i}.png", "ant" if i < 3 else "bee") for i in range(6)]
PLAIN = "path,label\n" + "".join(f"{path},{label}\n" for path, label in ROWS)


@pytest.mark.parametrize("text", [
    PLAIN,
    PLAIN.replace("\n", "\r\n"),
    "\ufeff" + PLAIN.replace("/", "\\"),
    PLAIN.replace(",", ";").replace("path", "Path").replace("label", " Label "),
    PLAIN.replace(",", "\t").replace("images", "./images"),
    "label,note,path\n" + "".join(f'"{label}","a, b","{path}"\n' for path, label in ROWS),
])  # fmt: skip
def test_any_spelling_of_a_table_gives_the_same_images(photos, text):
    source = open_text(photos, text, holdout=0.34)
    assert source.classes == ("ant", "bee") and "34% of each class" in source.validation_note
    assert (source.train.labels.tolist(), source.validation.labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    assert sorted(source.train.names + source.validation.names) == [path for path, _ in ROWS]
    encoded, label = source.train.loader()(next(iter(source.train.keys(shuffle=False))))
    assert encoded.numpy() == (photos / source.train.names[0]).read_bytes() and int(label) == 0


def test_splits_are_named_in_any_case(photos, capsys):
    splits = ("Train", "Train", "VAL", "Train", "Val", "test")
    lines = (f"{path},{label},{split}\n" for (path, label), split in zip(ROWS, splits, strict=True))
    source = open_text(photos, "path,label,split\n" + "".join(lines))
    assert source.train.names == ["images/0.png", "images/1.png", "images/3.png"] and not source.validation_note
    assert source.validation.names == ["images/2.png", "images/4.png"]
    assert "its splits test are not used" in capsys.readouterr().err


def test_images_without_labels_are_good_for_pretraining_only(photos):
    source = open_text(photos, "path\n" + "".join(f"{path}\n" for path, _ in ROWS))
    assert source.classes == () and set(source.train.labels) == {-1}
    source = open_text(photos, PLAIN.replace("4.png,bee", "4.png,"), holdout=0.34)
    whole = source.train if "images/4.png" in source.train.names else source.validation
    with pytest.raises(UserError, match=f"images/4.png has no label in {photos}/labels.csv. Put"):
        require_labels(whole)


def test_names_are_found_in_either_form_of_unicode(photos):
    for i, form in enumerate(("NFC", "NFD")):
        (photos / "images" / f"{i}.png").rename(photos / "images" / unicodedata.normalize(form, f"é{i}.png"))
    text = PLAIN.replace("images/0", "images/é0").replace("images/1", "images/é1")
    for form in ("NFC", "NFD"):
        source = open_text(photos, unicodedata.normalize(form, text))
        assert source.train.size + source.validation.size == 6


@pytest.mark.parametrize(("text", "words"), [
    (PLAIN + "images/8.png,ant\nimages/9.png,ant\n", "2 of 8 images in .*labels.csv are missing, the first images/8.png"),
    (PLAIN + "images\\0.png,ant\n", "lists images/0.png twice, in lines 2 and 8"),
    (PLAIN + ",ant\n", "Line 8 of .*labels.csv has no path"),
    ("file,label\na.png,ant\n", "labels.csv has no column path, only file, label"),
    ("", "has no column path"),
    ("path,label\n", "lists no images"),
    ("path,split\nimages/0.png,fold 1\n", "Line 2 of .* has the split 'fold 1'"),
    ("path,split\nimages/0.png,train\nimages/1.png\n", "Line 3 of .* has the split ''"),
    ("path,split\nimages/0.png,val\nimages/1.png,test\n", "no line whose split is train, only test, val"),
    (b"path\ncaf\xe9.png\n", "is not UTF-8 text"),
    ('path\n"images/0.png\n', "is not a CSV file"),
])  # fmt: skip
def test_faults_of_a_table_are_one_line(photos, text, words):
    with pytest.raises(UserError, match=words) as caught:
        open_text(photos, text)
    assert "\n" not in str(caught.value)


def test_label_list_may_be_the_table_of_the_labels(photos):
    source = open_text(photos, PLAIN, holdout=0.34)
    listed = [source.train.names[0], source.train.names[3]]
    (photos / "list.csv").write_text("path,label\r\n" + "".join(name.replace("/", "\\") + ",?\r\n" for name in listed))
    assert labelled_subset(source.train, 1, str(photos / "list.csv")).names == listed


@pytest.mark.parametrize(("text", "words"), [
    ("path,label\na.png,cat,dog\n", ("Line 2", "3 values for 2 columns")),
    ("path,label,label\na.png,cat,dog\n", ("several columns named 'label'",)),
    ("\n\n", ("no column path",)),
])  # fmt: skip
def test_values_that_have_no_column_are_errors(tmp_path, text, words):
    (tmp_path / "a.png").write_bytes(made.encoded(made.pixels(), "PNG"))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        open_source(DataConfig(source=f"csv:{tmp_path}/list.csv"))
    assert all(word in str(caught.value) for word in words)


def test_note_of_excel_in_the_first_line_is_skipped(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(made.encoded(made.pixels(), "PNG"))
    (tmp_path / "list.csv").write_text("sep=;\n\npath;label;split\na.png;cat;train\nb.png;dog;val\n")
    assert open_source(DataConfig(source=f"csv:{tmp_path}/list.csv")).classes == ("cat", "dog")


def test_table_without_labels_says_so_where_they_are_needed(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(made.encoded(made.pixels(), "PNG"))
    (tmp_path / "list.csv").write_text("path,class\na.png,cat\nb.png,dog\n")
    source = open_source(DataConfig(source=f"csv:{tmp_path}/list.csv"))
    with pytest.raises(UserError, match="has no column label, only path, class"):
        require_labels(source.train)
