"""The model card names what its scores are of, and escapes text from the data."""

from tiny import tiny_config

from pf_keras.export.model_card import escape, write_card
from pf_keras.training.identity import RunIdentity
from pf_keras.training.workdir import Workdir


def test_card_names_the_step_and_the_data_of_a_score(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.folder("evaluate")
    workdir.write_result({"top1": 0.4, "steps": 9})
    config = tiny_config()
    run = RunIdentity("finetune", config, {"init": "scratch", "classes": ["a", "b"]})

    def card(evaluation, step=9):
        workdir.write_json(tmp_path / "evaluate" / "result.json", {"top1": 0.5, "data": config.data.source, **evaluation})
        write_card(workdir, run, tmp_path / "card.md", {"step": step})
        return (tmp_path / "card.md").read_text()

    for evaluation, name in (
        ({"steps": 9}, "evaluate: top1"),
        ({"steps": 7}, "evaluate at step 7: top1"),
        ({}, "evaluate at step unknown: top1"),
        ({"steps": 9, "data": "folder:elsewhere"}, "evaluate on other data: top1"),
        ({"steps": 7, "data": "folder:elsewhere"}, "evaluate on other data at step 7: top1"),
    ):
        text = card(evaluation)
        assert f"| {name} |" in text and "| top1 |" in text
    assert "| top1 at step 9 |" in card({}, step=7)  # as where the newest checkpoint is damaged


def test_text_from_data_is_escaped():
    assert escape("<script>|`[x](y)\nz") == "&lt;script&gt;\\|\\`\\[x](y) z"
