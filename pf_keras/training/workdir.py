"""The work directory is the run: config, metrics, checkpoints, figures, result."""

import atexit
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from etils import epath

from pf_keras.errors import UserError, patiently, writing


class Workdir:
    """Where the files of a run are, and how they are read and written.

    Args:
        path: a local directory, or one that etils' epath reaches, such as `gs://BUCKET/run`.

    Raises:
        UserError: the path has an unknown scheme. Later: the disk is full or may not be written to.
    """

    chief = True  # whether this process writes the run's files

    def __init__(self, path: str | os.PathLike):
        try:
            self.path = epath.Path(path).expanduser()
        except KeyError as error:  # a scheme that epath does not know
            raise UserError(f"{path} is neither a directory nor a gs:// or s3:// path. Choose another --workdir.") from error
        self.config_file = self.path / "config.json"
        self.data_file = self.path / "data.json"
        self.corrupt_file = self.path / "bad.jsonl"
        self.init_file = self.path / "init.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.result_file = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"  # the checkpoint with the best score on held-out images
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"

    def writing(self) -> AbstractContextManager[None]:
        """Turn a failure to write into a UserError that names the workdir."""
        return writing(self.path)

    def folder(self, name: str) -> epath.Path:
        """The path of a folder in the workdir, created if it is missing."""
        with self.writing():
            patiently(lambda: (self.path / name).mkdir(parents=True, exist_ok=True), self.path)
        return self.path / name

    def write_result(self, result: dict) -> None:
        """Write `result.json`."""
        self.write_json(self.result_file, result)

    def read_json(self, file: epath.Path):
        """The content of a JSON file. Raises UserError where it is damaged."""
        try:
            return json.loads(patiently(file.read_text, file))
        except ValueError as error:
            raise UserError(f"{file} is damaged: {error}. Restore it, or start a new run in another --workdir.") from error

    def write_json(self, file: epath.Path, content: object) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(file, json.dumps(content, indent=2) + "\n")

    def write_csv(self, file: epath.Path, rows: Iterable[Sequence]) -> None:
        """Write a table, whole or not at all. The first row has the names of the columns."""
        self.write_text(file, csv_text(rows))

    def remove(self, *files: epath.Path) -> None:
        """Remove the files of an earlier answer, before a newer answer is written in their place."""
        with self.writing():
            for file in files:
                patiently(lambda file=file: file.unlink(missing_ok=True), file)

    def write_text(self, file: epath.Path, text: str) -> None:
        """Write a text file, whole or not at all: to a temporary name, which is then renamed."""
        temporary = file.with_name(file.name + ".writing")

        def write() -> None:
            temporary.write_text(text)
            temporary.replace(file)

        with self.writing():
            patiently(write, self.path)


def csv_text(rows: Iterable[Sequence]) -> str:
    """Rows as CSV whose lines end with a line feed. A cell with any kind of line break is in quotes."""
    # With lineterminator="\n" Python 3.11 and 3.12 leave a carriage return, which a file name may have, without quotes.
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its lines end with CR LF, and it quotes a cell with either
    lines = []
    for row in rows:
        writer.writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
        text.seek(0)
        text.truncate()
    return "".join(lines)


def open_workdir(path: str, chief: bool) -> Workdir:
    """The workdir of a run, for one of the processes that train together.

    The chief writes the run's files. Any other process gets a temporary workdir, removed at exit, with a copy of what it must
    start from: the run's identity, its data record, its metrics, and its newest and its best checkpoint. It copies before the
    first step, which all processes do together, so that all start from the same checkpoint.

    Args:
        path: the workdir of the run.
        chief: whether this process writes the run's files.
    """
    run = Workdir(path)
    if chief:
        return run
    from pf_keras.training.checkpoint import latest_checkpoint  # it imports Keras, which readers of a workdir do without

    scratch = Workdir(tempfile.mkdtemp(prefix="follower-"))
    scratch.chief = False
    atexit.register(shutil.rmtree, scratch.path, ignore_errors=True)
    for file in (run.config_file, run.data_file, run.corrupt_file, run.metrics_file):
        if file.exists():
            file.copy(scratch.path / file.name)
    for folder in (run.checkpoints, run.best):
        if newest := latest_checkpoint(folder):
            copy = scratch.folder(folder.name) / newest.path.name
            copy.mkdir()
            for file in newest.path.iterdir():
                file.copy(copy / file.name)
    return scratch
