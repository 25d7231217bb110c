"""The images of an input: the ImageNet download, packed or extracted, or a folder of anybody's images.

An input is listed, never copied. An `Index` receives where the bytes of each image are.
"""

import dataclasses
import posixpath
from collections.abc import Iterable, Iterator

from pf_keras import filesystem as fs
from pf_keras.data.splits import TEST, TRAIN, VALIDATION, VALIDATION_NAMES
from pf_keras.errors import UserError
from tfrecords import archive
from tfrecords.imagenet import WNID, Tables
from tfrecords.index import Index, Item

_SPLITS = {name: VALIDATION for name in VALIDATION_NAMES} | {TRAIN: TRAIN, TEST: TEST}  # by the name of the folder
_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_HIDDEN = "it is hidden"
_MAX_DEPTH = 32  # folders inside folders; a circle of links has no end
_MAX_SHOWN = 100  # files of a folder that are looked at for a message


# What an input holds besides its images: `(synset, text)` of each class in the order of the labels, which count from 1; the
# names of the archives and tables that were read; and a note on a choice that was made for the user, often empty.
Listing = tuple[list[tuple[str, str]], list[str], str]


def list_imagenet(directory: str, index: Index, validation_labels: str | None = None) -> Listing:
    """List the ILSVRC2012 download: the training tar of tars and the flat validation tar, or either one extracted.

    Extracted means `train/<wnid>/…`, `train/<wnid>.tar`, `val/<wnid>/…` or a flat `val/`.

    Args:
        directory: the input.
        index: receives the images.
        validation_labels: see `Tables`.

    Raises:
        UserError: neither split is there, a tar is damaged, or the validation labels are missing or do not fit.
    """
    _check_directory(directory)
    tables = Tables(directory, validation_labels)
    train = _find(directory, _TRAIN_TAR, TRAIN)
    validation = _find(directory, _VALIDATION_TAR, "val", VALIDATION)
    if not train and not validation:
        raise UserError(f"{directory} has neither {_TRAIN_TAR} nor {_VALIDATION_TAR}, nor a folder train or val.")
    if train:
        index.add(_wnid_folder(train, TRAIN) if fs.is_directory(train) else _tar_of_tars(train))
    if validation:
        index.add(_validation(validation, tables))
    missing = "" if train and validation else "validation" if train else "training"
    note = f"{directory} has no {missing} images: only the other split is converted" if missing else ""
    files = [*tables.used, *(posixpath.basename(path) for path in (train, validation) if path)]
    return _listing(index, tables, files, note)


def list_folder(directory: str, index: Index) -> Listing:
    """List `train/<class>/…` and `val/<class>/…` (or `valid`, `validation`, `test`), or one folder of unlabelled images.

    Names are relative to the split's folder, or to `directory` if there are no splits. Images outside class folders get no
    label.

    Args:
        directory: the input.
        index: receives the images.

    Raises:
        UserError: a split has both class folders and images of its own, or there are no images.
    """
    _check_directory(directory)
    tables = Tables(directory)
    folders, files = _visible(directory)
    splits = {name: _SPLITS[name] for name in folders if name in _SPLITS}
    validation = [name for name, split in splits.items() if split == VALIDATION]
    if len(validation) > 1:
        raise UserError(f"{directory} has several validation folders, {' and '.join(validation)}. Keep one.")
    for name, split in splits.items():
        path = fs.join(directory, name)
        classes, loose = _visible(path)
        if classes and loose:
            raise UserError(
                f"{path} has both class folders and images such as {loose[0]!r}. Move each image into the folder of its class."
            )
        index.add(_files(path, split, class_folders=bool(classes)))
    others = [name for name in folders if name not in splits] + [name for name in files if name not in tables.used]
    shown = f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}"
    note = f"ignoring {shown} in {directory}: only the folders of splits are read" if others else ""
    if not splits:
        index.add(_files(directory, TRAIN))
        note = f"{directory} has no folder train or val: all its files are taken as unlabelled training images"
    return _listing(index, tables, tables.used, note)


def _listing(index: Index, tables: Tables, files: list[str], note: str) -> Listing:
    counts = index.counts()
    if not counts and not index.problems():
        raise UserError("The input has no images. Check --input.")
    classes = tables.classes({label for split in counts.values() for label in split} - {None})
    named = [(synset, tables.text.get(synset, "" if WNID.fullmatch(synset) else synset)) for synset in classes]
    return named, sorted(files), note


def _check_directory(path: str) -> None:
    if not fs.is_directory(path):
        raise UserError(f"--input={path} is {'a file' if fs.exists(path) else 'missing'}. Give a directory.")


def _find(directory: str, *names: str) -> str | None:
    return next((path for name in names if fs.exists(path := fs.join(directory, name))), None)


def _visible(directory: str) -> tuple[list[str], list[str]]:
    """The names of the folders and of the first few files in a directory that are not hidden, sorted."""
    folders, files = [], []
    for name, is_folder, _ in fs.entries(directory):
        if name.startswith("."):
            continue
        if is_folder:
            folders.append(name)
        elif len(files) < _MAX_SHOWN:
            files.append(name)
    return sorted(folders), sorted(files)


def _files(
    directory: str, split: str, label: str | None = None, prefix: str = "", class_folders: bool = False, depth: int = 0
) -> Iterator[Item]:
    """Every file below a directory, named from `prefix`. Follows links, because people link datasets together."""
    if depth > _MAX_DEPTH:
        raise UserError(f"{directory} is more than {_MAX_DEPTH} folders deep. Remove the link that leads in a circle.")
    for name, is_folder, size in fs.entries(directory):
        path = fs.join(directory, name)
        if name.startswith("."):  # thumbnails, deleted files, notes of the system
            yield Item(split, prefix + name, path, 0, 0, label, _HIDDEN)
        elif is_folder:
            yield from _files(path, split, name if class_folders else label, f"{prefix}{name}/", depth=depth + 1)
        else:
            problem = archive.name_problem(prefix + name) if size is not None else "it is not a regular file"
            yield Item(split, prefix + name, path, 0, size or 0, label, problem)


def _wnid_folder(path: str, split: str) -> Iterator[Item]:
    """An extracted split: a folder or a tar for each wnid."""
    for name, is_folder, _ in sorted(fs.entries(path)):
        place, wnid = fs.join(path, name), name.removesuffix(".tar")
        if name.startswith("."):
            yield Item(split, name, place, 0, 0, None, _HIDDEN)
        elif is_folder and WNID.fullmatch(name):
            yield from _files(place, split, name)
        elif is_folder:
            raise UserError(f"{path} has a folder {name!r}, which is not named by a wnid such as n01440764. Move it away.")
        elif WNID.fullmatch(wnid):
            yield from _tar(place, split, wnid)
        else:
            yield Item(split, name, place, 0, 0, None, "it is neither a folder nor a tar named by wnid")


def _validation(path: str, tables: Tables) -> Iterable[Item]:
    """ImageNet's validation images. In a flat tar or folder they get their labels from the tables."""
    if not fs.is_directory(path):
        items = list(_tar(path, VALIDATION))
    elif _visible(path)[0]:
        return _wnid_folder(path, VALIDATION)
    else:
        items = list(_files(path, VALIDATION))
    labels = tables.of_validation({item.name for item in items if not item.problem})
    return [dataclasses.replace(item, label=labels.get(item.name)) for item in items]


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


def _tar(path: str, split: str, label: str | None = None) -> Iterator[Item]:
    with fs.open_file(path, "rb") as file:
        yield from _images(archive.members(file, 0, fs.size(path), path), path, split, label)


def _images(members: Iterator[archive.Member], path: str, split: str, label: str | None) -> Iterator[Item]:
    for member in members:
        name = member.name if member.problem else posixpath.basename(member.name)
        yield Item(split, name, path, member.offset, member.size, label, member.problem)
