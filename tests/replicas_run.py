"""The first steps of a tiny pre-training on several devices, which are parts of the CPU, for `test_replicas.py`.

    python tests/replicas_run.py WEIGHTS.npz REPLICAS [STEPS_PER_EXECUTION [PARTS]]

Prints `[[loss, gradient norm, size of an averaged weight], ...]` as JSON, a list for each execution. The first run writes the
initial weights to WEIGHTS.npz, and later runs under either backend start with them. A process can have only one number of
replicas, because TensorFlow keeps the groups of its collective operations. JAX takes the number of its devices from XLA_FLAGS.
"""

import json
import os
import sys
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from pf_keras.config import AugmentConfig, Config, MaskConfig, ModelConfig, PretrainConfig, TargetConfig
from pf_keras.data.digits import open_digits
from pf_keras.data.pipeline import training_batches
from pf_keras.models import build_pretrainer
from pf_keras.noise import pretrain_noise
from pf_keras.training.devices import open_devices
from pf_keras.training.optimizer import build_optimizer

WEIGHTS, (REPLICAS, STEPS_PER_EXECUTION, PARTS) = sys.argv[1], map(int, [*sys.argv[2:], "1", "1"][:3])
STEPS, BATCH = 5, 16
CONFIG = Config(
    model=ModelConfig(
        image_size=16, grid=4, stem="cifar", stem_width=8, stacks=(1,), stack_widths=(4,), width=16, depth=1, heads=2,
        decoder_width=16,
    ),
    mask=MaskConfig(block=2),
    augment=AugmentConfig(jitter_size=3),
    target=TargetConfig(size=2),
    pretrain=PretrainConfig(steps=STEPS, batch=BATCH),
)  # fmt: skip


class Steps(keras.callbacks.Callback):
    """Collects the mean loss of each execution, from the running mean that `fit` logs, and the last value of the others."""

    lines, done, total = (), 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        optimizer = self.model.optimizer
        norm, average = (
            keras.ops.convert_to_numpy(v) for v in (optimizer.gradient_norm, optimizer._model_variables_moving_average[0])
        )
        self.lines += ([(total - self.total) / (batch + 1 - self.done), float(norm), float(np.abs(average).sum())],)
        self.total, self.done = total, batch + 1


def first_steps():
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = REPLICAS if keras.backend.backend() == "tensorflow" else 1
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * logical)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    devices = open_devices("float32")
    assert devices.replicas == REPLICAS, devices

    keras.utils.set_random_seed(0)
    with devices.scope():
        model = build_pretrainer(CONFIG)
        optimizer = build_optimizer(model, PretrainConfig(learning_rate=1e-2, weight_decay=0.001, ema=0.5), STEPS, 1)
        devices.compile(model, STEPS_PER_EXECUTION, PARTS, optimizer=optimizer)
    if not os.path.exists(WEIGHTS):
        np.savez(WEIGHTS, *model.get_weights())
    model.set_weights(list(np.load(WEIGHTS).values()))
    steps = Steps()
    batches = partial(training_batches, open_digits()[0], CONFIG, BATCH, pretrain_noise(CONFIG))
    model.fit(devices.distribute(batches), steps_per_epoch=STEPS, verbose=0, callbacks=[steps])
    return steps.lines


if __name__ == "__main__":
    print(json.dumps(first_steps()))
