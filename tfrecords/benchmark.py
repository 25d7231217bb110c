"""Measure how fast files are converted, against a plain copy of the same files by the same number of processes.

  python -m tfrecords.benchmark [--files=1000,10000,60000] [--kilobytes=110] [--processes=CORES] [--directory=/tmp]

For each number of files: makes JPEGs of noise in train/<class>/, copies them (shutil.copyfile), and converts them
without resizing by the command a user types. Both times include the start of the processes. The files are read from
memory if it holds them. Prints, and as the last line in JSON: seconds of copy and conversion; their ratio (above 1 the
conversion is faster); milliseconds a file, of clock time and of processor time, which other work on the machine
disturbs less; and the largest memory of a converting process in MiB. Needs three times the files' size on disk.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pf_keras import processes
from pf_keras.errors import UserError
from tfrecords import command

_CHUNK = 50  # files that one task copies
_CLASSES = 10
_SIZE = (400, 300)  # pixels


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command.Parser(__doc__)
    parser.add_argument("--files", default="1000,10000,60000", help="numbers of files, separated by commas")
    parser.add_argument("--kilobytes", type=command.positive, default=110, help="size of a file (default: 110, as in ImageNet)")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are made and removed")
    parser.add_processes()
    options = parser.parse_args(arguments)
    try:
        counts = [command.positive(text) for text in options.files.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(f"--files is {options.files!r}. Give numbers such as 1000,10000.") from None
    results = []
    for count in counts:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            results.append(_measure(Path(directory), count, options.kilobytes * 1000, options.processes))
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json.dumps({"processes": options.processes, "results": results}))
    return 0


def _measure(directory: Path, count: int, size: int, workers: int) -> dict:
    source, copy, output = directory / "in", directory / "copy", directory / "out"
    _make_files(source / "train", count, size)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    copying = _seconds(lambda: _copy(source, copy, workers))
    copying_cpu = _cpu(resource.getrusage(resource.RUSAGE_CHILDREN)) - _cpu(before)
    shutil.rmtree(copy)
    line = [sys.executable, "-m", "tfrecords.build", "--source=folder", f"--input={source}", f"--output={output}"]
    line += [f"--train_shards={max(workers, count // 500)}", f"--processes={workers}"]
    usage = []
    converting = _seconds(lambda: usage.append(_run(line)))
    converting_cpu = _cpu(usage[0])
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
        "peak_mib": round(usage[0].ru_maxrss / 1024),
    }


def _seconds(work: Callable[[], None]) -> float:
    os.sync()  # or this would pay for what the previous measurement wrote
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _run(line: list[str]) -> resource.struct_rusage:
    """Run a command and return what it used. Its memory is the memory of its largest process."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"The conversion failed with exit status {status}. Run it to see why: {' '.join(line)}")
    return usage


def _make_files(directory: Path, count: int, size: int) -> None:
    """Write JPEGs with comments of random bytes, so that they differ and have about `size` bytes."""
    from PIL import Image

    draw = random.Random(0)
    out = io.BytesIO()
    Image.frombytes("L", _SIZE, draw.randbytes(_SIZE[0] * _SIZE[1])).convert("RGB").save(out, "JPEG", quality=20)
    data = out.getvalue()
    for number in range(_CLASSES):
        (directory / f"class{number}").mkdir(parents=True)
    for number in range(count):
        comments, left = b"", max(16, size - len(data))
        while left > 0:
            part = draw.randbytes(min(left, 65_000))
            comments += b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part
            left -= len(part)
        path = directory / f"class{number % _CLASSES}" / f"{number:07d}.jpg"
        path.write_bytes(data[:2] + comments + data[2:])


def _copy(source: Path, target: Path, workers: int) -> None:
    files = [path for path in source.rglob("*") if path.is_file()]
    for folder in {path.parent for path in files}:
        (target / folder.relative_to(source)).mkdir(parents=True)
    pairs = [(str(path), str(target / path.relative_to(source))) for path in files]
    chunks = (pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK))
    for _ in processes.run(_copy_chunk, chunks, workers):
        pass


def _copy_chunk(pairs: list[tuple[str, str]]) -> None:
    for source, target in pairs:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(command.run(main))
