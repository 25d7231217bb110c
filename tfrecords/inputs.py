"""The images of an input: the ImageNet download, packed or extracted, or a folder of anybody's images.

An input is listed, never copied. An `Index` receives where the bytes of each image are.
"""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator

from pf_keras import filesystem as fs
from pf_keras.data.folder import class_key
from pf_keras.data.listing import IRREGULAR, Listing, describe_skipped, scan, walk
from pf_keras.data.splits import ALSO, TEST, TRAIN, VALIDATION, VALIDATION_NAMES, refuse_splits_as_classes
from pf_keras.errors import UserError
from tfrecords import archive
from tfrecords.imagenet import WNID, Tables
from tfrecords.index import Index, Item

_SPLITS = {name: VALIDATION for name in VALIDATION_NAMES} | {TRAIN: TRAIN, TEST: TEST} | ALSO  # by the name of the folder
_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

# What an input holds besides its images: `(synset, text)` of each class in the order of the labels, which count from 1; the
# names of the archives and tables that were read; and a note on a choice that was made for the user, often empty.
Contents = tuple[list[tuple[str, str]], list[str], str]


def list_imagenet(directory: str, index: Index, validation_labels: str | None = None) -> Contents:
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
    tables, skipped = Tables(directory, validation_labels), Counter()
    train = _find(directory, _TRAIN_TAR, TRAIN)
    validation = _find(directory, _VALIDATION_TAR, "val", VALIDATION)
    if not train and not validation:
        raise UserError(f"{directory} has neither {_TRAIN_TAR} nor {_VALIDATION_TAR}, nor a folder train or val.")
    if train:
        index.add(_wnid_folder(train, TRAIN, skipped) if fs.is_directory(train) else _tar_of_tars(train))
    if validation:
        index.add(_validation(validation, tables, skipped))
    missing = "" if train and validation else "validation" if train else "training"
    notes = [f"{directory} has no {missing} images: only the other split is converted"] if missing else []
    files = [*tables.used, *(posixpath.basename(path) for path in (train, validation) if path)]
    return _contents(index, tables, files, notes, skipped)


def list_folder(directory: str, index: Index) -> Contents:
    """List `train/<class>/…` and `val/<class>/…` (or `valid`, `validation`, `dev`, `test`), or a folder without splits.

    Names are relative to the split's folder, or to `directory` if there are no splits. As in `folder:`, the folders directly
    in a split are its classes, and a split with images beside its folders has no labels.

    Args:
        directory: the input.
        index: receives the images.

    Raises:
        UserError: there are several folders for one split, a folder cannot be entered, or there are no images.
    """
    _check_directory(directory)
    tables, skipped, names, notes = Tables(directory), Counter(), {}, []
    folders, files = _visible(directory, skipped)
    splits = {name: _SPLITS[name.lower()] for name in folders if name.lower() in _SPLITS}
    for split in dict.fromkeys(splits.values()):
        if len(same := [name for name in splits if splits[name] == split]) > 1:
            raise UserError(f"{directory} has several {split} folders, {' and '.join(same)}. Keep one.")
    if not splits:
        refuse_splits_as_classes(directory, folders)
        skipped.clear()  # the folder is listed again
    for name, split in sorted(splits.items(), key=lambda item: item[1] != TRAIN) or [("", TRAIN)]:
        path = fs.join(directory, name) if name else directory
        inner, loose = _visible(path, Counter())
        index.add(_files(path, split, skipped, labels=None if loose else names))
        if name and not index.counts().get(split) and not index.problems():
            raise UserError(f"{path} has no images. Add images, or move the folder away.")
        empty = [folder for folder in inner if class_key(folder) not in names]
        if split == TRAIN and not loose and names and empty:
            raise UserError(f"The class {empty[0]} in {path} has no image. Add images, or move the folder away.")
        if loose:
            notes.append(f"{path}: all images are unlabelled, because {loose[0]} is not in the folder of a class")
    others = [name for name in folders if name not in splits] + [name for name in files if name not in tables.used]
    if splits and others:
        shown = f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}"
        notes.append(f"ignoring {shown} in {directory}: only the folders of splits are read")
    return _contents(index, tables, tables.used, notes, skipped)


def _contents(index: Index, tables: Tables, files: list[str], notes: list[str], skipped: Counter) -> Contents:
    counts = index.counts()
    if not counts and not index.problems():
        raise UserError("The input has no images. Check --input.")
    classes = tables.classes({label for split in counts.values() for label in split} - {None})
    named = [(synset, tables.text.get(synset, "" if WNID.fullmatch(synset) else synset)) for synset in classes]
    if skipped:
        notes = [*notes, f"skipped: {describe_skipped(skipped)}"]
    return named, sorted(files), "; ".join(notes)


def _check_directory(path: str) -> None:
    if not fs.is_directory(path):
        raise UserError(f"--input={path} is {'a file' if fs.exists(path) else 'missing'}. Give a directory.")


def _find(directory: str, *names: str) -> str | None:
    return next((path for name in names if fs.exists(path := fs.join(directory, name))), None)


def _visible(directory: str, skipped: Counter) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a directory that are not skipped, sorted."""
    files, folders, _ = scan(directory, skipped)
    return [name for name, _ in folders], [name for name, _ in files]


def _files(
    directory: str, split: str, skipped: Counter, label: str | None = None, labels: dict[str, str] | None = None
) -> Iterator[Item]:
    """Every file below a directory that may be an image. Follows links, because people link datasets together.

    Args:
        directory: a split, or a class.
        split: its name.
        skipped: receives what is skipped, by kind.
        label: of all files.
        labels: if given, the label of a file is the folder below `directory` that it is in. Has the name of each class by its
            `class_key`, and receives new ones.
    """
    listing, start = Listing(skipped=skipped), len(fs.join(directory, ""))
    for path, size in walk(directory, listing):
        name = path[start:]
        if labels is not None:
            folder = name.partition("/")[0]
            label = labels.setdefault(class_key(folder), folder)
        if size is None:
            skipped[IRREGULAR] += 1
        else:
            yield Item(split, name, path, 0, size, label, archive.name_problem(name))


def _wnid_folder(path: str, split: str, skipped: Counter) -> Iterator[Item]:
    """An extracted split: a folder or a tar for each wnid."""
    archives = Counter()  # the tars, which are no images, are looked for by name
    folders, files = _visible(path, archives)
    if archives[".tar"]:
        files += sorted(name for name, is_folder, _ in fs.entries(path) if not is_folder and name.endswith(".tar"))
    skipped.update({kind: count for kind, count in archives.items() if kind != ".tar"})
    for name in folders:
        if not WNID.fullmatch(name):
            raise UserError(f"{path} has a folder {name!r}, which is not named by a wnid such as n01440764. Move it away.")
        yield from _files(fs.join(path, name), split, skipped, name)
    for name in files:
        if WNID.fullmatch(wnid := name.removesuffix(".tar")):
            yield from _tar(fs.join(path, name), split, wnid)
        else:
            yield Item(split, name, fs.join(path, name), 0, 0, None, "it is neither a folder nor a tar named by wnid")


def _validation(path: str, tables: Tables, skipped: Counter) -> Iterable[Item]:
    """ImageNet's validation images. In a flat tar or folder they get their labels from the tables."""
    if not fs.is_directory(path):
        items = list(_tar(path, VALIDATION))
    elif _visible(path, Counter())[0]:
        return _wnid_folder(path, VALIDATION, skipped)
    else:
        items = list(_files(path, VALIDATION, skipped))
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
