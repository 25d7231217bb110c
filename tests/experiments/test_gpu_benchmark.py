"""The benchmark `gpu`: its figures, its profile, what fails, and a run in small on the CPU where TensorFlow is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import QUICK

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import gpu
from experiments.benchmark.kernels import kernels_by_time, plain_name
from pf_keras.errors import UserError

ROOT = Path(__file__).parents[2]
CPU, CARD = ({"platform": kind, "kind": name, "count": 2} for kind, name in (("cpu", "cpu"), ("gpu", "Card 9")))


@pytest.fixture
def without_tensorflow(tmp_path):
    """The environment of a process under JAX in which importing TensorFlow fails."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('this test hides TensorFlow')\n")
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests")))
    return {**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}


def run(environment, *command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


STATES = """
import keras, sys
from experiments.benchmark import gpu_steps
from experiments.benchmark.models import compiled_pretrainer, random_batch
from pf_keras.training.devices import Devices
from tiny import tiny_config
model = compiled_pretrainer(tiny_config(), Devices("gpu", 1))
assert model.optimizer.built and random_batch(tiny_config(), 2)["image"].shape == (2, 32, 32, 3)
assert keras.backend.backend() == "jax" and "tensorflow.python" not in sys.modules
"""


def test_the_model_and_its_optimizer_need_no_tensorflow(without_tensorflow):
    done = run(without_tensorflow, "-c", STATES)
    assert done.returncode == 0, done.stderr[-2000:]


REFERENCE = """
import json
import keras
import numpy as np
from experiments.benchmark.gpu import TINY
from experiments.benchmark.models import compiled_pretrainer, random_batch
from pf_keras.config import load_config
from pf_keras.training.devices import Devices
config = load_config("digits").override({**TINY, "pretrain.warmup_steps": "2"})
keras.utils.set_random_seed(config.run.seed)
model = compiled_pretrainer(config, Devices("cpu", 1))
batch = random_batch(config, 4)
print(json.dumps([[float(model.train_on_batch(batch)), float(model.optimizer.gradient_norm)] for _ in range(4)]))
"""


@pytest.mark.long
def test_in_small_on_a_cpu_without_tensorflow(without_tensorflow, tmp_path):
    done = run(without_tensorflow, "-m", "experiments.benchmark", "gpu", "--quick", f"--output={tmp_path}/gpu.json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "no GPU: these are the CPU's figures\n"
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert (rows["GPUs"]["value"], rows["GPUs"]["note"]) == (0, "no GPU: these are the CPU's figures")
    assert rows["measurements that failed"]["value"] == 0, rows["measurements that failed"]
    assert rows["digits: throughput"]["value"] > 0 and rows["digits: memory of a step as compiled"]["value"] > 0
    fraction = rows["digits: FLOP/s of a step / of bfloat16 matrix products"]
    assert 0 < fraction["value"] < 1 and fraction["aim"] is None
    shares = [row["value"] for name, row in rows.items() if name.startswith("digits: kernel ")]
    assert len(shares) == gpu.SHOWN and shares == sorted(shares, reverse=True) and sum(shares) < 1
    exact, rounded = (rows[f"digits: {kind} losses and gradient norms against the CPU's in float32"] for kind in gpu.AIMS)
    assert exact["reached"] and rounded["reached"] and rounded["value"] > 1e-4  # which bfloat16 really is

    reference = run(without_tensorflow, "-c", REFERENCE)  # by Keras's own loop
    losses = [loss for loss, _ in json.loads(reference.stdout.splitlines()[-1])]
    shown = exact["note"].rpartition("CPU's ")[2]
    assert [float(loss) for loss in shown.split()] == pytest.approx(losses, rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[3] < losses[1]  # the first step only warms up


def test_without_a_gpu_the_full_models_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "in_process", lambda *request, **options: CPU)
    monkeypatch.setattr(benchmark, "write", None)
    assert benchmark.main(["gpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: JAX finds no GPU, and a CPU would take days.") and "--quick" in line


SPEED = {
    "step_seconds": 0.05,
    "rates": {"step": [300e12, 200e12, 100e12], "products": [800e12, 800e12, 100e12]},
    "planned_bytes": 3 * 2**30,
    "peak_bytes": 4 * 2**30,
    "compile_seconds": 30.0,
    "kernels": [{"name": "gemm", "seconds": 0.03, "calls": 10.0}, {"name": "copy", "seconds": 0.01, "calls": 2.0}],
}


def answers(request):
    """What a GPU would answer. Its float32 losses differ by 0.0005, its bfloat16 norms by 0.1."""
    if request["what"] == "losses":
        found = {"float32": [[2.0, 1.0], [2.001, 1.0]], "mixed_bfloat16": [[2.0, 1.0], [2.0, 1.1]]}
        on_cpu = {"float32": [[2.0, 1.0], [2.0, 1.0]]}
        return on_cpu if request["precisions"] == ["float32"] else found
    return SPEED if request["what"] == "speed" else CARD


def measured(monkeypatch, capsys, tmp_path, answers=answers):
    """The rows of a full run by name, its requests as `(request, options)`, and its standard error."""
    asked = []

    def in_process(module, request, **options):
        asked.append((request, options))
        return answers(request)

    monkeypatch.setattr(gpu, "in_process", in_process)
    assert benchmark.main(["gpu", f"--output={tmp_path}/gpu.json"]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    return {row["name"]: row for row in rows}, asked, capsys.readouterr().err


def test_the_figures_of_a_gpu(monkeypatch, capsys, tmp_path):
    rows, asked, err = measured(monkeypatch, capsys, tmp_path)
    assert rows["GPUs"]["value"] == 2 and rows["GPUs"]["note"] == "the first, Card 9, is measured" and err == ""
    for name, batch in (("imagenette", 64), ("imagenet", 128)):
        assert rows[f"{name}: throughput"]["value"] == pytest.approx(batch / 0.05)
        fraction = rows[f"{name}: FLOP/s of a step / of bfloat16 matrix products"]
        assert fraction["value"] == 0.375 and fraction["reached"] is False  # the median of the rounds' ratios
        assert rows[f"{name}: memory of a step as compiled"]["value"] == 3
        assert rows[f"{name}: peak memory in use"]["value"] == 4
        assert rows[f"{name}: time in kernels / time of a step"]["value"] == pytest.approx(0.8)
        assert rows[f"{name}: kernel gemm"]["value"] == pytest.approx(0.75)
        exact, rounded = (rows[f"{name}: {kind} losses and gradient norms against the CPU's in float32"] for kind in gpu.AIMS)
        assert exact["value"] == pytest.approx(0.0005) and exact["reached"]
        assert rounded["value"] == pytest.approx(0.1) and not rounded["reached"]
    assert rows["measurements that failed"]["reached"]
    platforms = [(r["what"], r["config"], o["JAX_PLATFORMS"]) for r, o in asked if r["what"] != "device"]
    models = ("imagenette", "imagenet")
    assert sorted(platforms) == sorted(
        [("speed", name, "") for name in models] + [("losses", name, place) for name in models for place in ("cpu", "")]
    )
    assert all(0 < options["timeout"] <= gpu.SECONDS for _, options in asked)


def test_what_fails_is_named_and_the_rest_is_kept(monkeypatch, capsys, tmp_path):
    def some(request):
        if request.get("config") == "imagenet" and request["what"] == "speed":
            raise UserError("it was not done after 3 s.")
        if request.get("config") == "imagenette" and request.get("precisions") == ["float32"]:
            raise UserError("it crashed.")
        return answers(request)

    rows, _, err = measured(monkeypatch, capsys, tmp_path, some)
    failed = rows["measurements that failed"]
    assert failed["value"] == 2 and failed["reached"] is False
    assert "speed of imagenet: it was not done after 3 s." in failed["note"]
    assert "losses of imagenette on the CPU: it crashed." in failed["note"]
    assert len(err.splitlines()) == 2 and all(line.startswith("warning: ") for line in err.splitlines())
    assert "imagenette: throughput" in rows and "imagenet: throughput" not in rows
    assert {name.partition(":")[0] for name in rows if "losses" in name} == {"imagenet"}


def test_a_process_that_takes_too_long_is_ended():
    from experiments.benchmark.measuring import run_module

    with pytest.raises(UserError, match="python -m http.server was not done after 1 s."):
        run_module("http.server", "0", timeout=1)


PLANES = """
planes { name: "/device:GPU:0"
  lines { name: "Stream #13(Compute)"
    events { metadata_id: 1 duration_ps: 3000000 } events { metadata_id: 2 duration_ps: 1000000 }
    events { metadata_id: 3 duration_ps: 5000000 } events { metadata_id: 1 duration_ps: 3000000 } }
  lines { name: "Stream #14(MemcpyD2D)" events { metadata_id: 4 duration_ps: 500000 } }
  lines { name: "XLA Modules" events { metadata_id: 5 duration_ps: 99000000 } }
  event_metadata { key: 1 value { id: 1 name: "gemm_fusion_dot.12" } }
  event_metadata { key: 2 value { id: 2 name: "gemm_fusion_dot.7_1" } }
  event_metadata { key: 3 value { id: 3 name: "sm90_xmma_conv" } }
  event_metadata { key: 4 value { id: 4 name: "MemcpyD2D" } }
  event_metadata { key: 5 value { id: 5 name: "jit_train_step" } } }
planes { name: "/host:CPU" lines { name: "python" events { metadata_id: 1 duration_ps: 77000000 } }
  event_metadata { key: 1 value { id: 1 name: "train_step" } } }
"""


def write_profile(folder, text):
    from jax.profiler import ProfileData

    (folder / "host.xplane.pb").write_bytes(ProfileData.text_proto_to_serialized_xspace(text))


def test_kernels_are_summed_by_name(tmp_path):
    write_profile(tmp_path, PLANES)
    first, second, third = kernels_by_time(tmp_path, steps=2)
    assert first == {"name": "gemm_fusion_dot", "seconds": pytest.approx(3.5e-6), "calls": 1.5}
    assert second == {"name": "sm90_xmma_conv", "seconds": pytest.approx(2.5e-6), "calls": 0.5}
    assert third == {"name": "MemcpyD2D", "seconds": pytest.approx(0.25e-6), "calls": 0.5}


def test_a_profile_without_kernels_says_what_it_has(tmp_path):
    write_profile(tmp_path, PLANES.replace("Stream", "Other"))
    with pytest.raises(ValueError, match="XLA Modules"):
        kernels_by_time(tmp_path, steps=2)


def test_the_numbers_of_xla_are_cut_off_a_name():
    names = {"fusion.12": "fusion", "fusion_3_1": "fusion", "gemm": "gemm", "sm90_xmma": "sm90_xmma", "conv2d": "conv2d"}
    assert {name: plain_name(name) for name in names} == names
