"""The core under both backends: what it imports, and that the same weights and noise give the same loss."""

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
    PACKAGE / "__init__.py",
    *(PACKAGE / f"{name}.py" for name in ("augment", "config", "config_values", "errors", "masking", "patches", "targets")),
    *sorted((PACKAGE / "layers").glob("*.py")),
    *sorted((PACKAGE / "models").glob("*.py")),
    PACKAGE.parent / "tfrecords" / "errors.py",  # the one exception of both packages
]
KERNELS = {"batch_normalization.py": "tensorflow", "fused.py": "tensorflow"}  # imported only where that backend runs


def python(code, backend, *arguments):
    """The standard output of the code, run by another Python under a backend."""
    environment = {**os.environ, **ENVIRONMENTS[backend], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_core_imports_keras_and_numpy_only(path):
    allowed = {"keras", "numpy", "pf_keras", "tfrecords"} | set(sys.stdlib_module_names)
    allowed.add(KERNELS.get(path.name))
    core = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in CORE}
    for name in imports(path):
        assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
        if name.startswith(("pf_keras", "tfrecords")):  # a module of the core, or a name in one
            packages = {"pf_keras.layers", "pf_keras.models"}
            assert name in core | packages or name.rpartition(".")[0] in core | packages, f"{path.name} imports {name}"


def test_import_under_jax_loads_no_tensorflow():
    code = "import sys, pf_keras, pf_keras.training.optimizer; print('tensorflow' in sys.modules, 'jax' in sys.modules)"
    assert python(code, "jax").split() == ["False", "True"]


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
    """The loss in evaluation and in training: with augmentation, and statistics of the batch."""
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
    assert abs(ours[0] - ours[1]) > 1e-3 * ours[0]  # training is another thing
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    theirs = json.loads(python(LOSSES, other, tmp_path).splitlines()[-1])
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
