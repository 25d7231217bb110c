"""A checkpoint is whole or absent, even if the disk is full, a file is damaged, or a run removes what another process reads."""

import errno
import json
import os
import shutil
import subprocess
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from etils.epath.backend import _TfBackend

from pf_keras import errors
from pf_keras.errors import UserError
from pf_keras.training.checkpoint import STATE, WEIGHTS, latest_checkpoint, require_checkpoint, save_checkpoint


def tiny_model(value=0.0, width=3):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(width), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, value))
    return model


def value_of(model):
    return float(np.asarray(model.trainable_variables[0])[0, 0])


def steps_in(directory):
    return sorted(int(name[5:]) for name in os.listdir(directory) if name.startswith("step-"))


def saved_variables(model):
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in (*model.variables, *model.optimizer.variables) if id(v) not in metrics]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_checkpoint_restores_all_variables(tmp_path):
    model = tiny_model(1.5)
    model.fit(np.ones((4, 2)), np.ones((4, 3)), verbose=0)
    save_checkpoint(tmp_path, 7, model, {"extra": 1})
    other, found = tiny_model(), latest_checkpoint(tmp_path)
    found.load_into(other)
    assert (found.step, found.state["extra"]) == (7, 1)
    for left, right in zip(saved_variables(model), saved_variables(other), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=left.path)
    assert any("seed" in v.path for v in saved_variables(other))


def test_newest_checkpoints_are_kept(tmp_path):
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, tiny_model(), keep=2)
    assert steps_in(tmp_path) == [4, 5]
    assert sorted(os.listdir(tmp_path)) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("file", [WEIGHTS, STATE])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_damaged_checkpoint_is_reported_and_the_one_before_used(tmp_path, capsys, file, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, tiny_model(step))
    path = tmp_path / "step-00000002" / file
    if how == "flip":
        damage(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    found = latest_checkpoint(tmp_path)
    assert found.step == 1
    assert "step-00000002 is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="step-00000002 is damaged: .* Use another step."):
        require_checkpoint(tmp_path, "2")


def test_any_flipped_bit_of_the_state_is_detected(tmp_path, capsys):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, tiny_model(step), {"window": {"first": 0, "metrics": [1.5, 2.0]}})
    path = tmp_path / "step-00000002" / STATE
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = latest_checkpoint(tmp_path)
        # A flipped bit that changes only white space of the JSON is harmless.
        assert found.step == 1 or json.loads(path.read_bytes()) == json.loads(whole), (place, path.read_bytes())
    without_digest = {name: value for name, value in json.loads(whole).items() if name != "state_sha256"}
    path.write_text(json.dumps(without_digest))  # as the first checkpoints were
    assert latest_checkpoint(tmp_path).step == 2


def test_checkpoints_in_a_bucket(bucket, tmp_path, capsys):
    from etils import epath

    bucket = f"{bucket}/run/checkpoints"
    save_checkpoint(bucket, 1, tiny_model(1.5))
    save_checkpoint(bucket, 2, tiny_model(2.5))
    model, found = tiny_model(), latest_checkpoint(bucket)
    assert str(found.load_into(model).path) == "gs://bucket/run/checkpoints/step-00000002" and value_of(model) == 2.5
    damage(epath.Path(bucket) / "step-00000002" / WEIGHTS)
    assert latest_checkpoint(bucket).step == 1 and "step-00000002 is damaged" in capsys.readouterr().err
    save_checkpoint(bucket, 3, tiny_model(3), keep=1)
    assert steps_in(tmp_path / "bucket" / "run" / "checkpoints") == [3]


def test_damaged_newest_checkpoint_does_not_replace_good_ones(tmp_path):
    for step in (1, 2, 9):
        save_checkpoint(tmp_path, step, tiny_model(step))
    damage(tmp_path / "step-00000009" / WEIGHTS)
    save_checkpoint(tmp_path, 3, tiny_model(3), keep=2)
    assert steps_in(tmp_path) == [2, 3]


def test_missing_or_unfitting_checkpoint_is_an_error(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    with pytest.raises(UserError, match="has no checkpoint yet. Train until the first one is saved."):
        require_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 1, tiny_model())
    with pytest.raises(UserError, match="There is no checkpoint 3 in .*It has step-00000001."):
        require_checkpoint(tmp_path, "3")
    with pytest.raises(UserError, match="step-00000001 does not fit the model: .* Use the config of the run."):
        require_checkpoint(tmp_path).load_into(tiny_model(width=4))


def test_partial_checkpoint_of_a_killed_run_is_ignored_and_removed(tmp_path):
    save_checkpoint(tmp_path, 1, tiny_model(1))
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.writing")
    assert latest_checkpoint(tmp_path).step == 1
    save_checkpoint(tmp_path, 3, tiny_model(3))
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000003"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk_keeps_the_earlier_checkpoint(small_disk):
    """In another process, because a write that fails inside HDF5 crashes the process when it exits."""
    code = f"""
import sys
from tests.training.test_checkpoint import *
directory = {str(small_disk)!r} + "/run/checkpoints"
save_checkpoint(directory, 1, tiny_model(1))
with open({str(small_disk)!r} + "/other", "wb", buffering=0) as file:
    file.write(bytes(2**20))
for step in (2, 3):
    try:
        save_checkpoint(directory, step, tiny_model(2))
    except UserError as error:
        print(error)
assert os.listdir(directory) == ["step-00000001"]
os.remove({str(small_disk)!r} + "/other")
restored = tiny_model()
latest_checkpoint(directory).load_into(restored)
assert value_of(restored) == 1
save_checkpoint(directory, 2, tiny_model(2))
assert steps_in(directory) == [1, 2]
"""
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = f"Cannot write in {small_disk}/run/checkpoints: No space left on device. Free space there"
    assert [text.startswith(line) for text in done.stdout.splitlines()] == [True, True]


def test_reader_finds_whole_checkpoints_while_a_run_saves_and_removes_them(tmp_path, capsys):
    writer_model, reader_model, stop = tiny_model(), tiny_model(), threading.Event()
    save_checkpoint(tmp_path, 0, writer_model, keep=1)

    def write():
        step = 0
        while not stop.is_set():
            step += 1
            for variable in writer_model.trainable_variables:
                variable.assign(np.full(variable.shape, step))
            save_checkpoint(tmp_path, step, writer_model, keep=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        end, read = time.monotonic() + 60, set()
        while len(read) < 25 and time.monotonic() < end:
            found = require_checkpoint(tmp_path).load_into(reader_model)
            assert value_of(reader_model) == found.step
            read.add(found.step)
    finally:
        stop.set()
        writer.join()
    assert len(read) == 25
    assert "damaged" not in capsys.readouterr().err


def test_newer_checkpoint_is_read_where_one_is_removed_meanwhile(tmp_path, capsys):
    save_checkpoint(tmp_path, 1, tiny_model(1))
    found, requested = require_checkpoint(tmp_path), require_checkpoint(tmp_path, "1")
    save_checkpoint(tmp_path, 2, tiny_model(2), keep=1)
    model = tiny_model()
    assert found.load_into(model).step == 2
    assert value_of(model) == 2 and "was removed by a run in progress: reading" in capsys.readouterr().err
    with pytest.raises(UserError, match="step-00000001 was removed while it was read. Run the command again."):
        requested.load_into(model)


@pytest.mark.parametrize("error", [tf.errors.UnavailableError, tf.errors.DeadlineExceededError])
def test_object_store_that_fails_for_a_while(error, bucket, monkeypatch, capsys):
    """The `bucket` of a folder fails twice each when a file is opened, listed and renamed."""
    monkeypatch.setattr(errors, "RETRY_SECONDS", (0.01,) * 7)
    left = {"GFile": 2, "listdir": 2, "rename": 2}
    gfile = _TfBackend().gfile

    class Failing:
        def __getattr__(self, name):
            def call(*arguments, **options):
                if left.get(name):
                    left[name] -= 1
                    raise error(None, None, "the service is not there")
                return getattr(gfile, name)(*arguments, **options)

            return call

    monkeypatch.setattr(_TfBackend, "gfile", property(lambda self: Failing()))
    save_checkpoint(bucket + "/checkpoints", 3, tiny_model(2.0))
    assert not any(left.values())
    assert capsys.readouterr().err.count("gs://bucket/checkpoints failed: the service is not there. Trying again in") == 6
    left.update(GFile=2, listdir=2)
    model = tiny_model()
    latest_checkpoint(bucket + "/checkpoints").load_into(model)
    assert value_of(model) == 2.0
    left.update(listdir=100)
    with pytest.raises(UserError, match="Cannot read gs://bucket/checkpoints: the service is not there"):
        latest_checkpoint(bucket + "/checkpoints")


def test_errors_that_stay_are_not_tried_again(capsys):
    calls = []

    def full():
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        errors.patiently(full, "a disk")
    assert len(calls) == 1 and not capsys.readouterr().err


def test_the_seed_of_the_noise_that_batches_bring_is_not_saved(tmp_path):
    """Checkpoints of version 0.1 have the seeds of dropout alone, and are resumed with them."""
    from tiny import tiny_config

    from pf_keras.models import build_classifier

    model = build_classifier(tiny_config({"finetune.dropout": "0.2"}), 3)
    save_checkpoint(tmp_path, 1, model)
    assert len(require_checkpoint(tmp_path).state["seeds"]) == 1
