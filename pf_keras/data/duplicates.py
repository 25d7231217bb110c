"""Copies among images: files with the same bytes, and images that look the same."""

from dataclasses import dataclass

import numpy as np

from pf_keras.data.survey import Survey

# Bits of 64 in which the perceptual hashes of near copies differ at most. With 4, all 16 pairs found between CIFAR-10's splits
# were copies, and none was found in Imagenette. With 6 one pair in eight was no copy, with 8 one in four.
DISTANCE = 4
CHUNK = 256  # hashes compared with all others at a time
PAIRS = 8  # of exact and of near copies each that are shown
COMPARED = 200  # images of a group that are compared to find its most similar ones


@dataclass(frozen=True)
class Copies:
    """The copies among n images.

    Args:
        first: int64 (n,). Images with the same number are copies of each other. The number is the place of their first image.
    """

    first: np.ndarray

    def repeats(self) -> int:
        """How many images would go if one of each group stayed."""
        return len(self.first) - len(np.unique(self.first))

    def groups(self) -> list[np.ndarray]:
        """The places of the images of every group of two or more, the first image first."""
        order = np.argsort(self.first, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self.first[order])) + 1)
        return [part for part in parts if len(part) > 1]

    def also_in(self, chosen: np.ndarray) -> np.ndarray:
        """bool (n,): which images are outside of `chosen` (bool (n,)) and have a copy in it."""
        return ~chosen & np.isin(self.first, self.first[chosen])


def exact_copies(content: np.ndarray) -> Copies:
    """Copies by the hashes of their bytes, uint64 (n,)."""
    return Copies(_first_of_equal(content))


def near_copies(look: np.ndarray, flat: np.ndarray, exact: np.ndarray, distance: int = DISTANCE) -> Copies:
    """Copies by perceptual hash, exact copies among them.

    Groups are joined: where A looks like B and B like C, all three are one group.

    Args:
        look: uint64 (n,), perceptual hashes.
        flat: bool (n,), images of one colour. Their hashes are noise, so only exact copies of them count.
        exact: int64 (n,), `first` of `exact_copies`.
        distance: bits in which the hashes of two copies differ at most.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kept, first = np.flatnonzero(~flat), exact.copy()
    values, inverse = np.unique(look[kept], return_inverse=True)
    group = np.arange(len(values))
    for start in range(0, len(values), CHUNK):  # joined after each chunk, because all pairs might not fit in memory
        near = np.bitwise_count(values[start : start + CHUNK, None] ^ values[None, start:]) <= distance
        rows, columns = (place + start for place in np.nonzero(near))
        rows, columns = np.concatenate([rows, np.arange(len(values))]), np.concatenate([columns, group])
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(values), len(values)))
        group = _first_of_equal(connected_components(graph, directed=False)[1])
    first[kept] = kept[_first_of_equal(group[inverse])]
    return Copies(first)


class SplitCopies:
    """The copies among the readable images of all splits.

    Args:
        surveys: by the name of the split.
    """

    def __init__(self, surveys: dict[str, Survey]):
        self.surveys = surveys
        self.places = [(name, int(row)) for name, s in surveys.items() for row in np.flatnonzero(s.rows["readable"])]
        rows = [s.readable for s in surveys.values()]
        self.rows = np.concatenate(rows)
        self.split = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        self.exact = exact_copies(self.rows["content"])
        self.near = near_copies(self.rows["look"], self.rows["flat"], self.exact.first)

    def repeats(self, copies: Copies, number: int) -> int:
        """How many images of split `number` repeat an earlier image of it."""
        return Copies(copies.first[self.split == number]).repeats()

    def across(self, copies: Copies) -> int:
        """How many images of the second split have a copy in the first."""
        return int(copies.also_in(self.split == 0).sum())

    def other_labels(self, copies: Copies) -> int:
        """How many groups of copies have several labels."""
        labels = self.rows["label"]
        return sum(len(np.unique(labels[group][labels[group] >= 0])) > 1 for group in copies.groups())

    def name(self, place: int) -> dict[str, str]:
        """The split and the name of an image."""
        split, row = self.places[place]
        return {"split": split, "name": self.surveys[split].name_of(row)}

    def listed(self) -> list[dict]:
        """Every group of copies, those with the same bytes first."""
        exact = {tuple(group.tolist()) for group in self.exact.groups()}
        near = [tuple(group.tolist()) for group in self.near.groups()]
        groups = [("exact", group) for group in sorted(exact)] + [("near", group) for group in near if group not in exact]
        return [{"copies": kind, "images": [self.name(place) for place in group]} for kind, group in groups]

    def pairs(self) -> list[tuple[str, int, int]]:
        """The pairs to show: `("exact" or "near", place, place)`. Pairs from two splits come first."""
        shown = []
        for kind, copies in (("exact", self.exact), ("near", self.near)):
            pairs = [pair for group in copies.groups() if (pair := self._pair(group, kind == "near"))]
            pairs.sort(key=lambda pair: self.split[pair[0]] == self.split[pair[1]])
            shown += [(kind, *pair) for pair in pairs[:PAIRS]]
        return shown

    def _pair(self, group: np.ndarray, other_bytes: bool) -> tuple[int, int] | None:
        """The two most similar images of a group, from two splits if there are two."""
        here = self.split[group] == self.split[group[0]]
        across = not here.all()
        left, right = group[here][:COMPARED], group[~here if across else here][:COMPARED]
        distances = np.bitwise_count(self.rows["look"][left, None] ^ self.rows["look"][None, right])
        excluded = left[:, None] >= right
        if other_bytes:
            excluded |= self.rows["content"][left, None] == self.rows["content"][None, right]
        if excluded.all():
            return None
        row, column = np.unravel_index(np.argmin(np.where(excluded, 255, distances)), distances.shape)
        return int(left[row]), int(right[column])


def _first_of_equal(values: np.ndarray) -> np.ndarray:
    """For each value the place where it first occurs."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]
