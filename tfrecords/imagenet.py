"""ImageNet's classes: the tables that come with the download, and names for people.

Labels count from 1 in the order of the sorted synsets (wnids), as in the public converters. If `synsets.txt` or the devkit is
there, a part of ImageNet gets the same labels as the whole.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable

from pf_keras import filesystem as fs
from pf_keras.data.splits import ALL_NAMES
from pf_keras.errors import UserError

WNID = re.compile(r"n\d{8}")
MAX_TEXT = 1000  # characters of a class's name
_NUMBER = re.compile(r"_(\d{8})\.\w+$")  # in ILSVRC2012_val_00000001.JPEG
_SYNSETS = "synsets.txt"
_NAMES = ("wnid_to_name.tsv", "LOC_synset_mapping.txt", "wnids.txt", "words.txt")
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_VALIDATION = ("imagenet_2012_validation_synset_labels.txt", _DEVKIT)
_MAX_TABLE = 64 << 20  # bytes of a table in the devkit; the real ones have less than a million


class Tables:
    """The label files found with an input.

    Args:
        directory: the input. Its files and those one folder below are searched.
        validation_labels: a list of wnids, the devkit archive, or a directory with either. None searches the input.

    Attributes:
        used: the names of the files that were read.
        truth: the wnid of each validation image in order, or None.
        synsets: the sorted wnids of all classes, or None.
        text: names for people by wnid.

    Raises:
        UserError: a file is missing or cannot be understood.
    """

    def __init__(self, directory: str, validation_labels: str | None = None):
        folders = sorted(name for name, is_folder, _ in fs.entries(directory) if is_folder and name not in ALL_NAMES)
        places = [directory, *(fs.join(directory, name) for name in folders)]
        truth = None
        if validation_labels:
            if not fs.exists(validation_labels):
                raise UserError(f"There is no file at --validation_labels={validation_labels}. Check the path.")
            if fs.is_directory(validation_labels):
                places.insert(0, validation_labels)
            else:
                truth = validation_labels
                places.insert(0, validation_labels.rpartition("/")[0] or ".")
        truth = truth or _find(places, *_VALIDATION)
        self.used: list[str] = []
        self.truth: list[str] | None = None
        self.synsets: list[str] | None = None
        self.text: dict[str, str] = {}
        archive = truth if truth and truth.endswith((".tar.gz", ".tgz", ".tar")) else _find(places, _DEVKIT)
        if archive:
            self.truth, self.text = read_devkit(archive)
            self.synsets = sorted(self.text)
            self._use(archive)
        if truth and truth != archive:
            self.truth = _wnids(truth)
            self._use(truth)
        if synsets := _find(places, _SYNSETS):
            self.synsets = sorted(set(_wnids(synsets)))
            self._use(synsets)
        for table in filter(None, (_find(places, name) for name in _NAMES)):
            if names := _names(table):  # a list of bare wnids has no names
                self.text.update(names)
                self._use(table)
                break

    def _use(self, path: str) -> None:
        self.used.append(path.rpartition("/")[2])

    def classes(self, found: Iterable[str]) -> list[str]:
        """The classes in the order of their labels: all synsets if they are known, else those found, sorted.

        Raises:
            UserError: a class is not among the known synsets.
        """
        found = set(found)
        if self.synsets is None or not all(map(WNID.fullmatch, found)):
            return sorted(found)
        if unknown := sorted(found - set(self.synsets)):
            raise UserError(
                f"{len(unknown)} classes are not among the {len(self.synsets)} synsets listed, the first {unknown[0]}. "
                f"Correct or remove {_SYNSETS}."
            )
        return self.synsets

    def of_validation(self, names: Collection[str]) -> dict[str, str]:
        """The wnid of each validation image.

        An ILSVRC file name carries its number in the list, so a part of the archive gets the right labels. Other names, and
        lists shorter than these numbers, are matched in sorted order.

        Raises:
            UserError: there are no labels, or they do not fit the names.
        """
        if self.truth is None:
            raise UserError(
                "The validation images have no labels. Give the list of wnids or the devkit archive by --validation_labels=, "
                f"or put {' or '.join(_VALIDATION)} into the input."
            )
        numbers = {name: int(match[1]) if (match := _NUMBER.search(name)) else None for name in names}
        if all(number and number <= len(self.truth) for number in numbers.values()):
            return {name: self.truth[number - 1] for name, number in numbers.items()}
        unnumbered = sorted(name for name, number in numbers.items() if number is None)
        if unnumbered and len(unnumbered) < len(names):
            raise UserError(f"Validation image {unnumbered[0]!r} has no number in its name, but others have. Remove it.")
        if len(names) == len(self.truth):
            return dict(zip(sorted(names), self.truth, strict=True))
        raise UserError(
            f"There are {len(self.truth)} validation labels for {len(names)} images, and they do not fit the numbers in the "
            f"names. Give the right list by --validation_labels=."
        )


def read_devkit(path: str) -> tuple[list[str], dict[str, str]]:
    """Read the devkit archive in memory: `data/meta.mat` and the ground truth of the validation images.

    Returns:
        The wnid of each validation image, in order, and the name of each of the 1000 wnids.

    Raises:
        UserError: the archive or one of its tables is damaged.
    """
    meta = truth = None
    try:
        with fs.open_file(path, "rb") as file, tarfile.open(fileobj=file) as tar:
            for info in tar:
                if info.isreg() and info.name.endswith("/data/meta.mat"):
                    meta = tar.extractfile(info).read(_MAX_TABLE)
                elif info.isreg() and info.name.endswith("/ILSVRC2012_validation_ground_truth.txt"):
                    truth = tar.extractfile(info).read(_MAX_TABLE)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not the devkit as a .tar.gz archive ({error}). Download it again.") from None
    if meta is None or truth is None:
        raise UserError(f"{path} lacks data/meta.mat or the validation ground truth. Download the devkit again.")
    try:
        from scipy.io import loadmat

        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        words = {str(row["WNID"]): str(row["words"])[:MAX_TEXT] for row in leaves}
        return [wnids[int(number)] for number in truth.split()], words
    except Exception as error:  # loadmat raises many kinds on damaged files
        raise UserError(f"{path} has damaged tables ({type(error).__name__}: {error}). Download it again.") from None


def _find(places: list[str], *names: str) -> str | None:
    paths = (fs.join(place, name) for name in names for place in places)
    return next((path for path in paths if fs.exists(path)), None)


def _wnids(path: str) -> list[str]:
    wnids = [line.split()[0] for line in fs.read_lines(path)]
    for number, wnid in enumerate(wnids, 1):
        if not WNID.fullmatch(wnid):
            raise UserError(f"{path} has {wnid!r} as entry {number}, not a wnid such as n01440764. Correct or remove it.")
    return wnids


def _names(path: str) -> dict[str, str]:
    pairs = (line.split(None, 1) for line in fs.read_lines(path))
    return {pair[0]: pair[1][:MAX_TEXT] for pair in pairs if len(pair) == 2}
