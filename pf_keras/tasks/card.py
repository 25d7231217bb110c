"""The model card beside an exported model: what it was made from, how it scored, what it is not for."""

from pf_keras import __version__
from pf_keras.data.sources import same_data


def write_card(workdir, config, path, exported):
    """Write the card to `path` from the run's own files and what was exported. Text from data is escaped."""
    definition = workdir.definition()
    mode, step = definition["mode"], workdir.init_step()
    result = workdir.read_json(workdir.result_file) if workdir.result_file.exists() else {}
    scores = {f"{key}{_at_step(result, exported)}": value for key, value in result.items()}
    evaluation = workdir.path / "evaluate" / "result.json"
    if evaluation.exists():
        found = workdir.read_json(evaluation)
        where = "" if same_data(found.get("data", ""), config.data.source) else " on other data"
        where += _at_step(found, exported)
        scores |= {f"evaluate{where}: {k}": v for k, v in found.items()}
    lines = [
        f"# PatchFormer, {'classifier' if mode == 'finetune' else 'pre-trained by decoding masked patches'}",
        "",
        f"Made by pf_keras {__version__}. PatchFormer learns from unlabelled images by decoding patches that are hidden"
        " from it; a classifier is then trained on few labels.",
        "",
        "## Data",
        "",
        f"- source: {escape(config.data.source)}",
    ]
    if mode == "finetune":
        lines += [
            f"- labelled images: {result.get('labels', 'unknown')}",
            f"- start: {escape(definition['init'])}{f', step {step}' if step is not None else ''}",
            f"- classes ({len(definition['classes'])}): {escape(', '.join(definition['classes'][:50]))}",
        ]
    lines += [
        f"- input: RGB, one centre crop of {config.data.eval_crop:.0%} of the shorter side, resized to"
        f" {config.model.image_size} px",
        "",
        "## Scores",
        "",
        "| figure | value |",
        "|---|---|",
        *[f"| {escape(str(k))} | {escape(_figure(v))} |" for k, v in scores.items()],
        *([] if scores else ["| none recorded: the run has not ended | |"]),
        "",
        f"What was exported is of step {exported['step']}. Scores are of that step and on the validation images of the source"
        " above, but where a row names another step or other data, and say nothing of more.",
        "",
        "## Files",
        "",
        *[f"- {key}: {escape(str(value))}" for key, value in exported.items()],
        "",
        "## Limits",
        "",
        "- Not tested for robustness, calibration or fairness; the probabilities are a softmax trained with smoothed"
        " labels.",
        "- Images unlike the training data get confident answers too: there is no class for 'none of these'.",
        "- Licences and consent of the training images are those of the source; check them before use.",
        "",
        "## Config",
        "",
        "```json",
        config.to_json().rstrip(),
        "```",
    ]
    workdir.write_text(path, "\n".join(lines) + "\n")


def _at_step(scores, exported):
    """What tells that scores are of another step than what was exported."""
    return "" if scores.get("steps") == exported["step"] else f" at step {scores.get('steps', 'unknown')}"


def escape(text):
    """Text from data or file names, made harmless in Markdown and HTML, on one line."""
    text = " ".join(text.split())
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\[")):
        text = text.replace(character, replacement)
    return text


def _figure(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
