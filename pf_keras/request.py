"""What the command line asks of a task."""

from dataclasses import dataclass

from pf_keras.config import Config
from pf_keras.errors import UserError


@dataclass(frozen=True)
class Request:
    """What the command line asks of a task.

    Args:
        workdir: the directory of the run.
        config: the config of the run. A task that reads an earlier run gets that run's config, with the fields that the
            command line changes.
        other_data: evaluate, reconstruct, predict, embed: the `--data` to use in place of the run's own, or empty.
        checkpoint: a step, or empty for the newest.
        init: a preset, a workdir, or `scratch`; of pretrain also a file of weights; of predict also the folder of an export.
        label_fractions: which fraction of the training images keep their labels; `evaluate` takes several.
        label_list: a file with the names of the training images that keep their labels.
        seeds: the seeds of a sweep.
        tpu: the name of a TPU, `local`, a `grpc://` address, or empty.
        topology: the TPU slice to plan for.
        training: what to plan: `pretrain`, `finetune` or `both`.
        largest_batch: whether a plan searches for the largest batch that fits.
        split: predict, embed: `train` or `validation`. Empty for validation where the data have both, else all images.
    """

    workdir: str
    config: Config
    other_data: str = ""
    checkpoint: str = ""
    init: str = ""
    label_fractions: tuple[float, ...] = (1.0,)
    label_list: str = ""
    seeds: tuple[int, ...] = ()
    tpu: str = ""
    topology: str = ""
    training: str = "both"
    largest_batch: bool = False
    split: str = ""

    @property
    def label_fraction(self) -> float:
        """The only label fraction. Raises UserError where the command line gives several."""
        if len(self.label_fractions) != 1:
            count = len(self.label_fractions)
            raise UserError(f"--label_fraction has {count} values, but this mode takes one. Give one value per run.")
        return self.label_fractions[0]
