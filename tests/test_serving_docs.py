"""The Python of docs/serving.md runs, and a server would understand its requests."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import succeed
from tf_serving import predict_by_rest

from pf_keras.export.saved_model import UNREADABLE
from tests.data import images_made as made

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def page():
    """The functions of the page."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def exported(finetuned):
    return succeed("--mode=export", f"--workdir={finetuned.workdir}")


@pytest.fixture(scope="module")
def served(exported):
    import tensorflow as tf

    return tf.saved_model.load(exported["saved_model"])


@pytest.fixture
def files(tmp_path):
    """Two photographs, and between them a file that is none."""
    for number, data in enumerate((made.jpeg(), b"<html>", made.encoded(made.pixels(seed=1), "PNG"))):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    return [str(path) for path in sorted(tmp_path.iterdir())]


def test_rest(page, served, files, monkeypatch):
    answers = predict_by_rest(served, page["rest_request"](*files))
    assert [answer["status"] for answer in answers["predictions"]] == ["ok", UNREADABLE, "ok"]
    assert UNREADABLE in PAGE
    asked = {}

    def urlopen(request):
        asked["url"] = request.full_url
        return io.BytesIO(json.dumps(predict_by_rest(served, request.data)).encode())

    monkeypatch.setitem(page, "urlopen", urlopen)
    first, second, third = page["ask"](*files)
    assert second == UNREADABLE and first in "0123456789" and third in "0123456789"
    assert asked["url"].endswith("/v1/models/photos:predict")


def test_grpc(page, served, files):
    pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    import tensorflow as tf

    request = type(page["grpc_request"](*files)).FromString(page["grpc_request"](*files).SerializeToString())
    signature = served.signatures[request.model_spec.signature_name]
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    assert signature(**inputs)["status"].numpy().tolist() == [b"ok", UNREADABLE.encode(), b"ok"]


def test_onnx_and_litert_agree(page, exported):
    pytest.importorskip("onnxruntime")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype="uint8")
    logits, description = page["onnx_logits"](exported["onnx"], images)
    assert description["input"]["size"] == [16, 16, 3] and len(description["classes"]) == logits.shape[1]
    found = np.stack([page["litert_logits"](exported["litert"]["float32"]["file"], image) for image in images])
    np.testing.assert_allclose(found, logits, atol=1e-4)  # two float32 runtimes
