"""Exported models take the same crop as an evaluation."""

import io

import numpy as np
from PIL import Image
from tiny import tiny_config

from pf_keras.data.decode import centre_window, decode_and_crop
from pf_keras.export.saved_model import croppers


def test_images_and_encoded_images_are_cropped_as_in_an_evaluation():
    config = tiny_config({"data.eval_crop": "1.0"})  # 32 px
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")  # every other mean ends in a half
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    crop, decode = croppers(config)
    expected = decode_and_crop(out.getvalue(), centre_window(1.0), 32)
    np.testing.assert_array_equal(crop(image[None])[0], expected)
    pixels, readable = decode(np.array([b"broken", out.getvalue()], object))
    np.testing.assert_array_equal(pixels[1], expected)
    assert readable.numpy().tolist() == [False, True] and not pixels[0].numpy().any()
