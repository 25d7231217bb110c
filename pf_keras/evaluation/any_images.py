"""The images that `predict` and `embed` answer for: any that can be read, with or without labels."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from etils import epath

from pf_keras import __version__
from pf_keras.commands_log import note_start
from pf_keras.config import Config
from pf_keras.data.corrupt import naming_corrupt_images
from pf_keras.data.images import Images
from pf_keras.data.labels import MOST_CLASSES, labelled_source
from pf_keras.data.readable import unreadable
from pf_keras.data.reader import RULES, ReadOptions
from pf_keras.data.records import Records, Split
from pf_keras.errors import UserError, printable
from pf_keras.evaluation.streaming import Batch, SavedRows, collect
from pf_keras.request import Request
from pf_keras.training.data_record import open_earlier_data, open_other_data, same_source
from pf_keras.training.identity import RunIdentity
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class AnyImages:
    """Images to answer for.

    Args:
        split: the images.
        classes: the names of their labels. Empty where images have no labels or no names are known.
        config: with which they are read.
        place: the `data.source` that they are of.
    """

    split: Split
    classes: tuple[str, ...]
    config: Config
    place: str

    def path_of(self, index: int) -> str:
        """Where the image of a key's `index` is: the path of its file, or the file and place of its record."""
        if isinstance(self.split, Images) and self.split.paths:
            return self.split.values[index].decode("utf-8", "backslashreplace")
        return self.split.name_of(index)

    def identity(self, **facts: object) -> dict:
        """What the answers for these images depend on, as JSON: the images, how they are read, and `facts`."""
        labels = hashlib.sha256(self.split.labels.tobytes()).hexdigest() if isinstance(self.split, Images) else ""
        reading = [dataclasses.asdict(ReadOptions.from_config(self.config.data)), self.config.data.eval_crop, RULES]
        return {
            "version": __version__,
            "data": [self.place, self.split.digest(), labels, list(self.config.data.keys)],
            "reading": [*reading, self.config.model.image_size],
            **facts,
        }


def open_images(request: Request, workdir: Workdir, run: RunIdentity | None) -> AnyImages:
    """The images of `--data`, or the validation split of the run in the workdir.

    Of other data all images are used, or their validation split where they have one, as in an evaluation. `--split=train` takes
    the training split of either.

    Args:
        request: names the images.
        workdir: where the answers go.
        run: the run in the workdir, if there is one.

    Raises:
        UserError: there is neither `--data` nor a run, the data cannot be opened, or they have no such split.
    """
    config, other = request.config, request.other_data
    if run is None and not other:
        raise UserError(f"--data is missing, and {workdir.path} has no run with images of its own. Use --data=folder:DIR.")
    if other and (run is None or not same_source(other, config.data.source)):
        # Corrupt images are found as they are read, so that nothing needs to look for them before.
        found = open_other_data(dataclasses.replace(config.data, source=other, max_bad_fraction=0.0), True, workdir)
        source = found.source
    else:
        found = open_earlier_data(workdir, run.config.data, config.data, "")
        source = labelled_source(found.source, config.data.holdout) if run.mode == "finetune" else found.source
    if request.split == "validation" and source.train is source.validation:
        raise UserError(f"{found.place} has no validation split, for --split=validation. Leave the flag out to use all images.")
    split = source.train if request.split == "train" else source.validation
    if isinstance(split, Records) and split.first_label.value is None:
        with naming_corrupt_images(source):
            split.first_label.find(split)
    return AnyImages(split, source.classes, found.reading(config), other or config.data.source)


def answers(
    images: AnyImages,
    workdir: Workdir,
    folder: epath.Path,
    kind: np.dtype,
    identity: dict,
    batches: Callable[[int], Iterator[Batch]],
    answer: Callable[[np.ndarray], dict[str, np.ndarray]],
    otherwise: str = "",
) -> tuple[SavedRows, np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Run a model over all images, and find out which cannot be read.

    Args:
        images: what to answer for.
        workdir: that the answers go to.
        folder: of the results in it, whose name is the mode.
        kind: of a row of answers, with fields `index` and `label`.
        identity: what the answers depend on, of `AnyImages.identity`.
        batches, answer: see `streaming.collect`.
        otherwise: why an image has no answer that can be read now.

    Returns:
        The saved rows, to be removed when the results are written; the rows; their labels, int64 `(n,)`, -1 for none; and
        `(index, reason)` of each unreadable image. A label too large for the number of a class counts as none.

    Raises:
        UserError: no image can be read.
    """
    config = images.config
    saved = SavedRows(folder, kind, identity, config.run.eval_batch)
    note_start(workdir)
    if saved.kept:
        print(f"resuming after {saved.kept} images", file=sys.stderr)
    rows = collect(saved, images.split.size, batches, answer, folder.name)
    missing = unreadable(images.split, rows["index"], ReadOptions.from_config(config.data), otherwise)
    if missing:
        index, reason = missing[0]
        first = f"{images.path_of(index)}: {reason}"
        if not len(rows):
            none = f"None of the {len(missing)} images" if len(missing) > 1 else "Not the only image"
            raise UserError(f"{none} in {images.place} can be read, the first {first}.")
        print(printable(f"{len(missing)} of {images.split.size} images cannot be read, the first {first}"), file=sys.stderr)
    labels = np.array(rows["label"])
    identifiers = labels >= MOST_CLASSES
    if identifiers.any():
        said = f"{identifiers.sum()} images have labels that are identifiers, the first {labels[identifiers][0]}"
        print(f"{said}, not numbers of classes: they count as unlabelled", file=sys.stderr)
        labels[identifiers] = -1
    return saved, rows, labels, missing
