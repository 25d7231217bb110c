"""Images as an exported model takes them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pf_keras.data.images import Images
from pf_keras.data.reader import DEFAULTS, CorruptImage, decode
from pf_keras.errors import UserError
from pf_keras.export.exported import Exported, as_served
from tests.data import images_made as made


def test_jpeg_and_png_are_served_as_they_are():
    for encoded in (made.jpeg(), made.encoded(made.pixels(), "PNG")):
        assert as_served(encoded, DEFAULTS) is encoded


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_become_png_with_the_same_pixels(kind):
    out = io.BytesIO()
    Image.fromarray(made.pixels()).save(out, kind)
    served = as_served(out.getvalue(), DEFAULTS)
    assert served.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode(served), decode(out.getvalue()))


def test_grey_tiffs_keep_their_16_bits():
    out, values = io.BytesIO(), np.arange(600, dtype="uint16").reshape(20, 30) * 100
    Image.fromarray(values).save(out, "TIFF")
    assert (np.asarray(Image.open(io.BytesIO(as_served(out.getvalue(), DEFAULTS)))) == values).all()


def test_corrupt_images_are_refused():
    with pytest.raises(CorruptImage):
        as_served(made.HTML, DEFAULTS)


def serving(fail):
    """An export whose model answers 0.5 for everything, after `fail` has seen the encoded images."""
    exported = Exported.__new__(Exported)
    exported.classes = ("a", "b")

    def serve(encoded):
        fail(encoded.numpy())
        return {"probabilities": tf.fill((len(encoded), 2), 0.5)}

    exported._serve = serve
    return exported


def split_of(*images):
    return Images([str(number) for number in range(len(images))], [0] * len(images), list(images), paths=False)


def test_image_that_the_model_cannot_decode_costs_its_answer_alone():
    good, bad = made.jpeg(), made.encoded(made.pixels(seed=1), "JPEG")

    def fail(encoded):
        if bad in encoded:
            raise tf.errors.InvalidArgumentError(None, None, "Invalid JPEG data")

    split = split_of(good, bad, good)
    found = list(serving(fail).each_batch(split, DEFAULTS, batch=4))
    assert [index.tolist() for index, *_ in found] == [[0, 2]] and found[0][2].shape == (2, 2)


def test_model_without_memory_is_no_bad_image():
    def fail(encoded):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\n with shape[9] [[node]]")

    with pytest.raises(UserError, match=r"failed on 2 images: OOM when allocating tensor with shape\[9\]. Use a smaller"):
        list(serving(fail).each_batch(split_of(made.jpeg(), made.jpeg()), DEFAULTS, batch=2))


def test_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no exported model: it has no saved_model"):
        Exported(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    (tmp_path / "variables").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        Exported(str(tmp_path))
