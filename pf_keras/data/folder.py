"""Images in folders: `train/<class>/...` and `val/<class>/...`, or one folder of unlabelled images."""

import os
import sys
from pathlib import Path

from pf_keras.config import DataConfig
from pf_keras.data.formats import SUFFIXES
from pf_keras.data.images import Images
from pf_keras.data.selection import hold_out
from pf_keras.data.splits import ALL_NAMES, TRAIN, validation_name
from pf_keras.errors import UserError


def open_folder(place: str, config: DataConfig, whole: bool = False) -> tuple[Images, Images, tuple[str, ...], str]:
    """Open a directory of images.

    With a `train` folder in it, that folder is the training split, and the first of `val`, `valid`, `validation` and `test`
    is the validation split. Otherwise all images form one split. The subfolders of a split are its classes, in sorted order.
    A split that has images outside of subfolders has no labels.

    Args:
        place: the directory.
        config: the config of the data. Without a validation split, `holdout` of each class is held out for one.
        whole: whether both splits are all images where there is no validation split.

    Returns:
        `(train, validation, classes, validation_note)`.

    Raises:
        UserError: there are no images, or the folders are not named as described.
    """
    root = Path(os.path.expanduser(place))
    if not root.is_dir():
        raise UserError(f"{place} is not a directory. Check the path in --data=folder:{place}.")
    if not (root / TRAIN).is_dir():
        images, classes = _read_split(root, None, mixed=True)
        if classes and {name.lower() for name in classes} <= ALL_NAMES:
            raise UserError(f"{root} has {' and '.join(classes)}, but no folder named train. Rename the training folder.")
        return _divided(images, root, config, whole, classes)
    train, classes = _read_split(root / TRAIN, None)
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    used = validation_name(folders)
    if others := [name for name in folders if name not in (TRAIN, used)]:
        print(f"{root}: its folders {', '.join(others)} are not used", file=sys.stderr)
    if used:
        return train, _read_split(root / used, classes)[0], classes, ""
    return _divided(train, root / TRAIN, config, whole, classes)


def _divided(images: Images, root: Path, config: DataConfig, whole: bool, classes: tuple[str, ...]) -> tuple:
    """What `open_folder` returns for a folder without a validation split."""
    if whole:
        return images, images, classes, f"all of {root}, which has no validation split"
    if images.size < 2:
        raise UserError(f"{root} has a single image, but a run needs one to train on and one to validate on. Add images.")
    part = "each class of " if classes else ""
    return *hold_out(images, config.holdout), classes, f"{config.holdout:.0%} of {part}{root}"


def _read_split(root: Path, classes: tuple[str, ...] | None, mixed: bool = False) -> tuple[Images, tuple[str, ...]]:
    """The images below `root` and the names of their classes.

    `classes` are the known ones, or None to use the names of the folders. With `mixed`, images may be beside folders; then all
    are unlabelled.
    """
    files, others = _files_below(root)
    if not files:
        raise UserError(f"{root} has no images ({', '.join(SUFFIXES)}). Check the path.")
    if others:
        print(f"{root}: {len(files)} images; {len(others)} other entries are skipped, the first {others[0]}", file=sys.stderr)
    paths, sizes = zip(*files, strict=True)
    names = [_as_text(os.path.relpath(path, root)) for path in paths]
    beside = [name for name in names if os.sep not in name]
    if 0 < len(beside) < len(names):
        if not mixed:
            raise UserError(f"{root} has class folders, but {beside[0]} is beside them. Move it into the folder of its class.")
        print(f"{root}: images are used without labels, because {beside[0]} is not in a folder", file=sys.stderr)
    if beside:
        labels, classes = [-1] * len(names), ()
    else:
        folders = [name.split(os.sep)[0] for name in names]
        classes = classes or tuple(sorted(set(folders)))
        number = {name: i for i, name in enumerate(classes)}
        if unknown := sorted(set(folders) - set(classes)):
            raise UserError(f"{root} has a class {unknown[0]}, which the train folder does not have. Rename the folder.")
        labels = [number[folder] for folder in folders]
    return Images(names, labels, [os.fsencode(path) for path in paths], paths=True, sizes=sizes), classes


def _files_below(root: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """List what is below `root`, in a fixed order: `(path, bytes)` of each image file, and the paths of everything else.

    "Everything else" is files with other names, entries that are not files (reading a pipe would wait forever), hidden folders
    and the workdirs of runs. Raises UserError for a folder that cannot be read.
    """
    images, others, seen, links = [], [], set(), []

    def visit(folder):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was visited
            others.append(_as_text(folder))
            return
        seen.add((status.st_dev, status.st_ino))
        folders = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                folders.append(entry)
            elif entry.is_file() and entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                images.append((entry.path, entry.stat().st_size))
            else:
                others.append(_as_text(entry.path))
        for entry in folders:
            # Hidden folders hold thumbnails and deleted files. Workdirs hold figures.
            if entry.name.startswith(".") or _is_workdir(entry.path):
                others.append(_as_text(entry.path))
            elif entry.is_symlink():
                links.append(entry.path)  # visited last: its target may be below root under its own name
            else:
                visit(entry.path)

    try:
        visit(os.fspath(root))
        while links:
            visit(links.pop(0))
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error}. Change its permissions or remove it.") from error
    return images, others


def _is_workdir(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "config.json")) and os.path.isdir(os.path.join(folder, "figures"))


def _as_text(name: str) -> str:
    """A file name, which may be any bytes, as text that can be printed."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
