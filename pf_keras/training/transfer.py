"""Moving a pre-trained backbone into another model: whole, or not at all."""

import sys

from pf_keras.models import build_pretrainer
from pf_keras.training.checkpoint import require_checkpoint
from pf_keras.training.workdir import Workdir

# Of the model's fields those that the backbone's weights do not depend on: patches are averaged, whatever their size.
NO_WEIGHTS = ("model.image_size", "model.dropout", "model.decode_position", "model.decoder_width")


def load_backbone(model, init, config):
    """Set the backbone of `model`, made by `config`, to that of the newest checkpoint in the workdir `init`, and report it.
    Returns the checkpoint.

    Raises UserError where `init` is no workdir of a pre-training, or its network is another, naming the fields.
    """
    workdir = Workdir.of_run(init, "pretrain")
    workdir.require_same(config, "model", free=NO_WEIGHTS)
    pretrainer = build_pretrainer(workdir.config())
    checkpoint = require_checkpoint(workdir.checkpoints).load_into(pretrainer)

    given, wanted = _by_name(pretrainer.backbone), _by_name(model.backbone)
    assert given.keys() == wanted.keys(), given.keys() ^ wanted.keys()
    for name, variable in wanted.items():
        variable.assign(given[name])
    new = [f"{layer.name} ({layer.count_params()})" for layer in model.layers if layer is not model.backbone and layer.weights]
    print(
        f"loaded from {checkpoint.path}: the backbone, {len(wanted)} tensors, {model.backbone.count_params()} parameters; "
        f"new: {', '.join(new) or 'nothing'}; left behind: the decoder",
        file=sys.stderr,
    )
    return checkpoint


def _by_name(backbone):
    """The backbone's weights by their path below it; the seeds of its dropout are no weights."""
    return {v.path.split("backbone/", 1)[1]: v for v in backbone.weights}
