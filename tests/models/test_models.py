"""Every model behaves like a Keras model, with each of its options; the default sizes are the paper's."""

import keras
import numpy as np
import pytest
from layer_checks import check_layer
from tiny import random_batch, random_classifier_batch, run, tiny_config, tiny_pretrainer

from pf_keras import models
from pf_keras.config import Config
from pf_keras.layers import Bottleneck, TransformerBlock
from pf_keras.models import Backbone, Classifier, Embedder, PatchDecoder, PatchEncoder, Pretrainer
from pf_keras.patches.grid import extract_patches
from pf_keras.patches.masking import block_mask

SMALL = {"image_size": 32, "grid": 4, "stem": "cifar", "stem_width": 8, "stacks": (1,), "stack_widths": (4,)}
SMALL |= {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2}
CONFIG = tiny_config()


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def pretrainer():
    return Pretrainer(Backbone(**SMALL), target_size=4, decoder_width=16, augment={"jitter_size": 7})


PATCHES, INDICES = floats(2, 3, 8, 8, 3), np.array([[0, 5, 9], [15, 2, 3]], "int32")
CASES = {
    "PatchEncoder": (lambda: PatchEncoder(16, "no_pool", 8, (1, 1), (2, 4)), PATCHES),
    "PatchEncoder imagenet": (lambda: PatchEncoder(16, "imagenet", 8, (2,), (4,), "group"), PATCHES),
    "Backbone": (lambda: Backbone(**SMALL), PATCHES, INDICES),
    "PatchDecoder": (lambda: PatchDecoder(4, 4, 16), floats(2, 3, 16)),
    "Pretrainer": (pretrainer, random_batch(CONFIG)),
    "Embedder": (lambda: Embedder(Backbone(**SMALL)), random_batch(CONFIG)["image"]),
    "Classifier": (lambda: Classifier(Backbone(**SMALL, norm="group"), 3), random_classifier_batch(CONFIG)),
    "Classifier linear": (lambda: Classifier(Backbone(**SMALL), 3, head="linear"), random_classifier_batch(CONFIG)),
}


@pytest.mark.parametrize("name", CASES)
def test_model_is_a_keras_model(name, tmp_path, monkeypatch):
    make, *inputs = CASES[name]
    if name == "Backbone":  # its own call leaves out the pooling, which models that contain it call
        monkeypatch.setattr(Backbone, "call", call_and_pool)
    logits = name.split()[0] in ("PatchDecoder", "Pretrainer", "Classifier", "Embedder")
    unused = "pooling" if name in ("Embedder", "Classifier linear") else None
    check_layer(make, *inputs, tmp_path=tmp_path, logits=logits, unused=unused)


def call_and_pool(self, patches, indices=None, training=False):
    vectors = self.patch_encoder(patches, training=training) + self.positions(indices)
    return self.pool_targets(self.transformer(vectors, training=training), indices)


def test_every_public_model_is_checked():
    checked = {name.split()[0] for name in CASES} | {"PretrainScores"}  # PretrainScores in test_pretrainer.py
    assert checked == {name for name in models.__all__ if name[0].isupper()}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 16])
def test_decoder_supports_any_target_size(size):
    decoder = PatchDecoder(size, 4, 16)
    decoder.build((None, 3, 8))
    assert decoder.compute_output_shape((2, 3, 8)) == (2, 3, size, size, 1, 4)
    assert decoder.base * 2 ** len(decoder.blocks) == size
    if size in (1, 3, 6, 8):
        assert run(decoder, floats(2, 3, 8)).shape == (2, 3, size, size, 1, 4)


def test_decoder_of_the_paper_doubles_a_2x2_map_twice():
    decoder = PatchDecoder(8, 4)
    assert (decoder.base, len(decoder.blocks)) == (2, 2)


@pytest.mark.parametrize("stem, side", [("no_pool", 4), ("imagenet", 2), ("cifar", 8)])
def test_stem_reduces_an_8x8_patch(stem, side):
    """Each stack after the first halves the sides again."""
    encoder = PatchEncoder(16, stem, 8, (1, 2), (2, 4))
    encoder.build((None, None, 8, 8, 3))
    shape = encoder.stem_conv.compute_output_shape((None, 8, 8, 3))
    shape = encoder.stem_pool.compute_output_shape(shape) if encoder.stem_pool else shape
    assert shape == (None, side, side, 8)
    assert [block.strides for block in encoder.blocks] == [1, 2, 1]


def test_patches_are_encoded_independently():
    encoder = PatchEncoder(16, "cifar", 8, (1,), (4,))
    encoder.build((None, None, 8, 8, 3))
    together = run(encoder, PATCHES)
    one_by_one = [run(encoder, PATCHES[:, i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(one_by_one, axis=1), atol=1e-5)


def test_backbone_depends_on_positions_but_not_on_the_order_of_patches():
    backbone = Backbone(**SMALL)
    backbone.build()
    context = run(backbone, PATCHES, INDICES)
    order = [2, 0, 1]
    np.testing.assert_allclose(run(backbone, PATCHES[:, order], INDICES[:, order]), context[:, order], atol=1e-4)
    assert np.abs(run(backbone, PATCHES, INDICES[::-1]) - context).max() > 1e-3


def test_backbone_without_indices_takes_the_whole_grid():
    backbone = Backbone(**SMALL)
    backbone.build()
    patches, indices = floats(2, 16, 8, 8, 3), np.arange(16, dtype="int32")[None].repeat(2, axis=0)
    np.testing.assert_allclose(run(backbone, patches), run(backbone, patches, indices), atol=1e-5)


def test_embedding_is_the_mean_of_the_context_over_all_patches():
    embedder = Embedder(Backbone(**SMALL))
    embedder.build()
    images = random_batch(CONFIG)["image"]
    patches = [images[:, i : i + 8, j : j + 8] / 127.5 - 1 for i in range(0, 32, 8) for j in range(0, 32, 8)]
    context = run(embedder.backbone, np.stack(patches, axis=1).astype("float32"))
    np.testing.assert_allclose(run(embedder, images), context.mean(axis=1), atol=1e-4)


def test_target_position_is_added_to_the_query_or_to_the_pooled_vector():
    for decode_position in ("query", "additive"):
        backbone = Backbone(**SMALL, decode_position=decode_position)
        backbone.build()
        context = keras.ops.convert_to_tensor(floats(2, 3, 16))
        positions = np.asarray(keras.ops.convert_to_numpy(backbone.positions(INDICES)))
        ours = np.asarray(keras.ops.convert_to_numpy(backbone.pool_targets(context, INDICES)))
        if decode_position == "query":
            expected = run(backbone.pooling, context, positions)
        else:
            expected = run(backbone.pooling, context) + positions
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_default_model_has_the_sizes_of_the_paper():
    """Weights get no values, so this takes no memory."""
    with keras.StatelessScope(initialize_variables=False):
        model = tiny_pretrainer(Config())
    count = lambda part: sum(int(np.prod(weight.shape)) for weight in part.weights)  # noqa: E731
    encoder = model.backbone.patch_encoder
    assert round(count(model.backbone.transformer) / 1e6) == 126
    assert 8e6 < count(encoder) - count(encoder.projection) < 9e6
    shortcuts = [block.shortcut for block in encoder.blocks if block.shortcut]
    weighted = [
        layer
        for layer in encoder._flatten_layers()
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and layer not in shortcuts
    ]
    assert len(weighted) == 41 and len(shortcuts) == 3
    assert sum(isinstance(layer, Bottleneck) for layer in encoder.blocks) == 13
    assert model.masked == 118
    keras.utils.clear_session()  # or Keras would give the weights values later


def test_every_config_field_reaches_its_model():
    """All values differ from the defaults, which are the constructors' defaults too."""
    config = Config().override({
        "model.image_size": "32", "model.grid": "4", "model.stem": "cifar", "model.stem_width": "8", "model.stacks": "(1,)",
        "model.stack_widths": "(4,)", "model.norm": "group", "model.width": "16", "model.depth": "1", "model.heads": "2",
        "model.mlp_ratio": "2", "model.norm_order": "pre_norm", "model.decode_position": "additive", "model.dropout": "0.1",
        "model.drop_path": "0.2", "model.decoder_width": "24", "mask.ratio": "0.5", "mask.block": "1", "target.size": "4",
        "target.bits": "3", "target.crop": "subsample", "target.channels": "3", "augment.enabled": "false",
        "augment.jitter_size": "5", "pretrain.label_smoothing": "0.03", "finetune.mask_ratio": "0.25",
        "finetune.dropout": "0.3", "finetune.head": "linear",
    })  # fmt: skip
    for section in ("model", "target"):
        for name, value in vars(getattr(config, section)).items():
            assert value != getattr(getattr(Config(), section), name), name
    pretrainer, classifier = models.build_pretrainer(config), models.build_classifier(config, 7)
    fields = {**vars(config.model)}
    decoder_width = fields.pop("decoder_width")
    for model in (pretrainer, classifier):
        assert model.backbone.arguments == fields
        for part in (model.backbone.patch_encoder, model.backbone.transformer, model.backbone.pooling):
            found = {name: value for name, value in part.get_config().items() if name in fields}
            assert found and found == {name: fields[name] for name in found}, part
    assert (pretrainer.mask_ratio, pretrainer.block, pretrainer.label_smoothing) == (0.5, 1, 0.03)
    for name, value in vars(config.target).items():
        assert getattr(pretrainer, f"target_{name}") == value
    assert pretrainer.augment == config.augment
    assert (pretrainer.decoder.width, pretrainer.decoder.size, pretrainer.decoder.levels) == (decoder_width, 4, 8)
    assert (classifier.masked, classifier.dropout, classifier.head_kind, classifier.classes) == (4, 0.3, "linear", 7)


@pytest.mark.parametrize("frozen", ["before", "after"])
def test_frozen_backbone_stays_frozen_when_built_and_loaded(frozen, tmp_path):
    backbone = Backbone(**SMALL)
    backbone.trainable = frozen == "after"
    classifier = Classifier(backbone, 3)
    classifier.build()
    backbone.trainable = False
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (classifier, loaded):
        assert not any("backbone" in variable.path for variable in model.trainable_variables)
        assert len(model.trainable_variables) == len(classifier.residual.trainable_variables) + 2
    loaded.backbone.trainable = True
    assert any("backbone" in variable.path for variable in loaded.trainable_variables)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Backbone(**SMALL | {"image_size": 34}), "multiple of grid"),
        (lambda: Backbone(**SMALL | {"stem": "vgg"}), "stem is 'vgg'. Use no_pool, imagenet or cifar"),
        (lambda: Backbone(**SMALL, decode_position="add"), "'query' or 'additive'"),
        (lambda: Classifier(Backbone(**SMALL), 3, head="mlp"), "'residual' or 'linear'. Received: 'mlp'"),
        (lambda: TransformerBlock(2, norm_order="pre-norm"), "'post_norm' or 'pre_norm'"),
        (lambda: Pretrainer(Backbone(**SMALL)), "at most the patch size 8. Received: 15"),
        (lambda: extract_patches(np.zeros((24, 48, 50, 3), "uint8"), 4), "multiples of grid=4. Received: 48 x 50"),
        (lambda: block_mask(floats(3, 4), 4, 1, 6), r"noise of 16 numbers for 16 blocks, \(B, 16\). Received: \(3, 4\)"),
    ],
)
def test_wrong_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_of_another_shape_are_refused():
    classifier = Classifier(Backbone(**SMALL), 3)
    classifier.build()
    for shape in ((2, 32, 64, 3), (2, 16, 16, 3), (2, 32, 32, 1), (32, 32, 3)):
        with pytest.raises(ValueError, match=r"must have the shape \(B, 32, 32, 3\)"):
            run(classifier, np.zeros(shape, "uint8"))
