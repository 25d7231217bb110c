"""One module a `--mode`; each has `run(request)`, which returns the content of `result.json`."""

from dataclasses import dataclass

from pf_keras.config import Config


@dataclass(frozen=True)
class Request:
    """What the command line asks of a task.

    config: of a task that begins a run; `data` alone is for tasks that read an earlier run's workdir.
    init: a pre-training workdir or `scratch`. label_fraction, label_list: which training images keep their labels.
    """

    workdir: str
    config: Config | None = None
    data: str = ""
    checkpoint: str = ""
    init: str = ""
    label_fraction: float = 1.0
    label_list: str = ""
