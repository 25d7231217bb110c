"""One module a `--mode`; each has `run(request)`, which returns the content of `result.json`."""

from dataclasses import dataclass

from pf_keras.config import Config
from pf_keras.errors import UserError


@dataclass(frozen=True)
class Request:
    """What the command line asks of a task.

    config: the run's; a task that reads an earlier run is given that run's, with what is to be different.
    checkpoint: a step, or nothing for the newest. init: a pre-training workdir or `scratch`. label_fractions, label_list:
    which training images keep their labels (several fractions for the probes of `evaluate`). seeds: those of a sweep.
    """

    workdir: str
    config: Config
    checkpoint: str = ""
    init: str = ""
    label_fractions: tuple[float, ...] = (1.0,)
    label_list: str = ""
    seeds: tuple[int, ...] = ()
    tpu: str = ""
    topology: str = ""

    @property
    def label_fraction(self):
        """The one fraction. Raises UserError where several are given."""
        if len(self.label_fractions) != 1:
            raise UserError(f"expected one --label_fraction, received {len(self.label_fractions)}: give one a run")
        return self.label_fractions[0]
