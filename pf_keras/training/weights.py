"""Models with the weights of an earlier run or of a preset: whole, or the backbone alone.

Where a run kept an average of its weights (`ema`), the average is loaded. Only a run that resumes goes on from the last step.
"""

import os
import sys

import keras

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.presets.folder import check_weights, is_preset
from pf_keras.presets.places import find, shipped
from pf_keras.training.checkpoint import Checkpoint, require_checkpoint
from pf_keras.training.identity import RunIdentity, earlier_run, find_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import best_checkpoint
from pf_keras.training.weights_file import is_weights_file, load_weights_file
from pf_keras.training.workdir import Workdir


def load(path: str | os.PathLike) -> keras.Model:
    """Load the model of a preset, or of a workdir with the weights of its newest checkpoint or its best (`finetune.holdout`).

    Args:
        path: the name of a preset that ships with the package, such as `photos64`; the folder of a preset; a repository with
            one, `hf://USER/REPOSITORY` or `hf://USER/REPOSITORY@REVISION`; or the workdir of a pre-training or fine-tuning.

    Returns:
        A `Pretrainer`, whose `backbone` and `decoder` are models too, or a `Classifier`. It is not compiled.

    Raises:
        UserError: there is no such preset or workdir, it has no checkpoint, or its weights are damaged.
    """
    workdir, run = start_of(path, "pretrain", "finetune")
    load_model = load_pretrainer if run.mode == "pretrain" else load_classifier
    return load_model(workdir, run)[0]


def start_of(init: str | os.PathLike, *modes: str) -> tuple[Workdir, RunIdentity]:
    """The workdir or the folder of a preset that `init` names, and the run that it is of. UserError as `earlier_run`."""
    return earlier_run(find(init), *modes)


def init_facts(init: str) -> dict[str, str]:
    """What a run records of its `--init`: the place, and the digest of the weights where it is a preset."""
    run = find_run(Workdir(find(init))) if init != "scratch" and not is_weights_file(init) else None
    digest = {"init_sha256": run.facts["weights"]["sha256"]} if run and is_preset(run) else {}
    return {"init": init, **digest}


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
    return model, _checkpoint(workdir, run, step).load_into(model)


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
    checkpoint = _checkpoint(workdir, run) if is_preset(run) else checkpoint_to_use(workdir)
    return model, classes, checkpoint.load_into(model)


def _checkpoint(workdir: Workdir, run: RunIdentity, step: str = "") -> Checkpoint:
    """The weights of a preset, or the newest checkpoint of a run, or that of a step."""
    if not is_preset(run):
        return require_checkpoint(workdir.checkpoints, step)
    if step:
        raise UserError(f"{workdir.path} is a preset, which has no checkpoint {step}. Leave out --checkpoint.")
    check_weights(workdir.path, run)
    return Checkpoint(workdir.path, run.facts["step"], {"seeds": []}, requested=True)


def checkpoint_to_use(workdir: Workdir) -> Checkpoint:
    """The best checkpoint of a run by its held-out images, or its newest where none was scored. UserError if it has none."""
    return best_checkpoint(workdir, MetricsLog(workdir).lines()) or require_checkpoint(workdir.checkpoints)


def load_backbone(model: keras.Model, init: str, config: Config) -> Checkpoint:
    """Load the backbone of `model` from the newest checkpoint in the workdir `init`, and print what was loaded.

    Args:
        model: a model on a backbone that `config` describes.
        init: the workdir of a pre-training, or a preset.
        config: of `model`.

    Raises:
        UserError: `init` is no such workdir or preset, or its network differs.
    """
    workdir, run = start_of(init, "pretrain")
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
        pretrainer, checkpoint = load_pretrainer(*start_of(init, "pretrain"))
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
    workdir, run = start_of(init, "pretrain")
    run.require_same_pretrainer(init, config)
    _checkpoint(workdir, run)


def check_init(init: str, config: Config) -> int | None:
    """The step of the newest checkpoint that `--init` names, or None for `scratch`.

    Raises:
        UserError: `init` is empty or no pre-training workdir, has no checkpoint, or its network is not the config's.
    """
    if not init:
        known = "".join(f"--init={name}, " for name in shipped())
        raise UserError(f"--init is missing. Use {known}--init=PRETRAIN_WORKDIR or --init=scratch.")
    if init == "scratch":
        return None
    workdir, run = start_of(init, "pretrain")
    run.require_same_model(init, config, "model")
    return _checkpoint(workdir, run).step


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
