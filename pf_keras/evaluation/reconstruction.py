"""Pictures of what a pre-trained model decodes."""

import os

import keras
import numpy as np
from keras import ops

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.errors import writing
from pf_keras.figures import draw_reconstruction
from pf_keras.noise import Shapes
from pf_keras.patches.grid import assemble_patches, extract_patches
from pf_keras.training.callbacks import RunCallback
from pf_keras.training.workdir import Workdir

EXAMPLES = 6
INTERVALS = 20  # log intervals between two pictures for TensorBoard


def examples(split: Split, config: Config, noise: Shapes) -> dict[str, np.ndarray]:
    """A few examples from all over a split, as one evaluation batch with noise of these shapes."""
    shown = split.sample(EXAMPLES)
    return next(evaluation_batches(shown, config, shown.size, noise).as_numpy_iterator())


def draw(model: keras.Model, batch: dict[str, np.ndarray], path: os.PathLike) -> str:
    """Draw what a pre-trainer decodes of a batch of `examples`. Returns the path of the picture as text."""
    panels = panels_of(model, batch)
    draw_reconstruction(panels, path, model.target_bits)
    return str(path)


def panels_of(model: keras.Model, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Four panels for each image of a batch of `examples`, with values in [0, 1].

    Returns:
        The image and what the model sees of it, `(B, H, W, 3)`; the decoded and the true levels of the targets,
        `(B, grid * size, grid * size, channels)`.
    """
    decoded, truth, masked = (ops.convert_to_numpy(x) for x in reconstruct_levels(model, batch))
    grid, side = model.backbone.grid, model.backbone.image_size // model.backbone.grid
    hidden = masked.reshape(-1, grid, grid).repeat(side, axis=1).repeat(side, axis=2)[..., None]
    brightest = 2**model.target_bits - 1
    image = batch["image"] / 255.0
    return image, np.where(hidden, 0.5, image), decoded / brightest, truth / brightest


def reconstruct_levels(model: keras.Model, batch: dict) -> tuple:
    """What a pre-trainer decodes of a batch, assembled to whole pictures.

    Args:
        model: a `Pretrainer`.
        batch: `image` uint8 `(B, H, W, 3)` and `mask_noise`, see `Pretrainer`.

    Returns:
        `decoded` and `truth`, int32 `(B, grid * size, grid * size, channels)`: the levels of every patch's target. In both,
        visible patches have the levels of the image. `masked`, bool `(B, N)`.
    """
    outputs = model(batch, training=False)
    grid, count = model.backbone.grid, model.backbone.grid**2
    patches = extract_patches(ops.convert_to_tensor(batch["image"]), grid)
    truth = model.target_levels(patches)  # (B, N, size, size, channels)
    predicted = ops.cast(ops.argmax(outputs["logits"], axis=-1), "int32")  # (B, M, size, size, channels)
    # A scatter as a product with zeros and ones, because each patch is at most one target.
    places = ops.one_hot(outputs["masked_indices"], count, dtype="int32")  # (B, M, N)
    masked = ops.max(places, axis=1)  # (B, N)
    filled = ops.einsum("bmn,bmijc->bnijc", places, predicted)
    decoded = ops.where(masked[:, :, None, None, None] > 0, filled, truth)
    return assemble_patches(decoded, grid), assemble_patches(truth, grid), masked > 0


class Pictures(RunCallback):
    """Show TensorBoard how the same images are reconstructed as the training goes on.

    Args:
        workdir: of the run.
        batch: of `examples`.
        log_every: steps of a log interval. There is a picture every `INTERVALS` intervals.
    """

    def __init__(self, workdir: Workdir, batch: dict[str, np.ndarray], log_every: int):
        super().__init__()
        self.workdir, self.batch, self.every, self.writer = workdir, batch, INTERVALS * log_every, None

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self.step % self.every:
            return
        import tensorflow as tf

        image, hidden, decoded, truth = panels_of(self.model, self.batch)
        with writing(self.workdir.path):
            self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
            with self.writer.as_default(step=self.step):
                tf.summary.image("images", np.concatenate([image, hidden], axis=2), max_outputs=EXAMPLES)
                tf.summary.image("decoded and true", np.concatenate([decoded, truth], axis=2), EXAMPLES)
            self.writer.flush()
