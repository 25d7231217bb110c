"""The models as a Keras user takes them, in plain scripts: arrays, callbacks, saving, export, quantization."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

import pf_keras
from pf_keras.layers.transformer import FactorizedPositions
from pf_keras.models import Backbone, Classifier, Embedder, Pretrainer

SMALL = {
    "image_size": 16, "grid": 4, "stem": "cifar", "stem_width": 8, "stacks": (1,), "stack_widths": (4,), "width": 16,
    "depth": 1, "heads": 2,
}  # fmt: skip
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 16, 16, 3), dtype="uint8")
LABELS = keras.utils.to_categorical(np.arange(16) % 3, 3)
ON_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow")


def pretrainer(**options):
    options = {"mask_ratio": 0.5, "target_size": 4, "decoder_width": 8, "augment": {"jitter_size": 3}} | options
    return Pretrainer(Backbone(**SMALL), **options)


def classifier(**options):
    return Classifier(Backbone(**SMALL), 3, **options)


def compiled(model, rate=1e-3, **options):
    loss = {} if isinstance(model, Pretrainer) else {"loss": keras.losses.CategoricalCrossentropy(from_logits=True)}
    model.compile(keras.optimizers.AdamW(rate), **loss, **options)
    return model


def fit(model, inputs=IMAGES, **options):
    labels = None if isinstance(model, Pretrainer) else LABELS
    return model.fit(inputs, labels, batch_size=8, verbose=0, **options).history


def outputs(model, images=IMAGES):
    found = model.predict(images, verbose=0)
    return found["logits"] if isinstance(found, dict) else found


@pytest.mark.parametrize("make", [pretrainer, classifier])
@pytest.mark.parametrize("inputs", [IMAGES / 255.0, IMAGES.astype("float32"), IMAGES.astype("int32")])
def test_images_that_are_not_uint8_are_refused(make, inputs):
    with pytest.raises(ValueError, match="must be uint8 in 0..255, and are (float|int)32"):
        fit(compiled(make()), inputs)
    with pytest.raises(ValueError, match="must be uint8"):
        make().predict(inputs, verbose=0)


@pytest.mark.parametrize("make", [pretrainer, classifier, lambda: Embedder(Backbone(**SMALL))])
def test_images_of_another_size_are_refused(make):
    with pytest.raises(ValueError, match=r"must have the shape \(B, 16, 16, 3\), and have \(2, 32, 32, 3\)"):
        make()(np.zeros((2, 32, 32, 3), "uint8"))
    with pytest.raises(ValueError, match="have no images"):
        make()({"picture": IMAGES})


def test_a_pretrainer_draws_the_noise_that_a_batch_does_not_bring():
    model = pretrainer(decode_fraction=0.5)
    draw = [model({"image": IMAGES}, training=True)["visible_indices"] for _ in range(2)]
    assert not np.array_equal(*map(ops.convert_to_numpy, draw)), "each step has masks of its own"
    assert model({"image": IMAGES}, training=True)["masked_indices"].shape == (16, 4)
    first, again = (ops.convert_to_numpy(model(IMAGES)["masked_indices"]) for _ in range(2))
    np.testing.assert_array_equal(first, again, err_msg="in inference the masks are always the same")
    assert len({tuple(row) for row in first}) > 8, "the images of a batch have different masks"
    given = RNG.random((16, 16), dtype="float32")
    masked = ops.convert_to_numpy(pretrainer(block=1)({"image": IMAGES, "mask_noise": given}, training=True)["masked_indices"])
    wanted = np.sort(np.argsort(given, axis=1)[:, :8], axis=1)
    np.testing.assert_array_equal(np.sort(masked, axis=1), wanted, err_msg="noise that is given decides")


def test_a_classifier_leaves_out_patches_in_training_only():
    sizes = []
    model = classifier(mask_ratio=0.5)
    call = model.backbone.call
    model.backbone.call = lambda patches, *args, **options: (sizes.append(patches.shape[1]), call(patches, *args, **options))[1]
    model(IMAGES, training=True)
    model(IMAGES, training=False)
    assert sizes == [8, 16]


@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_fit_learns_from_arrays_and_datasets(make):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model, brightness = compiled(make(), rate=1e-2), (80 * (np.arange(16) % 3)).astype("uint8")
    images = IMAGES // 4 + brightness[:, None, None, None]  # each class has a brightness of its own
    losses = fit(model, images, epochs=20)["loss"]
    assert losses[-1] < 0.8 * losses[0]
    data = tf.data.Dataset.from_tensor_slices(images if make is pretrainer else (images, LABELS)).batch(8)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_fit_runs_eagerly(make):
    assert np.isfinite(fit(compiled(make(), run_eagerly=True))["loss"]).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_fit_in_mixed_precision(make, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(make())
        assert np.isfinite(fit(model)["loss"]).all() and outputs(model).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_position_tables_step_as_dense_weights_do():
    """With a sparse gradient, AdamW of Keras under TensorFlow steps once for each use of a row."""
    layer = FactorizedPositions(4, 8)
    layer.build()
    indices = np.array([[0, 1, 2, 5, 5, 5]], "int32")
    start = [np.array(weight) for weight in (layer.rows, layer.columns)]

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.positions = layer

        def call(self, inputs):
            return self.positions(inputs)

    model = Model()
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.0), loss="mse")
    target = np.ones((1, 6, 8), "float32")
    for _ in range(4):
        model.train_on_batch(indices, target)

    rows, columns, moments = *(x.astype("float64") for x in start), [np.zeros((2, 4, 8)), np.zeros((2, 4, 8))]
    for step in range(1, 5):
        residual = 2 * (rows[indices // 4] + columns[indices % 4] - target) / target.size
        for table, which, (m, v) in ((rows, indices // 4, moments[0]), (columns, indices % 4, moments[1])):
            gradient = np.zeros((4, 8))
            np.add.at(gradient, which[0], residual[0])
            m[:], v[:] = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            table -= 0.1 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (np.sqrt(v) + 1e-7)
    for weight, wanted in ((layer.rows, rows), (layer.columns, columns)):
        np.testing.assert_allclose(np.array(weight), wanted, atol=1e-5)  # float32 against float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pretrainer(mask_ratio=0), "mask.ratio is 0"),
        (lambda: pretrainer(mask_ratio=0.01), "masks 0 of 16 patches"),
        (lambda: pretrainer(block=4), "every image has the same mask"),
        (lambda: pretrainer(target_size=8), "a patch has 4x4 px"),
        (lambda: pretrainer(target_bits=9), "target.bits is 9"),
        (lambda: pretrainer(decode_fraction=0), "mask.decode_fraction is 0"),
        (lambda: classifier(mask_ratio=0.99), "leaves out all 16 patches"),
        (lambda: classifier(dropout=1), "finetune.dropout is 1"),
        (lambda: Classifier(Backbone(**SMALL), 0), "classes is 0"),
        (lambda: Backbone(**SMALL | {"depth": 0}), "model.depth is 0"),
        (lambda: Backbone(**SMALL | {"heads": 3}), "not a multiple of model.heads=3"),
        (lambda: Backbone(**SMALL | {"stem": "x"}), "model.stem is 'x'"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_in_compile_is_refused():
    model = pretrainer()
    model.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="has a loss of its own. Leave loss='mse' out of compile"):
        fit(model)


@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_a_compiled_model_saves_and_trains_on(make, tmp_path):
    model = compiled(make())
    fit(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs(again), outputs(model), rtol=1e-5, atol=1e-5)  # another process of summation
    assert np.isfinite(fit(again)["loss"]).all()


@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_weights_files_do_not_depend_on_the_noise_of_the_model(make, tmp_path):
    import h5py

    model = make()
    model.build()
    model(IMAGES, training=True)
    model.save_weights(tmp_path / "model.weights.h5")
    names = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visit(names.append)
    assert not any("seed" in name for name in names)


@pytest.mark.parametrize("make", [pretrainer, classifier])
def test_models_clone_and_summarise(make):
    model = make()
    model.build()
    assert keras.models.clone_model(model).count_params() == model.count_params()
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    assert f"{model.count_params():,}" in "\n".join(lines)


def test_functional_models_of_the_models(tmp_path):
    image = keras.Input((16, 16, 3), dtype="uint8")
    features = keras.Model(image, keras.layers.Dense(3)(Embedder(Backbone(**SMALL))(image)))
    compiled(features)
    assert np.isfinite(fit(features)["loss"]).all()
    features.save(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs(keras.saving.load_model(tmp_path / "model.keras")), outputs(features), atol=1e-5)
    decoded = keras.Model(image, pretrainer()(image)["logits"])
    assert outputs(decoded).shape == (16, 8, 4, 4, 1, 4)
    image = keras.Input((16, 16, 3))  # float32
    with pytest.raises(ValueError, match='Of keras.Input, set dtype="uint8"'):
        keras.Model(image, classifier()(image)).predict(IMAGES, verbose=0)


def test_callbacks_of_keras(tmp_path):
    model = compiled(classifier(), metrics=["accuracy"])
    model.build()
    callbacks = [
        keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    done = fit(model, epochs=3, validation_data=(IMAGES, LABELS), callbacks=callbacks)["val_loss"]
    assert len(list(csv.DictReader((tmp_path / "log.csv").open()))) == len(done)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert best.evaluate(IMAGES, LABELS, verbose=0)[0] == pytest.approx(min(done), rel=1e-4)


@ON_TENSORFLOW
@pytest.mark.parametrize("make", [pretrainer, classifier, lambda: Embedder(Backbone(**SMALL))])
@pytest.mark.parametrize("called", [False, True])
def test_a_loaded_model_exports(make, called, tmp_path):
    import tensorflow as tf

    model = make()
    model.build()
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    if called:
        outputs(model)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(IMAGES)
    served = served["logits"] if isinstance(served, dict) else served
    if make is not pretrainer:  # whose masks depend on the batch
        np.testing.assert_allclose(served, outputs(model), rtol=1e-4, atol=1e-4)  # XLA or not
    assert served.shape == outputs(model).shape


@pytest.mark.parametrize("make", [pretrainer, classifier, lambda: Embedder(Backbone(**SMALL))])
def test_a_quantized_model_saves_and_loads(make, tmp_path):
    model = make()
    model.build()
    before = outputs(model)
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert any(weight.dtype == "int8" for weight in loaded.weights)
    np.testing.assert_allclose(outputs(loaded), outputs(model), rtol=1e-5, atol=1e-5)
    error = np.abs(outputs(loaded) - before)
    assert 0 < error.mean() < 0.1 * np.abs(before - before.mean()).mean() + 0.05, "int8 rounds weights to 1 in 127"


def test_other_quantizations_are_refused():
    model = classifier()
    model.build()
    for options in ({"mode": "int8", "filters": "head"}, {"mode": "colour"}):
        with pytest.raises(ValueError):
            model.quantize(**options)


def test_importing_the_package_registers_the_optimizer():
    assert keras.saving.get_registered_object("pf_keras>AdamW") is not None
    assert pf_keras.__version__
