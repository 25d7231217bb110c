"""Checks that every layer and model must pass, and references for them."""

import inspect
import json

import keras
import numpy as np
from keras import ops, tree
from tiny import randomize, run, stateless

import pf_keras  # noqa: F401 - registers the layers, so that files load without custom_objects


def check_layer(make, *inputs, tmp_path, logits=False, unused=None):
    """Check that a layer or model behaves like one of Keras: shapes, config, saving, gradients and mixed precision.

    Args:
        make: `make(**kwargs)` returns the layer or model.
        inputs: NumPy arrays, or one dict of them, that `call` takes.
        tmp_path: a folder for files.
        logits: whether the outputs are float32 in any precision.
        unused: the name of a part that does not contribute to the output, so that its weights have no gradients.
    """
    keras.utils.set_random_seed(0)
    layer = randomize(build(make(), inputs))
    outputs = run(layer, *inputs)
    check_shapes(layer, inputs, outputs)
    check_config(layer)
    check_saving(layer, inputs, outputs, tmp_path / "saved.keras")
    check_gradients(layer, inputs, unused)
    if not isinstance(layer, keras.Model):  # a layer must pass its own dtype policy on to all of its parts
        check_mixed_precision(build(make(dtype="mixed_bfloat16"), inputs), inputs, logits)
        return
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        check_mixed_precision(build(make(), inputs), inputs, logits)
    finally:
        keras.config.set_dtype_policy("float32")


def build(layer, inputs):
    layer.build(*tree.map_structure(lambda x: x.shape, inputs))
    return layer


def check_shapes(layer, inputs, outputs):
    if isinstance(outputs, dict):  # a model with several outputs also gives their dtypes
        symbols = tree.map_structure(lambda x: keras.KerasTensor(x.shape, dtype=str(x.dtype)), inputs)
        specs = layer.compute_output_spec(*symbols)
        computed = {name: (tuple(spec.shape), spec.dtype) for name, spec in specs.items()}
        assert computed == {name: (x.shape, str(x.dtype)) for name, x in outputs.items()}
        return
    shapes = tree.map_structure(lambda x: x.shape, inputs)
    assert tuple(layer.compute_output_shape(*shapes)) == outputs.shape


def check_config(layer):
    """The config contains all constructor arguments, and they survive JSON."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    clone = keras.saving.deserialize_keras_object(config)
    assert json.loads(json.dumps(keras.saving.serialize_keras_object(clone)))["config"] == config["config"]
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    assert {p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD} - {"self"} <= config["config"].keys()


def check_saving(layer, inputs, outputs, path):
    """A saved model loads without custom_objects and gives the same outputs."""
    if isinstance(layer, keras.Model):
        layer.save(path)
        loaded = run(keras.models.load_model(path), *inputs)
    else:
        symbols = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in inputs]
        keras.Model(symbols, layer(*symbols)).save(path)
        loaded = run(keras.models.load_model(path), list(inputs))
    for ours, theirs in zip(tree.flatten(outputs), tree.flatten(loaded), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def check_gradients(layer, inputs, unused):
    """Every trainable weight contributes to the output in training mode."""
    for weight, gradient in zip(layer.trainable_weights, gradients(layer, inputs), strict=True):
        if unused in weight.path.split("/"):
            continue
        assert gradient is not None, f"{weight.path} has no gradient"
        gradient = ops.convert_to_numpy(gradient)
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-9, f"{weight.path} has a gradient of 0"


def check_mixed_precision(layer, inputs, logits):
    assert {weight.dtype for weight in layer.trainable_weights} == {"float32"}
    outputs = run(layer, *inputs, training=takes_training(layer))
    output = outputs["logits"] if isinstance(outputs, dict) else outputs
    assert str(output.dtype) == ("float32" if logits else "bfloat16")
    assert np.isfinite(output.astype("float32")).all()


def takes_training(layer):
    return "training" in inspect.signature(layer.call).parameters


def gradients(layer, inputs):
    """The gradients of a randomly weighted sum of the outputs for the trainable weights, in training mode."""
    arguments = {"training": True} if takes_training(layer) else {}

    def weighted_sum(outputs):
        output = outputs["logits"] if isinstance(outputs, dict) else outputs
        return ops.sum(output * np.random.default_rng(0).standard_normal(output.shape).astype("float32"))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = weighted_sum(layer(*inputs, **arguments))
        found = tape.gradient(total, [weight.value for weight in layer.trainable_weights])
        return [None if g is None else tf.convert_to_tensor(g) for g in found]  # a gather has sparse gradients

    import jax

    rest = {id(variable): variable.value for variable in layer.non_trainable_variables}

    def loss(weights):
        values = rest | {id(v): w for v, w in zip(layer.trainable_variables, weights, strict=True)}
        return weighted_sum(stateless(layer, [values[id(v)] for v in layer.variables], *inputs, **arguments))

    return jax.jit(jax.grad(loss))([weight.value for weight in layer.trainable_variables])


def twins(ours, theirs, shape, **options):
    """A layer of our class and one of Keras's, with the same weights."""
    pair = [kind(**options) for kind in (ours, theirs)]
    for layer in pair:
        layer.build(shape)
        rng = np.random.default_rng(1)
        for weight in layer.weights:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
    return pair


def check_checkpoint_exchange(ours, theirs, shape, tmp_path, **options):
    """Our class and Keras's load each other's weights from a file, which names the layers in a list by their class."""

    class Parts(keras.Model):
        def __init__(self, kind):
            super().__init__()
            self.parts, self.built = [kind(**options), kind(**options)], True

    models = [Parts(kind) for kind in (ours, theirs)]
    for seed, model in enumerate(models):
        for part in model.parts:
            part.build(shape)
            part.weights[0].assign(np.random.default_rng(seed).standard_normal(part.weights[0].shape))
    for model, other in (models, models[::-1]):
        other.save_weights(tmp_path / "parts.weights.h5")
        model.load_weights(tmp_path / "parts.weights.h5")
        for part, expected in zip(model.parts, other.parts, strict=True):
            np.testing.assert_array_equal(part.weights[0], expected.weights[0])


def convolve(x, kernel, bias=0.0):
    """A convolution with same padding by its definition: (B, h, w, C) -> (B, h, w, filters)."""
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)])
    outputs = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + rows, j : j + columns]
            outputs[:, i, j] = np.einsum("byxc,yxcf->bf", window.astype("float64"), kernel)
    return outputs + bias
