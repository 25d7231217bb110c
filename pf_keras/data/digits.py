"""The handwritten digits that scikit-learn ships: a dataset that needs no download."""

import io

from pf_keras.data.images import Images


def open_digits() -> tuple[Images, Images, tuple[str, ...]]:
    """Open 1,797 grey 8x8 digits as PNG. Every fifth is a validation image.

    Returns:
        `(train, validation, classes)`.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = []
    for image in digits.images:
        buffer = io.BytesIO()
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    names = [f"digit-{i:04d}.png" for i in range(len(encoded))]
    # The size of a PNG depends on the version of Pillow, and the digest must not.
    everything = Images(names, digits.target, encoded, sizes=[image.size for image in digits.images])
    train = everything.subset(i for i in range(everything.size) if i % 5)
    return train, everything.subset(range(0, everything.size, 5)), tuple(str(name) for name in digits.target_names)
