"""The names that people give to the folders and shards of a dataset's splits."""

from collections.abc import Collection

TRAIN, VALIDATION, TEST = "train", "validation", "test"

# Where a dataset has several of these, the first is its validation split: see `validation_name`.
VALIDATION_NAMES = ("val", "valid", VALIDATION, TEST)
# Every word for a split, in lower case. Folders that all have such names are splits, not classes.
ALL_NAMES = frozenset({TRAIN, "training", "testing", *VALIDATION_NAMES})


def validation_name(names: Collection[str]) -> str:
    """Which of these names is the validation split, or an empty string."""
    return next((name for name in VALIDATION_NAMES if name in names), "")
