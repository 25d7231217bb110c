"""The whole chain under the JAX backend, in one process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import JAX

ROOT = Path(__file__).parents[2]

CHAIN = """
import json, sys
import keras
from commands import TINY, succeed
assert keras.backend.backend() == "jax"
root = sys.argv[1]
results = {}
for name, *flags in (
    ("pretrain", f"--workdir={root}/pretrain", *TINY, "--config.pretrain.steps=6", "--config.pretrain.batch=32"),
    ("finetune", f"--workdir={root}/finetune", f"--init={root}/pretrain", "--label_fraction=0.1",
     "--config.finetune.epochs=2", "--config.finetune.batch=16"),
    ("evaluate", f"--workdir={root}/finetune"),
    ("export", f"--workdir={root}/finetune"),
):
    results[name] = succeed(f"--mode={name}", *flags)
print(json.dumps(results))
"""


@pytest.mark.long
def test_pretrain_finetune_evaluate_and_export_under_jax(tmp_path):
    environment = {**os.environ, **JAX, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", CHAIN, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["pretrain"]["steps"] == 6
    assert results["evaluate"]["top1"] == results["finetune"]["top1"]
    assert (tmp_path / "finetune/export/saved_model/1/saved_model.pb").exists()
