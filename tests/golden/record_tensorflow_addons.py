"""Record reference values from TensorFlow Addons 0.23 on TensorFlow 2.15.

TensorFlow Addons is no longer maintained and cannot be imported beside Keras 3.
Its results were recorded once in a separate environment, and the tests compare
with the recording. To record again with Python 3.11:

    python3.11 -m venv ../tfa-venv
    ../tfa-venv/bin/pip install "tensorflow-cpu==2.15.1" \
        "tensorflow-addons==0.23.0" "numpy==1.26.4" "typeguard==2.13.3"
    TF_ADDONS_PY_OPS=1 CUDA_VISIBLE_DEVICES= ../tfa-venv/bin/python \
        tests/golden/record_tensorflow_addons.py

This writes `tensorflow_addons.json` next to this file:

adamw
    `tfa.optimizers.AdamW` over a fixed sequence of gradients, in two settings.
    Each setting has everything needed to replay it: hyperparameters, initial
    values, the gradients of every step, and the values after every step.
    `weight_decay_tfa` is the factor by which Addons shrinks a variable in each
    step, *not* multiplied by the learning rate. Keras multiplies the decay by
    the learning rate, so `weight_decay_keras` is
    `weight_decay_tfa / learning_rate`. `decayed` names the variables that
    were decayed.

yiq
    `tfa.image.adjust_hsv_in_yiq` with a `scale_value` of 1. It changes image
    `i` of `images` by `delta_hue[i]` (in radians) and `scale_saturation[i]`.
    `outputs` are not clipped to [0, 1].

`TF_ADDONS_PY_OPS=1` selects Addons's implementation in TensorFlow operations.
Addons falls back to it with a warning if its compiled kernel does not load,
which is so under TensorFlow 2.15.1.
"""

import json
import os

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

STEPS = 8
OUTPUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tensorflow_addons.json")

# Name, shape, and scale of the gradients. Those of `norm/gamma` are so small
# that the result depends on where epsilon is added.
VARIABLES = (
    ("dense/kernel", (3, 2), 1.0),
    ("dense/bias", (2,), 1e-2),
    ("norm/gamma", (2,), 1e-6),
)

ADAMW_SETTINGS = (
    {
        "name": "all_decayed",
        "learning_rate": 1e-3,
        "weight_decay_tfa": 1e-4,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
        "exclude_from_weight_decay": [],
    },
    {
        "name": "bias_and_norm_excluded",
        "learning_rate": 2e-2,
        "weight_decay_tfa": 5e-3,
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-3,
        "exclude_from_weight_decay": ["bias", "gamma"],
    },
)

# delta_hue in radians, scale_saturation
YIQ_PAIRS = ((0.0, 1.5), (0.3, 1.0), (-0.3, 0.7), (1.2, 1.3), (-2.5, 0.4), (0.8, 0.0))


def to_lists(array):
    """The values of an array as nested lists, with 9 significant digits."""
    if isinstance(array, (list, tuple)):
        return [to_lists(item) for item in array]
    array = np.asarray(array)
    if array.ndim:
        return [to_lists(item) for item in array]
    return float(f"{float(array):.9g}")


def record_adamw(setting, rng):
    start = {name: rng.standard_normal(shape).astype("float32") for name, shape, _ in VARIABLES}
    gradients = [
        {name: (scale * rng.standard_normal(shape)).astype("float32") for name, shape, scale in VARIABLES}
        for _ in range(STEPS)
    ]
    gradients[4]["dense/kernel"][:] = 0.0  # weights decay even without a gradient

    variables = {name: tf.Variable(value, name=name) for name, value in start.items()}
    optimizer = tfa.optimizers.AdamW(
        weight_decay=setting["weight_decay_tfa"],
        learning_rate=setting["learning_rate"],
        beta_1=setting["beta_1"],
        beta_2=setting["beta_2"],
        epsilon=setting["epsilon"],
        exclude_from_weight_decay=setting["exclude_from_weight_decay"] or None,
    )
    values = []
    for step in gradients:
        optimizer.apply_gradients([(tf.constant(step[name]), variables[name]) for name in variables])
        values.append({name: to_lists(variable.numpy()) for name, variable in variables.items()})
    return dict(
        setting,
        weight_decay_keras=to_lists(setting["weight_decay_tfa"] / setting["learning_rate"]),
        decayed=[name for name, variable in variables.items() if optimizer._do_use_weight_decay(variable)],
        start={name: to_lists(value) for name, value in start.items()},
        gradients=[{name: to_lists(value) for name, value in step.items()} for step in gradients],
        values=values,
    )


def record_yiq(rng):
    images = rng.random((len(YIQ_PAIRS), 4, 4, 3), dtype=np.float32)
    outputs = [
        tfa.image.adjust_hsv_in_yiq(image, delta_hue=hue, scale_saturation=saturation, scale_value=1.0).numpy()
        for image, (hue, saturation) in zip(images, YIQ_PAIRS, strict=True)
    ]
    return {
        "delta_hue": [hue for hue, _ in YIQ_PAIRS],
        "scale_saturation": [saturation for _, saturation in YIQ_PAIRS],
        "scale_value": 1.0,
        "images": to_lists(images),
        "outputs": to_lists(outputs),
    }


def main():
    rng = np.random.default_rng(20240229)
    record = {
        "versions": {
            "tensorflow": tf.__version__,
            "tensorflow_addons": tfa.__version__,
            "numpy": np.__version__,
        },
        "adamw": [record_adamw(setting, rng) for setting in ADAMW_SETTINGS],
        "yiq": record_yiq(rng),
    }
    with open(OUTPUT, "w", encoding="utf-8") as file:
        json.dump(record, file, separators=(",", ":"))
        file.write("\n")
    print(f"wrote {os.path.basename(OUTPUT)}: {os.path.getsize(OUTPUT)} bytes")


if __name__ == "__main__":
    main()
