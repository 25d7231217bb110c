"""Which examples keep their labels: stratified, nested, seeded subsets, and published lists. No TensorFlow."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from tfrecords import filesystem as fs
from tfrecords.errors import UserError


def stratified_subset(
    names: Sequence[str], labels: Sequence[int], fraction: float, seed: int, include: Collection[str] = ()
) -> list[int]:
    """The indices, sorted, of a part of each class: the first `round(fraction * n)` of its `n` examples.

    The examples of a class are ordered by sha256 of `"{seed}/{name}"`, those in `include` before the others. So the
    subset of a smaller fraction lies within that of a larger one, every machine draws the same, and a subset with room
    in each class for those of a published list `include` contains them. Raises UserError for a fraction outside of
    (0, 1], names in `include` that are not in `names`, and a fraction that leaves a class without an example.
    """
    if len(names) != len(labels):
        raise UserError(f"expected a label for each of {len(names)} names, received {len(labels)}")
    if not 0 < fraction <= 1:
        raise UserError(f"expected a fraction above 0 and up to 1, received {fraction}")
    include = set(include)
    if unknown := include.difference(names):
        raise UserError(f"expected only names of the data to include, received {len(unknown)} others: {min(unknown)!r}")
    classes = defaultdict(list)
    for index, label in enumerate(labels):
        key = hashlib.sha256(f"{seed}/{names[index]}".encode()).digest()
        classes[int(label)].append((names[index] not in include, key, index))
    chosen = []
    for label, members in sorted(classes.items()):
        count = round(fraction * len(members))
        if not count:
            one, least = names[members[0][2]], math.ceil(1e4 / len(members)) / 1e4
            raise UserError(
                f"expected a fraction that leaves each class an example, received {fraction}, which is no more than half "
                f"an example of the {len(members)} of class {label} ({one}); give {least:g}, for one"
            )
        chosen += [index for _, _, index in sorted(members)[:count]]
    return sorted(chosen)


def read_list(path: str) -> list[str]:
    """The file names in a list, one a line; blank lines and those that begin with # are left out. Raises UserError."""
    names = fs.read_lines(path)
    if not names:
        raise UserError(f"{path}: expected file names, one a line, received none")
    return names


def as_line(name: str) -> str:
    """A name as a line of a list that `read_list` and `match_list` take for it: # begins a comment, space is no part."""
    return f"./{name}" if name.startswith("#") or name[:1].isspace() else name


def match_list(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """The index in `names` of each wanted name, in their order, each once.

    Names match whether or not either side has directories in front: `train/n01440764/n01440764_18.JPEG`,
    `n01440764_18.JPEG` and so on are one. Raises UserError for names that are not there, saying how many and the first,
    and for one that fits several.
    """
    parts = [tuple(part for part in name.split("/") if part not in ("", ".")) for name in names]
    by_base = defaultdict(list)
    for index, part in enumerate(parts):
        by_base[part[-1] if part else ""].append(index)
    found, unknown = {}, []
    for name in wanted:
        part = tuple(piece for piece in name.split("/") if piece not in ("", "."))
        fits = [index for index in by_base.get(part[-1] if part else "", ()) if _is_tail(part, parts[index])]
        exact = [index for index in fits if parts[index] == part]
        if len(exact or fits) > 1:
            raise UserError(f"expected a name of one image, received {name!r}, which fits {len(fits)}; add directories")
        if fits:
            found[(exact or fits)[0]] = None
        else:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"expected a list of names in the data, received {len(unknown)} of {len(wanted)} that are not there, the "
            f"first {unknown[0]!r}"
        )
    return list(found)


def _is_tail(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    count = min(len(one), len(other))
    return one[-count:] == other[-count:]
