"""The TPU compiler itself, where it is installed, on what TensorFlow lowers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY

from pf_keras.config import Config
from pf_keras.tpu.compile_step import check_steps, has_compiler
from pf_keras.tpu.slices import GIB, find_slice

compiled_here = pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed: pip install 'jax[tpu]==0.10.2'")
FIELDS = {**dict(flag.removeprefix("--config.").split("=") for flag in TINY), "target.size": "2", "augment.jitter_size": "3"}
ACCUMULATED = {"finetune.accumulate": "2", "finetune.ema": "0.9", "model.drop_path": "0.1"}
ROOT = Path(__file__).parents[2]

PLANTED = {
    "AsString": "x = x + tf.cast(tf.strings.to_number(tf.strings.as_string(x)), x.dtype)",
    "Where": "x = x + tf.reduce_sum(tf.boolean_mask(x, x > 0))",
}


def tiny(**fields):
    return Config().override({**FIELDS, **fields})


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.long), "v5e-4"])
def test_steps_compile_and_have_figures(name):
    answers = check_steps(tiny(**ACCUMULATED), find_slice(name), {"pretrain": 2, "finetune": 2})
    for answer in answers.values():
        assert answer["fits"] and 0 < answer["peak_hbm_bytes"] < GIB and answer["flops"] > 0
        assert answer["ops_without_tpu_kernel"] == [] and answer["dynamic_shapes"] == [] and answer["compile_seconds"] > 0


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.slow), "v5e-4"])
def test_step_that_does_not_fit_has_the_words_of_the_compiler(name):
    answer = check_steps(tiny(), find_slice(name), {"pretrain": 4_000_000})["pretrain"]
    assert not answer["fits"] and answer["peak_hbm_bytes"] > find_slice(name).kind.hbm
    assert "RESOURCE_EXHAUSTED" in answer["refusal"]


def plan_with(statement, folder, *flags):
    """`python main.py --mode=plan` in a copy of the project with a statement in the decoder's `call`."""
    shutil.copytree(ROOT / "pf_keras", folder / "pf_keras", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", folder)
    decoder = folder / "pf_keras" / "models" / "decoder.py"
    source, before = decoder.read_text(), "        for block in self.blocks:\n            x = block(x"
    assert source.count(before) == 1
    decoder.write_text("import tensorflow as tf\n" + source.replace(before, f"        {statement}\n{before}"))
    return plan(folder, "--training=pretrain", *flags)


def plan(folder, *flags, **environment):
    """`python main.py --mode=plan` of a tiny model for a v5e-4, in a folder of the project."""
    command = [sys.executable, "main.py", "--mode=plan", "--topology=v5e-4", *TINY, *flags]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "op, problem", [("AsString", "TensorFlow has no TPU kernel for AsString"), ("Where", "depends on values: Where")]
)
def test_planted_operation_is_refused_with_its_name_and_layer(op, problem, tmp_path):
    done = plan_with(PLANTED[op], tmp_path)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and f"{problem} in pretrainer/decoder" in line and "Traceback" not in done.stderr, done.stderr


@compiled_here
@pytest.mark.long
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_plan_of_a_backend_compiles_its_own_lowering(backend, tmp_path):
    parts = ("--config.pretrain.batch=64", "--config.pretrain.accumulate=2", "--config.pretrain.ema=0.9")
    done = plan(ROOT, *parts, f"--workdir={tmp_path}", KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["lowering"] == backend and result["fits"] and result["finetune_fits"]
    # By the formula a step has only the products. These are most of what a model of this size computes.
    assert 0.5 < result["compiler_flops_per_image"] / result["flops_per_image"] < 5
    assert "compiling it with libtpu" in done.stderr
