"""The real training steps hold only operations that a TPU can do. Traced in a process of their own: the strategy stays."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, sys
import keras, tensorflow as tf
from pf_keras.noise import pretrain_noise
from pf_keras.config import Config, MaskConfig, ModelConfig, TargetConfig, FinetuneConfig
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.tpu.op_check import ops_without_kernel, strategy_without_tpu
from pf_keras.training.optimizer import build_optimizer

config = Config(
    model=ModelConfig(image_size=64, grid=4, stem_width=8, stacks=(1, 1), stack_widths=(4, 8), width=16, depth=1, heads=2),
    mask=MaskConfig(block=2), target=TargetConfig(size=4), finetune=FinetuneConfig(mask_ratio=0.1),
)
strategy = strategy_without_tpu()
keras.config.set_dtype_policy("mixed_bfloat16")

def spec(*shape, dtype=tf.float32):
    return tf.TensorSpec((2, *shape), dtype)

def compiled(build, *args, **options):
    with strategy.scope():
        model = build(*args)
        optimizer = build_optimizer(model, config.pretrain, 100, 10)
        model.compile(optimizer=optimizer, jit_compile=False, **options)
    return model

image = spec(64, 64, 3, dtype=tf.uint8)
pretrainer = compiled(build_pretrainer, config)
batch = {"image": image, **{name: spec(*shape) for name, shape in pretrain_noise(config).items()}}
classifier = compiled(
    build_classifier, config, 10,
    loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.finetune.label_smoothing),
    metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
)

def pretrain(batch):
    return pretrainer.train_step((batch,))

def finetune(batch, labels):
    return classifier.train_step((batch, labels))

def planted(batch):
    tf.strings.as_string(batch["mask_noise"])
    inner = tf.function(lambda x: tf.image.resize(x, (8, 8), method="bicubic"))
    return inner(tf.cast(batch["image"], tf.float32))

print(json.dumps({
    "pretrain": ops_without_kernel(strategy, pretrain, batch),
    "finetune": ops_without_kernel(strategy, finetune, {"image": image, "mask_noise": spec(16)}, spec(10)),
    "planted": ops_without_kernel(strategy, planted, batch),
}))
"""


@pytest.fixture(scope="module")
def found():
    process = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["pretrain", "finetune"])
def test_every_op_of_a_step_has_a_tpu_kernel(found, step):
    assert found[step] == []


def test_planted_ops_without_a_kernel_are_found_inside_functions_too(found):
    assert found["planted"] == ["AsString", "ResizeBicubic"]
