"""Trackers: where the metrics and pictures of a training go beside `metrics.jsonl`.

`run.tracker` names one. TensorBoard and CSV need nothing more. MLflow and Weights & Biases are extras of the package, and keep
their own settings: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import Stopped, UserError
from pf_keras.filesystem import is_remote
from pf_keras.training.identity import find_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir, csv_text

PROJECT = "pf_keras"  # the name of the MLflow experiment and of the W&B project
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
PARAMS = 100  # that MLflow takes in one call


class Tracker:
    """Takes the metrics and pictures of a training. This base class ignores them.

    Use it as a context manager. The end of the body says whether the training finished, was stopped, or failed.

    Args:
        workdir: of the run.
    """

    def __init__(self, workdir: Workdir):
        self.workdir = workdir

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a log interval that ended at `step`."""

    def result(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a result, which come once, after the last step."""
        self.scalars(step, values)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Take pictures by name, each float `(B, H, W, 1 or 3)` in [0, 1]."""

    def close(self, error: BaseException | None) -> None:
        """End the run. `error` is what ended the training, None where it finished."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close(error)


class TensorBoard(Tracker):
    """Event files in `WORKDIR/tensorboard`."""

    writer = None

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        import tensorflow as tf

        with self.workdir.writing():
            self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
            with self.writer.as_default(step=step):
                yield
            self.writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        import tensorflow as tf

        with self._writing(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        import tensorflow as tf

        with self._writing(step):
            for name, images in pictures.items():
                tf.summary.image(name, images, max_outputs=len(images))

    def close(self, error: BaseException | None) -> None:
        if self.writer:
            self.writer.close()


class CsvTable(Tracker):
    """`WORKDIR/metrics.csv`: the lines of `metrics.jsonl` as a table, and a last row of the result. It has no pictures."""

    columns: tuple[str, ...] = ()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        file, row = self.workdir.path / "metrics.csv", {"step": step, **values}
        if set(row) <= set(self.columns):
            with self.workdir.writing(), file.open("a") as table:
                table.write(csv_text([[row.get(name, "") for name in self.columns]]))
            return
        # The first row of this process, or one with a new column. The log has this row already.
        self._write(file, MetricsLog(self.workdir).lines())

    def result(self, step: int, values: Mapping[str, float]) -> None:
        self._write(self.workdir.path / "metrics.csv", [*MetricsLog(self.workdir).lines(), {"step": step, **values}])

    def _write(self, file: epath.Path, lines: Sequence[Mapping[str, float]]) -> None:
        self.columns = tuple(dict.fromkeys(name for line in lines for name in line))
        self.workdir.write_csv(file, [self.columns, *([line.get(name, "") for name in self.columns] for line in lines)])


class Service(Tracker):
    """Base of trackers that may be on another machine.

    A failure at the beginning ends the run, because the user can correct it. After a failure during the training nothing more
    is sent, and the training continues.

    The name of the tracker's run is kept in `WORKDIR/tracker.json`, so that a training that resumes adds to that run.
    """

    name = ""

    def __init__(self, workdir: Workdir):
        super().__init__(workdir)
        self.file, self.works = workdir.path / "tracker.json", True
        known = workdir.read_json(self.file) if self.file.exists() else {}
        try:
            run_id = self.open(known.get(self.name))
        except Exception as error:
            raise UserError(f"run.tracker is {self.name}, which cannot start: {_reason(error)} {self.advice}") from error
        workdir.write_json(self.file, {**known, self.name: run_id})

    advice = ""

    def open(self, run_id: str | None) -> str:
        """Continue the run `run_id`, or begin one. Returns its name."""
        raise NotImplementedError

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Keep a failure from the training, and say once that there was one."""
        try:
            yield
        except Exception as error:
            self.works = False
            print(f"warning: {self.name} failed ({_reason(error)}): metrics go to metrics.jsonl only", file=sys.stderr)


class MLflow(Service):
    """An MLflow run on the server or in the store of MLFLOW_TRACKING_URI, by default in `WORKDIR/mlflow.db`."""

    name = "mlflow"
    advice = "Set MLFLOW_TRACKING_URI to a server or to a store such as sqlite:////HOME/mlflow.db, or use another tracker."

    def open(self, run_id: str | None) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        place, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not place:
            path = os.path.abspath(self.workdir.path)
            if is_remote(str(self.workdir.path)):
                raise UserError(f"{self.workdir.path} cannot hold its database.")
            place, artifacts = f"sqlite:///{path}/mlflow.db", f"{path}/mlflow"
        self.client = MlflowClient(tracking_uri=place)
        if run_id:
            try:
                self.client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
                return run_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self.client.create_experiment(experiment, artifacts)
        self.run_id = self.client.create_run(number, run_name=_name_of(self.workdir)).info.run_id
        params = [Param(name, str(value)) for name, value in flat_config(self.workdir).items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(self.run_id, params=params[start : start + PARAMS])
        return self.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if self.works:
            now = int(1000 * time.time())
            with self.sending():
                self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        if self.works:
            with self.sending():
                for name, images in pictures.items():
                    self.client.log_image(self.run_id, sheet(images), key=name, step=step)

    def close(self, error: BaseException | None) -> None:
        if self.works:
            status = "KILLED" if isinstance(error, Stopped) else "FAILED" if error else "FINISHED"
            with self.sending():
                self.client.set_terminated(self.run_id, status)


class WandB(Service):
    """A run of Weights & Biases, in `WORKDIR/wandb` and, unless WANDB_MODE=offline, on its server."""

    name = "wandb"
    advice = "Run `wandb login`, set WANDB_MODE=offline, or use another tracker."

    def open(self, run_id: str | None) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        run_id = run_id or secrets.token_hex(4)
        folder = tempfile.mkdtemp(prefix="wandb-") if is_remote(str(self.workdir.path)) else str(self.workdir.path)
        self.wandb, self.run = (
            wandb,
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run_id,
                resume="allow",
                name=_name_of(self.workdir),
                dir=folder,
                config=flat_config(self.workdir),
                allow_val_change=True,
                settings=wandb.Settings(silent=True, console="off"),
            ),
        )
        # W&B's own steps can only rise, but a training that resumes repeats the steps after its last checkpoint.
        self.run.define_metric("*", step_metric="step")
        return run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.works:
            with self.sending():
                self.run.log({"step": step, **values})

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        if self.works:
            with self.sending():
                self.run.log({"step": step, **{name: self.wandb.Image(sheet(images)) for name, images in pictures.items()}})

    def close(self, error: BaseException | None) -> None:
        with self.sending():
            self.run.finish(exit_code=1 if error else 0)


TRACKERS = {"tensorboard": TensorBoard, "csv": CsvTable, "mlflow": MLflow, "wandb": WandB}


def check_tracker(name: str) -> None:
    """Raises UserError where the packages of a tracker are not installed. Imports nothing."""
    for package in PACKAGES.get(name, ()):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:  # W&B leaves a folder `wandb`, which would pass for a package without code
            raise UserError(
                f"run.tracker is {name}, but the package {package} is not installed. "
                f"Install it with pip install 'pf-keras[{name}]', or use run.tracker=tensorboard."
            )


def open_tracker(name: str, workdir: Workdir) -> Tracker:
    """The tracker of a run.

    Args:
        name: the config's `run.tracker`.
        workdir: of the run. A process that does not write the run's files gets a tracker that ignores everything.

    Raises:
        UserError: the tracker cannot start.
    """
    return TRACKERS[name](workdir) if workdir.chief else Tracker(workdir)


def finish(workdir: Workdir, config: Config, result: Mapping[str, object]) -> None:
    """Write the result of a training, and send it to its tracker once, however often the command is given again.

    Args:
        workdir: of the run.
        config: of the run.
        result: the content of `result.json`.
    """
    known = workdir.result_file.exists()
    workdir.write_result(dict(result))
    if not known:
        send_result(config.run.tracker, workdir, result)


def send_result(name: str, workdir: Workdir, result: Mapping[str, object]) -> None:
    """Send the numbers of a training's result to its tracker, as `result/NAME`. A failure is a warning.

    Args:
        name: the config's `run.tracker`.
        workdir: of the run.
        result: the content of `result.json`. Numbers are sent, anything else is not.
    """
    numbers = {
        f"result/{key}": value
        for key, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    try:
        with open_tracker(name, workdir) as tracker:
            tracker.result(int(result["steps"]), numbers)
    except UserError as error:  # the training has ended well, and its result is written
        print(f"warning: the result was not sent to {name}: {error}", file=sys.stderr)


def flat_config(workdir: Workdir) -> dict[str, object]:
    """The mode and the config of the run in a workdir, as `{"section.field": value}`."""
    run = find_run(workdir)
    if run is None:
        return {}
    fields = {f"{section}.{name}": v for section, values in run.config.to_dict().items() for name, v in values.items()}
    return {"mode": run.mode, **fields}


def sheet(images: np.ndarray) -> np.ndarray:
    """Images below one another: float `(B, H, W, C)` in [0, 1] to uint8 `(B * H, W, 3)`."""
    pixels = (255 * np.clip(images, 0, 1)).round().astype("uint8")
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)).reshape(-1, pixels.shape[2], 3)


def _name_of(workdir: Workdir) -> str:
    return os.path.basename(os.path.abspath(workdir.path))


def _reason(error: Exception) -> str:
    """The first line of an error, as a sentence."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return text if text.endswith(".") else f"{text}."
