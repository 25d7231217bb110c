"""What the benchmarks share: timing in turns, measuring in another process, and the table of figures.

A machine does other work too, so that alternatives take turns, and a ratio is the median over the turns.
"""

import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pf_keras.errors import UserError
from pf_keras.processes import cores
from pf_keras.quiet import native_output_diverted

Seconds = dict[str, list[float]]
# By what they are imported as, the names under which they may be installed.
PACKAGES = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-tpu"), "jax": ("jax",), "keras": ("keras",)}


def take_turns(works: dict[str, Callable[[], float | None]], rounds: int, warm_up: int = 1) -> Seconds:
    """Run each function once per round, in an order that reverses every round.

    Args:
        works: the functions by name. A function may return the seconds that count, if only a part of it does.
        rounds: the timed rounds.
        warm_up: the rounds before them that are not timed.

    Returns:
        The seconds of each round, by name.
    """
    seconds, names = {name: [] for name in works}, list(works)
    for turn in range(-warm_up, rounds):
        for name in names if turn % 2 else reversed(names):
            gc.collect()
            began = time.perf_counter()
            counted = works[name]()
            taken = time.perf_counter() - began
            if turn >= 0:
                seconds[name].append(taken if counted is None else counted)
    return seconds


def ratio(seconds: Seconds, name: str, reference: str) -> float:
    """The time of `name` divided by the time of `reference`: the median over the rounds."""
    return statistics.median(_ratios(seconds, name, reference))


def spread(seconds: Seconds, name: str, reference: str) -> str:
    """The smallest and largest ratio of a round, as text."""
    ratios = _ratios(seconds, name, reference)
    return f"{min(ratios):.3g} to {max(ratios):.3g} in {len(ratios)} rounds"


def _ratios(seconds: Seconds, name: str, reference: str) -> list[float]:
    return [a / b for a, b in zip(seconds[name], seconds[reference], strict=True)]


def run_module(module: str, *arguments: str, timeout: float | None = None, **environment: str) -> str:
    """Run `python -m MODULE`. Returns its standard output.

    Args:
        module: its name.
        *arguments: its command line.
        timeout: seconds, after which it is ended.
        **environment: variables that it has beside those of this process.

    Raises:
        UserError: it failed; the message has the last line of its errors. Or it was not done in time.
    """
    line = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})
    except subprocess.TimeoutExpired:
        raise UserError(f"python -m {module} was not done after {timeout:.0f} s.") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"python -m {module} failed with exit code {done.returncode}: {last}")
    return done.stdout


def in_process(module: str, arguments: dict, **options) -> dict:
    """Run `experiments.benchmark.MODULE`, which calls `answer`, in another process. Returns what its function returns.

    `options` are those of `run_module`.
    """
    return json.loads(run_module(f"experiments.benchmark.{module}", json.dumps(arguments), **options).splitlines()[-1])


def answer(measure: Callable[..., dict]) -> None:
    """Print what `measure` returns for the arguments of `in_process`."""
    with native_output_diverted():
        print(json.dumps(measure(**json.loads(sys.argv[1]))))


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
        return f"| {self.name} | {f'{self.value:.4g} {self.unit}'.rstrip()} | {aim} | {self.note} |"


def write(name: str, rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Print the rows as a table, and write them and the machine that measured them to `path` as JSON."""
    print(f"\n{name}: {', '.join(f'{k} {v}' for k, v in machine().items())}\n")
    print("| figure | measured | aim | detail |\n|---|---|---|---|", *(row.line() for row in rows), sep="\n")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**asdict(row), "reached": row.reached} for row in rows]
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), "rows": found}, indent=2) + "\n")
    print(f"\n{path}")


def machine() -> dict[str, object]:
    """What the figures depend on: the processor, the cores that this process may use, and the versions."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    versions = {name: next(filter(None, map(_version, packages)), "none") for name, packages in PACKAGES.items()}
    return {"processor": processor, "cores": cores(), **versions}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
