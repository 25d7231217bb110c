"""Images in folders: `train/<class>/...` and `val/<class>/...`, or one folder of unlabelled images."""

import os
import sys
from pathlib import Path

from pf_keras.data.images import Images
from pf_keras.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
VALIDATION = ("val", "validation", "test")


def open_folder(place, config):
    """`(train, validation, classes, held_out)` of a directory.

    With a `train` folder in it, that and `val` (or `validation`, `test`) are the splits, else all images form one,
    of which `config.holdout` is kept for validation. Subfolders of a split are its classes, in sorted order; images
    directly in it are unlabelled. Raises UserError where there is no image.
    """
    root = Path(place)
    if not root.is_dir():
        raise UserError(f"expected folder:DIR to name a directory, received {place}, which is none: check the path")
    train_root = root / "train" if (root / "train").is_dir() else root
    train, classes = _read_split(train_root, None)
    if train_root != root:
        for name in VALIDATION:
            if (root / name).is_dir():
                return train, _read_split(root / name, classes)[0], classes, ""
    if train.size < 2:
        raise UserError(f"expected at least 2 images in {train_root}, received {train.size}: add images or a val folder")
    return *train.held_out(config.holdout), classes, f"{config.holdout:.0%} of {train_root}"


def _read_split(root, classes):
    """The images below `root` and the class names; `classes` are the known ones, or None to take the folders'."""
    files, other = _images_below(root)
    if not files:
        raise UserError(f"expected images ({', '.join(SUFFIXES)}) in {root}, received none: check the path")
    if other:
        print(f"{root}: {len(files)} images; {len(other)} others are not read, the first {other[0]}", file=sys.stderr)

    names = [_as_text(os.path.relpath(f, root)) for f in files]
    files = [os.fsencode(f) for f in files]
    labelled = [os.sep in name for name in names]
    if not any(labelled):
        return Images(names, [-1] * len(names), files, paths=True), ()
    if not all(labelled):
        stray = names[labelled.index(False)]
        raise UserError(f"expected every image of {root} in a class folder, received {stray} beside them: move it")
    folders = [name.split(os.sep)[0] for name in names]
    classes = classes or tuple(sorted(set(folders)))
    number = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise UserError(f"expected the classes of {root} among those of train, received {unknown[0]}: rename the folder")
    return Images(names, [number[f] for f in folders], files, paths=True), classes


def _images_below(root):
    """`(images, others)`: the paths of the image files below `root` and of what else is there, in a fixed order.

    Others are files of other names, and what is no file: a pipe that is called an image would be read for ever.
    Raises UserError for a folder that cannot be read.
    """
    images, others, seen = [], [], set()

    def visit(folder):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that is here already
            others.append(_as_text(folder))
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_file() and entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                images.append(entry.path)
            elif not entry.is_dir():
                others.append(_as_text(entry.path))
        for entry in entries:
            if entry.is_dir():
                visit(entry.path)

    try:
        visit(os.fspath(root))
    except OSError as error:
        raise UserError(f"expected to read {root}, received {error}: change its rights or remove it") from error
    return images, others


def _as_text(name):
    """A file name, which may be any bytes, as text that can be written anywhere."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
