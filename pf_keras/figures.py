"""Pictures of a run. Matplotlib draws into files; nothing needs a screen."""

import numpy as np


def draw_loss(metrics, path, marginal_entropy=None):
    """The loss over the steps, from the lines of `metrics.jsonl`; a predictor without context as a dashed line."""
    figure, axes = _figure(1, 1, 7, 4)
    steps = [line["step"] for line in metrics]
    axes.plot(steps, [line["loss"] for line in metrics], label="training loss")
    if marginal_entropy is not None:
        axes.axhline(marginal_entropy, color="grey", linestyle="--", label="grey levels' own entropy")
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy (nats a pixel)")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def reconstruction_panels(images, outputs, grid, patch_targets):
    """The four panels of a reconstruction for each image, as arrays in [0, 1].

    images: uint8 (B, H, W, 3). outputs: those of `Pretrainer`, as arrays. patch_targets: int (B, N, t, t), the grey
    levels of every patch, which stand where nothing is decoded.
    Returns image and masked image (B, H, W, 3), decoded and true grey levels (B, grid * t, grid * t).
    """
    count, levels = len(images), outputs["logits"].shape[-1]
    masked = np.zeros((count, grid * grid), bool)
    np.put_along_axis(masked, outputs["masked_indices"], True, axis=1)
    side = images.shape[1] // grid
    pixels = np.repeat(np.repeat(masked.reshape(count, grid, grid), side, axis=1), side, axis=2)
    hidden = np.where(pixels[..., None], 0.5, images / 255.0)

    decoded = np.array(patch_targets)
    predictions = outputs["logits"].argmax(-1)
    for example, places in enumerate(outputs["masked_indices"]):
        decoded[example, places] = predictions[example]

    def picture(patches):
        size = patches.shape[-1]
        tiles = patches.reshape(count, grid, grid, size, size).transpose(0, 1, 3, 2, 4)
        return tiles.reshape(count, grid * size, grid * size) / (levels - 1)

    return images / 255.0, hidden, picture(decoded), picture(patch_targets)


def draw_reconstruction(panels, path, bits):
    """Rows of image, masked image, decoded patches and true patches, side by side."""
    titles = ("image", "what the model sees", f"decoded, {bits}-bit", f"truth, {bits}-bit")
    rows = len(panels[0])
    figure, axes = _figure(rows, 4, 8, 2.1 * rows)
    for row in range(rows):
        for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            place = np.atleast_2d(axes)[row, column]
            place.imshow(panel[row], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_axis_off()
            if row == 0:
                place.set_title(title, fontsize=9)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    _save(figure, path)


def _figure(rows, columns, width, height):
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns)


def _save(figure, path):
    from etils import epath

    with epath.Path(path).open("wb") as file:
        figure.savefig(file, dpi=110, bbox_inches="tight", format="png")
