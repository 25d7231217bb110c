"""What a pre-training costs on TPU slices and on GPUs, by formulas: Markdown tables of steps, input and preemptions.

    python -m experiments.scaling --config=imagenet

KERAS_BACKEND=jax gives the figures of JAX. See docs/scaling.md.
"""

import argparse
import sys

from experiments.commands import run_script
from pf_keras.config import Config, load_config

SLICES = ("v3-32", "v4-32", "v5e-64", "v6e-16")
PREEMPTED_HOURS = (1, 6, 24)


def main(arguments: list[str]) -> None:
    """Print the tables."""
    import keras

    parser = argparse.ArgumentParser("python -m experiments.scaling", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--config", required=True, help="a shipped config, such as imagenet, or the path of a Python file")
    config = load_config(parser.parse_args(arguments).config)
    print("\n".join(tables(config, keras.backend.backend())))


def tables(config: Config, backend: str) -> list[str]:
    """The lines of the tables.

    Args:
        config: of the run.
        backend: `tensorflow` or `jax`.

    Raises:
        UserError: a machine cannot split the batch evenly.
    """
    from pf_keras.tpu.scaling import H100S, Machine, predict, preemption
    from pf_keras.tpu.slices import find_slice
    from pf_keras.training.devices import Devices

    costs = {}
    for machine in (*(Machine.from_slice(find_slice(name)) for name in SLICES), H100S):
        Devices(machine.name, machine.replicas).check_batch("pretrain.batch", config.pretrain.batch)
        costs[machine] = predict(config, machine, backend)
    lines = ["| machine | replicas | compute | optimizer | all-reduce | step | images/s | schedule |", "|---" * 8 + "|"]
    for machine, cost in costs.items():
        parts = " | ".join(f"{1e3 * cost[f'{part}_seconds']:.1f} ms" for part in ("compute", "update", "all_reduce", "step"))
        lines.append(
            f"| {machine.name} | {machine.replicas} | {parts} | {cost['images_per_second']:,.0f} | {cost['hours']:.1f} h |"
        )
    lines += ["", "| machine | hosts | decoding cores | on each host | read from storage |", "|---" * 5 + "|"]
    for machine, cost in costs.items():
        read = f"{cost['storage_bytes_per_second'] / 1e6:,.0f} MB/s"
        lines.append(
            f"| {machine.name} | {machine.hosts} | {cost['decode_cores']} | {cost['decode_cores_per_host']} | {read} |"
        )
    machine, cost = next(iter(costs.items()))
    lines += ["", "| preempted every | best interval | loss | loss with run.checkpoint_every |", "|---" * 4 + "|"]
    for hours in PREEMPTED_HOURS:
        found = preemption(config, cost["checkpoint_seconds"], cost["step_seconds"], hours * 3600)
        lines.append(
            f"| {hours} h | {found['best_checkpoint_every_seconds'] / 60:.1f} min | {found['lost_at_best']:.1%} "
            f"| {found['lost_to_preemption']:.1%} |"
        )
    checkpoint = f"{cost['checkpoint_bytes'] / 1e9:.2f} GB in {cost['checkpoint_seconds']:.0f} s"
    where = f" on {machine.name}" if config.run.checkpoint_interval()[0] else ""  # the same everywhere, unless it is in steps
    return [*lines, "", f"A checkpoint of {checkpoint}, every {cost['checkpoint_every_seconds'] / 60:.1f} minutes{where}."]


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
