"""How the time and memory of a step grow with one setting at a time, and how they are expected to grow.

Each point has its own process, because a process does not return all of its memory. The points follow one another, so a
machine whose speed changes distorts them. Memory is the growth of the process's peak during the steps, tracing and compiling
included. Weights and optimizer exist before.
"""

import argparse
import resource
import statistics
import sys
from dataclasses import replace

from experiments.benchmark.measuring import Row, answer, in_process
from experiments.benchmark.models import bare_loop, compiled_pretrainer, random_batch
from experiments.commands import ROOT
from pf_keras.config import load_config
from pf_keras.figures import new_figure, save_figure
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.training.devices import open_devices

BASE = {"image_size": 224, "mask_ratio": 0.6, "batch": 16, "depth": 6, "replicas": 1}
POINTS = {
    "image_size": (96, 160, 224, 288, 384),  # px; patches have 16 px
    "mask_ratio": (0.3, 0.45, 0.6, 0.75, 0.9),
    "batch": (4, 8, 16, 32, 64),
    "depth": (2, 4, 6, 12, 24),
    "replicas": (1, 2, 4, 8),
}
STEPS, ROUNDS = 2, 3
PICTURE = ROOT / "docs" / "images" / "growth.png"


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `growth`. Draws them to `PICTURE`, unless `options.quick`."""
    base, measured, rows = measured_at(**BASE), {}, []
    for name, values in POINTS.items():
        for value in values[::2] if options.quick else values:
            measured[name, value] = base if value == BASE[name] else measured_at(**{**BASE, name: value})
    for (name, value), found in measured.items():
        flops, time = found["flops"] / base["flops"], found["seconds"] / base["seconds"]
        note = f"{flops:.2f} x the FLOPs; memory {found['mib']} MiB, {found['mib'] / base['mib']:.2f} x"
        rows.append(Row(f"{name.replace('_', ' ')} {value}", time, "x the time", note=note))
    if not options.quick:
        draw(measured, base)
    return rows


def measured_at(**point: float) -> dict:
    """The `seconds` of a step, the `mib` of memory that the steps took, and the `flops` by formula, at one point."""
    found = in_process("growth", point)
    print(f"{point}: {found['seconds']:.3f} s a step, {found['mib']} MiB", file=sys.stderr, flush=True)
    return found


def measure(image_size: int, mask_ratio: float, batch: int, depth: int, replicas: int) -> dict:
    """The figures of one point, measured in this process."""
    import tensorflow as tf

    if replicas > 1:
        # Replicas wait for each other within a step, and each needs a thread for that.
        tf.config.threading.set_inter_op_parallelism_threads(4 * replicas)
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    config = load_config("imagenette")
    model = replace(config.model, image_size=image_size, grid=image_size // 16, depth=depth)
    config = replace(config, model=model, mask=replace(config.mask, ratio=mask_ratio))
    devices = open_devices()
    with devices.scope():
        model = compiled_pretrainer(config, devices)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop = bare_loop(model, devices, random_batch(config, batch), STEPS)
    loop()
    seconds = statistics.median(loop() for _ in range(ROUNDS)) / STEPS
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "mib": taken // 1024, "flops": pretrain_flops(config) * batch}


def draw(measured: dict[tuple[str, float], dict], base: dict) -> None:
    """Draw a panel for each setting: time, memory and FLOPs as multiples of the base. `measured` is by setting and value."""
    figure, panels = new_figure(1, len(POINTS), 15, 3.2)
    for place, name in zip(panels, POINTS, strict=True):
        for key, label, style in (("seconds", "time", "o-"), ("mib", "memory", "s-"), ("flops", "FLOPs", "k--")):
            multiples = [measured[name, value][key] / base[key] for value in POINTS[name]]
            place.plot(POINTS[name], multiples, style, label=label, markersize=4)
        place.set_xlabel(name.replace("_", " "))
        place.grid(alpha=0.3)
    panels[0].set_ylabel("multiple of the base")
    panels[0].legend(fontsize=8)
    save_figure(figure, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    answer(measure)
