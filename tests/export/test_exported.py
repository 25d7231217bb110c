"""Images as an exported model takes them."""

import io

import numpy as np
import pytest
from PIL import Image

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


def test_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no exported model: it has no saved_model"):
        Exported(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    (tmp_path / "variables").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        Exported(str(tmp_path))
