"""What a classifier predicts for images, as rows of a table, and which of them to look at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pf_keras.data.folder import class_key

TOP = 5
CERTAIN, UNCERTAIN = 4, 4  # images of a class that are shown
CLASSES = 25  # that are shown, the most frequent ones
MISTAKES = 24  # that are shown


def row_kind(classes: int) -> np.dtype:
    """The row of an image: its most probable classes, their probabilities, and the entropy of all in nats."""
    top = min(TOP, classes)
    fields = [("index", "i8"), ("label", "i8"), ("classes", "i4", (top,)), ("probabilities", "f4", (top,)), ("entropy", "f4")]
    return np.dtype(fields)


def answer(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of `row_kind` for probabilities, float `(B, classes)`. Of equal ones the lower class comes first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    # The sum is at most 0, but for rounding. Its negative could print as -0.0000.
    entropy = np.abs((probabilities * np.log(np.where(probabilities > 0, probabilities, 1))).sum(axis=1))
    return {"classes": order, "probabilities": np.take_along_axis(probabilities, order, axis=1), "entropy": entropy}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits: float64 `(B, classes)`."""
    shifted = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def numbers_in_head(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """The number that a classifier gives to each class of data.

    Args:
        names: of the data's classes, empty where the data have none.
        classes: of the classifier.

    Returns:
        int `(len(names),)`, -1 for a class that the classifier does not know. None where both number their classes alike: the
        data have no names, the same names, or as many classes as a classifier whose names are not distinct.
    """
    given, known = list(map(class_key, names)), list(map(class_key, classes))
    if not names or given == known or len(set(known)) < len(known) == len(names):
        return None
    return np.array([known.index(key) if key in known else -1 for key in given])


def true_labels(labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Labels of data as a classifier numbers its classes. Images of classes that it does not know count as unlabelled.

    Args:
        labels: int `(n,)`, as the data number them, -1 for none.
        names: of the data's classes, empty where the data have none.
        classes: of the classifier.

    Returns:
        The labels, and the names or numbers of the classes that the classifier does not know.
    """
    numbers = numbers_in_head(names, classes)
    if numbers is None:
        numbers = np.arange(len(classes))
    given, places = np.unique(labels, return_inverse=True)  # a label may be too large to be the index of a table
    known = np.array([numbers[label] if 0 <= label < len(numbers) else -1 for label in given.tolist()], int)
    unknown = given[(given >= 0) & (known < 0)].tolist()
    return known[places], [names[number] if number < len(names) else str(number) for number in unknown]


@dataclass(frozen=True)
class Predictions:
    """What was predicted for n images.

    Args:
        rows: `(n,)` of `row_kind`.
        labels: int `(n,)`, the true classes, -1 for none.
        classes: the names of the classes.
    """

    rows: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]

    @property
    def predicted(self) -> np.ndarray:
        """int `(n,)`: the most probable class."""
        return self.rows["classes"][:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """float32 `(n,)`: its probability."""
        return self.rows["probabilities"][:, 0]

    def mistakes(self) -> np.ndarray:
        """The positions of the images with a label that are predicted wrongly, the most confident first."""
        wrong = np.flatnonzero((self.labels >= 0) & (self.predicted != self.labels))
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def extremes(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """`(class, positions of the most certain, positions of the least certain)` of the classes predicted most often."""
        counts = np.bincount(self.predicted, minlength=len(self.classes))
        shown = [int(number) for number in np.argsort(-counts, kind="stable")[:CLASSES] if counts[number]]
        found = []
        for number in sorted(shown):
            members = np.flatnonzero(self.predicted == number)
            members = members[np.argsort(-self.confidence[members], kind="stable")]
            certain = min(CERTAIN, -(-len(members) // 2))
            found.append((number, members[:certain], members[certain:][::-1][:UNCERTAIN]))
        return found

    def table(self, paths: Sequence[str], unreadable: Sequence[tuple[str, str]]) -> Iterator[list]:
        """The lines of `predictions.csv`: head, mistakes, other images in order, unreadable images.

        Args:
            paths: of the n images.
            unreadable: `(path, reason)` of each image that could not be read.
        """
        top = self.rows["classes"].shape[1]
        others = [name for place in range(2, top + 1) for name in (f"class_{place}", f"probability_{place}")]
        head = ["path", "class", "probability", *others, "entropy", "true_class", "mistake", "error"]
        yield head
        mistakes = self.mistakes().tolist()
        ranks = {position: rank for rank, position in enumerate(mistakes, 1)}
        order = [*mistakes, *(position for position in range(len(self.rows)) if position not in ranks)]
        for position in order:
            row, label = self.rows[position], self.labels[position]
            pairs = zip(row["classes"].tolist(), row["probabilities"].tolist(), strict=True)
            answers = [cell for number, value in pairs for cell in (self.classes[number], f"{value:.4f}")]
            true = self.classes[label] if label >= 0 else ""
            yield [paths[position], *answers, f"{row['entropy']:.4f}", true, ranks.get(position, ""), ""]
        for path, reason in unreadable:
            yield [path, *[""] * (len(head) - 2), reason]
