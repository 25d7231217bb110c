"""The traced TensorFlow steps: what is in them, and that a TPU can run it. Traced in a process of its own, because the
strategy stays."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from pf_keras.config import Config, FinetuneConfig, MaskConfig, ModelConfig, PretrainConfig, RunConfig, TargetConfig

SMALL = Config(
    model=ModelConfig(image_size=64, grid=4, stem_width=8, stacks=(1, 1), stack_widths=(4, 8), width=16, depth=2, heads=2),
    mask=MaskConfig(block=2),
    target=TargetConfig(size=4),
    pretrain=PretrainConfig(batch=32),
    finetune=FinetuneConfig(mask_ratio=0.1, batch=32),
)
OPTIONS = {"ema": 0.9, "accumulate": 2}
CONFIGS = {
    "plain": SMALL,
    "float32": replace(SMALL, run=RunConfig(precision="float32")),
    "options": replace(
        SMALL,
        model=replace(SMALL.model, drop_path=0.1, dropout=0.1, norm="group", norm_order="pre_norm", stem="imagenet"),
        pretrain=replace(SMALL.pretrain, **OPTIONS),
        finetune=replace(SMALL.finetune, **OPTIONS, mix=0.5, layer_decay=0.8, head="linear"),
    ),
}
TRACE = """
import json, re, sys
from collections import Counter
from pf_keras.config import Config
from pf_keras.tpu.lower_tensorflow import ALL_TO_ALL, lower_program
from pf_keras.tpu.op_check import with_unknown_shape, without_kernel
from pf_keras.tpu.trace import trace_step

def lowered(program):
    from jax._src.lib import xla_client
    text = xla_client.XlaComputation(lower_program(program)).as_hlo_text()
    return {
        "products": Counter(re.findall(r" = (\\w+)\\[\\S* (?:dot|convolution)\\(", text)),
        "groups": sorted(set(re.findall(r" all-reduce\\(.*replica_groups=(\\S+?), ", text))),
        "reduced": len(re.findall(r" all-reduce\\(", text)),
        "updated": len(re.findall(r"(?:may|must)-alias", text)),
    }

def facts(config, training, hlo):
    programs = trace_step(config, training, 8, 2)
    return {
        "programs": [
            {
                "times": p.times, "idle": p.idle_bytes, "variables": sorted(v.name for v in p.variables.values()),
                "bytes": sum(v.dtype.size * v.shape.num_elements() for v in p.variables.values()),
                "inputs": sorted([*spec.shape] for spec in p.inputs.values()), "ops": Counter(node.op for node in p.nodes()),
                **(lowered(p) if hlo else {}),
            }
            for p in programs
        ],
        "refused": without_kernel(programs) + with_unknown_shape(programs),
    }

asked = json.load(sys.stdin)
print(json.dumps([facts(Config.from_dict(config), training, asked["hlo"]) for config, training in asked["steps"]]))
"""


def trace(*steps, hlo=True):
    """The facts of steps, given as pairs of a config and a training."""
    asked = {"steps": [(config.to_dict(), training) for config, training in steps], "hlo": hlo}
    process = subprocess.run([sys.executable, "-c", TRACE], input=json.dumps(asked), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def traced():
    pytest.importorskip("jax")
    steps = [(name, training) for name in CONFIGS for training in ("pretrain", "finetune")]
    return dict(zip(steps, trace(*((CONFIGS[name], training) for name, training in steps)), strict=True))


def trained(program):
    return [name for name in program["variables"] if "momentum" in name]


def test_every_operation_has_a_tpu_kernel_and_static_shapes(traced):
    assert {step: facts["refused"] for step, facts in traced.items()} == dict.fromkeys(traced, [])


@pytest.mark.parametrize("training", ["pretrain", "finetune"])
def test_step_updates_every_weight_and_sums_over_all_replicas(traced, training):
    [program] = traced["plain", training]["programs"]
    weights = len(trained(program))
    assert program["times"] == 1 and program["idle"] == 16  # the seed of noise, which the batches bring
    # A weight and its two moments, and the statistics of the norms, the steps, metrics and the gradient's norm.
    assert program["updated"] > 3 * weights > 100
    assert program["groups"] == ["{{0,1,2,3,4,5,6,7}}"]
    assert program["reduced"] >= weights


@pytest.mark.parametrize("training", ["pretrain", "finetune"])
def test_products_are_in_the_precision_of_a_tpu(traced, training):
    [mixed], [full] = traced["plain", training]["programs"], traced["float32", training]["programs"]
    assert mixed["products"]["bf16"] > 50 and set(full["products"]) == {"f32"}
    # In any precision the last layer is float32, in its product and two gradients, and so are the three of augmentation.
    assert mixed["products"]["f32"] == {"pretrain": 6, "finetune": 3}[training]
    assert sum(mixed["products"].values()) == full["products"]["f32"]


@pytest.mark.parametrize("training", ["pretrain", "finetune"])
def test_options_of_the_config_are_in_the_step(traced, training):
    part, update = traced["options", training]["programs"]
    [plain] = traced["plain", training]["programs"]
    assert (part["times"], update["times"]) == (2, 1)
    assert sorted(part["inputs"])[-1][0] == 2 and not any(len(shape) > 1 for shape in update["inputs"])  # no images
    weights = len(trained(update))
    assert sum("average" in name for name in update["variables"]) == weights  # ema
    assert not trained(part) and part["idle"] > 0 and update["products"] == {}
    everything = {part["bytes"] + part["idle"], update["bytes"] + update["idle"]}
    assert len(everything) == 1  # either program leaves the rest of the state in memory
    assert any("StatelessRandomUniform" in op for op in part["ops"])  # dropout and drop path
    assert training == "finetune" or not any("StatelessRandomUniform" in op for op in plain["ops"])
    assert part["groups"] in ([], update["groups"])  # group norm needs no other replica


@pytest.mark.long
@pytest.mark.parametrize("training", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    "config",
    [Config(), replace(Config(), model=ModelConfig(norm="group", norm_order="pre_norm", dropout=0.1, stem="imagenet"))],
    ids=["paper", "every other choice"],
)
def test_every_operation_of_the_models_in_full_size_has_a_tpu_kernel(config, training):
    [found] = trace((config, training), hlo=False)
    assert found["refused"] == []
