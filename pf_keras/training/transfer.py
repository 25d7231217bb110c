"""Moving a pre-trained backbone into another model: whole, or not at all."""

import sys

from pf_keras.errors import UserError
from pf_keras.models import build_pretrainer
from pf_keras.training.checkpoint import require_checkpoint
from pf_keras.training.workdir import Workdir


def load_backbone(model, init):
    """Set `model.backbone` to that of the newest checkpoint in the pre-training workdir `init`, and report it.

    Raises UserError where `init` is no such workdir or its backbone has another shape, naming the first mismatch.
    """
    workdir = Workdir.of_run(init, "pretrain")
    pretrainer = build_pretrainer(workdir.config())
    checkpoint = require_checkpoint(workdir.checkpoints)
    checkpoint.load_into(pretrainer)

    given, wanted = _by_name(pretrainer.backbone), _by_name(model.backbone)
    for name in [*wanted, *given]:
        shapes = [tuple(side[name].shape) if name in side else "none" for side in (wanted, given)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"expected the backbone in {init} to fit the config, whose {name} is {shapes[0]}, received {shapes[1]}: "
                "use the config of the pre-training"
            )
    for name, variable in wanted.items():
        variable.assign(given[name])
    new = [f"{layer.name} ({layer.count_params()})" for layer in model.layers if layer is not model.backbone and layer.weights]
    print(
        f"loaded from {checkpoint.path}: the backbone, {len(wanted)} tensors, {model.backbone.count_params()} parameters; "
        f"new: {', '.join(new) or 'nothing'}; left behind: the decoder",
        file=sys.stderr,
    )


def _by_name(backbone):
    """The backbone's variables by their path below it."""
    return {v.path.split("backbone/", 1)[1]: v for v in backbone.variables}
