"""What a report reads: the files of a workdir, or of a folder of runs."""

import csv
import io
from collections.abc import Iterator
from functools import cached_property

from etils import epath

from pf_keras.commands_log import read_commands
from pf_keras.filesystem import is_remote
from pf_keras.pages import picture_url, text
from pf_keras.report_words import CAPTIONS, words
from pf_keras.training.identity import find_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir

NARROW = 480  # pixels: a wider picture scrolls on a phone
PICTURE_BYTES = 4_000_000  # of all pictures of a page


class Run:
    """What is in a workdir, or in a folder of runs, which has no `config.json`."""

    def __init__(self, path: str | epath.Path):
        self.workdir, self.room = Workdir(path), PICTURE_BYTES
        self.path = self.workdir.path
        self.name = (self.path if is_remote(str(self.path)) else self.path.resolve()).name
        self.identity = find_run(self.workdir)
        self.mode = self.identity.mode if self.identity else ""
        self.init = self.identity.facts.get("init") if self.identity else None
        self.source = self.identity.config.data.source if self.identity else ""

    @cached_property
    def result(self) -> dict:
        """The content of `result.json`, empty where the run has not ended."""
        return self.json("result.json")

    @cached_property
    def commands(self) -> list[dict]:
        """The lines of `commands.jsonl`."""
        return read_commands(self.workdir)

    @cached_property
    def children(self) -> list["Run"]:
        """The runs of a folder of runs."""
        if self.identity:
            return []
        return [Run(path) for path in sorted(self.path.iterdir()) if (path / "config.json").exists()]

    @cached_property
    def lines(self) -> list[dict]:
        """The lines of `metrics.jsonl`."""
        return MetricsLog(self.workdir).lines()

    def metric(self, name: str) -> list[tuple[float, float]]:
        """A metric of the log intervals, as `(step, value)`."""
        return [(line["step"], line[name]) for line in self.lines if name in line]

    def json(self, name: str) -> dict:
        """The content of a JSON file of the workdir, empty where there is no such file."""
        file = self.path / name
        return self.workdir.read_json(file) if file.exists() else {}

    def csv(self, name: str) -> list[dict[str, str]]:
        """The rows of a table of the workdir."""
        return list(self.rows(name))

    def rows(self, name: str) -> Iterator[dict[str, str]]:
        """The rows of a table of the workdir, one at a time."""
        file = self.path / name
        if file.exists():
            yield from csv.DictReader(io.StringIO(file.read_bytes().decode(), newline=""))  # a cell may have a line break

    def files(self, pattern: str) -> list[epath.Path]:
        """The files of a pattern such as `embed/*.png`, sorted."""
        folder, names = pattern.split("/", 1)
        return sorted((self.path / folder).glob(names)) if (self.path / folder).exists() else []

    def pictures(self, folder: str, *without: str) -> Iterator[dict]:
        """The pictures of a folder of the workdir, with captions, in the order of `CAPTIONS`."""
        order = list(CAPTIONS)
        files = [file for file in self.files(f"{folder}/*.png") if file.stem not in without]
        files.sort(key=lambda file: order.index(file.stem) if file.stem in order else len(order))
        return (self.picture(file) for file in files)

    def picture(self, file: epath.Path) -> dict:
        """A picture with its caption. A line of text where it is damaged, or where the page has too many."""
        name = f"{file.parent.name}/{file.name}"
        try:
            address, width = picture_url(file)
        except Exception as error:  # Pillow raises many kinds
            return text(f"{name} is not shown, because it cannot be read: {error}.")
        if len(address) > self.room:
            return text(f"{name} is not shown, because this page has many pictures.")
        self.room -= len(address)
        caption = CAPTIONS.get(file.stem) or words(file.stem)
        return {"kind": "picture", "address": address, "name": name, "caption": caption, "wide": width > NARROW}
