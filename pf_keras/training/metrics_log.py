"""`metrics.jsonl`: one line of JSON for each log interval of a training."""

import json
import statistics

from pf_keras.errors import patiently
from pf_keras.training.workdir import Workdir


class MetricsLog:
    """The metrics of the run in a workdir."""

    def __init__(self, workdir: Workdir):
        self.workdir, self.file = workdir, workdir.metrics_file

    def append(self, line: dict) -> None:
        """Add a line."""
        with self.workdir.writing(), patiently(lambda: self.file.open("a"), self.file) as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict]:
        """All lines, without one that was cut short when the process was killed."""
        if not patiently(self.file.exists, self.file):
            return []
        text = patiently(self.file.read_text, self.file)
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def throughput(self) -> float:
        """The median throughput over the log intervals, in images/s. 0 where none was measured."""
        return statistics.median([line["images_per_second"] for line in self.lines() if line["images_per_second"]] or [0.0])

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be repeated."""
        if self.file.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            self.workdir.write_text(self.file, "".join(kept))
