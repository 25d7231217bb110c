"""Where images come from: the ImageNet download as it is or extracted, or a folder of anybody's images.

A source is listed, never copied: it fills an `Index` with where each image's bytes lie.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from tfrecords import archive
from tfrecords import filesystem as fs
from tfrecords.errors import UserError
from tfrecords.index import Index, Item
from tfrecords.labels import WNID, Tables

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_FOLDERS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_LISTED = 100_000  # files of a folder held in memory; the tars named by wnid are at most some thousands
_HIDDEN = "it is hidden"
_DEEPEST = 32  # folders inside folders; a circle of links would have no end


@dataclass(frozen=True)
class Listing:
    """What a source holds besides its images.

    `classes` are `(synset, text)` in the order of the labels, which count from 1; `files` the archives and tables read;
    `note` is empty, or a line for the user about a choice that was made for them.
    """

    classes: list[tuple[str, str]]
    files: list[str]
    note: str = ""


def list_imagenet(directory: str, index: Index, seed: int, validation_labels: str | None = None) -> Listing:
    """Lists the ILSVRC2012 download: the train tar of tars and the flat validation tar, or either one extracted.

    Extracted are `train/<wnid>/…`, `train/<wnid>.tar`, `val/<wnid>/…` and a flat `val/`. Arranges the index. Raises
    UserError where neither split is there, a tar is cut short, or the validation labels are missing or do not fit.
    """
    _expect_directory(directory)
    tables = Tables(directory, validation_labels)
    files = list(tables.used)
    train = _find(directory, _TRAIN_TAR, "train")
    validation = _find(directory, _VALIDATION_TAR, "val", "validation")
    if train is None and validation is None:
        raise UserError(
            f"expected {_TRAIN_TAR} or {_VALIDATION_TAR} in {directory}, or folders train and val; found none"
        )
    flat = False
    for split, path in ((TRAIN, train), (VALIDATION, validation)):
        if path is None:
            continue
        files.append(posixpath.basename(path))
        if fs.is_directory(path):
            flat |= _add_wnid_folder(path, split, index, seed)
        elif split == TRAIN:
            index.add(_tar_of_tars(path), seed)
        else:
            index.add(_flat_tar(path), seed)
            flat = True
    if flat:
        names = index.names(VALIDATION)
        index.set_labels(VALIDATION, tables.of_validation(names))
    missing = [name for name, path in (("training", train), ("validation", validation)) if path is None]
    note = f"no {missing[0]} images in {directory}: only the other split is converted" if missing else ""
    return _arranged(index, tables, files, note)


def list_folder(directory: str, index: Index, seed: int) -> Listing:
    """Lists `train/<class>/…` and `val/<class>/…` (or `valid`, `validation`, `test`), or one folder of unlabelled images.

    Names are relative to the split's folder, or to `directory` without splits. Images that lie in a split's folder
    itself, or in a directory without such folders, get no label. Arranges the index. Raises UserError for a split that
    has both class folders and images of its own, and for a directory without files.
    """
    _expect_directory(directory)
    tables = Tables(directory)
    folders, beside = _contents(directory)
    shown = [name for name in folders if not name.startswith(".")]
    splits = [name for name in shown if name in _FOLDERS]
    validation = [name for name in splits if _FOLDERS[name] == VALIDATION]
    if len(validation) > 1:
        raise UserError(f"expected one folder of validation images in {directory}, received {' and '.join(validation)}")
    for name in splits:
        path = fs.join(directory, name)
        folders, loose = _contents(path)
        hidden = [entry for entry in (*folders, *loose) if entry.startswith(".")]
        folders, loose = ([entry for entry in entries if not entry.startswith(".")] for entries in (folders, loose))
        if folders and loose:
            raise UserError(
                f"expected either class folders or images in {path}, received {len(folders)} folders and files such as "
                f"{loose[0]!r}; move the files into the folder of their class"
            )
        if folders:
            index.add([Item(_FOLDERS[name], entry, "", 0, 0, None, _HIDDEN) for entry in hidden], seed)
            for folder in folders:
                index.add(_files(fs.join(path, folder), folder + "/", _FOLDERS[name], folder), seed)
        else:
            index.add(_files(path, "", _FOLDERS[name], None), seed)
    others = [name for name in shown if name not in _FOLDERS]
    others += [name for name in beside if name not in tables.used and not name.startswith(".")]
    shortened = f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}"
    note = f"of {directory} {shortened} is not read" if others else ""
    if not splits:
        index.add(_files(directory, "", TRAIN, None), seed)
        note = f"no folder train or val in {directory}: all its files are taken as unlabelled training images"
    return _arranged(index, tables, tables.used, note)


def _arranged(index: Index, tables: Tables, files: list[str], note: str) -> Listing:
    classes = tables.classes(index.labels())
    index.arrange()
    if not index.counts() and not index.problems():
        raise UserError("expected images in the input, found none")
    named = [(synset, tables.text.get(synset, "" if WNID.fullmatch(synset) else synset)) for synset in classes]
    return Listing(named, sorted(files), note)


def _expect_directory(path: str) -> None:
    if not fs.is_directory(path):
        raise UserError(f"expected a directory at --input={path}, found {'a file' if fs.exists(path) else 'nothing'}")


def _find(directory: str, *names: str) -> str | None:
    return next((path for name in names if fs.exists(path := fs.join(directory, name))), None)


def _contents(directory: str) -> tuple[list[str], list[str]]:
    """The names of the folders, sorted, and of the first few other entries of a directory."""
    folders, files = [], []
    for name, is_folder, _ in fs.entries(directory):
        if is_folder:
            folders.append(name)
        elif len(files) < _LISTED or name.endswith(".tar"):
            files.append(name)
    return sorted(folders), sorted(files)


def _files(directory: str, prefix: str, split: str, label: str | None, depth: int = 0) -> Iterator[Item]:
    """Every file below a directory, named from `prefix`; links are followed, as people link data sets together."""
    if depth > _DEEPEST:
        raise UserError(f"expected at most {_DEEPEST} folders inside each other, received more at {directory}")
    for name, is_folder, size in fs.entries(directory):
        path = fs.join(directory, name)
        if name.startswith("."):  # thumbnails, what was thrown away, notes of the system
            yield Item(split, prefix + name, path, 0, 0, label, _HIDDEN)
        elif is_folder:
            yield from _files(path, f"{prefix}{name}/", split, label, depth + 1)
        else:
            problem = "" if size is not None else "it is no regular file"
            yield Item(split, prefix + name, path, 0, size or 0, label, problem)


def _add_wnid_folder(path: str, split: str, index: Index, seed: int) -> bool:
    """An extracted split. Returns whether it is flat, without labels of its own."""
    folders, files = _contents(path)
    hidden = [name for name in folders if name.startswith(".")]
    folders = [name for name in folders if name not in hidden]
    if split == VALIDATION and not folders:
        index.add(_files(path, "", split, None), seed)
        return True
    index.add([Item(split, name, "", 0, 0, None, _HIDDEN) for name in hidden], seed)
    for name in folders:
        if not WNID.fullmatch(name):
            raise UserError(f"expected folders named by wnid, such as n01440764, in {path}, received {name!r}")
        index.add(_files(fs.join(path, name), "", split, name), seed)
    for name in files:
        if WNID.fullmatch(name.removesuffix(".tar")):
            tar = fs.join(path, name)
            with fs.open_file(tar, "rb") as file:
                index.add(_images(archive.members(file, 0, fs.size(tar), tar), tar, split, name[:-4]), seed)
        else:
            index.add([Item(split, name, "", 0, 0, None, "it is neither a folder nor a tar named by wnid")], seed)
    return False


def _tar_of_tars(path: str) -> Iterator[Item]:
    with fs.open_file(path, "rb") as outer, fs.open_file(path, "rb") as inner:
        for member in archive.members(outer, 0, fs.size(path), path):
            wnid = posixpath.basename(member.name).removesuffix(".tar")
            if member.problem or not (WNID.fullmatch(wnid) and member.name.endswith(".tar")):
                problem = member.problem or "it is not a tar named by wnid"
                yield Item(TRAIN, member.name, path, 0, 0, None, problem)
            else:
                where = f"{path}:{member.name}"
                yield from _images(archive.members(inner, member.offset, member.size, where), path, TRAIN, wnid)


def _flat_tar(path: str) -> Iterator[Item]:
    with fs.open_file(path, "rb") as file:
        yield from _images(archive.members(file, 0, fs.size(path), path), path, VALIDATION, None)


def _images(members: Iterator[archive.Member], path: str, split: str, label: str | None) -> Iterator[Item]:
    for member in members:
        name = member.name if member.problem else posixpath.basename(member.name)
        yield Item(split, name, path, member.offset, member.size, label, member.problem)
