"""The formulas of a step, its input and preemptions, against numbers worked by hand and simulations."""

from dataclasses import replace

import numpy as np
import pytest

from pf_keras.config import Config, RunConfig, load_config
from pf_keras.tpu.scaling import (
    H100S,
    PREEMPTED_EVERY,
    Machine,
    all_reduce_seconds,
    best_interval,
    gradient_bytes,
    lost_fraction,
    predict,
    update_seconds,
)
from pf_keras.tpu.slices import find_slice


def machine(name):
    return Machine.from_slice(find_slice(name))


def ring_all_reduce(arrays):
    """Sum arrays over a ring of chips, in which each sends one piece to the next at a time. Returns the sums, and the bytes
    that each chip sent."""
    chips = len(arrays)
    pieces, sent = [np.array_split(array.copy(), chips) for array in arrays], np.zeros(chips)
    for turn in range(2 * (chips - 1)):
        sums_are_known = turn >= chips - 1  # chip c then has the sum of piece c + 1
        messages = [pieces[chip][(chip - turn) % chips].copy() for chip in range(chips)]
        for chip, message in enumerate(messages):
            sent[chip] += message.nbytes
            number, to = (chip - turn) % chips, pieces[(chip + 1) % chips]
            to[number] = message if sums_are_known else to[number] + message
    return [np.concatenate(own) for own in pieces], sent


@pytest.mark.parametrize("chips", [1, 2, 4, 16])
def test_all_reduce_sends_what_a_ring_sends(chips):
    arrays = np.random.default_rng(0).normal(size=(chips, 32))
    sums, sent = ring_all_reduce(arrays)
    for found in sums:
        np.testing.assert_allclose(found, arrays.sum(0))
    np.testing.assert_allclose(all_reduce_seconds(arrays[0].nbytes, chips, network=1000) * 0.8 * 1000, sent)


def test_times_by_hand():
    # 2 * 7/8 * 600 MB = 1.05 GB, at 0.8 * 450 GB/s
    assert all_reduce_seconds(600e6, 8, 450e9) == pytest.approx(1.05 / 360)
    # 32 bytes * 150M = 4.8 GB, at 0.8 * 450 GB/s
    assert update_seconds(150_000_000, 450e9) == pytest.approx(4.8 / 360)
    assert [gradient_bytes(10, *how) for how in (("tensorflow", True), ("jax", True), ("jax", False))] == [40, 20, 40]
    # sqrt(2 * 9 s * 6 h) = 623 s, of which 9 s is 1.4%; half of it is 1.4% of 6 h
    assert best_interval(9, 21600) == pytest.approx(623.5, abs=0.1)
    assert lost_fraction(623.5, 9, 21600) == pytest.approx(0.0286, abs=1e-4)
    assert lost_fraction(60, 1, 1e6) == pytest.approx(1 / 60, rel=0.02)  # without preemptions only checkpoints cost
    assert lost_fraction(1e7, 9, 3600) == 1 and 0.9 < lost_fraction(20_000, 9, 3600) < 1


@pytest.mark.parametrize(
    "name, gigabytes",
    [
        ("v3-32", 2 * 83), ("v4-32", 3 * 45), ("v4-128", 6 * 45), ("v5e-64", 2 * 50), ("v5e-128", 3 * 50),
        ("v6e-16", 2 * 100), ("v5p-8", 2 * 100), ("v5p-64", 3 * 100), ("v5p-128", 6 * 100), ("v5e-1", 0),
        ("v5e-256", 51_200 / 256), ("v6e-256", 102_400 / 256),  # the published all-reduce bandwidth of a whole pod
    ],
)  # fmt: skip
def test_network_of_a_chip(name, gigabytes):
    assert find_slice(name).network == pytest.approx(1e9 * gigabytes)


def test_published_figures_of_a_chip():
    """Peak FLOP/s, and bytes/s of memory."""
    published = {"v3": (123e12, 900e9), "v4": (275e12, 1200e9), "v5e": (197e12, 819e9), "v6e": (918e12, 1600e9)}
    for name, figures in published.items():
        kind = find_slice(f"{name}-64").kind
        assert (kind.peak * kind.cores, kind.memory * kind.cores) == figures


def test_papers_config_on_the_papers_slice():
    found = predict(load_config("imagenet"), machine("v3-32"), "tensorflow")
    assert found["parameters"] == 149_862_084 and found["flops_per_step"] == pytest.approx(13.22e12, rel=1e-3)
    assert found["compute_seconds"] == pytest.approx(13.22e12 / (0.3 * 61.5e12 * 32), rel=1e-3)
    assert found["update_seconds"] == pytest.approx(32 * 149.86e6 / (0.8 * 450e9), rel=1e-3)
    assert found["all_reduce_seconds"] == pytest.approx(15 / 8 * 599.4e6 / (0.8 * 166e9), rel=1e-3)
    parts = found["compute_seconds"] + found["update_seconds"] + found["all_reduce_seconds"]
    assert found["step_seconds"] == pytest.approx(parts) and found["hours"] == pytest.approx(300_000 * parts / 3600)
    images = 128 / parts
    assert found["images_per_second"] == pytest.approx(images)
    assert found["decode_cores"] == np.ceil(images / 450) and found["decode_cores_per_host"] == np.ceil(images / 450 / 4)
    assert found["storage_bytes_per_second"] == pytest.approx(110_000 * images)
    assert found["checkpoint_bytes"] == 12 * 149_862_084 and found["checkpoint_seconds"] == pytest.approx(8.99, abs=0.01)


def test_cost_follows_batch_chips_backend_and_precision():
    config = Config()
    small, large = (
        predict(replace(config, pretrain=replace(config.pretrain, batch=batch)), machine("v5e-16"), "tensorflow")
        for batch in (64, 256)
    )
    assert large["compute_seconds"] == pytest.approx(4 * small["compute_seconds"])
    assert large["all_reduce_seconds"] == small["all_reduce_seconds"] and large["update_seconds"] == small["update_seconds"]
    assert large["images_per_second"] > small["images_per_second"]
    slices = [predict(config, machine(f"v5e-{chips}"), "tensorflow") for chips in (1, 4, 16, 64)]
    compute, reduce = ([found[f"{part}_seconds"] for found in slices] for part in ("compute", "all_reduce"))
    assert compute == sorted(compute, reverse=True) and reduce == sorted(reduce) and reduce[0] == 0 < reduce[1]
    jax = predict(config, H100S, "jax")
    assert 2 * jax["all_reduce_seconds"] == pytest.approx(predict(config, H100S, "tensorflow")["all_reduce_seconds"])
    full = predict(replace(config, run=RunConfig(precision="float32")), H100S, "jax")
    assert full["gradient_bytes"] == 2 * jax["gradient_bytes"]


def test_unpublished_rates_are_left_out():
    found = predict(Config(), machine("v2-8"), "tensorflow")
    assert found["update_seconds"] is None and found["all_reduce_seconds"] is None
    assert found["step_seconds"] == found["compute_seconds"]


def test_interval_in_steps_is_as_long_as_its_steps():
    found = predict(replace(Config(), run=RunConfig(checkpoint_every="500")), H100S, "tensorflow")
    assert found["checkpoint_every_seconds"] == pytest.approx(500 * found["step_seconds"])
    assert predict(Config(), H100S, "tensorflow")["checkpoint_every_seconds"] == 600
    assert found["lost_at_best"] <= found["lost_to_preemption"]
    best = found["best_checkpoint_every_seconds"]
    assert best == pytest.approx((2 * found["checkpoint_seconds"] * PREEMPTED_EVERY) ** 0.5)


@pytest.mark.parametrize("checkpoint, every", [(9, 3600), (9, 21600), (60, 21600)])
def test_youngs_interval_loses_the_least_in_a_simulation(checkpoint, every):
    """Preemptions come at random. After each, training continues from the last checkpoint that was whole."""
    runs = np.random.default_rng(0).exponential(every, 200_000)

    def lost(interval):
        useful = interval * np.floor(runs / (interval + checkpoint))
        return 1 - useful.sum() / runs.sum()

    best = best_interval(checkpoint, every)
    intervals = best * np.linspace(0.5, 2, 61)
    losses = np.array([lost(interval) for interval in intervals])
    assert 0.8 < intervals[losses.argmin()] / best < 1.2
    assert lost(best) < 1.01 * losses.min()
    for interval in (best / 2, best, 2 * best):
        assert lost_fraction(interval, checkpoint, every) == pytest.approx(lost(interval), rel=0.02)
