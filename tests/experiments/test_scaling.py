"""The tables of what a pre-training costs on several machines."""

import os
import subprocess
import sys
from pathlib import Path

from experiments.scaling import tables
from pf_keras.config import Config
from pf_keras.tpu.scaling import H100S, predict

ROOT = Path(__file__).parents[2]


def run(config):
    words = [sys.executable, "-m", "experiments.scaling", f"--config={config}"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}  # as for a user
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_tables_have_a_row_for_each_machine_and_each_rate_of_preemption():
    config, lines = Config(), tables(Config(), "jax")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    machines = ["v3-32", "v4-32", "v5e-64", "v6e-16", "8 H100"]
    assert [row[0] for row in cells] == ["machine", *machines, "machine", *machines, "preempted every", "1 h", "6 h", "24 h"]
    found = predict(config, H100S, "jax")
    assert cells[5][1] == "8" and cells[5][5] == f"{1e3 * found['step_seconds']:.1f} ms"
    assert cells[11][1:3] == ["1", str(found["decode_cores"])]
    assert cells[14][3] == f"{found['lost_to_preemption']:.1%}"  # every 6 hours, as in a plan
    best = [float(row[1].removesuffix(" min")) for row in cells[13:]]
    assert best == sorted(best)


def test_the_command_prints_tables_and_refuses_a_batch_in_one_line(tmp_path):
    done = run("digits")
    assert done.returncode == 0 and done.stdout.count("v5e-64") == 2 and not done.stderr
    config = tmp_path / "odd.py"
    config.write_text("from pf_keras.config import *\nconfig = Config(pretrain=PretrainConfig(batch=96))\n")
    done = run(config)
    assert done.returncode == 2
    assert done.stderr == "error: pretrain.batch is 96, which 64 replicas cannot split evenly. Use 64 or 128.\n"
