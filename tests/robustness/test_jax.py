"""Resuming works under JAX as under TensorFlow."""

import os
import subprocess
import sys

import pytest
from backends import JAX

CODE = """
import os, signal, sys
from pathlib import Path
import numpy as np, pytest
from pf_keras.errors import Stopped
from tests.training.test_loop import At, lines, run_training, variables
place = Path(sys.argv[1])
uninterrupted = run_training(place / "uninterrupted")
for step in (6, 14):
    stop = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM), begin=True)
    with pytest.raises(Stopped, match=f"at step {step + 1}, which is saved"):
        run_training(place / "run", callbacks=[stop])
resumed = run_training(place / "run")
assert lines(place / "run") == lines(place / "uninterrupted")
for left, right in zip(variables(resumed), variables(uninterrupted), strict=True):
    np.testing.assert_array_equal(left, right)
import keras
print(keras.backend.backend())
"""


@pytest.mark.long
def test_resumed_run_equals_an_uninterrupted_run(tmp_path):
    environment = {**os.environ, **JAX}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "jax\n"), done.stderr[-3000:]
