"""How fast files are converted, against a plain copy of the same files by the same number of processes.

  python -m tfrecords.benchmark [--files=1000,10000,60000] [--kilobytes=110] [--processes=CORES] [--directory=/tmp]

For each number of files: makes that many JPEGs of noise in `train/<class>/`, copies them (`shutil.copyfile`) and
converts them unresized with the command a user types, both with the time to start the processes. The files are read
from memory where it holds them. Prints, and writes as the last line in JSON: seconds of copy and conversion, their
ratio (above 1 the conversion is the faster one), milliseconds a file, the same of processor time, which other work on
the machine disturbs less, and the largest memory of a process of the conversion in MiB. Needs three times the files'
size on disk.
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
from collections.abc import Sequence
from pathlib import Path

from tfrecords import command, pool
from tfrecords.errors import UserError

_CHUNK = 50  # files copied by a task
_CLASSES = 10
_SIDES = (400, 300)  # pixels


def main(arguments: Sequence[str]) -> int:
    parser = command.Parser(__doc__)
    parser.add_argument("--files", default="1000,10000,60000", help="numbers of files, separated by commas")
    parser.add_argument(
        "--kilobytes", type=command.positive, default=110, help="size of a file; ImageNet's mean is 110"
    )
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are made and removed")
    parser.add_processes()
    options = parser.parse_args(arguments)
    try:
        counts = [command.positive(text) for text in options.files.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(f"expected --files with numbers such as 1000,10000, received {options.files!r}") from None
    results = []
    for count in counts:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            results.append(_measure(Path(directory), count, options.kilobytes * 1000, options.processes))
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json.dumps({"processes": options.processes, "results": results}))
    return 0


def _measure(directory: Path, count: int, size: int, processes: int) -> dict:
    _make_files(directory / "in" / "train", count, size)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    copying = _seconds(lambda: _copy(directory / "in", directory / "copy", processes))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    copying_cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shutil.rmtree(directory / "copy")
    line = [sys.executable, "-m", "tfrecords.build", "--source=folder", f"--input={directory / 'in'}"]
    line += [
        f"--output={directory / 'out'}",
        f"--train_shards={max(processes, count // 500)}",
        f"--processes={processes}",
    ]
    usage = []
    converting = _seconds(lambda: usage.append(_run(line)))
    converting_cpu = usage[0].ru_utime + usage[0].ru_stime
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


def _seconds(work) -> float:
    os.sync()  # so that one measurement does not pay for the writing of another
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _run(line: list[str]):
    """Runs a command and returns what it used; its memory is that of the largest of its processes."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"expected the conversion to succeed, received exit status {status} of {' '.join(line)}")
    return usage


def _make_files(directory: Path, count: int, size: int) -> None:
    """JPEGs with a comment of random bytes that makes each a file of its own with about `size` bytes."""
    from PIL import Image

    draw = random.Random(0)
    out = io.BytesIO()
    Image.frombytes("L", _SIDES, draw.randbytes(_SIDES[0] * _SIDES[1])).convert("RGB").save(out, "JPEG", quality=20)
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


def _copy(source: Path, target: Path, processes: int) -> None:
    files = [path for path in source.rglob("*") if path.is_file()]
    for folder in {path.parent for path in files}:
        (target / folder.relative_to(source)).mkdir(parents=True)
    pairs = [(str(path), str(target / path.relative_to(source))) for path in files]
    chunks = (pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK))
    for _ in pool.run(_copy_chunk, chunks, processes):
        pass


def _copy_chunk(pairs: list[tuple[str, str]]) -> None:
    for source, target in pairs:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(command.run(main))
