"""The documents: their Python examples run, their links and commands lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "docs/**/*.md", "tests/README.md", "tfrecords/README.md")
PAGES = sorted(path for place in PLACES for path in ROOT.glob(place))


def test_the_examples_of_the_library_page_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.S)
    assert len(blocks) >= 8
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Pretrainer" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", page.read_text())
    files = [link for pair in links for link in pair if link and "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_flags_configs_and_modules_that_exist(page):
    from absl import flags

    import pf_keras.cli as cli
    from pf_keras.config import SHIPPED, Config

    fields = {f"{section}.{field}" for section, values in Config().to_dict().items() for field in values}
    known = {"help", *(flag.name for flag in flags.FLAGS.get_key_flags_for_module(cli))}
    configs = {path.stem for path in SHIPPED.glob("*.py")}
    text = page.read_text()
    for command in re.findall(r"(?:main\.py|pf-keras) --[^`\n]*(?:\\\n[^`\n]*)*", text):
        for name, value in re.findall(r"--([\w.]+)(?:=([^\s`]+))?", command):
            assert name in known or name.removeprefix("config.") in fields, (page.name, name)
            if name == "config":
                assert value in configs or value.endswith(".py"), (page.name, value)
            if name == "mode" and value != "MODE":
                assert value in cli.MODES, (page.name, value)
    for module in re.findall(r"python -m ((?:tfrecords|experiments|pf_keras|tests)[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), (page.name, module)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
