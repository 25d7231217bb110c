"""Images in folders: `train/<class>/...` and `val/<class>/...`, or one folder of unlabelled images."""

import os
import sys
from pathlib import Path

from pf_keras.data.images import Images
from pf_keras.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
VALIDATION = ("val", "valid", "validation", "test")
SPLITS = {"train", "training", "testing", *VALIDATION}  # what is no name of a class where all are of these


def open_folder(place, config, whole=False):
    """`(train, validation, classes, held_out)` of a directory.

    With a `train` folder in it, that and the first of `val`, `valid`, `validation` and `test` are the splits, else all
    images form one, of which `config.holdout` is kept for validation, or all where `whole`. Subfolders of a split are its
    classes, in sorted order. Where images lie directly in it, there are no labels: in `train` and the like not beside
    class folders. Raises UserError where there is no image.
    """
    root = Path(os.path.expanduser(place))
    if not root.is_dir():
        raise UserError(f"expected folder:DIR to name a directory, received {place}, which is none: check the path")
    if not (root / "train").is_dir():
        images, classes = _read_split(root, None, mixed=True)
        if classes and {name.lower() for name in classes} <= SPLITS:
            raise UserError(f"expected {root}/train beside {' and '.join(classes)}, received none: give it that very name")
        return _held_out(images, root, config, whole, classes)
    train, classes = _read_split(root / "train", None)
    used = next((name for name in VALIDATION if (root / name).is_dir()), None)
    others = [path.name for path in sorted(root.iterdir()) if path.name not in ("train", used) and _is_shown_folder(path)]
    if others:
        print(f"{root}: of its folders {', '.join(others)} are not read", file=sys.stderr)
    if used:
        return train, _read_split(root / used, classes)[0], classes, ""
    return _held_out(train, root / "train", config, whole, classes)


def _held_out(images, root, config, whole, classes):
    if whole:
        return images, images, classes, f"all of {root}, which has no split for it"
    if images.size < 2:
        raise UserError(f"expected at least 2 images in {root}, received {images.size}: add images or a val folder")
    part = "each class of " if classes else ""
    return *images.held_out(config.holdout), classes, f"{config.holdout:.0%} of {part}{root}"


def _is_shown_folder(path):
    return path.is_dir() and not path.name.startswith(".")


def _read_split(root, classes, mixed=False):
    """The images below `root` and the class names; `classes` are the known ones, or None to take the folders'.

    mixed: whether images may lie directly in `root` beside folders of others, as unlabelled ones do.
    """
    files, other = _images_below(root)
    if not files:
        raise UserError(f"expected images ({', '.join(SUFFIXES)}) in {root}, received none: check the path")
    if other:
        print(f"{root}: {len(files)} images; {len(other)} others are not read, the first {other[0]}", file=sys.stderr)

    names = [_as_text(os.path.relpath(f, root)) for f in files]
    files = [os.fsencode(f) for f in files]
    strays = [name for name in names if os.sep not in name]
    if 0 < len(strays) < len(names):
        if not mixed:
            raise UserError(f"expected every image of {root} in a class folder, received {strays[0]} beside them: move it")
        print(f"{root}: taken as images without labels, since {strays[0]} lies in no folder", file=sys.stderr)
    if strays:
        return Images(names, [-1] * len(names), files, paths=True), ()
    folders = [name.split(os.sep)[0] for name in names]
    classes = classes or tuple(sorted(set(folders)))
    number = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise UserError(f"expected the classes of {root} among those of train, received {unknown[0]}: rename the folder")
    return Images(names, [number[f] for f in folders], files, paths=True), classes


def _images_below(root):
    """`(images, others)`: the paths of the image files below `root` and of what else is there, in a fixed order.

    Others are files of other names, what is no file (a pipe that is called an image would be read for ever), hidden
    folders and work directories of runs.
    Raises UserError for a folder that cannot be read.
    """
    images, others, seen, links = [], [], set(), []

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
            # Thumbnails, what was thrown away; a run's figures.
            if entry.is_dir() and (entry.name.startswith(".") or _is_workdir(entry.path)):
                others.append(_as_text(entry.path))
            elif entry.is_symlink() and entry.is_dir():
                links.append(entry.path)  # later: what they lead to may be here by its own name
            elif entry.is_dir():
                visit(entry.path)

    try:
        visit(os.fspath(root))
        while links:
            visit(links.pop(0))
    except OSError as error:
        raise UserError(f"expected to read {root}, received {error}: change its rights or remove it") from error
    return images, others


def _is_workdir(folder):
    return os.path.isfile(os.path.join(folder, "config.json")) and os.path.isdir(os.path.join(folder, "figures"))


def _as_text(name):
    """A file name, which may be any bytes, as text that can be written anywhere."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
