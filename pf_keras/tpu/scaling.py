"""What a training costs on a machine, by formulas: the time of a step, its input, and what preemptions lose.

The rates that no specification gives are assumptions. They are the constants of this module.
"""

import math
from dataclasses import dataclass

from pf_keras.config import Config
from pf_keras.models.build import count_parameters
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.tpu.slices import Slice

PEAK_FRACTION = 0.3  # of peak FLOP/s that others reach: MAE's ViT-L 29% on TPU v3, big_vision's ViT-S 27%
BANDWIDTH_FRACTION = 0.8  # of the rates of links and memory; all-reduces of 8 H100s are reported to reach 0.82
DECODED_PER_CORE = 450  # images/s that a host core decodes and crops, measured with ImageNet's JPEGs
BYTES_PER_IMAGE = 110_000  # of ImageNet's JPEGs
STATE_BYTES = 12  # per parameter: its float32 value and AdamW's two moments
UPDATE_BYTES = 32  # per parameter: reads the gradient twice, once for its norm; reads and writes the state
CHECKPOINT_RATE = 200e6  # bytes/s at which a checkpoint is written, an assumption for a bucket
PREEMPTED_EVERY = 6 * 3600.0  # mean seconds between two preemptions, an assumption


@dataclass(frozen=True)
class Machine:
    """A TPU slice, or a host with GPUs.

    Args:
        name: to show.
        chips: joined by the network.
        replicas: that share a batch, one or two on a chip.
        hosts: that feed the chips.
        peak: bfloat16 FLOP/s of a replica.
        memory: bytes/s of a replica's memory, or None where none is published.
        network: bytes/s that a chip sends in an all-reduce, or None where none is published.
    """

    name: str
    chips: int
    replicas: int
    hosts: int
    peak: float
    memory: float | None
    network: float | None

    @classmethod
    def from_slice(cls, slice_: Slice) -> "Machine":
        """The machine of a TPU slice."""
        kind = slice_.kind
        return cls(slice_.name, slice_.chips, slice_.cores, slice_.hosts, kind.peak, kind.memory, slice_.network)


H100S = Machine("8 H100", chips=8, replicas=8, hosts=1, peak=989e12, memory=3.35e12, network=450e9)


def all_reduce_seconds(size: float, chips: int, network: float) -> float:
    """Time to sum an array over chips, by the algorithm that sends the least: each chip sends nearly twice the array.

    Args:
        size: bytes of the array.
        chips: how many. The cores of a chip count as one.
        network: bytes/s that each sends.
    """
    if chips == 1:
        return 0.0
    return 2 * (chips - 1) / chips * size / (BANDWIDTH_FRACTION * network)


def update_seconds(parameters: int, memory: float) -> float:
    """Time in which a replica clips its gradients and runs AdamW, which is limited by memory.

    Args:
        parameters: how many.
        memory: bytes/s.
    """
    return UPDATE_BYTES * parameters / (BANDWIDTH_FRACTION * memory)


def gradient_bytes(parameters: int, backend: str, mixed: bool) -> int:
    """Bytes of the gradients that replicas sum. TensorFlow sums float32. JAX sums most of them in bfloat16, if `mixed`."""
    return parameters * (2 if backend == "jax" and mixed else 4)


def best_interval(checkpoint: float, every: float) -> float:
    """Seconds of training between two checkpoints that lose the least time, by Young's formula.

    Args:
        checkpoint: seconds that one takes.
        every: mean seconds between two preemptions.
    """
    return math.sqrt(2 * checkpoint * every)


def lost_fraction(interval: float, checkpoint: float, every: float) -> float:
    """Fraction of the time that goes to checkpoints and to steps that are repeated.

    Preemptions come without a warning, at random and at a constant rate: an interval and its checkpoint, of x times the mean
    time between two of them, take exp(x) - 1 times that mean with all their repetitions. Waiting for another machine and
    starting again are left out, because they do not depend on the interval.

    Args:
        interval: seconds of training between two checkpoints.
        checkpoint: seconds that one takes.
        every: mean seconds between two preemptions.
    """
    x = (interval + checkpoint) / every
    return 1.0 if x > 700 else 1 - interval / (every * math.expm1(x))  # exp(710) is too large for a float


def predict(config: Config, machine: Machine, backend: str) -> dict:
    """The cost of the pre-training of a config.

    Nothing of a step overlaps: where the all-reduce hides behind the backward pass, it takes less.

    Args:
        config: of the run.
        machine: that it runs on.
        backend: `tensorflow` or `jax`.

    Returns:
        Values by name, in seconds, bytes and images. A part of the step whose rate is not published is None, and left out of
        the sums.
    """
    parameters, flops, batch = count_parameters(config), pretrain_flops(config), config.pretrain.batch
    gradients = gradient_bytes(parameters, backend, config.run.precision != "float32")
    compute = flops * batch / (PEAK_FRACTION * machine.peak * machine.replicas)
    update = None if machine.memory is None else update_seconds(parameters, machine.memory)
    reduce = None if machine.network is None else all_reduce_seconds(gradients, machine.chips, machine.network)
    step = compute + (update or 0) + (reduce or 0)
    throughput = batch / step
    return {
        "parameters": parameters,
        "flops_per_image": flops,
        "flops_per_step": flops * batch,
        "share_of_peak": PEAK_FRACTION,
        "share_of_bandwidth": BANDWIDTH_FRACTION,
        "compute_seconds": compute,
        "update_seconds": update,
        "gradient_bytes": gradients,
        "all_reduce_seconds": reduce,
        "step_seconds": step,
        "images_per_second": throughput,
        "hours": config.pretrain.steps * step / 3600,
        "decode_cores": math.ceil(throughput / DECODED_PER_CORE),
        "decode_cores_per_host": math.ceil(throughput / DECODED_PER_CORE / machine.hosts),
        "storage_bytes_per_second": throughput * BYTES_PER_IMAGE,
        "checkpoint_bytes": parameters * STATE_BYTES,
        **preemption(config, parameters * STATE_BYTES / CHECKPOINT_RATE, step, PREEMPTED_EVERY),
    }


def preemption(config: Config, checkpoint: float, step: float, every: float) -> dict:
    """What preemptions cost, with the config's interval between checkpoints and with the best one.

    Args:
        config: of the run.
        checkpoint: seconds that a checkpoint takes.
        step: seconds that a step takes.
        every: mean seconds between two preemptions.
    """
    steps, seconds = config.run.checkpoint_interval()
    interval, best = seconds or steps * step, best_interval(checkpoint, every)
    return {
        "preempted_every_seconds": every,
        "checkpoint_seconds": checkpoint,
        "checkpoint_every_seconds": interval,
        "lost_to_preemption": lost_fraction(interval, checkpoint, every),
        "best_checkpoint_every_seconds": best,
        "lost_at_best": lost_fraction(best, checkpoint, every),
    }
