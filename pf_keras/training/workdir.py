"""The work directory is the run: config, metrics, checkpoints, figures, result."""

import json
import os

from etils import epath

from pf_keras.errors import UserError, writing


class Workdir:
    """Where the files of a run are, and how they are read and written.

    Args:
        path: a local directory, or one that etils' epath reaches, such as `gs://BUCKET/run`.

    Raises:
        UserError: the path has an unknown scheme. Later: the disk is full or may not be written to.
    """

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
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"

    def __str__(self) -> str:
        return str(self.path)

    def folder(self, name: str) -> epath.Path:
        """The path of a folder in the workdir, created if it is missing."""
        with writing(self.path):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name

    def write_result(self, result: dict) -> None:
        """Write `result.json`."""
        self.write_json(self.result_file, result)

    def read_json(self, file: epath.Path):
        """The content of a JSON file. Raises UserError where it is damaged."""
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is damaged: {error}. Restore it, or start a new run in another --workdir.") from error

    def write_json(self, file: epath.Path, content: object) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(file, json.dumps(content, indent=2) + "\n")

    def write_text(self, file: epath.Path, text: str) -> None:
        """Write a text file, whole or not at all: to a temporary name, which is then renamed."""
        temporary = file.with_name(file.name + ".writing")
        with writing(self.path):
            temporary.write_text(text)
            temporary.replace(file)
