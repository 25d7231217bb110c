"""`metrics.jsonl`: one line of JSON for each log interval of a training."""

import json

from pf_keras.errors import writing
from pf_keras.training.workdir import Workdir


class MetricsLog:
    """The metrics of the run in a workdir."""

    def __init__(self, workdir: Workdir):
        self.workdir, self.file = workdir, workdir.metrics_file

    def append(self, line: dict) -> None:
        """Add a line."""
        with writing(self.workdir.path), self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict]:
        """All lines, without one that was cut short when the process was killed."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines() if line.endswith("}")]

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be repeated."""
        if self.file.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            self.workdir.write_text(self.file, "".join(kept))
