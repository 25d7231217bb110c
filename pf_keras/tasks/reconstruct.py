"""`--mode=reconstruct`: draw what a pre-trained model decodes, for any checkpoint and data."""

import numpy as np
from keras import ops

from pf_keras.figures import draw_reconstruction, reconstruction_panels
from pf_keras.models import build_pretrainer
from pf_keras.patches import extract_patches
from pf_keras.targets import grey_levels
from pf_keras.training.checkpoint import require_checkpoint
from pf_keras.training.workdir import Workdir

EXAMPLES = 6


def run(request):
    """Draw `figures/reconstruction.png` of the workdir's newest checkpoint, on its own or the requested data."""
    from pf_keras.data.bad import naming_bad_images
    from pf_keras.data.pipeline import evaluation_batches, pretrain_noise
    from pf_keras.data.sources import open_source
    from pf_keras.training.strategy import open_devices

    workdir = Workdir.of_run(request.workdir, "pretrain")
    config = workdir.config()
    if request.data:
        config = config.override({"data.source": request.data})
    devices = open_devices(config.run.precision)
    with devices.scope():
        model = build_pretrainer(config)
    checkpoint = require_checkpoint(workdir.checkpoints, request.checkpoint)
    checkpoint.load_into(model)
    source = open_source(config.data)
    with naming_bad_images(source):
        batch = next(iter(evaluation_batches(source.validation, config, EXAMPLES, pretrain_noise(config))))
    picture = draw(model, batch, workdir.figures / "reconstruction.png", source.validation.size)
    result = {"step": checkpoint.step, "data": config.data.source, "figure": picture}
    workdir.write_json(workdir.path / "reconstruct.json", result)
    return result


def draw(model, batch, path, available=EXAMPLES):
    """Draw the first examples of an evaluation batch to `path`; returns the path as text."""
    batch = {name: np.asarray(value)[: min(EXAMPLES, available)] for name, value in batch.items()}
    panels = panels_of(model, batch)
    draw_reconstruction(panels, path, model.target_bits)
    return str(path)


def panels_of(model, batch):
    """`figures.reconstruction_panels` of a batch of arrays."""
    outputs = {name: ops.convert_to_numpy(value) for name, value in model(batch, training=False).items()}
    grid = model.backbone.grid
    patches = extract_patches(ops.convert_to_tensor(batch["image"]), grid)
    truth = ops.convert_to_numpy(grey_levels(patches, model.target_size, model.target_bits, model.target_crop))
    return reconstruction_panels(batch["image"], outputs, grid, truth)
