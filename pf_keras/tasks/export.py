"""`--mode=export`: write a run's model for others: a SavedModel, a `.keras` file, an ONNX file and a model card."""

import json
import os
import subprocess
import sys

import keras
from etils import epath

from pf_keras.errors import UserError
from pf_keras.export.model_card import write_card
from pf_keras.export.onnx import export_onnx
from pf_keras.export.saved_model import save_classifier, save_pretrainer
from pf_keras.models import Embedder
from pf_keras.request import Request
from pf_keras.training.checkpoint import Checkpoint
from pf_keras.training.identity import RunIdentity, earlier_run
from pf_keras.training.weights import load_classifier, load_pretrainer
from pf_keras.training.workdir import Workdir

FILES = ("saved_model", "model.keras", "model.onnx", "classes.txt", "model_card.md", "result.json")


def run(request: Request) -> dict:
    """Export `request.workdir` into its folder `export`: the best checkpoint, or the newest without a hold-out.

    Returns the paths of what was written.

    An export that fails leaves an earlier one whole, because the files are moved only when all are written.
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
    export = export_classifier if earlier.mode == "finetune" else export_pretrainer
    written, checkpoint = export(workdir, earlier, aside)
    written["step"] = checkpoint.step
    result = {name: str(folder / what.name) if isinstance(what, os.PathLike) else what for name, what in written.items()}
    write_card(workdir, earlier, aside / "model_card.md", result)
    result["model_card"] = str(folder / "model_card.md")
    workdir.write_json(aside / "result.json", result)
    workdir.remove(folder / "result.json")  # so that it is never beside the files of another export
    with workdir.writing():
        for name in FILES:
            target = folder / name
            if target.is_dir():
                target.rmtree()
            elif target.exists():
                target.unlink()  # also where this export has no such file
            if (aside / name).exists():
                (aside / name).replace(target)
        aside.rmdir()
    return result


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
    with workdir.writing():
        save_classifier(model, classes, earlier.config, folder / "saved_model")
        model.save(os.fspath(folder / "model.keras"))
    workdir.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    written = {
        "saved_model": folder / "saved_model",
        "signatures": ["serving_default", "serve_jpeg", "embed"],
        "keras": folder / "model.keras",
        "onnx": export_onnx(model, earlier.config, folder / "model.onnx"),
        "classes": len(classes),
    }
    return written, checkpoint


def export_pretrainer(workdir: Workdir, earlier: RunIdentity, folder: epath.Path) -> tuple[dict, Checkpoint]:
    """Write a pre-trainer into `folder`, its features as ONNX. Returns what `export_classifier` returns."""
    model, checkpoint = load_pretrainer(workdir, earlier)
    with workdir.writing():
        save_pretrainer(model, earlier.config, folder / "saved_model")
        model.save(os.fspath(folder / "model.keras"))
    embedder = Embedder(model.backbone, name="embedder")
    embedder.build()
    written = {
        "saved_model": folder / "saved_model",
        "signatures": ["serving_default", "embed", "reconstruct"],
        "keras": folder / "model.keras",
        "onnx": export_onnx(embedder, earlier.config, folder / "model.onnx"),
    }
    return written, checkpoint
