"""Models with the weights of an earlier run: whole, or the backbone alone.

Where a run kept an average of its weights (`ema`), the average is loaded. Only a run that resumes goes on from the last step.
"""

import os
import sys

import keras

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.training.checkpoint import Checkpoint, require_checkpoint
from pf_keras.training.identity import RunIdentity, earlier_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import best_checkpoint
from pf_keras.training.weights_file import is_weights_file, load_weights_file
from pf_keras.training.workdir import Workdir


def load(path: str | os.PathLike) -> keras.Model:
    """Load the model of a workdir with the weights of its newest checkpoint, or of its best one (`finetune.holdout`).

    Args:
        path: the workdir of a pre-training or fine-tuning.

    Returns:
        A `Pretrainer`, whose `backbone` and `decoder` are models too, or a `Classifier`. It is not compiled.

    Raises:
        UserError: the path is no such workdir, or has no checkpoint.
    """
    workdir, run = earlier_run(path, "pretrain", "finetune")
    load_model = load_pretrainer if run.mode == "pretrain" else load_classifier
    return load_model(workdir, run)[0]


def load_pretrainer(
    workdir: Workdir, run: RunIdentity, config: Config | None = None, step: str = ""
) -> tuple[keras.Model, Checkpoint]:
    """The pre-training model of a workdir and the checkpoint it was read from.

    Args:
        workdir: of a pre-training.
        run: what its `config.json` says.
        config: in place of the run's. Its model and target must be the same.
        step: of the checkpoint, empty for the newest.

    Raises:
        UserError: the config has another model, or there is no such checkpoint.
    """
    config = config or run.config
    run.require_same_model(workdir.path, config, "model", "target", free=())
    model = build_pretrainer(config)
    return model, require_checkpoint(workdir.checkpoints, step).load_into(model)


def load_classifier(
    workdir: Workdir, run: RunIdentity, config: Config | None = None
) -> tuple[keras.Model, tuple[str, ...], Checkpoint]:
    """The classifier of a workdir, the names of its classes, and the checkpoint it was read from.

    Args:
        workdir: of a fine-tuning.
        run: what its `config.json` says.
        config: in place of the run's. Its model must have the same weights.

    Raises:
        UserError: the config has another model, or there is no checkpoint.
    """
    config = config or run.config
    run.require_same_model(workdir.path, config, "model", "finetune.head")
    classes = tuple(run.facts["classes"])
    model = build_classifier(config, len(classes))
    return model, classes, checkpoint_to_use(workdir).load_into(model)


def checkpoint_to_use(workdir: Workdir) -> Checkpoint:
    """The best checkpoint of a run by its held-out images, or its newest where none was scored. UserError if it has none."""
    return best_checkpoint(workdir, MetricsLog(workdir).lines()) or require_checkpoint(workdir.checkpoints)


def load_backbone(model: keras.Model, init: str, config: Config) -> Checkpoint:
    """Load the backbone of `model` from the newest checkpoint in the workdir `init`, and print what was loaded.

    Args:
        model: a model on a backbone that `config` describes.
        init: the workdir of a pre-training.
        config: of `model`.

    Raises:
        UserError: `init` is no such workdir, or its network differs.
    """
    workdir, run = earlier_run(init, "pretrain")
    run.require_same_model(init, config, "model")
    pretrainer, checkpoint = load_pretrainer(workdir, run)
    count = _assign(_by_name(model.backbone), _by_name(pretrainer.backbone))
    new = [f"{layer.name} ({layer.count_params()})" for layer in model.layers if layer is not model.backbone and layer.weights]
    print(
        f"loaded the backbone from {checkpoint.path}: {count} tensors, {model.backbone.count_params()} parameters; "
        f"new: {', '.join(new) or 'nothing'}; not used: the decoder",
        file=sys.stderr,
    )
    return checkpoint


def load_pretraining(model: keras.Model, init: str, config: Config) -> int | None:
    """Load all weights of the pre-trainer `model` from `init`, and print what was loaded.

    Args:
        model: a pre-trainer that `config` describes.
        init: the workdir of a pre-training, whose newest checkpoint is read, or a file of weights, see `check_pretraining`.
        config: of `model`.

    Returns:
        The step of the checkpoint that was read, or None for a file that is in no checkpoint.
    """
    if is_weights_file(init):
        place, (pretrainer, step) = init, load_weights_file(init, config)
    else:
        check_pretraining(init, config)
        pretrainer, checkpoint = load_pretrainer(*earlier_run(init, "pretrain"))
        place, step = checkpoint.path, checkpoint.step
    count = _assign({v.path: v for v in model.weights}, {v.path: v for v in pretrainer.weights})
    print(
        f"loaded the backbone and the decoder from {place}: {count} tensors, {model.count_params()} parameters; "
        "new: the optimizer, the learning rate and the number of steps",
        file=sys.stderr,
    )
    return step


def check_pretraining(init: str, config: Config) -> None:
    """Check that a pre-training with `config` can start from the weights in `init`, a workdir or a file.

    Data, masks, augmentation and image size may differ.

    Raises:
        UserError: `init` is no pre-training workdir and no file of weights, has no checkpoint, or has another network.
    """
    if is_weights_file(init):
        load_weights_file(init, config)
        return
    workdir, run = earlier_run(init, "pretrain")
    run.require_same_pretrainer(init, config)
    require_checkpoint(workdir.checkpoints)


def check_init(init: str, config: Config) -> int | None:
    """The step of the newest checkpoint that `--init` names, or None for `scratch`.

    Raises:
        UserError: `init` is empty or no pre-training workdir, has no checkpoint, or its network is not the config's.
    """
    if not init:
        raise UserError("--init is missing. Use --init=PRETRAIN_WORKDIR or --init=scratch.")
    if init == "scratch":
        return None
    workdir, run = earlier_run(init, "pretrain")
    run.require_same_model(init, config, "model")
    return require_checkpoint(workdir.checkpoints).step


def record_init(workdir: Workdir, step: int | None) -> None:
    """Write `init.json`: which step of the pre-training in `--init` a run started from, if that is known."""
    workdir.write_json(workdir.init_file, {"step": step})


def init_step(workdir: Workdir) -> int | None:
    """The step of the pre-training in `--init` that a run started from. None where it started from scratch."""
    return workdir.read_json(workdir.init_file)["step"] if workdir.init_file.exists() else None


def _assign(variables: dict[str, keras.Variable], values: dict[str, keras.Variable]) -> int:
    """Set variables to the values of the same name. Returns how many."""
    assert variables.keys() == values.keys(), variables.keys() ^ values.keys()
    for name, variable in variables.items():
        variable.assign(values[name])
    return len(variables)


def _by_name(backbone: keras.Model) -> dict[str, keras.Variable]:
    """The weights of a backbone by their path in it."""
    return {v.path.split("backbone/", 1)[1]: v for v in backbone.weights}
