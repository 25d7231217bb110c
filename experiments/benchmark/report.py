"""What a benchmark found, as a table for people and JSON for programs."""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tfrecords.pool import cores


@dataclass(frozen=True)
class Row:
    """One figure. aim: what it should be at most (`high=False`) or at least, or None where there is no such figure."""

    name: str
    value: float
    unit: str = ""
    aim: float | None = None
    high: bool = False
    note: str = ""

    @property
    def reached(self):
        if self.aim is None:
            return None
        return self.value >= self.aim if self.high else self.value <= self.aim

    def line(self):
        aim = "" if self.aim is None else f"{'≥' if self.high else '≤'} {self.aim:g}: {'yes' if self.reached else 'NO'}"
        return f"| {self.name} | {self.value:.4g} {self.unit} | {aim} | {self.note} |"


def write(name, rows, path):
    """Print the rows as a table and write them, with the machine they were measured on, to `path`."""
    print(f"\n{name}: {', '.join(f'{k} {v}' for k, v in machine().items())}\n")
    print("| figure | measured | aim | |\n|---|---|---|---|")
    print("\n".join(row.line() for row in rows))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**asdict(row), "reached": row.reached} for row in rows]
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), "rows": found}, indent=2) + "\n")
    print(f"\n{path}")


def machine():
    """What the figures depend on: processor, cores that this process may use, versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = named[0] if named else processor
    names = ("tensorflow-cpu", "tensorflow", "jax", "keras")
    installed = {}
    for package in names:
        try:
            installed[package] = version(package)
        except ImportError:
            continue
    return {"processor": processor, "cores": cores(), **installed}
