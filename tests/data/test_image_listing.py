"""Which files of a folder are taken for images, and what is skipped."""

import errno
import os
import stat
import tracemalloc
from types import SimpleNamespace

import pytest

from pf_keras.config import DataConfig
from pf_keras.data.folder import open_folder
from pf_keras.data.listing import IRREGULAR, Listing, describe_skipped, walk
from pf_keras.errors import UserError
from tests.data import images_made as made


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"image")


def listed(root):
    """The names of the images below a folder, and what else is there."""
    listing, names = Listing(), []
    for path, size in walk(os.fspath(root), listing):
        if size is None:
            listing.skipped[IRREGULAR] += 1
        else:
            names.append(os.path.relpath(path, root))
    return names, listing


def test_suffix_or_content_makes_a_file_a_candidate(tmp_path):
    write(tmp_path, "IMG_1.HEIC", "a.JPG", "b.webp", "c.tif", "README", "labels.csv", "notes.TXT", "other.txt", "film.mov",
          "IMG_1.AAE", "labels.cache", "nothing")  # fmt: skip
    for name, kind in (("no_suffix", "JPEG"), ("scan.page.1", "PNG"), ("strange.xyz", "WEBP")):
        (tmp_path / name).write_bytes(made.encoded(made.pixels(), kind))
    (tmp_path / "empty.dat").write_bytes(b"")
    names, listing = listed(tmp_path)
    assert names == ["IMG_1.HEIC", "a.JPG", "b.webp", "c.tif", "no_suffix", "scan.page.1", "strange.xyz"]
    skipped = {".txt": 2, ".csv": 1, ".mov": 1, ".aae": 1, "README": 1, ".cache": 1, "without a suffix": 1, ".dat": 1}
    assert listing.skipped == skipped
    assert describe_skipped(listing.skipped).startswith("2 .txt, 1 .aae, 1 .cache, 1 .csv")


@pytest.mark.parametrize(("folder", "kind"), [
    *((name, name) for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "#snapshot", "__MACOSX")),
    ("Photos.lrdata", ".lrdata"),
    (".ipynb_checkpoints", "hidden"),
])  # fmt: skip
def test_folders_of_systems_and_programs_are_skipped_and_counted(tmp_path, folder, kind):
    write(tmp_path, "a.jpg", f"deep/{folder}/b.jpg", f"deep/{folder}/c/d.jpg", "deep/e.jpg")
    names, listing = listed(tmp_path)
    assert names == ["a.jpg", "deep/e.jpg"] and listing.skipped == {kind: 1}


def test_hidden_files_pipes_and_broken_links_are_skipped(tmp_path):
    write(tmp_path, "a.jpg", "._a.jpg", ".DS_Store")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    names, listing = listed(tmp_path)
    assert names == ["a.jpg"] and listing.skipped == {"hidden": 2, "not regular files": 3}


def test_folder_that_may_not_be_entered_is_one_line(tmp_path, monkeypatch):
    write(tmp_path, "a.jpg", "private/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("private"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"^The folder {tmp_path}/private cannot be read: Permission denied. Change[^\n]*$"):
        listed(tmp_path)


def test_files_come_before_folders_and_links_last(tmp_path):
    write(tmp_path / "photos", "z.jpg", "b/2.jpg", "b/1.jpg", "c/3.jpg")
    write(tmp_path / "elsewhere", "4.jpg")
    (tmp_path / "photos" / "a").symlink_to(tmp_path / "elsewhere")
    names, listing = listed(tmp_path / "photos")
    assert names == ["z.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg", "a/4.jpg"]
    assert listing.folders == ["a", "b", "c"]


@pytest.mark.long
def test_million_files_are_listed_in_bounded_memory(tmp_path, monkeypatch):
    """Made-up entries in 1,000 folders, with names as long as those of ImageNet."""

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def entry(name, is_folder):
        return SimpleNamespace(name=name, is_dir=lambda: is_folder, is_file=lambda: not is_folder, is_symlink=lambda: False,
                               stat=lambda: SimpleNamespace(st_size=110_000))  # fmt: skip

    def scandir(path):
        if path == str(tmp_path):
            return Entries(entry(f"n{i:08d}", True) for i in range(1000))
        synset = path.rpartition("/")[2]
        return Entries(entry(f"{synset}_{i}.JPEG", False) for i in range(1281))

    numbers = iter(range(10**7))
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", lambda path, **_: SimpleNamespace(st_dev=1, st_ino=next(numbers), st_mode=stat.S_IFDIR))
    tracemalloc.start()
    train, validation, classes, *_ = open_folder(os.fspath(tmp_path), DataConfig())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    monkeypatch.undo()
    assert train.size + validation.size == 1_281_000 and len(classes) == 1000
    assert peak < 700 * 1_281_000, f"{peak / 2**20:.0f} MiB"  # a name, a path, a size and a label of each image
