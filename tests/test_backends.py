"""The core imports no backend, and the same weights and noise give the same loss under both backends."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import ENVIRONMENTS
from tiny import random_batch, randomize, run, tiny_config, tiny_pretrainer

import pf_keras

PACKAGE = Path(pf_keras.__file__).parent
CORE = [
    *(PACKAGE / f"{name}.py" for name in ("__init__", "config", "config_values", "errors", "noise", "data/formats")),
    *(path for folder in ("layers", "models", "patches") for path in sorted((PACKAGE / folder).glob("*.py"))),
]
# What a file may import besides Keras, NumPy and the core. The kernels import TensorFlow only where it is the backend.
EXTRA = {"__init__.py": {"wrapt"}, "layers/kernels.py": {"tensorflow"}}


def python(code, backend, *arguments):
    """Run code in another Python process under a backend, and return its standard output."""
    environment = {**os.environ, **ENVIRONMENTS[backend], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports(path):
    """The names that a file imports when it runs."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_core_imports_keras_and_numpy_only(path):
    relative = path.relative_to(PACKAGE)
    allowed = {"keras", "numpy", "pf_keras", *sys.stdlib_module_names, *EXTRA.get(relative.as_posix(), ())}
    core = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in CORE}
    for name in imports(path):
        assert name.split(".")[0] in allowed, f"{relative} imports {name}"
        if name.startswith("pf_keras"):  # a module of the core, or a name in one
            assert name in core or name.rpartition(".")[0] in core - {"pf_keras"}, f"{relative} imports {name}"


def test_import_under_jax_loads_no_tensorflow():
    code = "import sys, pf_keras, pf_keras.training.optimizer; print('tensorflow' in sys.modules, 'jax' in sys.modules)"
    assert python(code, "jax").split() == ["False", "True"]


def test_import_loads_keras_only_when_it_is_used():
    code = "import sys, pf_keras; print('keras' in sys.modules); pf_keras.models; print('keras' in sys.modules)"
    assert python(code, "jax").split() == ["False", "True"]


@pytest.mark.parametrize("first", ["import keras, pf_keras", "import pf_keras, keras"])
def test_layers_are_registered_with_keras_whichever_is_imported_first(first):
    code = f"{first}; print([keras.saving.get_registered_object('pf_keras>' + x) for x in ('Mlp', 'Backbone', 'AdamW')])"
    assert "None" not in python(code, "jax")


LOSSES = """
import json, sys
import numpy as np
from pf_keras.config import Config
from tiny import tiny_pretrainer
from test_backends import losses
folder = sys.argv[1]
model = tiny_pretrainer(Config.from_json(open(folder + "/config.json").read()), seed=1)
model.load_weights(folder + "/model.weights.h5")
print(json.dumps(losses(model, dict(np.load(folder + "/batch.npz")))))
"""


def losses(model, batch):
    """The loss in evaluation, and in training with augmentation and batch statistics."""
    found = []
    for training in (False, True):
        outputs = {name: keras.ops.convert_to_tensor(x) for name, x in run(model, batch, training=training).items()}
        found.append(float(model.compute_loss(y_pred=outputs)))
    return found


def test_both_backends_give_the_same_loss(tmp_path):
    config = tiny_config()
    model, batch = randomize(tiny_pretrainer(config)), random_batch(config, batch=8)
    (tmp_path / "config.json").write_text(config.to_json())
    np.savez(tmp_path / "batch.npz", **batch)
    model.save_weights(tmp_path / "model.weights.h5")
    ours = losses(model, batch)
    assert abs(ours[0] - ours[1]) > 1e-3 * ours[0]  # training differs
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    theirs = json.loads(python(LOSSES, other, tmp_path).splitlines()[-1])
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
