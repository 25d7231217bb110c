"""A tiny config, tiny models and random batches, and helpers to run them, shared by many tests."""

import functools

import keras
import numpy as np
from keras import ops, tree

from pf_keras.config import AugmentConfig, Config, MaskConfig, ModelConfig, TargetConfig
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.noise import Shapes, finetune_noise, pretrain_noise


def tiny_config(changes=None):
    """A config with 16 patches of 8x8 pixels, 10 of them masked. `changes` are overrides, `{"section.field": "text"}`."""
    config = Config(
        model=ModelConfig(
            image_size=32,
            grid=4,
            stem="cifar",
            stem_width=8,
            stacks=(1, 1),
            stack_widths=(4, 8),
            width=32,
            depth=2,
            heads=4,
            mlp_ratio=2,
            decoder_width=32,
        ),
        mask=MaskConfig(ratio=0.6, block=2),
        augment=AugmentConfig(jitter_size=7),
        target=TargetConfig(size=4, bits=2),
    )
    return config.override(changes or {})


def random_batch(config, batch=4, seed=0):
    """A batch of NumPy arrays for the pre-trainer."""
    return _batch(config, pretrain_noise(config), batch, seed)


def random_classifier_batch(config, batch=4, seed=0):
    """A batch of NumPy arrays for the classifier."""
    return _batch(config, finetune_noise(config), batch, seed)


def _batch(config, noise: Shapes, batch, seed):
    rng = np.random.default_rng(seed)
    side = config.model.image_size
    image = rng.integers(0, 256, (batch, side, side, 3), dtype="uint8")
    return {"image": image, **{name: rng.random((batch, *shape), dtype="float32") for name, shape in noise.items()}}


def tiny_pretrainer(config, seed=0):
    keras.utils.set_random_seed(seed)
    return build_pretrainer(config)


def tiny_classifier(config, classes=3, seed=0):
    keras.utils.set_random_seed(seed)
    return build_classifier(config, classes)


def randomize(layer, seed=0):
    """Add a random value to every trainable weight, so that no scale is 0 and no two vectors are equal."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(weight.numpy() + 0.2 * rng.standard_normal(weight.shape))
    return layer


def paint(images, grid, image, patch, value=None):
    """Copy the images with one patch of one image inverted, or set to `value`."""
    images = images.copy()
    side = images.shape[1] // grid
    row, column = divmod(int(patch), grid)
    window = images[image, row * side : (row + 1) * side, column * side : (column + 1) * side]
    window[:] = 255 - window if value is None else value
    return images


def examples(count):
    """How many random shapes to try. JAX compiles for each, so it tries a quarter."""
    return count if keras.backend.backend() == "tensorflow" else count // 4


def compiled(function):
    """A function that returns NumPy arrays. JAX compiles it as a whole, because it is slow operation by operation."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)

    @functools.wraps(function)
    def call(*arguments):
        return tree.map_structure(_to_numpy, function(*tree.map_structure(ops.convert_to_tensor, arguments)))

    return call


def runner(layer, training=False):
    """A function from the layer's inputs to its outputs as NumPy arrays. Each call uses the layer's current weights."""
    arguments = {"training": training} if training else {}
    if keras.backend.backend() == "tensorflow":
        return lambda *inputs: tree.map_structure(_to_numpy, layer(*inputs, **arguments))
    import jax

    compiled_call = jax.jit(lambda values, inputs: stateless(layer, values, *inputs, **arguments))
    return lambda *inputs: tree.map_structure(_to_numpy, compiled_call([v.value for v in layer.variables], inputs))


def stateless(layer, values, *inputs, **arguments):
    """Call the layer with other values of its variables. Unlike `stateless_call`, this casts inputs as a call does."""
    with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
        return layer(*inputs, **arguments)


def run(layer, *inputs, training=False):
    return runner(layer, training)(*inputs)


def _to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


class Losses(keras.callbacks.Callback):
    """Collects the mean loss of the steps so far, after each step."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))


def trained_pretrainer(config, optimizer, change=None, steps=3, batch=8, **options):
    """A tiny pre-trainer after some steps on random images, and its losses. `change` is called with the compiled model."""
    model, losses = tiny_pretrainer(config), Losses()
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, **{"jit_compile": keras.backend.backend() == "jax", **options})
    if change:
        change(model)
    data = random_batch(config, batch=steps * batch)
    model.fit(data, batch_size=batch, shuffle=False, verbose=0, callbacks=[losses])
    return model, losses.values
