"""Resuming works under JAX as under TensorFlow: in a small model, and in a pre-training with all options that have a state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import JAX

ROOT = Path(__file__).parents[2]

CODE = """
import json, os, signal, sys
from pathlib import Path
import h5py, numpy as np, pytest
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

from commands import command
from tests.robustness.runs import OPTIONS, TINY, metrics
from pf_keras.training.callbacks import Guard

flags = [f"--config.{name}={value}" for name, value in {**TINY, **OPTIONS, "pretrain.steps": "16"}.items()]
def pretrain(name, stop=0):
    with pytest.MonkeyPatch.context() as patch:
        end = Guard.on_train_batch_end
        def signalled(self, batch, logs=None):
            end(self, batch, logs)
            if self.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
        patch.setattr(Guard, "on_train_batch_end", signalled)
        done = command("--mode=pretrain", f"--workdir={place / name}", *flags)
    assert done.code == (128 + signal.SIGTERM if stop else 0), done.err
pretrain("whole")
pretrain("parts", stop=6)
pretrain("parts", stop=10)
pretrain("parts")
def saved(name):
    found, folder = {}, place / name / "checkpoints" / "step-00000016"
    for file in ("model.weights.h5", "averaged.weights.h5"):
        h5py.File(folder / file).visititems(
            lambda key, value: found.update({file + key: value[()]} if isinstance(value, h5py.Dataset) else {})
        )
    return {**found, "seeds": json.loads((folder / "state.json").read_text())["seeds"]}
whole, parts = saved("whole"), saved("parts")  # not the files, which have the number of the optimizer in this process
assert whole.keys() == parts.keys() and len(whole) > 100 and len(whole["seeds"]) == 3
for key, value in whole.items():
    np.testing.assert_array_equal(parts[key], value, err_msg=key)
assert metrics(place / "parts") == metrics(place / "whole")
import keras
print(keras.backend.backend())
"""


@pytest.mark.long
def test_resumed_run_equals_an_uninterrupted_run(tmp_path):
    environment = {**os.environ, **JAX, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "jax\n"), done.stderr[-3000:]
