"""Answers for many images: kept as rows of a file, and continued after a stop."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from etils import epath
from tiny import tiny_classifier, tiny_config

from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.evaluation import streaming
from pf_keras.evaluation.scores import predict_logits
from pf_keras.evaluation.streaming import SavedRows, collect, each_batch, require_one_process
from pf_keras.training.devices import open_devices
from pf_keras.training.lock import unlock

KIND = np.dtype([("index", "i8"), ("label", "i8"), ("vector", "f4", (2,))])


def rows_of(numbers):
    rows = np.zeros(len(numbers), KIND)
    rows["index"], rows["vector"] = numbers, np.asarray(numbers)[:, None]
    return rows


def test_outputs_are_those_of_predict():
    config = tiny_config({"data.source": "digits", "run.eval_batch": "8"})
    model, devices = tiny_classifier(config), open_devices("float32")
    devices.compile(model)
    split = open_source(config.data).validation.sample(21)
    index, label, logits = (np.concatenate(part) for part in zip(*each_batch(model, split, config, devices), strict=True))
    assert index.tolist() == list(range(21)) and label.tolist() == split.labels.tolist()
    np.testing.assert_allclose(logits, predict_logits(model, split, config, devices), atol=1e-5)
    later = np.concatenate([part for part, *_ in each_batch(model, split, config, devices, after=15)])
    assert later.tolist() == list(range(16, 21))


def test_rows_of_a_killed_process_are_continued_at_a_whole_batch(tmp_path):
    folder = epath.Path(tmp_path)
    saved = SavedRows(folder, KIND, {"weights": 1}, batch=4)
    assert saved.kept == 0 and saved.last == -1 and len(saved.read()) == 0
    saved.append(rows_of([0, 1, 2, 4]))
    saved.append(rows_of([5, 6]))
    with (tmp_path / ".rows").open("ab") as file:
        file.write(b"half a row")
    unlock(folder)  # the process ends
    again = SavedRows(folder, KIND, {"weights": 1}, batch=4)
    assert again.kept == 4 and again.last == 4
    begun = []

    def batches(after):
        begun.append(after)
        yield np.array([5, 6, 7]), np.array([1, 1, -1]), np.ones((3, 2))

    rows = collect(again, 8, batches, lambda outputs: {"vector": outputs}, "embed")
    assert begun == [4] and rows["index"].tolist() == [0, 1, 2, 4, 5, 6, 7] and rows["label"].tolist()[4:] == [1, 1, -1]
    np.testing.assert_array_equal(rows["vector"][4:], 1)
    again.remove()
    assert not list(tmp_path.glob(".rows*"))
    assert len(rows) == 7  # they can still be read


def test_rows_of_a_remote_folder_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "is_remote", lambda path: True)
    for _ in range(2):
        saved = SavedRows(epath.Path(tmp_path), KIND, {}, 1)
        assert saved.kept == 0
        saved.append(rows_of([3]))
        assert saved.read()["index"].tolist() == [3] and not list(tmp_path.glob(".rows*"))
        saved.remove()


def test_rows_of_something_else_are_discarded(tmp_path):
    folder = epath.Path(tmp_path)
    for identity, batch, kind, kept in (
        ({"weights": 1}, 2, KIND, 0), ({"weights": 2}, 2, KIND, 0), ({"weights": 2}, 1, KIND, 0),
        ({"weights": 2}, 1, np.dtype([("index", "i8"), ("label", "i8")]), 0),
        ({"weights": 2}, 1, np.dtype([("index", "i8"), ("label", "i8")]), 2),
    ):  # fmt: skip
        saved = SavedRows(folder, kind, identity, batch)
        assert saved.kept == kept
        saved.append(np.zeros(2, kind))
        unlock(folder)


def test_discarded_rows_are_counted_and_named(tmp_path, capsys):
    folder = epath.Path(tmp_path / "embed")
    folder.mkdir()
    one, other = ({"data": [f"folder:{name}", "digest"]} for name in ("a\x1b", "b"))
    first = r"6 answers of a --mode=embed of folder:a\x1b that was stopped"
    for identity, said in ((one, ""), (one, ""), (other, first), (one, "3 answers")):
        saved = SavedRows(folder, KIND, identity, 3)
        saved.append(np.zeros(3, KIND))
        unlock(folder)
        found = capsys.readouterr().err
        assert said in found and found.count("\n") == bool(said) == found.startswith("discarding ")
    SavedRows(folder, KIND, one, 3).remove()
    SavedRows(folder, KIND, other, 3)
    assert capsys.readouterr().err == ""  # an answer that was complete has no rows left
    unlock(folder)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's")
def test_several_processes_are_refused(monkeypatch):
    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    with pytest.raises(UserError, match="--mode=embed runs in one process, but 2 share"):
        require_one_process("embed")


TWO_DEVICES = """
import keras, numpy as np
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tiny import tiny_classifier, tiny_config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.sources import open_source
from pf_keras.evaluation.streaming import each_batch
from pf_keras.training.devices import open_devices
config = tiny_config({"data.source": "digits", "run.eval_batch": "8"})
devices = open_devices("float32")
assert devices.replicas == 2
with devices.scope():
    model = tiny_classifier(config)
split = open_source(config.data).validation.sample(21)
index, label, logits = (np.concatenate(part) for part in zip(*each_batch(model, split, config, devices)))
assert index.tolist() == list(range(21)) and (label == split.labels).all()
images = np.concatenate([batch["image"].numpy() for batch in evaluation_batches(split, config, 8)])[:21]
np.testing.assert_allclose(logits, keras.ops.convert_to_numpy(model(images)), atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_answer_for_all_images_in_order(backend):
    """In another process, because the number of devices cannot change later."""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"} if backend == "jax" else {}
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, **devices, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
