"""`--mode=reconstruct`: draw what a pre-trained model decodes, for any checkpoint and data."""

import numpy as np
from keras import ops

from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.pipeline import evaluation_batches, pretrain_noise
from pf_keras.data.sources import same_data
from pf_keras.figures import draw_reconstruction
from pf_keras.models import build_pretrainer
from pf_keras.patches import assemble_patches, extract_patches
from pf_keras.training.checkpoint import require_checkpoint
from pf_keras.training.strategy import open_devices
from pf_keras.training.workdir import Workdir

EXAMPLES = 6


def run(request):
    """Draw `figures/reconstruction.png` of a checkpoint of `request.workdir`, on the data of `request.config`.

    Raises UserError where that config has another model or target.
    """
    workdir = Workdir.of_run(request.workdir, "pretrain")
    config = request.config
    workdir.require_same(config, "model", "target")
    devices = open_devices(config.run.precision, request.tpu)
    with devices.scope():
        model = build_pretrainer(config)
    checkpoint = require_checkpoint(workdir.checkpoints, request.checkpoint).load_into(model)
    other = not same_data(config.data.source, workdir.config().data.source)
    source, _ = open_readable(config.data, workdir, whole=other)
    with naming_bad_images(source):
        batch = examples(source.validation, config)
    written = devices.workdir(request.workdir)
    picture = draw(model, batch, written.folder("figures") / "reconstruction.png")
    result = {"step": checkpoint.step, "data": config.data.source, "figure": picture}
    written.write_json(written.path / "reconstruct.json", result)
    return result


def examples(split, config):
    """A few examples from all over a split, as one evaluation batch of NumPy arrays."""
    shown = split.sample(EXAMPLES)
    return next(evaluation_batches(shown, config, shown.size, pretrain_noise(config)).as_numpy_iterator())


def draw(model, batch, path):
    """Draw a batch of `examples` to `path`; returns the path as text."""
    draw_reconstruction(panels_of(model, batch), path, model.target_bits)
    return str(path)


def panels_of(model, batch):
    """Four panels for each image of a batch of arrays, in [0, 1]: image and what the model sees of it, (B, H, W, 3);
    decoded and true levels of the targets, (B, grid * t, grid * t, channels)."""
    decoded, truth, masked = (ops.convert_to_numpy(x) for x in reconstruct_levels(model, batch))
    grid, side = model.backbone.grid, model.backbone.image_size // model.backbone.grid
    hidden = masked.reshape(-1, grid, grid).repeat(side, axis=1).repeat(side, axis=2)[..., None]
    brightest = 2**model.target_bits - 1
    image = batch["image"] / 255.0
    return image, np.where(hidden, 0.5, image), decoded / brightest, truth / brightest


def reconstruct_levels(model, batch):
    """What a pre-trainer decodes of a batch, put together to pictures.

    Returns int32 `decoded` and `truth` (B, grid * t, grid * t, channels), the levels of every patch's target, those of
    visible patches the image's own in both; and `masked`, bool (B, N).
    """
    outputs = model(batch, training=False)
    grid, count = model.backbone.grid, model.backbone.grid**2
    patches = extract_patches(ops.convert_to_tensor(batch["image"]), grid)
    truth = model.target_levels(patches)  # (B, N, t, t, channels)
    predicted = ops.cast(ops.argmax(outputs["logits"], axis=-1), "int32")  # (B, M, t, t, channels)
    # Scatter as a product with zeros and ones: each patch is at most one target.
    places = ops.one_hot(outputs["masked_indices"], count, dtype="int32")  # (B, M, N)
    masked = ops.max(places, axis=1)  # (B, N)
    filled = ops.einsum("bmn,bmijc->bnijc", places, predicted)
    decoded = ops.where(masked[:, :, None, None, None] > 0, filled, truth)
    return assemble_patches(decoded, grid), assemble_patches(truth, grid), masked > 0
