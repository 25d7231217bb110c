"""What a pre-trained model decodes: its scores and pictures."""

import functools
import os
from collections.abc import Callable, Iterable

import keras
import numpy as np
from keras import ops

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.figures import draw_reconstruction
from pf_keras.models import PretrainScores
from pf_keras.noise import Shapes
from pf_keras.patches.grid import assemble_patches, extract_patches
from pf_keras.training.averaging import averaged_weights
from pf_keras.training.callbacks import RunCallback

EXAMPLES = 6
INTERVALS = 20  # log intervals between two pictures for the tracker


def score_pretrainer(scorer: PretrainScores, batches: Iterable, size: int) -> dict[str, float | None]:
    """Score what a pre-trainer decodes, without augmentation and label smoothing.

    Args:
        scorer: of the pre-trainer, compiled.
        batches: the images to score on, with noise, distributed over the devices.
        size: the number of images. What follows them fills up the last batch.

    Returns:
        `loss`, the cross-entropy in nats per target pixel and channel. `marginal_entropy`, the loss of a predictor that knows
        only how often each level occurs in these targets. `loss_ratio`, the first divided by the second, or None where all
        targets have one level.
    """
    outputs = scorer.predict(batches, verbose=0)
    loss = float(np.mean(outputs["cross_entropy"][:size], dtype="float64"))
    counts = np.sum(outputs["level_counts"][:size], axis=0, dtype="float64")
    fractions = counts / counts.sum(axis=1, keepdims=True)  # (channels, 2**bits)
    entropy = float(-(fractions * np.log(np.where(fractions > 0, fractions, 1))).sum(axis=1).mean())
    return {"loss": loss, "marginal_entropy": entropy, "loss_ratio": loss / entropy if entropy else None}


def examples(split: Split, config: Config, noise: Shapes) -> dict[str, np.ndarray]:
    """A few examples from all over a split, as one evaluation batch with noise of these shapes."""
    shown = split.sample(EXAMPLES)
    return next(evaluation_batches(shown, config, shown.size, noise).as_numpy_iterator())


def draw(model: keras.Model, batch: dict[str, np.ndarray], path: os.PathLike) -> None:
    """Draw what a pre-trainer decodes of a batch of `examples`."""
    panels = panels_of(model, batch)
    draw_reconstruction(panels, path, model.target_bits)


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
    """Show the tracker how the same images are reconstructed as the training goes on.

    Args:
        draw_examples: returns the batch of `examples`. It is called when the first picture is due, so that a training
            starts sooner.
        log_every: steps of a log interval. There is a picture every `INTERVALS` intervals.
    """

    def __init__(self, draw_examples: Callable[[], dict[str, np.ndarray]], log_every: int):
        super().__init__()
        self._draw_examples, self.every = draw_examples, INTERVALS * log_every

    @functools.cached_property
    def batch(self) -> dict[str, np.ndarray]:
        """The images, as a batch of `examples`."""
        return self._draw_examples()

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self.step % self.every:
            return
        with averaged_weights(self.model):
            image, hidden, decoded, truth = panels_of(self.model, self.batch)
        pairs = {"images": (image, hidden), "decoded and true": (decoded, truth)}
        self.tracker.pictures(self.step, {name: np.concatenate(pair, axis=2) for name, pair in pairs.items()})
