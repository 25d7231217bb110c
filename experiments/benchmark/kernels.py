"""The kernels of a profile that `jax.profiler.trace` wrote, by the time that they take."""

import re
from collections import defaultdict
from pathlib import Path


def kernels_by_time(folder: str | Path, steps: int) -> list[dict]:
    """Read a profile, and sum its kernels by name.

    On a GPU a kernel is what ran on one of its streams, copies included. On a CPU it is what ran for an operation of the
    compiled program; such operations may contain others.

    Args:
        folder: where the profile was written.
        steps: how many it holds.

    Returns:
        `{"name", "seconds", "calls"}` of each name, without the numbers that XLA appends. Seconds and calls are those of one
        step. The one that takes most time comes first.

    Raises:
        ValueError: there are no kernels in it.
    """
    from jax.profiler import ProfileData

    lines = []
    seconds, calls = defaultdict(float), defaultdict(int)
    for path in sorted(Path(folder).rglob("*.xplane.pb")):
        for plane in ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                lines.append(f"{plane.name} {line.name}")
                for event in line.events:
                    if _is_kernel(plane.name, line.name, event):
                        name = plain_name(event.name)
                        seconds[name] += event.duration_ns / 1e9 / steps
                        calls[name] += 1
    if not seconds:
        raise ValueError(f"Expected a profile with kernels. Received: {folder} with the lines {lines}")
    found = [{"name": name, "seconds": taken, "calls": calls[name] / steps} for name, taken in seconds.items()]
    return sorted(found, key=lambda kernel: -kernel["seconds"])


def plain_name(name: str) -> str:
    """A kernel's name without the numbers at its end, as in `loop_add_fusion.12` or `fusion_3_1`."""
    return re.sub(r"([._]\d+)+$", "", name)


def _is_kernel(plane: str, line: str, event) -> bool:
    if plane.startswith("/device:GPU:"):
        return line.startswith("Stream")  # other lines of the plane sum up the same kernels
    return plane == "/host:CPU" and any(name == "hlo_op" for name, _ in event.stats)
