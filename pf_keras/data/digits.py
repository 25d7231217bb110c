"""Real handwritten digits that scikit-learn ships: the data set that works offline from a fresh install."""

import io

from pf_keras.data.images import Images


def open_digits():
    """`(train, validation, classes)`: 1,797 grey 8x8 digits as PNG; every fifth is kept for validation."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = []
    for image in digits.images:
        buffer = io.BytesIO()
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    everything = Images([f"digit-{i:04d}.png" for i in range(len(encoded))], digits.target, encoded)
    held_out = set(range(0, everything.size, 5))
    train = everything.subset(i for i in range(everything.size) if i not in held_out)
    return train, everything.subset(sorted(held_out)), tuple(str(name) for name in digits.target_names)
