"""The names that people give to the folders and shards of a dataset's splits. Upper and lower case do not matter."""

from collections.abc import Collection, Sequence

from pf_keras.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"

ALSO = {"training": TRAIN, "testing": TEST}  # other words for a split

# Where a dataset has several of these, the first is its validation split: see `validation_name`.
VALIDATION_NAMES = ("val", "valid", VALIDATION, "dev", TEST)
# Every word for a split, in lower case. Folders that all have such names are splits, not classes.
ALL_NAMES = frozenset({TRAIN, *ALSO, *VALIDATION_NAMES})


def find_split(split: str, names: Collection[str]) -> str:
    """The first of these names that means a split, or an empty string. `train` comes before `Train` and `training`."""
    if split in names:
        return split
    found = {name: name.lower() for name in names if split in (name.lower(), ALSO.get(name.lower()))}
    return min(found, key=lambda name: (found[name] != split, name), default="")


def validation_name(names: Collection[str]) -> str:
    """Which of these names is the validation split, or an empty string."""
    return next((found for split in VALIDATION_NAMES if (found := find_split(split, names))), "")


def refuse_splits_as_classes(root: object, names: Sequence[str]) -> None:
    """Raises UserError where folders, none of which is named train, all have names of splits."""
    if names and {name.lower() for name in names} <= ALL_NAMES:
        raise UserError(f"{root} has {' and '.join(sorted(names))}, but no folder named train. Rename the training folder.")
