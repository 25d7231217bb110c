"""Measure how fast files are converted, against a plain copy of the same files by the same number of processes.

  python -m tfrecords.benchmark [--files=1000,10000,60000] [--kilobytes=110] [--processes=CORES] [--directory=/tmp]

For each number of files: makes JPEGs of noise in train/<class>/, copies them (shutil.copyfile), and converts them
without resizing by the command a user types. Both times include the start of the processes. The files are read from
memory if it holds them. Prints, and as the last line in JSON: seconds of copy and conversion; their ratio (above 1 the
conversion is faster); milliseconds a file, of clock time and of processor time, which other work on the machine
disturbs less; and the largest memory of a converting process in MiB. Needs three times the files' size on disk.
"""

import io
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pf_keras.errors import UserError
from tfrecords import command

_CHUNK = 50  # files that one task copies
_CLASSES = 10
_SIZE = (400, 300)  # pixels


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command.Parser(__doc__)
    parser.add_argument("--files", type=whole_numbers, default="1000,10000,60000", help="numbers of files, separated by commas")
    parser.add_argument("--kilobytes", type=command.positive, default=110, help="size of a file (default: 110, as in ImageNet)")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are made and removed")
    parser.add_processes()
    options = parser.parse_args(arguments)
    results = []
    for count in options.files:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            results.append(_measure(Path(directory), count, options.kilobytes * 1000, options.processes))
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json.dumps({"processes": options.processes, "results": results}))
    return 0


def whole_numbers(text: str) -> list[int]:
    return [command.positive(part) for part in text.split(",")]


def _measure(directory: Path, count: int, size: int, workers: int) -> dict:
    source, copy, output = directory / "in", directory / "copy", directory / "out"
    _make_files(source / "train", count, size)
    copying, copying_cpu, _ = _timed(lambda: _copy(source, copy, workers))
    shutil.rmtree(copy)
    line = [sys.executable, "-m", "tfrecords.build", "--source=folder", f"--input={source}", f"--output={output}"]
    line += [f"--train_shards={max(workers, count // 500)}", f"--processes={workers}"]
    converting, converting_cpu, memory = _timed(lambda: _run(line))
    return {
        "files": count,
        "copy_s": round(copying, 3),
        "convert_s": round(converting, 3),
        "ratio": round(copying / converting, 2),
        "copy_ms_a_file": round(copying / count * 1e3, 3),
        "convert_ms_a_file": round(converting / count * 1e3, 3),
        "copy_cpu_ms_a_file": round(copying_cpu / count * 1e3, 3),
        "convert_cpu_ms_a_file": round(converting_cpu / count * 1e3, 3),
        "cpu_ratio": round(copying_cpu / converting_cpu, 2),
        "peak_mib": round(memory / 1024),
    }


def _timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds of clock time, seconds of processor time of the processes that `work` starts, and what it returns."""
    os.sync()  # or this would pay for what the previous measurement wrote
    began, before = time.perf_counter(), os.times()
    result = work()
    seconds, after = time.perf_counter() - began, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4]), result


def _run(line: list[str]) -> int:
    """Run a command and return the memory of its largest process, in KiB."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"The conversion failed with exit status {status}. Run it to see why: {' '.join(line)}")
    return usage.ru_maxrss


def _make_files(directory: Path, count: int, size: int) -> None:
    """Write JPEGs with comments of random bytes, so that they differ and have about `size` bytes."""
    from PIL import Image

    draw = random.Random(0)
    out = io.BytesIO()
    Image.frombytes("L", _SIZE, draw.randbytes(_SIZE[0] * _SIZE[1])).convert("RGB").save(out, "JPEG", quality=20)
    data = out.getvalue()
    for number in range(count):
        comments, left = b"", max(16, size - len(data))
        while left > 0:
            part = draw.randbytes(min(left, 65_000))
            comments += b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part
            left -= len(part)
        path = directory / f"class{number % _CLASSES}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:2] + comments + data[2:])


def _copy(source: Path, target: Path, workers: int) -> None:
    files = [path for path in source.rglob("*") if path.is_file()]
    for folder in {path.parent for path in files}:
        (target / folder.relative_to(source)).mkdir(parents=True)
    pairs = [(path, target / path.relative_to(source)) for path in files]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.starmap(shutil.copyfile, pairs, _CHUNK)
        pool.close()
        pool.join()  # or their processor time would not count


if __name__ == "__main__":
    sys.exit(command.run(main))
