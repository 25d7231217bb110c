"""`--mode=export`: what was learned as files for others: SavedModel, `.keras`, ONNX, and a model card.

The SavedModel needs TensorFlow alone. It is traced under the TensorFlow backend; under another one the export runs
in a process of its own with that backend, since checkpoints are the same under all.
"""

import json
import os
import subprocess
import sys
import tempfile

import keras

from pf_keras.errors import UserError, writing
from pf_keras.models import Embedder, build_pretrainer
from pf_keras.tasks.card import write_card
from pf_keras.tasks.finetune import load_classifier
from pf_keras.tasks.serving import save_classifier, save_pretrainer
from pf_keras.training.checkpoint import require_checkpoint
from pf_keras.training.workdir import Workdir

PARTS = ("saved_model", "model.keras", "model.onnx", "classes.txt", "model_card.md", "result.json")  # of an export


def run(request):
    """Export the newest checkpoint of `request.workdir` into its `export` folder; returns what was written."""
    workdir = Workdir.of_run(request.workdir, "finetune", "pretrain")
    if keras.backend.backend() != "tensorflow":
        return export_elsewhere(request.workdir)
    keras.config.set_dtype_policy("float32")  # the served model is float32, whatever it was trained in
    folder, aside = workdir.folder("export"), workdir.path / "export.writing"
    with writing(workdir.path):
        if aside.exists():  # left by an export that failed
            aside.rmtree()
        aside.mkdir()
    config = workdir.config()
    export = export_classifier if workdir.mode() == "finetune" else export_pretrainer
    written, checkpoint = export(workdir, config, aside)
    written["step"] = checkpoint.step
    result = {name: str(folder / what.name) if isinstance(what, os.PathLike) else what for name, what in written.items()}
    write_card(workdir, config, aside / "model_card.md", result)
    result["model_card"] = str(folder / "model_card.md")
    workdir.write_json(aside / "result.json", result)
    with writing(workdir.path):  # all of it is there: in the place of an earlier export's
        for name in PARTS:
            target = folder / name
            if target.is_dir():
                target.rmtree()
            elif target.exists():
                target.unlink()  # an earlier export may have had what this one has not
            if (aside / name).exists():
                (aside / name).replace(target)
        aside.rmdir()
    return result


def export_elsewhere(workdir):
    """Run this export under the TensorFlow backend."""
    main = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "main.py")
    command = [sys.executable, main, "--mode=export", f"--workdir={workdir}"]
    done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True)
    sys.stderr.write(done.stderr if not done.returncode else "")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(lines[-1].removeprefix("error: "))
    return json.loads(done.stdout.splitlines()[-1])


def export_classifier(workdir, config, folder):
    """`serving_default`, `serve_jpeg` and `embed`; `model.keras`; `model.onnx` where its packages are installed.

    Returns what was written into `folder`, files as their paths, and the checkpoint that it is of.
    """
    model, classes, checkpoint = load_classifier(workdir)
    with writing(workdir.path):
        save_classifier(model, classes, config, folder / "saved_model")
        model.save(os.fspath(folder / "model.keras"))
    workdir.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    written = {
        "saved_model": folder / "saved_model",
        "signatures": ["serving_default", "serve_jpeg", "embed"],
        "keras": folder / "model.keras",
        "onnx": export_onnx(model, config, folder / "model.onnx"),
        "classes": len(classes),
    }
    return written, checkpoint


def export_pretrainer(workdir, config, folder):
    """`embed` (also the default) and `reconstruct`; the whole pre-trainer as `model.keras`, with its `backbone`.

    Returns what was written into `folder`, files as their paths, and the checkpoint that it is of.
    """
    model = build_pretrainer(config)
    checkpoint = require_checkpoint(workdir.checkpoints).load_into(model)
    with writing(workdir.path):
        save_pretrainer(model, config, folder / "saved_model")
        model.save(os.fspath(folder / "model.keras"))
    embedder = Embedder(model.backbone, name="embedder")
    embedder.build()
    written = {
        "saved_model": folder / "saved_model",
        "signatures": ["serving_default", "embed", "reconstruct"],
        "keras": folder / "model.keras",
        "onnx": export_onnx(embedder, config, folder / "model.onnx"),
    }
    return written, checkpoint


def export_onnx(model, config, path):
    """Write the model for images already cropped, uint8 (B, S, S, 3), as ONNX; returns the path.

    Where Keras's exporter finds no tf2onnx it is left out, and the result says so instead.
    """
    try:
        import tf2onnx  # noqa: F401
    except ImportError:
        return "not written: pip install tf2onnx"
    size = config.model.image_size
    signature = [keras.InputSpec(shape=(None, size, size, 3), dtype="uint8", name="image")]
    with tempfile.TemporaryDirectory() as folder:  # tf2onnx knows local places alone
        local = os.path.join(folder, "model.onnx")
        model.export(local, format="onnx", input_signature=signature, verbose=False)
        with writing(path.parent), open(local, "rb") as file:
            path.write_bytes(file.read())
    return path
