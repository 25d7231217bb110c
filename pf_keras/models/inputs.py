"""What the models take: images as uint8 of the right size, and noise, which they draw themselves where a batch brings none."""

import keras
from keras import ops

FIXED = 0  # seed of the noise in inference, so that predictions and scores can be repeated


def images_of(inputs, side: int):
    """The images of a model's inputs, checked while the model is traced.

    Args:
        inputs: uint8 `(B, side, side, 3)`, or a dict with them as `image`.
        side: pixels on each side.

    Raises:
        ValueError: there are no images, they are not uint8, or they have another shape. Floats such as `x / 255.` would be
            taken for black images.
    """
    if isinstance(inputs, dict) and "image" not in inputs:
        raise ValueError(f"The inputs have no images. Pass a dict with 'image'. Received: {sorted(inputs)}")
    image = inputs["image"] if isinstance(inputs, dict) else inputs
    dtype = keras.backend.standardize_dtype(image.dtype)
    if dtype != "uint8":
        raise ValueError(
            f"The images must be uint8 in 0..255, and are {dtype}. The model scales them itself: pass them unscaled, or as "
            '(255 * x).round().astype("uint8") if they are in [0, 1]. Of keras.Input, set dtype="uint8".'
        )
    shape = tuple(image.shape)
    if len(shape) != 4 or any(size not in (None, wanted) for size, wanted in zip(shape[1:], (side, side, 3), strict=True)):
        raise ValueError(f"The images must have the shape (B, {side}, {side}, 3), and have {shape}. Resize or batch them.")
    return image


def noise_of(inputs, name: str, shape: tuple[int, ...], seed: keras.random.SeedGenerator, training: bool):
    """The noise of a batch, float32 `(B, *shape)` in [0, 1).

    Args:
        inputs: images, or a dict with them as `image` and perhaps with this noise.
        name: of the noise.
        shape: of an example's noise.
        seed: what it is drawn from in training where the batch does not bring it. In inference it is always the same.
        training: whether the model trains.
    """
    if isinstance(inputs, dict) and inputs.get(name) is not None:
        return inputs[name]
    image = inputs["image"] if isinstance(inputs, dict) else inputs
    return keras.random.uniform((ops.shape(image)[0], *shape), dtype="float32", seed=seed if training else FIXED)
