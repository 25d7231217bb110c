"""Images in folders: `train/<class>/...` and `val/<class>/...`, or any tree of unlabelled images."""

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data.images import Images
from pf_keras.data.listing import IRREGULAR, Listing, as_text, describe_skipped, scan, walk
from pf_keras.data.selection import hold_out
from pf_keras.data.splits import TRAIN, find_split, refuse_splits_as_classes, validation_name
from pf_keras.errors import UserError

SMALL_CLASSES = 4  # holding out of each class may take up to so many times the fraction of all images
Opened = tuple[Images, Images, tuple[str, ...], str, tuple[str, ...], Counter]  # the fields of a `Source`


def open_folder(place: str, config: DataConfig, whole: bool = False) -> Opened:
    """Open a directory of images.

    With a `train` folder in it, that folder is the training split, and the first of `val`, `valid`, `validation`, `dev` and
    `test` is the validation split, in upper or lower case. Otherwise all images form one split. The subfolders of a split are
    its classes, in sorted order. A split that has images outside of subfolders has no labels.

    Args:
        place: the directory.
        config: the config of the data. Without a validation split, `holdout` of each class is held out for one.
        whole: whether both splits are all images where there is no validation split.

    Returns:
        `(train, validation, classes, validation_note, empty_classes, skipped)`.

    Raises:
        UserError: there are no images, a folder cannot be entered, or the folders are not named as described. With `whole` any
            names will do.
    """
    if fs.is_remote(place):
        raise UserError(
            f"--data=folder:{place} is a URL, but folder: reads local folders. Copy the images here, or write them as shards "
            f"with python -m tfrecords.build --source=folder --input={place}, and use tfrecord:DIR."
        )
    root = Path(os.path.expanduser(place))
    if not os.path.isdir(root):
        raise UserError(f"{place} is not a directory that can be entered. Check the path in --data=folder:{place}.")
    folders = [name for name, _ in scan(os.fspath(root), Counter())[1]]
    used, name = find_split(TRAIN, folders), validation_name(folders)
    parts = [_Part(root / folder) for folder in (used, name) if folder] if used else [_Part(root)]
    skipped = sum((part.listing.skipped for part in parts), Counter())
    _report(root, parts, skipped)
    if not used:
        if not whole:  # nothing is trained, so that it does not matter which of them is for training
            refuse_splits_as_classes(root, parts[0].classes)
        _look_one_level_down(root, folders)
    elif others := [folder for folder in folders if folder not in (used, name)]:
        print(f"{root}: its folders {', '.join(map(as_text, others))} are not used", file=sys.stderr)
    classes, numbers = number_classes(name for part in parts for name in part.classes)
    train, *validation = (part.images(numbers) for part in parts)
    empty = tuple(parts[0].empty_classes())
    if validation:
        return train, validation[0], classes, "", empty, skipped
    return *divide(train, parts[0].root, config, whole, classes), empty, skipped


def divide(images: Images, place: object, config: DataConfig, whole: bool, classes: tuple[str, ...]) -> tuple:
    """`(train, validation, classes, validation_note)` of images without a validation split.

    Args:
        images: all of them.
        place: names them in messages.
        config: the config of the data. `holdout` of each class is held out, or of all images where the classes are small.
        whole: whether both splits are all images instead.
        classes: the names of their classes.
    """
    if whole:
        return images, images, classes, f"all of {place}, which has no validation split"
    if images.size < 2:
        raise UserError(f"{place} has a single image, but a run needs one to train on and one to validate on. Add images.")
    train, held = hold_out(images, config.holdout)
    if not classes or held.size <= SMALL_CLASSES * config.holdout * images.size:
        part = "each class of " if classes else ""
        return train, held, classes, f"{config.holdout:.0%} of {part}{place}"
    # One image of each class would be far more, as with a folder for each day.
    note = f"{config.holdout:.0%} of {place}, whatever their class, because the classes are small"
    return *hold_out(images, config.holdout, by_class=False), classes, note


def number_classes(names: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes in sorted order, and the number of each by its `class_key`. Of names with the same key the first is used."""
    first = {}
    for name in names:
        first.setdefault(class_key(name), name)
    classes = tuple(sorted(first.values()))
    return classes, {class_key(name): number for number, name in enumerate(classes)}


def class_key(name: str) -> str:
    """What the names of a class are compared by: macOS writes an accent as a character of its own, and others do not."""
    return unicodedata.normalize("NFC", name)


class _Part:
    """The images below a folder, which is a split or everything.

    Attributes:
        root: the folder.
        stray: the name of an image that is not in a subfolder, or empty.
        classes: the names of the subfolders with images, sorted. Empty where there is a stray: then no image has a label.
    """

    def __init__(self, root: Path):
        self.root, self.listing = root, Listing()
        self.names, self.values, self.sizes = [], [], []
        prefix = len(os.path.join(root, ""))
        for path, size in walk(os.fspath(root), self.listing):
            if size is None:
                self.listing.skipped[IRREGULAR] += 1
                continue
            self.names.append(as_text(path[prefix:]))
            self.values.append(os.fsencode(path))
            self.sizes.append(size)
        if not self.names:
            skipped = describe_skipped(self.listing.skipped)
            raise UserError(f"{root} has no images {f'(skipped: {skipped})' if skipped else 'below it'}. Check the path.")
        self.stray = next((name for name in self.names if os.sep not in name), "")
        self.classes = [] if self.stray else sorted({_class_of(name) for name in self.names})

    def images(self, numbers: dict[str, int]) -> Images:
        """The images with the numbers of their classes as labels."""
        by_folder = {name: numbers[class_key(name)] for name in self.classes}
        labels = [by_folder[_class_of(name)] for name in self.names] if self.classes else [-1] * len(self.names)
        cause = f"{self.root}/{self.stray} is not in a class folder" if self.stray else ""
        return Images(self.names, labels, self.values, paths=True, sizes=self.sizes, unlabelled=cause)

    def empty_classes(self) -> list[str]:
        """The subfolders without images, except those of runs, and links to folders that are listed under their own name."""
        used = set(self.classes)
        places = (*self.listing.workdirs, *self.listing.listed_already)
        others = {os.path.relpath(place, self.root).split(os.sep)[0] for place in places}
        named = ((folder, as_text(folder)) for folder in self.listing.folders if folder not in others)
        return [text for _, text in named if used and text not in used]


def _class_of(name: str) -> str:
    return name.partition(os.sep)[0]


def _report(root: Path, parts: list[_Part], skipped: Counter) -> None:
    """Say what was skipped, which images have no labels and why, and which folders are joined into classes."""
    if skipped:
        count = sum(len(part.names) for part in parts)
        print(f"{root}: {count} images; skipped: {describe_skipped(skipped)}", file=sys.stderr)
    for part in parts:
        if part.stray and any(os.sep in name for name in part.names):
            print(f"{part.root}: images are used without labels, because {part.stray} is not in a folder", file=sys.stderr)
        if deep := next((name for name in part.names if part.classes and name.count(os.sep) > 1), ""):
            inner = deep.rpartition(os.sep)[0]
            print(f"{part.root}: folders in class folders are joined, {inner} into {_class_of(deep)}", file=sys.stderr)
            break


def _look_one_level_down(root: Path, folders: list[str]) -> None:
    """Say so where the splits are one folder further down, as in an archive that was unpacked into a folder of its own."""
    for folder in folders:
        inner = root / folder
        if any(os.path.isdir(inner / name) for name in (TRAIN, TRAIN.title(), TRAIN.upper())):
            place = as_text(os.fspath(inner))
            print(f"warning: {root} has no folder train, but {place} has. Did you mean --data=folder:{place}?", file=sys.stderr)
            return
