"""Which examples of a dataset are drawn: label subsets, hold-outs, published lists. Uses neither TensorFlow nor Keras.

Examples are drawn by a hash of their names, so every machine draws the same ones, in whatever order the data are listed.
"""

import hashlib
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from pf_keras import filesystem as fs
from pf_keras.data.records import Split
from pf_keras.data.tables import PATH, is_table, read_table
from pf_keras.errors import UserError


def draw_per_class(
    names: Sequence[str], labels: Sequence[int], count: Callable[[int], int], salt: str = "", first: Collection[str] = ()
) -> list[int]:
    """Draw some examples of each class, in the order of the sha256 of `salt + name`.

    Args:
        names: the names of n examples.
        labels: their n labels. Examples without a label (-1) count as a class.
        count: a function from the size of a class to the number of examples drawn from it.
        salt: another salt gives another draw.
        first: the names that are drawn before all others of their class.

    Returns:
        The indices of the drawn examples, sorted.
    """
    classes = defaultdict(list)
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        classes[int(label)].append((name not in first, hashlib.sha256(f"{salt}{name}".encode()).digest(), index))
    return sorted(index for members in classes.values() for *_, index in sorted(members)[: count(len(members))])


def stratified_subset(
    names: Sequence[str], labels: Sequence[int], fraction: float, seed: int, include: Collection[str] = ()
) -> list[int]:
    """Draw `round(fraction * n)` of the `n` examples of each class, but at least one. Says so where that is more.

    The subset of a smaller fraction is part of the subset of a larger one. Where each class has room for its names in
    `include`, the subset contains all of them.

    Args:
        names: the names of all examples.
        labels: their labels.
        fraction: above 0, up to 1.
        seed: another seed gives another subset.
        include: names that are drawn first.

    Returns:
        The indices of the drawn examples, sorted.

    Raises:
        UserError: the fraction is out of range, or a name to include is not in the data.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"The label fraction is {fraction}. Use a number above 0, up to 1.")
    include = set(include)
    if unknown := include.difference(names):
        raise UserError(f"{len(unknown)} of the names to include are not in the data, such as {min(unknown)!r}. Remove them.")
    small = {label: size for label, size in Counter(map(int, labels)).items() if not round(fraction * size)}
    if small:
        example, label = next(pair for pair in zip(names, map(int, labels), strict=True) if pair[1] in small)
        more = f", as in {len(small) - 1} other class{'es' if len(small) > 2 else ''}" if len(small) > 1 else ""
        print(
            f"a label fraction of {fraction} keeps none of the {small[label]} images in the class of {example}{more}: "
            "one image of each is kept",
            file=sys.stderr,
        )
    return draw_per_class(names, labels, lambda n: max(1, round(fraction * n)), f"{seed}/", include)


def hold_out(split: Split, fraction: float, salt: str = "", by_class: bool = True) -> tuple[Split, Split]:
    """Hold out a fraction of each class: at least one example, but never the last one of a class.

    Args:
        split: what to divide. A class with a single example is not held out from. Unlabelled examples count as one class.
        fraction: between 0 and 1.
        salt: another salt gives another draw.
        by_class: otherwise all examples count as one class.

    Returns:
        `(train, held out)`, both in the order of `split`.
    """
    labels = split.labels if by_class else [0] * split.size
    held = draw_per_class(split.names, labels, lambda n: min(max(1, round(fraction * n)), n - 1), salt)
    train = sorted(set(range(split.size)).difference(held))
    return split.subset(train), split.subset(held)


def hold_out_labelled(split: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """Hold out a fraction of each class as `hold_out` does, from labelled examples, with a seed.

    Raises:
        UserError: a class has a single example.
    """
    labels = [int(label) for label in split.labels]
    single = [label for label, size in Counter(labels).items() if size == 1]
    if single:
        alone = split.names[labels.index(min(single))]
        raise UserError(
            f"{alone} is the only labelled image of its class, but holding images out takes two of each class. "
            "Use more labelled images."
        )
    return hold_out(split, fraction, f"{seed}/")


def read_list(path: str) -> list[str]:
    """The file names in a list, one per line or in the column `path` of a CSV file.

    Skips blank lines, and in a list without columns lines that begin with #.

    Raises:
        UserError: the file is missing, is not text or has no names.
    """
    names = fs.read_lines(path)
    if names and is_table(path):
        names = [row[PATH] for _, row in read_table(path)]
    if not names:
        raise UserError(f"{path} has no file names. Write one name per line.")
    return names


def as_line(name: str) -> str:
    """A name as a line of a list. `read_list` would skip a leading # and strip a leading space."""
    return f"./{name}" if name.startswith("#") or name[:1].isspace() else name


def match_list(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Find listed names in the data. Folders in front may be missing on either side.

    For example, `train/n01440764/n01440764_18.JPEG` and `n01440764_18.JPEG` match.

    Args:
        wanted: the names of a list.
        names: the names of all examples.

    Returns:
        The index in `names` of each wanted name, in the order of `wanted`, without repetitions.

    Raises:
        UserError: some names are not in the data, or a name matches several examples.
    """
    parts = [_parts(name) for name in names]
    by_base = defaultdict(list)
    for index, part in enumerate(parts):
        by_base[part[-1:]].append(index)
    found, unknown = {}, []
    for name in wanted:
        for part in (_parts(name), _parts(name.strip("\"'").replace("\\", "/"))):  # then as Windows and spreadsheets write it
            if matches := [index for index in by_base.get(part[-1:], ()) if _is_tail(part, parts[index])]:
                break
        exact = [index for index in matches if parts[index] == part]
        if len(exact or matches) > 1:
            raise UserError(f"The listed name {name!r} matches {len(matches)} images. Write its folder in front of it.")
        if matches:
            found[(exact or matches)[0]] = None
        else:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(wanted)} listed names are not in the data (or were left out as corrupt), the first "
            f"{unknown[0]!r}. Remove them from the list, or use the data that the list belongs to."
        )
    return list(found)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in unicodedata.normalize("NFC", name).split("/") if part not in ("", "."))


def _is_tail(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    count = min(len(one), len(other))
    return one[-count:] == other[-count:]
