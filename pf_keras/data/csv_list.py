"""Images and labels in a CSV file: `csv:FILE`."""

import os
import posixpath
import sys
import unicodedata
from collections import Counter

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data.folder import class_key, divide, number_classes
from pf_keras.data.images import Images
from pf_keras.data.splits import ALL_NAMES, ALSO, TRAIN, find_split, validation_name
from pf_keras.data.tables import PATH, read_table
from pf_keras.errors import UserError

LABEL, SPLIT = "label", "split"


def open_csv(place: str, config: DataConfig, whole: bool = False) -> tuple[Images, Images, tuple[str, ...], str]:
    """Open the images that a CSV file lists.

    Its columns are `path`, relative to the folder of the file, `label` and, where there are several splits, `split`. An image
    may have no label: then it is good for pre-training.

    Args:
        place: the file.
        config: the config of the data. Without a validation split, `holdout` of each class is held out for one.
        whole: whether both splits are all images where there is no validation split.

    Returns:
        `(train, validation, classes, validation_note)`.

    Raises:
        UserError: the file is no such table, images are missing or listed twice, or a split has an unknown name.
    """
    if fs.is_remote(place):
        raise UserError(f"--data=csv:{place} is a URL, but csv: reads local files. Copy the file and its images here.")
    file = os.path.expanduser(place)
    root, rows, lines, missing, header = os.path.dirname(file), [], {}, [], ()
    for line, row in read_table(file):
        name, header = posixpath.normpath(row[PATH]), tuple(row)
        if name in lines:
            raise UserError(f"{place} lists {name} twice, in lines {lines[name]} and {line}. Keep one of them.")
        lines[name] = line
        if found := _find(root, name):
            rows.append((name, *found, row.get(LABEL, ""), _split_of(place, line, row)))
        else:
            missing.append(name)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(lines)} images in {place} are missing, the first {missing[0]}. Paths are relative to "
            f"{root or 'the current folder'}. Correct or remove them."
        )
    if not rows:
        raise UserError(f"{place} lists no images. Write one line for each image below the names of the columns.")
    splits = Counter(row[-1] for row in rows)
    used = find_split(TRAIN, splits)
    name = validation_name(splits) if used else ""
    if "" not in splits and not used:
        raise UserError(f"{place} has no line whose split is train, only {', '.join(sorted(splits))}. Name the training split.")
    if others := [split for split in splits if split not in (used, name)]:
        print(f"{place}: its splits {', '.join(sorted(others))} are not used", file=sys.stderr)
    classes, numbers = number_classes(sorted({row[3] for row in rows if row[3] and row[-1] in (used, name)}))

    def images(split):
        names, values, sizes, labels, _ = zip(*(row for row in rows if row[-1] == split), strict=True)
        none = next((name for name, label in zip(names, labels, strict=True) if not label), "")
        cause = f"{none} has no label in {place}" if none else ""
        if header and LABEL not in header:
            cause = f"{place} has no column label, only {', '.join(header)}"
        labels = [numbers[class_key(label)] if label else -1 for label in labels]
        return Images(list(names), labels, values, paths=True, sizes=sizes, unlabelled=cause)

    if name:
        return images(used), images(name), classes, ""
    return divide(images(used), place, config, whole, classes)


def _find(root: str, name: str) -> tuple[bytes, int] | None:
    """The path and the size in bytes of a file. Its name may be written in another form of Unicode than in the table."""
    for spelled in dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        path = os.path.join(root, spelled)
        if os.path.isfile(path):
            return os.fsencode(path), os.path.getsize(path)
    return None


def _split_of(place: str, line: int, row: dict[str, str]) -> str:
    """The name of a row's split in lower case, or an empty string where the table has no splits."""
    if SPLIT not in row:
        return ""
    split = row[SPLIT].lower()
    if split not in ALL_NAMES:
        raise UserError(f"Line {line} of {place} has the split {row[SPLIT]!r}. Use train, val or test.")
    return ALSO.get(split, split)
