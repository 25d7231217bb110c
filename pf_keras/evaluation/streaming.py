"""Runs a model over any number of images and keeps only what it answers.

The answers are rows of a file, so that memory does not grow with the images and a command that was stopped resumes.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.data.readable import PADDING, readable_batches
from pf_keras.data.records import Split
from pf_keras.errors import UserError, printable, reading, writing
from pf_keras.filesystem import is_remote
from pf_keras.processes import progress
from pf_keras.training.devices import Devices
from pf_keras.training.lock import lock, unlock
from pf_keras.training.workers import workers_of_a_step

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # index int64 (b,), label int64 (b,), outputs (b, ...)


def require_one_process(mode: str) -> None:
    """Raises UserError where several processes share a step. `mode` is named in the message."""
    processes = workers_of_a_step()
    if keras.backend.backend() == "jax":
        import jax

        processes = jax.process_count()
    if processes > 1:
        raise UserError(f"--mode={mode} runs in one process, but {processes} share this one's steps. Start it on one machine.")


def each_batch(model: keras.Model, split: Split, config: Config, devices: Devices, after: int = -1) -> Iterator[Batch]:
    """Run a model on the readable images of a split, in order.

    Args:
        model: takes images, uint8 `(B, S, S, 3)`.
        split: the images.
        config: how they are cropped, and `run.eval_batch`.
        devices: that the model was built on, in one process.
        after: only images with a greater `index`.

    Yields:
        The index and the label of the images of a batch, and what the model returns for them.
    """
    forward, waiting = _compiled(model, devices), None
    for batch in devices.distribute(partial(readable_batches, split, config, config.run.eval_batch, after)):
        outputs = forward(batch["image"])
        if waiting:
            yield _without_padding(devices, *waiting)  # while the device works on the next batch
        waiting = batch["index"], batch["label"], outputs
    if waiting:
        yield _without_padding(devices, *waiting)


def _compiled(model: keras.Model, devices: Devices) -> Callable:
    """A compiled function from a batch of images to the outputs of the model, in inference mode."""
    if keras.backend.backend() == "jax":
        import jax

        call = jax.jit(lambda trainable, fixed, images: model.stateless_call(trainable, fixed, images)[0])
        weights = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
        distribution = keras.distribution.distribution()

        def place(images):
            if distribution is None:
                return images
            return keras.distribution.distribute_tensor(images, distribution.get_data_layout(images.shape))

        return lambda images: call(*weights, place(images.numpy()))
    import tensorflow as tf

    if devices.strategy:
        return tf.function(lambda images: devices.strategy.run(model, (images,)), autograph=False)
    return tf.function(lambda images: model(images), jit_compile=devices.jit_compile, autograph=False)


def _without_padding(devices: Devices, index, label, outputs) -> Batch:
    def join(x):
        parts = devices.strategy.experimental_local_results(x) if devices.strategy else [x]
        return np.concatenate([np.asarray(part) for part in parts])

    index, label, outputs = join(index), join(label), join(outputs)
    real = index != PADDING
    return index[real], label[real], outputs[real]


class SavedRows:
    """Rows in a file of a folder, which a later process continues where this one was stopped.

    A remote folder has no such file. There a command that was stopped begins again.

    Args:
        folder: of the results. No other process can use it until `remove`.
        kind: of a row, with fields `index` and `label`.
        identity: what the rows depend on, as JSON, such as `AnyImages.identity`. Rows of another identity are discarded, which
            a message says.
        batch: a multiple of this many rows is kept, so that later batches are the same as if nothing had stopped.

    Raises:
        UserError: another process uses the folder.
    """

    def __init__(self, folder: epath.Path, kind: np.dtype, identity: dict, batch: int):
        lock(folder)
        self.folder, self.kind = folder, kind
        remote = is_remote(os.fspath(folder))
        self._temporary = tempfile.TemporaryDirectory() if remote else contextlib.nullcontext(os.fspath(folder))
        place = Path(self._temporary.__enter__())
        self.rows_file, self.identity_file = place / ".rows", place / ".rows.json"
        text = json.dumps([identity, np.lib.format.dtype_to_descr(kind), batch], indent=2)
        with reading(folder):
            same = self.rows_file.exists() and self.identity_file.exists() and self.identity_file.read_text() == text
            whole = self.rows_file.stat().st_size // kind.itemsize if same else 0
        self.kept = whole // batch * batch
        with writing(folder):
            if not same:
                self._say_what_is_discarded()
                self.rows_file.unlink(missing_ok=True)  # before there is another identity beside it
                self.identity_file.write_text(text)
            self.rows_file.touch()
            os.truncate(self.rows_file, self.kept * kind.itemsize)
            self._file = self.rows_file.open("ab", buffering=0)

    def _say_what_is_discarded(self) -> None:
        """Name the rows of an earlier command that was stopped, if there are any."""
        try:
            earlier, fields, _ = json.loads(self.identity_file.read_text())
            kind = np.dtype([(name, form, *map(tuple, shape)) for name, form, *shape in fields])
            count, place = self.rows_file.stat().st_size // kind.itemsize, earlier["data"][0]
        except (OSError, ValueError, TypeError, LookupError):  # there are none, or a file is damaged
            return
        if count:
            what = f"{count} answer{'' if count == 1 else 's'} of a --mode={self.folder.name} of {place} that was stopped"
            reason = "because the images, the model or the settings are others now"
            print(printable(f"discarding {what}, {reason}"), file=sys.stderr)

    @property
    def last(self) -> int:
        """The index of the last row that was kept, or -1."""
        return int(self.read()["index"][-1]) if self.kept else -1

    def append(self, rows: np.ndarray) -> None:
        """Write rows behind the others."""
        with writing(self.folder):
            self._file.write(rows.tobytes())

    def read(self) -> np.ndarray:
        """All rows, read only. They are in the file, not in memory."""
        if not self.rows_file.stat().st_size:
            return np.zeros(0, self.kind)
        return np.memmap(self.rows_file, self.kind, "r")

    def remove(self) -> None:
        """Remove the file, when the results are written."""
        self._file.close()
        for file in (self.rows_file, self.identity_file):
            file.unlink(missing_ok=True)
        self._temporary.__exit__(None, None, None)
        unlock(self.folder)


def collect(saved: SavedRows, size: int, batches: Callable[[int], Iterator[Batch]], answer: Callable, mode: str) -> np.ndarray:
    """Fill the rows, with a progress bar.

    Args:
        saved: the rows, perhaps some of them from an earlier process.
        size: the number of images of the split.
        batches: a function from the index after which to begin to batches, such as `each_batch`.
        answer: a function from a batch's outputs to a dict of the fields of a row but `index` and `label`.
        mode: names the progress bar.

    Returns:
        All rows, in the order of the split.
    """
    with progress(size, "img", mode) as bar:
        bar.initial = bar.n = saved.kept
        for index, label, outputs in batches(saved.last):
            rows = np.empty(len(index), saved.kind)
            rows["index"], rows["label"] = index, label
            for name, values in answer(outputs).items():
                rows[name] = values
            saved.append(rows)
            bar.update(len(index))
    return saved.read()
