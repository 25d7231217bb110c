"""The client of an exported model, apart from its classes (tests/tasks/test_export.py)."""

import ast
import subprocess
import sys
from pathlib import Path

from experiments import classify
from experiments.commands import ROOT


def test_the_client_imports_only_tensorflow_and_pillow_for_what_tensorflow_cannot_read():
    names, tree = set(), ast.parse(Path(classify.__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "converted":
            node.body = []  # is not called for JPEG and PNG
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"tensorflow"}


def test_native_output_is_silent_but_errors_and_crashes_are_shown():
    script = (
        "import os, sys\n"
        "from experiments import classify\n"
        "classify.silence_native_output()\n"
        "os.write(2, b'native\\n')\n"
        "classify.fail('no such image')\n"
        "os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines[0] == "error: no such image" and lines[1].startswith("Fatal Python error") and "native" not in done.stderr
