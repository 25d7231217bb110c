"""Exports are loaded in processes that cannot import pf_keras."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image
from tiny import tiny_config

from experiments import classify
from pf_keras.tasks.finetune import load_classifier
from pf_keras.training.workdir import Workdir

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
    else:
        outputs = signatures[name](images=tf.constant(batch))
    found[name] = {key: value.numpy().astype(str).tolist() if value.dtype == tf.string else value.numpy().tolist()
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
    done = command("--mode=export", f"--workdir={finetuned.workdir}")
    assert done.code == 0, done.err
    return done.result


def reference(finetuned, images):
    """The probabilities of the Keras model itself on images cropped and resized as its evaluation does."""
    import tensorflow as tf

    from pf_keras.data.decode import centre_window, decode_and_crop

    config = Workdir(finetuned.workdir).config()
    model, classes, _ = load_classifier(Workdir(finetuned.workdir))
    window = centre_window(config.data.eval_crop)
    size = config.model.image_size
    cropped = np.stack([decode_and_crop(encoded, window, size).numpy() for encoded in images])
    return tf.nn.softmax(model(cropped, training=False)).numpy(), classes


def test_each_signature_in_a_clean_process_agrees_with_the_model(finetuned, exported, jpeg, tmp_path):
    import tensorflow as tf

    files = [jpeg, tmp_path / "photo.png", tmp_path / "photo.bmp"]
    for other in files[1:]:
        Image.open(jpeg).save(other)
    images, served = serve(exported["saved_model"], files, tmp_path)
    assert served["names"] == ["embed", "serve_jpeg", "serving_default"]
    expected, classes = reference(finetuned, [tf.io.encode_png(image) for image in images])
    found = served["serving_default"]
    assert np.abs(np.array(found["probabilities"]) - expected).max() <= 1e-4
    assert found["class"] == [classes[i] for i in expected.argmax(1)]
    assert np.shape(served["embed"]["features"]) == (3, 16)

    expected, classes = reference(finetuned, [file.read_bytes() for file in files])
    found = served["serve_jpeg"]
    assert np.abs(np.array(found["probabilities"]) - expected).max() <= 1e-4
    assert found["label"] == expected.argmax(1).tolist()


def test_a_served_model_has_no_python_in_it(exported):
    """A server that is no Python process cannot load such an operation."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    content = (Path(exported["saved_model"]) / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "DecodeAndCropJpeg" in ops and not [op for op in ops if "PyFunc" in op]
    served = tf.saved_model.load(exported["saved_model"]).signatures["serve_jpeg"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected a JPEG, PNG or 24-bit BMP of"):
        served(encoded=tf.constant([b"GIF89a" + bytes(60)]))


def test_the_keras_file_loads_without_custom_objects_and_trains_on(finetuned, exported):
    import keras

    import pf_keras  # noqa: F401 - registers the layers

    model = keras.models.load_model(exported["keras"])
    ours, *_ = load_classifier(Workdir(finetuned.workdir))
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
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    ours, *_ = load_classifier(Workdir(finetuned.workdir))
    np.testing.assert_allclose(found, np.array(ours(images)), atol=1e-4)


def test_images_and_encoded_images_are_cropped_as_at_evaluation():
    from pf_keras.data.decode import centre_window, decode_and_crop
    from pf_keras.export.saved_model import croppers

    config = tiny_config({"data.eval_crop": "1.0"})  # 32 px
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")  # every other mean ends in a half
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    crop, decode = croppers(config)
    expected = decode_and_crop(out.getvalue(), centre_window(1.0), 32)
    np.testing.assert_array_equal(crop(image[None])[0], expected)
    np.testing.assert_array_equal(decode(np.array([out.getvalue()], object))[0], expected)


def test_the_card_tells_of_the_run(finetuned, exported):
    card = Path(exported["model_card"]).read_text()
    assert f"| top1 | {finetuned.result['top1']:.4g} |" in card
    assert f"labelled images: {finetuned.result['labels']}" in card
    assert re.search(r"- start: .*pretrained\d*, step 20\n", card)
    assert '"image_size": 16' in card


def test_what_an_earlier_export_had_and_this_one_has_not_goes(finetuned, tmp_path, monkeypatch):
    shutil.copytree(finetuned.workdir, tmp_path / "run")
    folder = tmp_path / "run" / "export"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"of an earlier export")
    (folder / "notes.txt").write_text("of the user")
    monkeypatch.setattr("pf_keras.tasks.export.export_onnx", lambda *_: "not written: pip install tf2onnx")
    done = command("--mode=export", f"--workdir={tmp_path / 'run'}")
    assert done.code == 0 and "not written" in done.result["onnx"], done.err
    assert not (folder / "model.onnx").exists() and (folder / "notes.txt").exists()
    assert done.result["step"] == finetuned.result["steps"]


def test_the_card_names_the_step_of_a_score(finetuned, tmp_path):
    from pf_keras.export.model_card import write_card

    workdir = Workdir(tmp_path)
    workdir.start("finetune", tiny_config(), {"init": "scratch", "classes": ["a", "b"]})
    workdir.folder("evaluate")
    for found, told in (({"steps": 9}, "| evaluate: top1 |"), ({"steps": 7}, "| evaluate at step 7: top1 |"),
                        ({}, "| evaluate at step unknown: top1 |")):  # fmt: skip
        workdir.write_json(tmp_path / "evaluate" / "result.json", {"top1": 0.5, "data": tiny_config().data.source, **found})
        workdir.write_result({"top1": 0.4, "steps": 9})
        write_card(workdir, workdir.config(), tmp_path / "card.md", {"step": 9})
        card = (tmp_path / "card.md").read_text()
        assert told in card and "| top1 |" in card
    write_card(workdir, workdir.config(), tmp_path / "card.md", {"step": 7})  # as where the newest checkpoint is damaged
    assert "| top1 at step 9 |" in (tmp_path / "card.md").read_text()


def test_text_from_data_is_escaped():
    from pf_keras.export.model_card import escape

    assert escape("<script>|`[x](y)\nz") == "&lt;script&gt;\\|\\`\\[x](y) z"


@pytest.mark.long
def test_a_pretrained_workdir_exports_features_and_reconstruction(pretrained, jpeg, tmp_path):
    done = command("--mode=export", f"--workdir={pretrained.workdir}")
    assert done.code == 0, done.err
    _, served = serve(done.result["saved_model"], [jpeg], tmp_path)
    assert served["names"] == ["embed", "reconstruct", "serving_default"]
    assert np.shape(served["embed"]["features"]) == (3, 16)
    found = {key: np.array(value) for key, value in served["reconstruct"].items()}
    assert found["decoded"].shape == found["truth"].shape == (3, 8, 8, 1)
    assert found["masked"].sum(axis=(1, 2)).tolist() == [10, 10, 10]
    visible = ~found["masked"].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(found["decoded"][visible], found["truth"][visible])


def test_the_client_names_each_image_that_it_cannot_read(exported, jpeg, tmp_path, capsys):
    (tmp_path / "page.jpg").write_text("<html>")
    code = classify.main(exported["saved_model"], jpeg, tmp_path / "page.jpg", tmp_path / "none.jpg", tmp_path, jpeg)
    said = capsys.readouterr()
    assert code == 2 and [line.split(":")[0] for line in said.out.splitlines()] == [str(jpeg)] * 2
    for line, path in zip(said.err.splitlines(), (tmp_path / "page.jpg", tmp_path / "none.jpg", tmp_path), strict=True):
        assert line.startswith("error: expected ") and f"received {path}" in line
    assert classify.main(exported["saved_model"], jpeg) == 0


def test_the_client_refuses_what_is_no_classifier(pretrained, jpeg, tmp_path, capsys):
    features = command("--mode=export", f"--workdir={pretrained.workdir}").result["saved_model"]
    for model, words in ((features, "which does not classify"), (str(tmp_path), "with a SavedModel")):
        assert classify.main(model, jpeg) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("error: expected") and words in said


def test_an_export_that_fails_names_the_place_and_leaves_the_earlier_one_whole(finetuned, exported, monkeypatch):
    def half(model, classes, config, path):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = Path(exported["model_card"]).parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("pf_keras.tasks.export.save_classifier", half)
    failed = command("--mode=export", f"--workdir={finetuned.workdir}")
    assert failed.code == 2 and f"expected to write in {finetuned.workdir}, received No space left" in failed.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
