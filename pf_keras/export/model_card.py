"""The model card of an export: what the model was trained on, how it scored, and what it is not for."""

from etils import epath

from pf_keras import __version__
from pf_keras.config import DataConfig
from pf_keras.training.identity import RunIdentity
from pf_keras.training.weights import init_step
from pf_keras.training.workdir import Workdir


def write_card(workdir: Workdir, run: RunIdentity, path: epath.Path, exported: dict) -> None:
    """Write the model card. Text that comes from the data is escaped.

    Args:
        workdir: of the run, with its scores.
        run: what its `config.json` says.
        path: of the card.
        exported: what was exported, `step` among it.
    """
    config, step = run.config, exported["step"]
    result = workdir.read_json(workdir.result_file) if workdir.result_file.exists() else {}
    lines = [
        f"# PatchFormer, {'classifier' if run.mode == 'finetune' else 'pre-trained by decoding masked patches'}",
        "",
        f"Made by pf_keras {__version__}. PatchFormer learns from unlabelled images by decoding patches that are hidden"
        " from it. A classifier is then trained with few labels.",
        "",
        "## Data",
        "",
        f"- source: {escape(config.data.source)}",
    ]
    if run.mode == "finetune":
        init, classes = run.facts["init"], run.facts["classes"]
        start = init_step(workdir)
        lines += [
            f"- labelled images: {result.get('labels', 'unknown')}",
            f"- start: {escape(init)}{'' if start is None else f', step {start}'}",
            f"- classes ({len(classes)}): {escape(', '.join(classes[:50]))}",
        ]
    scores = _scores(workdir, config.data.source, result, step)
    lines += [
        f"- input: RGB, one centre crop of {config.data.eval_crop:.0%} of the shorter side, resized to"
        f" {config.model.image_size} px",
        "",
        *([] if run.mode == "pretrain" else _formats(config.data)),
        "## Scores",
        "",
        "| figure | value |",
        "|---|---|",
        *[f"| {escape(name)} | {escape(_figure(value))} |" for name, value in scores.items()],
        *([] if scores else ["| none: the run has not ended | |"]),
        "",
        f"The exported model is that of step {step}. A score is of this step and of the validation images of the source above,"
        " unless its row names another step or other data.",
        "",
        "## Files",
        "",
        *[f"- {name}: {escape(str(value))}" for name, value in exported.items()],
        "",
        "## Limits",
        "",
        "- Not tested for robustness, calibration or fairness. The probabilities are a softmax trained with smoothed labels.",
        "- Images unlike the training data also get confident answers: there is no class for 'none of these'.",
        "- Check the licences of the training images, and the consent of the people in them, before use.",
        "",
        "## Config",
        "",
        "```json",
        config.to_json().rstrip(),
        "```",
    ]
    workdir.write_text(path, "\n".join(lines) + "\n")


def _formats(data: DataConfig) -> list[str]:
    """The lines on which encoded images the signature `serve_jpeg` takes."""
    exif = "turned upright by its EXIF orientation" if data.exif else "as it is stored, whatever its EXIF orientation"
    levels = "0-65535" if data.range16 == "type" else data.range16
    background = "transparency is dropped" if data.background == "drop" else f"transparency on {data.background}"
    return [
        "## Encoded images",
        "",
        "`serve_jpeg` reads images as the training did:",
        "",
        f"- JPEG: RGB, grey or CMYK, {exif}",
        f"- PNG: every depth and colour type, {background}; of 16-bit grey {levels} is black to white",
        "- BMP: 24 bits",
        f"- at most {data.max_pixels:,} pixels",
        "- other formats (WebP, GIF, TIFF, HEIC, AVIF, PPM, other BMP): convert them to PNG, as `experiments/classify.py` does",
        "",
    ]


def _scores(workdir: Workdir, source: str, result: dict, step: int) -> dict:
    """The scores of the run and of its evaluation by name. The name tells where step or data are other ones."""
    scores = {f"{name}{_at_step(result, step)}": value for name, value in result.items()}
    file = workdir.path / "evaluate" / "result.json"
    if file.exists():
        evaluation = workdir.read_json(file)
        other = "" if evaluation.get("data") == source else " on other data"
        scores |= {f"evaluate{other}{_at_step(evaluation, step)}: {name}": value for name, value in evaluation.items()}
    return scores


def _at_step(scores: dict, step: int) -> str:
    scored = scores.get("best_step", scores.get("steps", "unknown"))
    return "" if scored == step else f" at step {scored}"


def escape(text: str) -> str:
    """Text of data or file names on one line, harmless in Markdown and HTML."""
    text = " ".join(text.split())
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\[")):
        text = text.replace(character, replacement)
    return text


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
