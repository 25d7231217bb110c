"""Input is data and never code. Only a config file is code."""

import re
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "main.py", *(p for name in ("pf_keras", "tfrecords") for p in (ROOT / name).glob("**/*.py"))]
UNSAFE = (
    r"\bpickle\b|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\b",
    r"allow_pickle\s*=\s*True|safe_mode\s*=\s*False|enable_unsafe_deserialization",
    r"(?<![\w.])(eval|exec|__import__)\(|\bos\.system\(|shell\s*=\s*True|yaml\.load\(",
)


def test_no_code_unpickles_or_evaluates_input():
    assert len(SOURCES) > 40
    for source in SOURCES:
        for number, line in enumerate(source.read_text().splitlines(), 1):
            for pattern in UNSAFE:
                assert not re.search(pattern, line.split("#")[0]), f"{source}:{number}: {line.strip()}"


def test_model_file_that_contains_code_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "code.keras")
    with pytest.raises((ValueError, TypeError), match="[Uu]nsafe|safe_mode|arbitrary code"):
        keras.saving.load_model(tmp_path / "code.keras")


def test_error_is_one_printable_line(capsys):
    from pf_keras.cli import fail

    assert fail("no\nimage \x1b[31mred\x1b[0m \x07.jpg") == 2
    assert capsys.readouterr().err == "error: no image \\x1b[31mred\\x1b[0m \\x07.jpg\n"
