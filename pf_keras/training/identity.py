"""What a run is, as its `config.json` says, and whether a command continues that run or starts another.

A workdir belongs to one run. The same command resumes it; a command with another config is refused.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from pf_keras.config import Config, differing_fields
from pf_keras.errors import UserError, reading, writing
from pf_keras.filesystem import is_remote
from pf_keras.training.lock import lock
from pf_keras.training.workdir import Workdir

# Fields that may change when a run resumes. They change what is written and when, or which corrupt images are forgiven, but
# not what is learned. Where the data are may change too: `data_record` checks that they are the same data.
CHANGEABLE = (
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.eval_batch",
    "data.max_bad_fraction",
    "data.source",
)
# Fields of the model that its backbone's weights do not depend on. Patches are averaged, whatever their size.
NOT_IN_WEIGHTS = ("model.image_size", "model.dropout", "model.decode_position", "model.decoder_width")


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

    @classmethod
    def from_dict(cls, content: dict) -> "RunIdentity":
        """The identity in the content of a `config.json`."""
        facts = {name: value for name, value in content.items() if name not in ("mode", "config")}
        return cls(content["mode"], Config.from_dict(content["config"]), facts)

    def differences(self, other: "RunIdentity") -> list[str]:
        """What of `other` would make it another run than this, as `["section.field: old -> new", ...]`.

        A fact that this run does not have does not count: runs of earlier versions recorded fewer.
        """
        facts = [
            f"{name}: {self.facts[name]} -> {value}"
            for name, value in other.facts.items()
            if name in self.facts and not _same_fact(name, self.facts[name], value)
        ]
        # Where the precision is recorded that run.precision=auto came to, only that one must stay the same.
        free = (*CHANGEABLE, "run.precision") if "precision" in self.facts else CHANGEABLE
        return facts + [d for d in differing_fields(self.config, other.config) if d.split(":")[0] not in free]

    def require_same_model(self, path: object, config: Config, *names: str, free: Collection[str] = NOT_IN_WEIGHTS) -> None:
        """Check that `config` has the model of this run, because its weights would fit other models and mean something else.

        Args:
            path: the workdir of this run, for the message.
            config: what is to be loaded into.
            names: sections or fields that must be the same.
            free: fields of those that may differ.

        Raises:
            UserError: naming the fields that differ.
        """
        changed = [
            difference
            for difference in differing_fields(self.config, config)
            if (name := difference.split(":")[0]) not in free and (name in names or name.split(".")[0] in names)
        ]
        if changed:
            raise UserError(f"The run in {path} has another model ({'; '.join(changed)}). Use the fields of its config.")


def find_run(path: str | os.PathLike) -> RunIdentity | None:
    """The identity of the run in the workdir `path`, or None where there is no run.

    Raises:
        UserError: the place cannot be read, or its `config.json` is no run's.
    """
    workdir = Workdir(path)
    with reading(path):
        if not workdir.config_file.exists():
            return None
        content = workdir.read_json(workdir.config_file)
    if not isinstance(content, dict) or not {"mode", "config"} <= set(content):
        raise UserError(f"{workdir.config_file} is not the config of a run. Choose another --workdir.")
    return RunIdentity.from_dict(content)


def earlier_run(path: str | os.PathLike, *modes: str) -> tuple[Workdir, RunIdentity]:
    """The workdir and identity of an earlier run of one of the modes. Raises UserError if there is no such run."""
    run = find_run(path)
    if run is None:
        raise UserError(f"There is no run in {path}: it has no config.json. Name the workdir of an earlier --mode={modes[0]}.")
    if run.mode not in modes:
        wanted = " or ".join(modes)
        raise UserError(f"{path} is the workdir of a --mode={run.mode}. Name the workdir of an earlier --mode={wanted}.")
    return Workdir(path), run


def require_mode(path: str | os.PathLike, mode: str) -> RunIdentity | None:
    """The run in the workdir `path`, if any. Raises UserError where another mode made it."""
    run = find_run(path)
    if run and run.mode != mode:
        raise UserError(f"{path} is the workdir of a --mode={run.mode}. Choose another --workdir for --mode={mode}.")
    return run


def require_same_run(workdir: Workdir, run: RunIdentity) -> RunIdentity | None:
    """The run that is in the workdir already, if any. Raises UserError where `run` is another."""
    known = require_mode(workdir.path, run.mode)
    if known and (changed := known.differences(run)):
        precision = f", with --config.run.precision={known.facts['precision']}" if "precision" in known.facts else ""
        raise UserError(
            f"The run in {workdir.path} was started with other settings ({'; '.join(changed)}). "
            f"Use another --workdir, or the original values{precision}."
        )
    return known


def start_run(workdir: Workdir, run: RunIdentity) -> None:
    """Start a new run in the workdir, or resume the run that is there.

    Raises:
        UserError: another process is running there, or the run there is another.
    """
    with writing(workdir.path):
        workdir.figures.mkdir(parents=True, exist_ok=True)
    lock(workdir)
    known = require_same_run(workdir, run)
    facts = {**run.facts, **known.facts} if known else run.facts
    workdir.write_json(workdir.config_file, RunIdentity(run.mode, run.config, facts).to_dict())


def _same_fact(name: str, one: object, other: object) -> bool:
    """Whether a fact is the same. A label list is recognised by its digest, a start by where its path leads."""
    if name == "init":
        one, other = (
            path.rstrip("/") if is_remote(path) else os.path.realpath(os.path.expanduser(path)) for path in (one, other)
        )
    return one == other or name == "label_list"
