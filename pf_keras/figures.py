"""The pictures of a run. Matplotlib draws them into files and needs no screen."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from pf_keras.errors import writing

CURVES = {  # of the metrics that are measured now and then, by their names in metrics.jsonl
    "knn_top1": "kNN probe",
    "linear_top1": "linear probe",
    "holdout_top1": "held-out images",
    "validation_top1": "validation images, to watch",
}


def draw_loss(metrics: Sequence[dict], path: os.PathLike, marginal_entropy: float | None = None) -> None:
    """Draw the training loss over the steps, and on a second axis the accuracies that were measured meanwhile.

    Args:
        metrics: the lines of `metrics.jsonl`.
        path: of the picture.
        marginal_entropy: of a pre-training: the loss of a predictor without context, which is drawn as a dashed line.
    """
    figure, axes = new_figure(1, 1, 7, 4)
    steps = [line["step"] for line in metrics]
    axes.plot(steps, [line["loss"] for line in metrics], label="training loss")
    if marginal_entropy is not None:
        axes.axhline(marginal_entropy, color="grey", linestyle="--", label="entropy of the levels")
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy (nats)" if marginal_entropy is None else "cross-entropy (nats per pixel)")
    axes.grid(alpha=0.3)
    curves = {name: [(line["step"], line[name]) for line in metrics if name in line] for name in CURVES}
    lines, place = axes.get_lines(), {}
    if any(curves.values()):
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 3}  # where it hides no curve
        accuracy = axes.twinx()
        accuracy.set_ylabel("top-1 accuracy")
        accuracy.set_ylim(0, 1)
        for number, (name, points) in enumerate(curves.items()):
            if points:
                style = {"color": f"C{number + 1}", "marker": ".", "label": CURVES[name]}
                lines = [*lines, *accuracy.plot(*zip(*points, strict=True), **style)]
    axes.legend(handles=lines, **place)
    save_figure(figure, path)


def draw_reconstruction(panels: Sequence[np.ndarray], path: os.PathLike, bits: int) -> None:
    """Draw a row for each image: the image, the masked image, the decoded and the true patches.

    Args:
        panels: four arrays of pictures in [0, 1], of `evaluation.reconstruction.panels_of`.
        path: of the picture.
        bits: of the levels, for the titles.
    """
    titles = ("image", "what the model sees", f"decoded, {bits}-bit", f"truth, {bits}-bit")
    rows = len(panels[0])
    figure, axes = new_figure(rows, 4, 8, 2.1 * rows)
    for row in range(rows):
        for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            place = np.atleast_2d(axes)[row, column]
            place.imshow(panel[row], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_axis_off()
            if row == 0:
                place.set_title(title, fontsize=9)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    save_figure(figure, path)


def draw_crops(images: np.ndarray, path: os.PathLike, columns: int = 6) -> None:
    """Draw images side by side.

    Args:
        images: uint8 `(B, S, S, 3)`.
        path: of the picture.
        columns: images in a row.
    """
    rows = -(-len(images) // columns)
    figure, axes = new_figure(rows, columns, 8, 8 / columns * rows)
    for place in np.ravel(axes):
        place.set_axis_off()
    for place, image in zip(np.ravel(axes), images, strict=False):
        place.imshow(image, interpolation="nearest")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.04, hspace=0.04)
    save_figure(figure, path)


def draw_patches(images: np.ndarray, masked: np.ndarray, grid: int, path: os.PathLike) -> None:
    """Draw images cut into patches, and below them the patches that the model sees.

    Args:
        images: uint8 `(B, S, S, 3)`.
        masked: bool `(B, N)`, the patches that are hidden, in row-major order.
        grid: patches on each side.
        path: of the picture.
    """
    count, side = images.shape[0], images.shape[1] // grid
    hidden = masked.reshape(-1, grid, grid).repeat(side, axis=1).repeat(side, axis=2)[..., None]
    figure, axes = new_figure(2, count, 8, 4 * 4.2 / count)
    axes = axes.reshape(2, count)
    lines = np.arange(1, grid) * side - 0.5
    for row, panel, title in ((0, images, "patches"), (1, np.where(hidden, np.uint8(128), images), "what the model sees")):
        for place, image in zip(axes[row], panel, strict=True):
            place.imshow(image, interpolation="nearest")
            place.hlines(lines, -0.5, images.shape[1] - 0.5, colors="white", linewidth=0.6)
            place.vlines(lines, -0.5, images.shape[1] - 0.5, colors="white", linewidth=0.6)
            place.set_axis_off()
        axes[row, 0].set_title(title, fontsize=9, loc="left")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0.04, hspace=0.12)
    save_figure(figure, path)


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: os.PathLike) -> None:
    """Draw a confusion matrix. A row is a true class, a column a predicted class, a shade the fraction of the row.

    Args:
        confusion: int `(C, C)`, numbers of images.
        classes: the names of the C classes.
        path: of the picture.
    """
    count = len(classes)
    size = min(4 + 0.3 * count, 14)
    figure, axes = new_figure(1, 1, size, size)
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= 50:
        names = [_plain(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize=7)
        axes.set_yticks(range(count), names, fontsize=7)
    if count <= 20:
        for row, column in np.ndindex(confusion.shape):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7, color=colour)
    save_figure(figure, path)


def draw_grid(
    scores: Mapping[str, Mapping[tuple[int, float], float]],
    batches: Sequence[int],
    learning_rates: Sequence[float],
    path: os.PathLike,
) -> None:
    """Draw a heat map for each start of a sweep. A point without a score stays white.

    Args:
        scores: `{title: {(batch, learning rate): score}}`.
        batches: the rows.
        learning_rates: the columns.
        path: of the picture.
    """
    figure, axes = new_figure(1, len(scores), 1 + 4.5 * len(scores), 4)
    values = {
        title: np.array([[points.get((batch, rate), np.nan) for rate in learning_rates] for batch in batches])
        for title, points in scores.items()
    }
    known = np.concatenate([v[~np.isnan(v)] for v in values.values()])
    for place, (title, grid) in zip(np.atleast_1d(axes), values.items(), strict=True):
        place.imshow(grid, cmap="viridis", vmin=known.min(), vmax=known.max())
        place.set_title(f"{_plain(title)}: held-out top-1")
        place.set_xticks(range(len(learning_rates)), [f"{rate:g}" for rate in learning_rates])
        place.set_yticks(range(len(batches)), batches)
        place.set_xlabel("learning rate")
        place.set_ylabel("batch")
        for row, column in np.argwhere(~np.isnan(grid)):
            place.text(column, row, f"{grid[row, column]:.3f}", ha="center", va="center", fontsize=8, color="white")
    save_figure(figure, path)


def _plain(text: str) -> str:
    """Text that Matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple:
    """A Matplotlib figure of `width` x `height` inches, and its axes as `subplots` returns them."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns)


def save_figure(figure, path: os.PathLike) -> None:
    """Write a figure as PNG, to a local path or to one that `epath` reaches. Raises UserError where it cannot be written."""
    from etils import epath

    path = epath.Path(path)
    with writing(path.parent), path.open("wb") as file:
        figure.savefig(file, dpi=110, bbox_inches="tight", format="png")
