"""`--mode=export`: write a run's model for others: a SavedModel, `.keras`, ONNX and LiteRT files, and a model card."""

import json
import os
import subprocess
import sys

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.export.description import describe
from pf_keras.export.exported import SAVED_MODEL, versions
from pf_keras.export.litert import export_litert
from pf_keras.export.model_card import write_card
from pf_keras.export.onnx import export_onnx
from pf_keras.export.saved_model import save_classifier, save_pretrainer
from pf_keras.models import Embedder, Pretrainer
from pf_keras.request import Request
from pf_keras.training.checkpoint import Checkpoint
from pf_keras.training.identity import RunIdentity, earlier_run
from pf_keras.training.weights import load_classifier, load_pretrainer
from pf_keras.training.workdir import Workdir

FILES = (
    "model.keras", "model.onnx", "model.tflite", "model_int8.tflite", "classes.txt", "description.json", "model_card.md",
    "result.json",
)  # fmt: skip


def run(request: Request) -> dict:
    """Export `request.workdir` into its folder `export`: the best checkpoint, or the newest without a hold-out.

    Returns the paths of what was written.

    An export that fails leaves an earlier one whole, because the files are moved only when all are written. The SavedModel is
    the next version in `export/saved_model`, which TensorFlow Serving watches. The version before is then removed.
    """
    workdir, earlier = earlier_run(request.workdir, "finetune", "pretrain")
    if keras.backend.backend() != "tensorflow":
        return export_under_tensorflow(request.workdir)
    keras.config.set_dtype_policy("float32")  # the served model is float32, whatever it was trained in
    folder, aside = workdir.folder("export"), workdir.path / "export.writing"
    with workdir.writing():
        if aside.exists():  # left by an export that failed
            aside.rmtree()
        aside.mkdir()
    written, checkpoint = (export_classifier if earlier.mode == "finetune" else export_pretrainer)(workdir, earlier, aside)
    written["step"] = checkpoint.step
    version = folder / SAVED_MODEL / str(1 + max([0, *map(int, versions(folder / SAVED_MODEL))]))
    result = _at(folder, {**written, "saved_model": version})
    write_card(workdir, earlier, aside / "model_card.md", result)
    result["model_card"] = str(folder / "model_card.md")
    workdir.write_json(aside / "result.json", result)
    workdir.remove(folder / "result.json")  # so that it is never beside the files of another export
    with workdir.writing():
        version.parent.mkdir(exist_ok=True)
        (aside / SAVED_MODEL).rename(version)
        for old in version.parent.iterdir():  # earlier versions, and the files of one without a number
            if old != version:
                _remove(old)
        for name in FILES:
            _remove(folder / name)  # also where this export has no such file
            if (aside / name).exists():
                (aside / name).replace(folder / name)
        aside.rmdir()
    return result


def _at(folder: epath.Path, what: object) -> object:
    """Paths as text, of files as they will be in `folder`."""
    if isinstance(what, dict):
        return {name: _at(folder, value) for name, value in what.items()}
    if not isinstance(what, os.PathLike):
        return what
    return str(what if what.parent.name == SAVED_MODEL else folder / what.name)


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    elif path.exists():
        path.unlink()


def export_under_tensorflow(path: str) -> dict:
    """Run this export in another process, because only the TensorFlow backend writes a SavedModel.

    Checkpoints are the same under all backends.
    """
    command = [sys.executable, "-m", "pf_keras.cli", "--mode=export", f"--workdir={path}"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"The export ended with exit code {done.returncode}."]
        raise UserError(lines[-1].removeprefix("error: "))
    sys.stderr.write(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def export_classifier(workdir: Workdir, earlier: RunIdentity, folder: epath.Path) -> tuple[dict, Checkpoint]:
    """Write a classifier into `folder`. Returns what was written, with files as paths, and the checkpoint it came from."""
    model, classes, checkpoint = load_classifier(workdir, earlier)
    config, step = earlier.config, checkpoint.step
    served = {
        "probabilities": "of the classes, in their order; 0 for an image that cannot be read",
        "label": "the number of the most probable class; -1 for an image that cannot be read",
        "class": "its name",
        "status": "of serve_jpeg: ok, or why an image has no answer",
    }
    logits = {"logits": "of the classes, in their order; softmax turns them into probabilities"}
    with workdir.writing():
        save_classifier(model, classes, config, describe(config, step, served, classes), folder / SAVED_MODEL)
    workdir.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    files = write_files(workdir, model, config, describe(config, step, logits, classes), folder)
    signatures = ["serving_default", "serve_jpeg", "embed", "describe"]
    return {"signatures": signatures, **files, "classes": len(classes)}, checkpoint


def export_pretrainer(workdir: Workdir, earlier: RunIdentity, folder: epath.Path) -> tuple[dict, Checkpoint]:
    """Write a pre-trainer into `folder`, its features as ONNX and LiteRT. Returns what `export_classifier` returns."""
    model, checkpoint = load_pretrainer(workdir, earlier)
    description = describe(earlier.config, checkpoint.step, {"features": "the mean of the context over all patches"})
    with workdir.writing():
        save_pretrainer(model, earlier.config, description, folder / SAVED_MODEL)
    files = write_files(workdir, model, earlier.config, description, folder)
    return {"signatures": ["serving_default", "embed", "reconstruct", "describe"], **files}, checkpoint


def write_files(workdir: Workdir, model: keras.Model, config: Config, description: str, folder: epath.Path) -> dict:
    """Write the `.keras`, ONNX and LiteRT files of a model, and the description. Returns what was written."""
    output, plain = "logits", model
    if isinstance(model, Pretrainer):
        output, plain = "features", Embedder(model.backbone, name="embedder")
        plain.build()
    with workdir.writing():
        model.save(os.fspath(folder / "model.keras"))
    workdir.write_text(folder / "description.json", description)
    return {
        "keras": folder / "model.keras",
        "onnx": export_onnx(plain, config, output, description, folder / "model.onnx"),
        "litert": export_litert(plain, config, output, description, folder),
        "description": folder / "description.json",
    }
