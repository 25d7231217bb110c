"""What a run is, as its `config.json` says, and whether a command continues that run or starts another.

A workdir belongs to one run. The same command resumes it; a command with another config is refused.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from pf_keras.commands_log import note_start
from pf_keras.config import Config, differing_fields
from pf_keras.errors import UserError, patiently, reading
from pf_keras.filesystem import same_path
from pf_keras.training.data_record import RunData
from pf_keras.training.lock import lock, unlock
from pf_keras.training.workdir import Workdir

# Fields that may change when a run resumes. They change what is written and when, not what is learned. `data.source` may
# change if the data moved: `RunData.check` makes sure that they are the same. A larger `data.max_bad_fraction` does change
# the order of examples, but lets a run continue that stopped at a corrupt image.
CHANGEABLE = (
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.eval_batch",
    "run.tracker",
    "pretrain.probe_every",
    "pretrain.probe_images",
    "data.max_bad_fraction",
    "data.max_pixels",
    "data.source",
)
# How version 0.1 read images. Its configs do not have these fields, and a run keeps what it was trained with.
READING_BEFORE = {"exif": False, "background": "drop"}
# Fields that do not change the weights of a backbone. The patch encoder averages over the pixels of a patch, whatever its size.
NOT_IN_WEIGHTS = (
    "model.image_size",
    "model.dropout",
    "model.drop_path",
    "model.decode_position",
    "model.decoder_width",
)

IN_DECODER = ("model.decode_position", "model.decoder_width")  # those of them that a pre-trainer's decoder depends on


@dataclass(frozen=True)
class RunIdentity:
    """What defines a run.

    Args:
        mode: the `--mode` that made it.
        config: its config.
        facts: what else defines it: its precision; of a fine-tuning also its start, labels and classes.
    """

    mode: str
    config: Config
    facts: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """The content of `config.json`."""
        return {"mode": self.mode, **self.facts, "config": self.config.to_dict()}

    def require_same_model(self, path: object, config: Config, *names: str, free: Collection[str] = NOT_IN_WEIGHTS) -> None:
        """Check that `config` has the model of this run. Another model may have equal weight shapes but compute something else.

        Args:
            path: this run's workdir, for the message.
            config: describes the model that the weights are loaded into.
            *names: the sections and fields that must be the same.
            free: the fields of those sections that may differ.

        Raises:
            UserError: the models differ. The message names the fields.
        """
        changed = [
            difference
            for difference in differing_fields(self.config, config)
            if (name := difference.split(":")[0]) not in free and (name in names or name.split(".")[0] in names)
        ]
        if changed:
            raise UserError(f"The run in {path} has another model ({'; '.join(changed)}). Use the fields of its config.")

    def require_same_pretrainer(self, path: object, config: Config) -> None:
        """Check that the weights of this pre-training suit a pre-trainer with `config`. Data, masks and image size may differ.

        Args:
            path: this run's workdir, for the message.
            config: of the pre-trainer.

        Raises:
            UserError: the networks differ. The message names the fields.
        """
        free = set(NOT_IN_WEIGHTS) - set(IN_DECODER)
        self.require_same_model(path, config, "model", "target.size", "target.bits", "target.channels", free=free)


def find_run(workdir: Workdir) -> RunIdentity | None:
    """The run in a workdir, or None if there is none. Raises UserError if it cannot be read."""
    with reading(workdir.path):
        if not patiently(workdir.config_file.exists, workdir.path):
            return None
        content = workdir.read_json(workdir.config_file)
    if not isinstance(content, dict) or not {"mode", "config"} <= set(content):
        raise UserError(f"{workdir.config_file} is not the config of a run. Choose another --workdir.")
    sections = content.pop("config")
    if isinstance(sections, dict) and isinstance(sections.get("data", {}), dict):
        sections["data"] = {**READING_BEFORE, **sections.get("data", {})}
    return RunIdentity(content.pop("mode"), Config.from_dict(sections), content)


def fields_of_version_0_1(workdir: Workdir) -> dict[str, str]:
    """The fields of a run of version 0.1 that its config file does not know, as overrides. Empty for another run."""
    run = find_run(workdir)
    old = run and all(getattr(run.config.data, name) == value for name, value in READING_BEFORE.items())
    return {f"data.{name}": str(value) for name, value in READING_BEFORE.items()} if old else {}


def earlier_run(path: str | os.PathLike, *modes: str) -> tuple[Workdir, RunIdentity]:
    """The workdir `path` and the run in it. Raises UserError if there is no run of one of the modes."""
    workdir = Workdir(path)
    run = find_run(workdir)
    if run is None:
        raise UserError(f"There is no run in {path}: it has no config.json. Name the workdir of an earlier --mode={modes[0]}.")
    if run.mode not in modes:
        wanted = " or ".join(modes)
        raise UserError(f"{path} is the workdir of a --mode={run.mode}. Name the workdir of an earlier --mode={wanted}.")
    return workdir, run


def check_same_run(workdir: Workdir, run: RunIdentity) -> RunIdentity | None:
    """The run that is in the workdir already, if any. Raises UserError if it is another than `run`.

    Facts that an earlier version did not record are ignored.
    """
    known = find_run(workdir)
    if known is None:
        return None
    if known.mode != run.mode:
        raise UserError(f"{workdir.path} is the workdir of a --mode={known.mode}. Choose another --workdir.")
    precision = known.facts.get("precision")
    free = [*CHANGEABLE, *_grown(known.config, run.config)]
    if run.mode == "finetune" and run.config.finetune.holdout and not run.config.finetune.evaluate_every:
        free.remove("run.log_every")  # which is then how often the held-out images choose
    if precision:  # run.precision may be `auto`. If the precision that was used is recorded, that is compared instead.
        free.append("run.precision")
    fields = [d for d in differing_fields(known.config, run.config) if d.split(":")[0] not in free]
    same = {"label_list"}  # its path may change: the fact `label_list_sha256` says what it holds
    before = {"init": "scratch", **known.facts}  # a pre-training did not record its start when there was no other
    starts = [one.get("init", "scratch") for one in (before, run.facts)]
    if "scratch" not in starts and same_path(*starts):
        same.add("init")
    facts = [
        f"{name}: {before[name]} -> {new}"
        for name, new in run.facts.items()
        if name in before and name not in same and before[name] != new
    ]
    if changed := facts + fields:
        flag = f" (--config.run.precision={precision})" if precision != run.facts.get("precision", precision) else ""
        raise UserError(
            f"The run in {workdir.path} was started with other settings ({'; '.join(changed)}). "
            f"Use another --workdir, or the original values{flag}."
        )
    return known


def _grown(known: Config, config: Config) -> list[str]:
    """The fields of a sweep's grid that have all their former values. The points that are done are kept."""
    names = ("batches", "learning_rates")
    return [f"sweep.{name}" for name in names if set(getattr(known.sweep, name)) <= set(getattr(config.sweep, name))]


def start_run(workdir: Workdir, run: RunIdentity, data: RunData | None = None) -> None:
    """Reserve the workdir for a run, and record what the run is and which data it has.

    Args:
        workdir: is empty, or holds this run already. Then the run resumes.
        run: what the run is.
        data: its data, if the workdir records them.

    Raises:
        UserError: another process is running there, the run there is another, or its data were others.
    """
    workdir.folder("figures")
    lock(workdir.path)
    try:
        known = check_same_run(workdir, run)
        if data:
            data.record(workdir, known and known.config.data.source, run.config.data.source)
    except UserError:
        unlock(workdir.path)  # a command that is refused leaves no trace
        raise
    facts = {**run.facts, **known.facts} if known else run.facts
    workdir.write_json(workdir.config_file, RunIdentity(run.mode, run.config, facts).to_dict())
    note_start(workdir)
