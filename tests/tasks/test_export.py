"""Exports. A SavedModel is loaded in a process that cannot import pf_keras."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import refused, succeed
from PIL import Image

from experiments import classify
from pf_keras.data.decode import centre_window, decode_and_crop
from pf_keras.errors import UserError
from pf_keras.export.litert import description_of
from pf_keras.export.saved_model import UNREADABLE
from pf_keras.tasks import export
from pf_keras.training.identity import earlier_run
from pf_keras.training.weights import load, load_classifier

CLIENT = """
import sys, json, numpy as np, tensorflow as tf
try:
    import pf_keras
except ImportError:
    pass
else:
    raise SystemExit("pf_keras can be imported here")
folder, images, *files = sys.argv[1:]
signatures = tf.saved_model.load(folder).signatures
batch = np.load(images)
found = {"names": sorted(signatures)}
for name in signatures:
    if name == "serve_jpeg":
        data = tf.constant([open(file, "rb").read() for file in files])
        outputs = signatures[name](encoded=data)
    elif name == "describe":
        outputs = signatures[name]()
    else:
        outputs = signatures[name](images=tf.constant(batch))
    found[name] = {key: np.array(value.numpy(), str).tolist() if value.dtype == tf.string else value.numpy().tolist()
                   for key, value in outputs.items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    path = tmp_path_factory.mktemp("client") / "photo.jpg"
    pixels = np.add.outer(np.arange(50), np.arange(70))[..., None] * np.array([2, 1, 0.5])
    Image.fromarray(pixels.astype("uint8")).save(path, quality=90)
    return path


def serve(folder, files, tmp_path, shape=(3, 40, 60, 3)):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    np.save(tmp_path / "images.npy", images)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KERAS_BACKEND")}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folder), str(tmp_path / "images.npy"), *map(str, files)],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return images, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def exported(finetuned):
    return succeed("--mode=export", f"--workdir={finetuned.workdir}")


def reference(finetuned, images):
    """The probabilities of the Keras model itself, on images cropped and resized as in an evaluation."""
    import tensorflow as tf

    workdir, run = earlier_run(finetuned.workdir, "finetune")
    model, classes, _ = load_classifier(workdir, run)
    window = centre_window(run.config.data.eval_crop)
    size = run.config.model.image_size
    cropped = np.stack([decode_and_crop(encoded, window, size).numpy() for encoded in images])
    return tf.nn.softmax(model(cropped, training=False)).numpy(), classes


def test_signatures_in_a_clean_process_agree_with_the_model(finetuned, exported, jpeg, tmp_path):
    import tensorflow as tf

    files = [jpeg, tmp_path / "photo.png", tmp_path / "photo.bmp"]
    for other in files[1:]:
        Image.open(jpeg).save(other)
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:-300])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    broken = [tmp_path / name for name in ("cut.jpg", "page.jpg", "empty.jpg")]
    images, served = serve(exported["saved_model"], [broken[0], *files[:2], broken[1], files[2], broken[2]], tmp_path)
    assert served["names"] == ["describe", "embed", "serve_jpeg", "serving_default"]
    described, file = json.loads(served["describe"]["description"]), json.loads(Path(exported["description"]).read_text())
    assert set(described.pop("outputs")) == set(served["serve_jpeg"]) and set(file.pop("outputs")) == {"logits"}
    assert described == file and file["input"]["size"] == [16, 16, 3] and len(file["classes"]) == 10
    expected, classes = reference(finetuned, [tf.io.encode_png(image) for image in images])
    found = served["serving_default"]
    assert np.abs(np.array(found["probabilities"]) - expected).max() <= 1e-4
    assert found["class"] == [classes[i] for i in expected.argmax(1)]
    assert np.shape(served["embed"]["features"]) == (3, 16)

    expected, classes = reference(finetuned, [file.read_bytes() for file in files])
    found, good = {name: np.array(value) for name, value in served["serve_jpeg"].items()}, [1, 2, 4]
    assert np.abs(found["probabilities"][good] - expected).max() <= 1e-4
    assert found["label"][good].tolist() == expected.argmax(1).tolist()
    assert found["class"][good].tolist() == [classes[i] for i in expected.argmax(1)]
    assert found["status"].tolist() == [UNREADABLE, "ok", "ok", UNREADABLE, "ok", UNREADABLE]
    assert found["label"][[0, 3, 5]].tolist() == [-1] * 3 and not found["probabilities"][[0, 3, 5]].any()


def test_saved_model_has_no_python_operations(exported):
    """A server that is not a Python process could not load them."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    content = (Path(exported["saved_model"]) / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "DecodeAndCropJpeg" in ops and not [op for op in ops if "PyFunc" in op]
    assert "DecodeWebP" not in ops, "TensorFlow 2.19 does not have it"
    served = tf.saved_model.load(exported["saved_model"]).signatures["serve_jpeg"]
    assert served(encoded=tf.constant([b"GIF89a" + bytes(60)]))["status"][0] == UNREADABLE.encode()


def test_keras_file_loads_without_custom_objects_and_trains_further(finetuned, exported):
    import keras

    import pf_keras  # noqa: F401 - registers the layers

    model = keras.models.load_model(exported["keras"])
    ours = load(finetuned.workdir)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype="uint8")
    np.testing.assert_allclose(np.array(model(images)), np.array(ours(images)), atol=1e-5)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss, jit_compile=False)
    labels = np.arange(8) % 2
    history = model.fit(images, labels, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_onnx_agrees_with_the_model(finetuned, exported):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(exported["onnx"], providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype="uint8")
    (found,) = session.run(["logits"], {"image": images})
    ours = load(finetuned.workdir)
    np.testing.assert_allclose(found, np.array(ours(images)), atol=1e-4)
    described = session.get_modelmeta().custom_metadata_map["pf_keras"]
    assert json.loads(described)["classes"] == (Path(exported["onnx"]).parent / "classes.txt").read_text().split()


def test_litert_agrees_with_the_model(finetuned, exported):
    import tensorflow as tf

    images = np.random.default_rng(1).integers(0, 256, (5, 1, 16, 16, 3), dtype="uint8")
    ours = load(finetuned.workdir)
    expected = np.stack([np.array(ours(image)) for image in images])
    for kind, tolerance in (("float32", 1e-4), ("int8", 0.1 * expected.std())):  # int8 rounds weights to 1 in 127
        written = exported["litert"][kind]
        runner = tf.lite.Interpreter(written["file"]).get_signature_runner("serving_default")
        found = np.stack([runner(image=image)["logits"] for image in images])
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert written["bytes"] == os.path.getsize(written["file"]) and written["milliseconds"] > 0
        described = json.loads(description_of(written["file"]))
        assert described["input"]["size"] == [16, 16, 3] and "logits" in described["outputs"]


def test_each_export_is_the_next_version(finetuned, tmp_path):
    run = shutil.copytree(finetuned.workdir, tmp_path / "run")
    shutil.rmtree(run / "export", ignore_errors=True)
    (run / "export" / "saved_model" / "variables").mkdir(parents=True)  # of version 0.1
    (run / "export" / "saved_model" / "saved_model.pb").write_bytes(b"old")
    for version in ("1", "2"):
        assert succeed("--mode=export", f"--workdir={run}")["saved_model"] == str(run / "export" / "saved_model" / version)
        assert os.listdir(run / "export" / "saved_model") == [version]


def test_model_card_describes_the_run(finetuned, exported):
    card = Path(exported["model_card"]).read_text()
    assert f"| top1 | {finetuned.result['top1']:.4g} |" in card
    assert f"labelled images: {finetuned.result['labels']}" in card
    assert re.search(r"- start: .*pretrained\d*, step 20\n", card)
    assert '"image_size": 16' in card
    assert "- JPEG: RGB, grey or CMYK, turned upright by its EXIF orientation" in card


def test_files_of_an_earlier_export_are_replaced_or_removed(finetuned, tmp_path, monkeypatch):
    shutil.copytree(finetuned.workdir, tmp_path / "run")
    folder = tmp_path / "run" / "export"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"of an earlier export")
    (folder / "notes.txt").write_text("of the user")
    monkeypatch.setattr("pf_keras.tasks.export.export_onnx", lambda *_: "not written: pip install tf2onnx")
    result = succeed("--mode=export", f"--workdir={tmp_path / 'run'}")
    assert "not written" in result["onnx"]
    assert not (folder / "model.onnx").exists() and (folder / "notes.txt").exists()
    assert result["step"] == finetuned.result["steps"]


@pytest.mark.long
def test_pretraining_is_exported_with_features_and_reconstruction(pretrained, jpeg, tmp_path):
    result = succeed("--mode=export", f"--workdir={pretrained.workdir}")
    _, served = serve(result["saved_model"], [jpeg], tmp_path)
    assert served["names"] == ["describe", "embed", "reconstruct", "serving_default"]
    assert np.shape(served["embed"]["features"]) == (3, 16)
    found = {key: np.array(value) for key, value in served["reconstruct"].items()}
    assert found["decoded"].shape == found["truth"].shape == (3, 8, 8, 1)
    assert found["masked"].sum(axis=(1, 2)).tolist() == [10, 10, 10]
    visible = ~found["masked"].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(found["decoded"][visible], found["truth"][visible])


def test_client_names_each_image_that_it_cannot_read(exported, jpeg, tmp_path, capsys):
    (tmp_path / "page.jpg").write_text("<html>")
    code = classify.main(exported["saved_model"], jpeg, tmp_path / "page.jpg", tmp_path / "none.jpg", tmp_path, jpeg)
    said = capsys.readouterr()
    assert code == 2 and [line.split(":")[0] for line in said.out.splitlines()] == [str(jpeg)] * 2
    for line, path in zip(said.err.splitlines(), (tmp_path / "page.jpg", tmp_path / "none.jpg", tmp_path), strict=True):
        assert line.startswith("error: Cannot ") and f" {path}" in line
    assert classify.main(exported["saved_model"], jpeg) == 0


def test_client_refuses_a_model_that_is_not_a_classifier(pretrained, jpeg, tmp_path, capsys):
    features = succeed("--mode=export", f"--workdir={pretrained.workdir}")["saved_model"]
    for model, words in ((features, "which does not classify"), (str(tmp_path), "not a folder with a SavedModel")):
        assert classify.main(model, jpeg) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("error: ") and words in said


def test_failed_export_names_the_place_and_leaves_the_earlier_export_whole(finetuned, exported, monkeypatch):
    def half(model, classes, config, description, path):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = Path(exported["model_card"]).parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("pf_keras.tasks.export.save_classifier", half)
    line = refused("--mode=export", f"--workdir={finetuned.workdir}")
    assert f"Cannot write in {finetuned.workdir}: No space left" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_backend_exports_in_a_process_that_can_import_the_package(finetuned, tmp_path, monkeypatch):
    """From any directory, as an installed package would."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finetuned.workdir, tmp_path / "run")
    result = export.export_under_tensorflow("run")
    assert (tmp_path / result["saved_model"] / "saved_model.pb").exists() and result["step"] == finetuned.result["steps"]
    with pytest.raises(UserError, match="There is no run in none"):
        export.export_under_tensorflow("none")
