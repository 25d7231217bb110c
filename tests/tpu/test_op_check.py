"""The training steps use only operations that a TPU can run. Traced in processes of their own, because the strategy stays."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from pf_keras.config import Config, FinetuneConfig, MaskConfig, ModelConfig, TargetConfig
from pf_keras.tpu.op_check import check_pretraining

CONFIG = Config(
    model=ModelConfig(image_size=64, grid=4, stem_width=8, stacks=(1, 1), stack_widths=(4, 8), width=16, depth=1, heads=2),
    mask=MaskConfig(block=2),
    target=TargetConfig(size=4),
    finetune=FinetuneConfig(mask_ratio=0.1),
)

OTHER_STEPS = """
import json, sys
import keras, tensorflow as tf
from pf_keras.config import Config
from pf_keras.models import build_classifier
from pf_keras.noise import finetune_noise
from pf_keras.tpu.op_check import ops_without_kernel, strategy_without_tpu
from pf_keras.training.optimizer import build_optimizer

config = Config.from_dict(json.load(sys.stdin))
strategy = strategy_without_tpu()
keras.config.set_dtype_policy("mixed_bfloat16")

def spec(*shape, dtype=tf.float32):
    return tf.TensorSpec((2, *shape), dtype)

with strategy.scope():
    classifier = build_classifier(config, 10)
    classifier.compile(
        optimizer=build_optimizer(classifier, config.finetune, 100, 10), jit_compile=False,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.finetune.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
    )

def finetune(batch, labels):
    return classifier.train_step((batch, labels))

def planted(batch):
    tf.strings.as_string(batch["mask_noise"])
    inner = tf.function(lambda x: tf.image.resize(x, (8, 8), method="bicubic"))
    return inner(tf.cast(batch["image"], tf.float32))

batch = {"image": spec(64, 64, 3, dtype=tf.uint8), **{name: spec(*shape) for name, shape in finetune_noise(config).items()}}
print(json.dumps({
    "finetune": ops_without_kernel(strategy, finetune, batch, spec(10)),
    "planted": ops_without_kernel(strategy, planted, batch),
}))
"""


@pytest.fixture(scope="module")
def found():
    process = subprocess.run(
        [sys.executable, "-c", OTHER_STEPS], input=json.dumps(CONFIG.to_dict()), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_every_operation_of_a_pretraining_step_has_a_tpu_kernel():
    assert check_pretraining(CONFIG) == []


@pytest.mark.long
@pytest.mark.parametrize(
    "config",
    [Config(), replace(Config(), model=ModelConfig(norm="group", norm_order="pre_norm", dropout=0.1, stem="imagenet"))],
    ids=["paper", "every other choice"],
)
def test_every_operation_of_the_models_in_full_size_has_a_tpu_kernel(config):
    assert check_pretraining(config) == []


def test_every_operation_of_a_fine_tuning_step_has_a_tpu_kernel(found):
    assert found["finetune"] == []


def test_operations_without_a_kernel_are_found_inside_functions_too(found):
    assert found["planted"] == ["AsString", "ResizeBicubic"]
