"""Which class an image belongs to: the tables that come with ImageNet, and names for people.

Labels count from 1 in the order of the sorted synsets (wnids), as in the public converters. Where a `synsets.txt` with
all 1000 is found, or the devkit, a part of the archive gets the labels of the whole.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from tfrecords import filesystem as fs
from tfrecords.errors import UserError

WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"_(\d{8})\.\w+$")
_SYNSETS = ("synsets.txt",)
_NAMES = ("wnid_to_name.tsv", "LOC_synset_mapping.txt", "wnids.txt", "words.txt")
_DEVKIT = ("ILSVRC2012_devkit_t12.tar.gz",)
_VALIDATION = ("imagenet_2012_validation_synset_labels.txt", *_DEVKIT)
_SPLITS = {"train", "val", "valid", "validation", "test"}
_LARGEST = 64 << 20  # bytes of the devkit unpacked; the real one has a few million
MAX_TEXT = 1000  # characters of a class's name


@dataclass(frozen=True)
class Devkit:
    """`truth`: the wnid of each validation image in order; `words`: the name of each of the 1000 wnids."""

    truth: list[str]
    words: dict[str, str]


class Tables:
    """The label files found for an input directory.

    `validation_labels` is a file (a list of wnids or the devkit archive), a directory that holds one, or None to look
    in the input directory and in those one level below. Raises UserError for a file that cannot be understood.
    """

    def __init__(self, directory: str, validation_labels: str | None = None):
        folders = sorted(name for name, is_folder, _ in fs.entries(directory) if is_folder and name not in _SPLITS)
        places = [directory, *(fs.join(directory, name) for name in folders)]
        truth = None
        if validation_labels:
            if fs.is_directory(validation_labels):
                places.insert(0, validation_labels)
            elif fs.exists(validation_labels):
                truth = validation_labels
                places.insert(0, validation_labels.rpartition("/")[0] or ".")
            else:
                raise UserError(f"expected a file at --validation_labels={validation_labels}, found none")
        truth = truth or _find(places, _VALIDATION)
        self.used = []
        self.truth: list[str] | None = None
        self.synsets: list[str] | None = None
        self.text: dict[str, str] = {}
        archive = truth if truth and truth.endswith((".tar.gz", ".tgz", ".tar")) else _find(places, _DEVKIT)
        if archive:
            devkit = read_devkit(archive)
            self.truth, self.synsets, self.text = devkit.truth, sorted(devkit.words), dict(devkit.words)
            self.used.append(archive.rpartition("/")[2])
        if truth and truth != archive:
            self.truth = _wnids(truth)
            self.used.append(truth.rpartition("/")[2])
        if synsets := _find(places, _SYNSETS):
            self.synsets = sorted(set(_wnids(synsets)))
            self.used.append(synsets.rpartition("/")[2])
        for table in filter(None, (_find(places, (name,)) for name in _NAMES)):
            if names := _names(table):  # a list of bare wnids has none
                self.text.update(names)
                self.used.append(table.rpartition("/")[2])
                break

    def classes(self, found: Iterable[str]) -> list[str]:
        """The classes in the order of their labels: `found`, sorted, or the list of all where that is there.

        Raises UserError for a class that is not on the list.
        """
        found = set(found)
        if self.synsets is None or not all(map(WNID.fullmatch, found)):
            return sorted(found)
        if unknown := sorted(found - set(self.synsets)):
            raise UserError(
                f"expected only classes of the {len(self.synsets)} synsets listed, received {len(unknown)} others, "
                f"the first {unknown[0]}; correct or remove synsets.txt"
            )
        return self.synsets

    def of_validation(self, names: list[str]) -> dict[str, str]:
        """The wnid of each validation file name. Raises UserError where the labels do not fit the files.

        An ILSVRC name carries its number in the list, so that a part of the archive is labelled rightly; other names,
        and lists that are shorter than that number, are matched in the order of the names.
        """
        if self.truth is None:
            raise UserError(
                "the validation images are in one folder and their labels are not here; give the list of wnids or "
                f"the devkit archive by --validation_labels=, or put {' or '.join(_VALIDATION)} into the input"
            )
        numbers = [int(match[1]) if (match := _NUMBER.search(name)) else None for name in names]
        if all(number and number <= len(self.truth) for number in numbers):
            return {name: self.truth[number - 1] for name, number in zip(names, numbers, strict=True)}
        unnumbered = sorted(name for name, number in zip(names, numbers, strict=True) if number is None)
        if unnumbered and len(unnumbered) < len(names):
            raise UserError(
                f"expected validation images whose names end in a number, received {unnumbered[0]!r} beside such; remove it"
            )
        if len(names) == len(self.truth):
            return dict(zip(sorted(names), self.truth, strict=True))
        raise UserError(
            f"expected a validation label for each of {len(names)} images, received {len(self.truth)} labels, which "
            f"fit neither their count nor their numbers; give the right list by --validation_labels="
        )


def read_devkit(path: str) -> Devkit:
    """The devkit archive, read in memory: `data/meta.mat` and the ground truth, whose numbers are the table's own."""
    meta = truth = None
    try:
        with fs.open_file(path, "rb") as file:
            data = file.read(_LARGEST)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UserError(f"{path}: expected a devkit of a few MB, received one of more than {_LARGEST} bytes")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                if info.isreg() and info.name.endswith("/data/meta.mat"):
                    meta = tar.extractfile(info).read()
                elif info.isreg() and info.name.endswith("/ILSVRC2012_validation_ground_truth.txt"):
                    truth = tar.extractfile(info).read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected the devkit as a .tar.gz archive, received one with {error}") from None
    if meta is None or truth is None:
        raise UserError(f"{path}: expected data/meta.mat and the validation ground truth in it, found not both")
    try:
        from scipy.io import loadmat

        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        words = {str(row["WNID"]): str(row["words"])[:MAX_TEXT] for row in synsets if int(row["num_children"]) == 0}
        return Devkit([wnids[int(number)] for number in truth.split()], words)
    except Exception as error:  # loadmat raises many kinds on damaged files
        raise UserError(f"{path}: its tables cannot be read ({type(error).__name__}: {error})") from None


def _find(places: list[str], names: tuple[str, ...]) -> str | None:
    paths = (fs.join(place, name) for name in names for place in places)
    return next((path for path in paths if fs.exists(path)), None)


def _wnids(path: str) -> list[str]:
    wnids = [line.split()[0] for line in fs.read_lines(path)]
    for number, wnid in enumerate(wnids, 1):
        if not WNID.fullmatch(wnid):
            raise UserError(
                f"{path}: expected wnids such as n01440764, one a line, received {wnid!r} as number {number}"
            )
    return wnids


def _names(path: str) -> dict[str, str]:
    pairs = (line.split(None, 1) for line in fs.read_lines(path))
    return {pair[0]: pair[1][:MAX_TEXT] for pair in pairs if len(pair) == 2}
