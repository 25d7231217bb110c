"""A slice with 16 hosts, simulated in one process: what each of them reads."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from pf_keras.config import AugmentConfig, Config, DataConfig, ModelConfig, TargetConfig
from pf_keras.data.pipeline import draw_noise, split_noise, training_batches
from pf_keras.data.record_schema import make_example
from pf_keras.data.records import FILE
from pf_keras.data.shares import share
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.noise import pretrain_noise
from pf_keras.training.devices import Devices

HOSTS = 16
CONFIG = Config(
    model=ModelConfig(image_size=16, grid=4, width=16, heads=2),
    augment=AugmentConfig(jitter_size=3),
    target=TargetConfig(size=2),
)
EQUAL = (6,) * 32
UNEQUAL = (9, 0, 3, 12, 1, 5, 17, 2, 8, 6, 4, 11, 7, 10, 13, 1, 20, 3, 9, 2, 14, 5, 6, 8, 15)  # 191, in 25 files


def write(folder, counts):
    """Write train shards with these numbers of records. Returns the train split."""
    pixel = tf.io.encode_png(np.full((4, 4, 3), 200, "uint8")).numpy()
    for split, sizes in (("train", counts), ("validation", (1,))):
        for shard, records in enumerate(sizes):
            with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{len(sizes):05d}")) as writer:
                for number in range(records):
                    example = make_example(encoded=pixel, height=4, width=4, channels=3, colorspace="RGB", format="PNG",
                                           filename=f"{shard}-{number}.png", label=1)  # fmt: skip
                    writer.write(example)
    return open_source(DataConfig(source=f"tfrecord:{folder}", shuffle_buffer=3, parallel_files=4)).train


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    return write(tmp_path_factory.mktemp("equal"), EQUAL)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write(tmp_path_factory.mktemp("unequal"), UNEQUAL)


class Hosts:
    """A strategy with 32 replicas, which gives each host its input context and collects their datasets."""

    def distribute_datasets_from_function(self, make):
        return [make(tf.distribute.InputContext(HOSTS, host, 2 * HOSTS)) for host in range(HOSTS)]


def read(split, host, count, start=0, hosts=HOSTS):
    return [int(key["index"]) for key in split.keys(start, seed=1, host=host, hosts=hosts).take(count)]


def share_sizes(split):
    return [split.size * (host + 1) // HOSTS - split.size * host // HOSTS for host in range(HOSTS)]


@pytest.mark.parametrize("files", ["equal", "split"])
def test_epoch_of_all_hosts_has_every_example_once(files, request):
    split = request.getfixturevalue(files)
    sizes, seen = share_sizes(split), []
    for host, size in enumerate(sizes):
        keys = read(split, host, 3 * size)
        epochs = [keys[size * epoch : size * (epoch + 1)] for epoch in range(3)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) and not epochs[0] == epochs[1] == epochs[2]
        seen += epochs[0]
    assert sorted(seen) == split.indices.tolist() and max(sizes) - min(sizes) <= 1


def test_host_starts_at_any_step_with_the_records_of_an_uninterrupted_run(split):
    for host in (0, 7, 15):
        assert read(split, host, 20, start=5 * HOSTS) == read(split, host, 25)[5:]


def test_subset_is_shared_evenly_too(split):
    part = split.at(np.random.default_rng(0).choice(split.indices, 100, replace=False))
    sizes = share_sizes(part)
    seen = [index for host, size in enumerate(sizes) for index in read(part, host, size)]
    assert sorted(seen) == part.indices.tolist() and set(sizes) == {6, 7}


def test_every_host_feeds_its_replicas_in_every_step(split):
    """Noise is a function of the example and the epoch, so it tells which examples the batches hold."""
    noise, batch, steps = pretrain_noise(CONFIG), 64, 3
    datasets = Devices("tpu", 2 * HOSTS, strategy=Hosts()).distribute(partial(training_batches, split, CONFIG, batch, noise))
    # Each host makes a batch of two images for each of its two replicas.
    drawn = [[part["mask_noise"].numpy() for part in host.take(2 * steps)] for host in datasets]
    assert np.shape(drawn) == (HOSTS, 2 * steps, 2, 6)
    expected = {}
    for epoch in range(2):
        for index in split.indices.tolist():
            values = split_noise(draw_noise(CONFIG.run.seed, epoch, index, noise)[None], noise)["mask_noise"].numpy()
            expected[values.tobytes()] = (epoch, index)
    examples = [expected[row.tobytes()] for row in np.reshape(drawn, (-1, 6))]
    # 12 images a host: the whole share of 15 hosts. The first one has 11, and begins its second epoch.
    assert len(set(examples)) == 192 and {index for _, index in examples} == set(split.indices.tolist())
    assert [epoch for epoch, _ in examples] == [0] * 11 + [1] + [0] * 180


def test_more_hosts_than_files_or_records_are_refused_in_one_line(tmp_path):
    split = write(tmp_path, (30,) * 15)
    with pytest.raises(UserError, match="^15 shards are too few for 16 hosts. Write at least one shard per host.$"):
        split.keys(host=3, hosts=HOSTS)
    with pytest.raises(UserError, match="^3 records are too few for 4 hosts. Use more records or fewer hosts.$"):
        split.at(split.indices[:3]).keys(host=3, hosts=4)


def test_files_of_equal_size_are_dealt_in_turn_and_stay_whole():
    for host in range(HOSTS):
        assert share([1251] * 1024, host, HOSTS).tolist() == [[n, 0, 1251] for n in range(host, 1024, HOSTS)]
    counts = np.random.default_rng(0).integers(900, 1600, 1023)
    rows = [share(counts, host, HOSTS) for host in range(HOSTS)]
    assert sum(map(len, rows)) <= 1023 + HOSTS - 1  # a cut adds one reader to one file
    assert np.ptp([(last - first).sum() for _, first, last in (part.T for part in rows)]) <= 1


@pytest.mark.parametrize("hosts", [1, 2, 3, 16])
def test_shares_are_even_and_together_complete(hosts):
    rng = np.random.default_rng(hosts)
    for _ in range(200):
        counts = rng.integers(0, 6, rng.integers(hosts, 3 * hosts + 1))
        counts[0] += hosts
        parts = [share(counts, host, hosts) for host in range(hosts)]
        seen = [n * FILE + place for rows in parts for n, first, last in rows for place in range(first, last)]
        assert sorted(seen) == [n * FILE + place for n, count in enumerate(counts) for place in range(count)]
        assert np.ptp([(rows[:, 2] - rows[:, 1]).sum() for rows in parts]) <= 1
        if hosts == 1:  # the order of an epoch depends on the number of files, empty ones too
            assert parts[0][:, 0].tolist() == list(range(len(counts)))
