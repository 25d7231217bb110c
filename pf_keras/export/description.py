"""What a client must know of an exported model. The same JSON is in every file of an export."""

import json
from collections.abc import Sequence

from pf_keras import __version__
from pf_keras.config import Config

KEY = "pf_keras"  # under which ONNX and LiteRT files hold it


def describe(config: Config, step: int, outputs: dict[str, str], classes: Sequence[str] = ()) -> str:
    """The description as JSON.

    Args:
        config: of the model.
        step: of the weights.
        outputs: the outputs by name, and what each is.
        classes: the names of the classes of a classifier, in the order of the outputs.
    """
    size = config.model.image_size
    what = {
        "made_by": f"pf_keras {__version__}",
        "step": step,
        "input": {
            "size": [size, size, 3],
            "dtype": "uint8",
            "range": [0, 255],
            "scaling": "none: the model scales pixels itself",
            "colour": "RGB",
            "crop": f"the centre, {config.data.eval_crop:g} of the shorter side, resized by bilinear interpolation",
        },
        "outputs": outputs,
        **({"classes": list(classes)} if classes else {}),
    }
    return json.dumps(what, indent=2) + "\n"
