"""The tables of ImageNet: the devkit, lists of wnids, class names."""

import io

import numpy as np
import pytest

from pf_keras.errors import UserError
from tfrecords.imagenet import Tables, read_devkit


def devkit(helpers, wnids, truth):
    """A devkit archive like ILSVRC2012's: it has its own class numbers, and inner nodes of the tree at the end."""
    import gzip

    from scipy.io import savemat

    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [(i, w, f"name of {w}, other", "gloss", 0) for i, w in enumerate(wnids, 1)]
    rows.append((len(wnids) + 1, "n00000002", "inner node", "gloss", 2))
    mat = io.BytesIO()
    savemat(mat, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    numbers = "".join(f"{wnids.index(wnid) + 1}\n" for wnid in truth)
    files = {
        "ILSVRC2012_devkit_t12/readme.txt": b"hello",
        "ILSVRC2012_devkit_t12/data/meta.mat": mat.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": numbers.encode(),
    }
    return gzip.compress(helpers.tar(files))


def test_devkit_gives_labels_and_names(helpers, imagenet, tmp_path):
    wnids = [helpers.wnids[i] for i in (2, 0, 3, 1)] + ["n09999999"]
    source = imagenet.write_archives(tmp_path / "in", labels=False)
    helpers.write(source / "ILSVRC2012_devkit_t12.tar.gz", devkit(helpers, wnids, imagenet.truth))
    assert read_devkit(str(source / "ILSVRC2012_devkit_t12.tar.gz"))[0] == imagenet.truth
    helpers.build("--source=imagenet", f"--input={source}", f"--output={tmp_path / 'o'}", "--train_shards=1")
    for split in ("train", "validation"):
        for record in helpers.records(tmp_path / "o", split):
            data, wnid = imagenet.expected[split, record["image/filename"].decode()]
            assert record["image/encoded"] == data
            assert record["image/class/synset"].decode() == wnid
            assert record["image/class/label"] == sorted(wnids).index(wnid) + 1
            assert record["image/class/text"].decode() == f"name of {wnid}, other"


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b broken", b"no archive at all"])
def test_damaged_devkit_is_an_error(data, helpers, tmp_path):
    path = helpers.write(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", data)
    with pytest.raises(UserError, match="ILSVRC2012_devkit_t12.tar.gz"):
        read_devkit(str(path))


def test_validation_labels_are_matched_by_number_or_else_by_order(tmp_path, helpers):
    path = helpers.write(tmp_path / "labels.txt", b"n00000001\nn00000002\nn00000003\n")
    tables = Tables(str(tmp_path), str(path))
    names = ["ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001.JPEG"]
    assert tables.of_validation(names) == {names[0]: "n00000003", names[1]: "n00000001"}
    assert tables.of_validation(["c.jpg", "a.jpg", "b.jpg"]) == {
        "a.jpg": "n00000001",
        "b.jpg": "n00000002",
        "c.jpg": "n00000003",
    }
    gaps = [f"ILSVRC2012_val_{n:08d}.JPEG" for n in (900, 7, 80)]
    assert tables.of_validation(gaps)[gaps[1]] == "n00000001"
    with pytest.raises(UserError, match="3 validation labels for 2 images"):
        tables.of_validation(gaps[:2])


def test_numbers_that_start_at_0_are_matched_by_order(tmp_path, helpers):
    helpers.write(tmp_path / "imagenet_2012_validation_synset_labels.txt", b"n00000001\nn00000002\nn00000003\n")
    found = Tables(str(tmp_path)).of_validation([f"val_{n:08d}.JPEG" for n in range(3)])
    assert found["val_00000002.JPEG"] == "n00000003"


def test_file_without_a_number_among_numbered_ones_is_an_error(tmp_path, helpers):
    helpers.write(tmp_path / "imagenet_2012_validation_synset_labels.txt", b"n00000001\nn00000002\nn00000003\n")
    names = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000003.JPEG", "prepare.sh"]
    with pytest.raises(UserError, match="'prepare.sh' has no number in its name"):
        Tables(str(tmp_path)).of_validation(names)


def test_class_missing_from_synsets_txt_is_an_error(tmp_path, helpers):
    helpers.write(tmp_path / "synsets.txt", b"n00000001\nn00000002\n")
    with pytest.raises(UserError, match="the first n00000009"):
        Tables(str(tmp_path)).classes(["n00000001", "n00000009"])
    assert Tables(str(tmp_path)).classes(["n00000002"]) == ["n00000001", "n00000002"]
    helpers.write(tmp_path / "synsets.txt", b"tench\n")
    with pytest.raises(UserError, match="has 'tench' as entry 1, not a wnid"):
        Tables(str(tmp_path))
