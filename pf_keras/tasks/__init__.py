"""One module a `--mode`; each has `run(request)`, which returns the content of `result.json`."""

from dataclasses import dataclass

from pf_keras.config import Config


@dataclass(frozen=True)
class Request:
    """What the command line asks of a task.

    config: of a task that begins a run; `data` alone is for tasks that read an earlier run's workdir.
    """

    workdir: str
    config: Config | None = None
    data: str = ""
    checkpoint: str = ""
    tpu: str = ""
    topology: str = ""
