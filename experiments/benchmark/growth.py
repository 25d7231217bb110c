"""How time and memory of a step grow, one thing at a time, beside the law that is expected.

Every point is measured in a process of its own, since a process does not give back all memory.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import replace

from experiments.benchmark.report import Row

BASE = {"image_size": 224, "mask_ratio": 0.6, "batch": 16, "depth": 6, "replicas": 1}
POINTS = {
    "image_size": (96, 160, 224, 288, 384),  # px, in patches of 16
    "mask_ratio": (0.3, 0.45, 0.6, 0.75, 0.9),
    "batch": (4, 8, 16, 32, 64),
    "depth": (2, 4, 6, 12, 24),
    "replicas": (1, 2, 4, 8),
}
LAWS = {
    "image_size": "FLOPs, of which attention grows with the square of the patches",
    "mask_ratio": "FLOPs, linear in visible and masked patches",
    "batch": "linear",
    "depth": "FLOPs, linear in depth",
    "replicas": "none: the same batch on the same cores",
}
STEPS, ROUNDS = 2, 3
PICTURE = "experiments/growth.png"


def run(options):
    """Rows of the benchmark `growth`, and its picture."""
    points = {name: values[::2] if options.quick else values for name, values in POINTS.items()}
    base, measured = in_process(BASE), {}
    for name, values in points.items():
        for value in values:
            measured[name, value] = base if value == BASE[name] else in_process({**BASE, name: value})
    rows = []
    for (name, value), found in measured.items():
        flops, slope = found["flops"] / base["flops"], found["seconds"] / base["seconds"]
        note = f"expected {flops:.2f}; memory {found['mib']} MiB, {found['mib'] / base['mib']:.2f} x"
        rows.append(Row(f"{name} {value}", slope, "x the time", note=note))
    if not options.quick:
        draw(measured, base)
    return rows


def in_process(point):
    """`seconds` a step, `mib` that the steps took and `flops` by formula, at a point."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    line = [sys.executable, "-m", "experiments.benchmark.growth", json.dumps(point)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{point}: {found['seconds']:.3f} s a step, {found['mib']} MiB", file=sys.stderr, flush=True)
    return found


def measure(point):
    import tensorflow as tf

    from experiments.benchmark.models import bare_loop, compiled_pretrainer, random_batch
    from pf_keras.config import load_config
    from pf_keras.tpu.flops import pretrain_flops
    from pf_keras.training.strategy import open_devices

    if point["replicas"] > 1:
        # Every replica waits for all others in the middle of a step, and each needs a thread to wait in.
        tf.config.threading.set_inter_op_parallelism_threads(4 * point["replicas"])
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * point["replicas"])
    config = load_config("experiments/imagenette.py")
    size = {"image_size": point["image_size"], "grid": point["image_size"] // 16, "depth": point["depth"]}
    config = replace(
        config, model=replace(config.model, **size), mask=replace(config.mask, ratio=point["mask_ratio"])
    )
    devices = open_devices()
    with devices.scope():
        model = compiled_pretrainer(config, devices)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop = bare_loop(model, devices, random_batch(config, point["batch"]), STEPS)
    loop()
    seconds = statistics.median(loop() for _ in range(ROUNDS)) / STEPS
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "mib": taken // 1024, "flops": pretrain_flops(config) * point["batch"]}


def draw(measured, base):
    """A panel a quantity: measured time and memory and the expected time, as multiples of the base."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(15, 3.2))
    for place, name in zip(figure.subplots(1, len(POINTS)), POINTS, strict=True):
        values = [value for n, value in measured if n == name]
        found = [measured[name, value] for value in values]
        for key, label, style in (("seconds", "time", "o-"), ("mib", "memory", "s-"), ("flops", "FLOPs", "k--")):
            place.plot(values, [f[key] / base[key] for f in found], style, label=label, markersize=4)
        place.set_xlabel(name.replace("_", " "))
        place.grid(alpha=0.3)
    figure.axes[0].set_ylabel("multiple of the base")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=100, bbox_inches="tight")
    print(PICTURE)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
