"""The figures of a benchmark, as a table for people and JSON for programs."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pf_keras.processes import cores


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        name: what it measures.
        value: the measured value.
        unit: its unit.
        aim: the bound that it should keep, or None.
        high: whether the aim is a lower bound.
        note: details.
    """

    name: str
    value: float
    unit: str = ""
    aim: float | None = None
    high: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value keeps the aim. None if there is no aim."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.high else self.value <= self.aim

    def line(self) -> str:
        """The row of the table."""
        aim = "" if self.aim is None else f"{'≥' if self.high else '≤'} {self.aim:g}: {'yes' if self.reached else 'NO'}"
        value = f"{self.value:.4g} {self.unit}".rstrip()
        return f"| {self.name} | {value} | {aim} | {self.note} |"


def write(name: str, rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Print the rows as a table, and write them and the machine that measured them to `path` as JSON."""
    print(f"\n{name}: {', '.join(f'{k} {v}' for k, v in machine().items())}\n")
    print("| figure | measured | aim | detail |\n|---|---|---|---|")
    print("\n".join(row.line() for row in rows))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**asdict(row), "reached": row.reached} for row in rows]
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), "rows": found}, indent=2) + "\n")
    print(f"\n{path}")


def machine() -> dict[str, object]:
    """What the figures depend on: the processor, the cores that this process may use, and the versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    installed = {}
    for package in ("tensorflow-cpu", "tensorflow", "jax", "keras"):
        try:
            installed[package] = version(package)
        except ImportError:
            continue
    return {"processor": processor, "cores": cores(), **installed}
