"""Write a preset: a folder from which others load the model, fine-tune it or train it further."""

import hashlib
import json
import os
from dataclasses import replace

from etils import epath

from pf_keras import __version__
from pf_keras.config import RunConfig
from pf_keras.errors import UserError, patiently, writing
from pf_keras.export.model_card import escape
from pf_keras.presets.folder import CARD, CONFIG, FORMAT, WEIGHTS, is_preset
from pf_keras.training.checkpoint import InMemory
from pf_keras.training.identity import RunIdentity
from pf_keras.training.weights import load_classifier, load_pretrainer, start_of
from pf_keras.training.workdir import Workdir

USE = """\
```python
import pf_keras

model = pf_keras.load("{name}")
```

    pf-keras --mode={mode} --init={name} --data=folder:PHOTOS --workdir=runs/photos
"""


def save_preset(source: str | os.PathLike, folder: str | os.PathLike, settings: dict[str, object] | None = None) -> str:
    """Write the model of a run as a preset, without the optimizer. Where the run kept an average of its weights, that is it.

    Args:
        source: the workdir of a pre-training or fine-tuning, or a preset.
        folder: where the preset goes. It must be empty or absent.
        settings: fields of its config to change, such as `{"finetune.epochs": 100}`: what fine-tuning from it begins with.
            Where its data were and how the run behaved (section `run`) are left out.

    Returns:
        The folder, which holds `config.json`, `model.weights.h5` and `README.md`, a model card to complete.

    Raises:
        UserError: there is no such run, the folder has files, or a setting is invalid or changes the model.
    """
    workdir, run = start_of(source, "pretrain", "finetune")
    place = epath.Path(folder).expanduser()
    with writing(folder):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UserError(f"{folder} is not empty, and a preset overwrites nothing. Name a new folder.")
    if run.mode == "pretrain":
        model, checkpoint = load_pretrainer(workdir, run)
        facts = {}
    else:
        model, classes, checkpoint = load_classifier(workdir, run)
        facts = {"classes": list(classes)}
    model.save_weights(content := InMemory())
    weights = {"bytes": len(content), "sha256": hashlib.sha256(content.getbuffer()).hexdigest()}
    # What belongs to the machine that trained it is of no use elsewhere.
    config = replace(run.config, data=replace(run.config.data, source=""), run=RunConfig())
    config = config.override({name: str(value) for name, value in (settings or {}).items()})
    run.require_same_model(source, config, "model", "target", "finetune.head", free=())
    facts = {"preset": FORMAT, "pf_keras": __version__, "step": checkpoint.step, **facts, "weights": weights}
    identity = RunIdentity(run.mode, config, facts)
    files = {
        WEIGHTS: content.getvalue(),
        CONFIG: (json.dumps(identity.to_dict(), indent=2) + "\n").encode(),
        CARD: card(place.name, workdir, run, checkpoint.step, model.count_params()).encode(),
    }

    def write() -> None:
        place.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (place / name).write_bytes(data)

    with writing(folder):
        patiently(write, folder)
    return os.fspath(place)


def card(name: str, workdir: Workdir, run: RunIdentity, step: int, parameters: int) -> str:
    """The model card of a preset, with the front matter that the Hugging Face Hub reads.

    Args:
        name: of the preset.
        workdir, run: that it was made of.
        step: of its weights.
        parameters: how many the model has.
    """
    old = workdir.path / CARD
    if is_preset(run) and old.exists():
        return old.read_text()
    pretrained, result = run.mode == "pretrain", {}
    kind_of_data, _, data = run.config.data.source.partition(":")
    data = f"{kind_of_data}:{os.path.basename(data.rstrip('/'))}" if data else kind_of_data
    if workdir.result_file.exists():
        result = workdir.read_json(workdir.result_file)
    scores = {key: value for key, value in result.items() if isinstance(value, int | float)}
    model, kind = run.config.model, "Pre-trained by decoding masked patches" if pretrained else "A classifier"
    lines = [
        "---",
        "library_name: keras",
        "tags: [pf_keras, image-feature-extraction]" if pretrained else "tags: [pf_keras, image-classification]",
        "---",
        "",
        f"# {escape(name)}",
        "",
        f"{kind}, {parameters:,} parameters, images of {model.image_size} px. Made by pf_keras {__version__}.",
        "",
        "## Use",
        "",
        USE.format(name=name, mode="finetune" if pretrained else "predict"),
        "## Data and recipe",
        "",
        f"- trained on: {escape(data)} (say here what these images are, and their licence)",
        f"- steps: {step:,}; the other settings are in `{CONFIG}`",
        *([] if pretrained else [f"- classes: {escape(', '.join(run.facts['classes'][:50]))}"]),
        "",
        "## Scores",
        "",
        *[f"- {escape(key)}: {value:.4g}" for key, value in scores.items()],
        *([] if scores else ["- none: the run has not ended"]),
        "",
        "## Limits",
        "",
        "- Not tested for robustness, calibration or fairness.",
        "- Check the licences of the training images before you use or publish it.",
    ]
    return "\n".join(lines) + "\n"
