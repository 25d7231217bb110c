"""`--mode=sweep`: the paper's grid of fine-tunings by keras-tuner, then the best point of the grid with several seeds.

The points of the grid are compared on images held out of the labelled ones. Only the winners are scored on the validation
images, which is what the table reports. Every run has a workdir of its own, so that a stopped sweep resumes, within a run too.

With keras-tuner's KERASTUNER_TUNER_ID, _ORACLE_IP and _ORACLE_PORT set, several processes or machines that share the workdir
share the grid. The chief hands out the points and writes the table.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.data.corrupt import check_validation, naming_corrupt_images
from pf_keras.data.labels import (
    class_names,
    describe_classes,
    labelled_source,
    labelled_subset,
    labels_definition,
    require_classes,
    require_labels,
)
from pf_keras.data.records import Split
from pf_keras.data.selection import hold_out_labelled
from pf_keras.errors import UserError
from pf_keras.figures import draw_grid
from pf_keras.request import Request
from pf_keras.tasks.finetune import fit_and_score, part_to_train, steps_of, warn_if_nothing_learned
from pf_keras.training.callbacks import NonFiniteLoss
from pf_keras.training.data_record import open_run_data, record_labels
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import RunIdentity, check_same_run, find_run, start_run
from pf_keras.training.lock import unlock
from pf_keras.training.trackers import check_tracker, finish
from pf_keras.training.weights import check_init, init_facts, init_step
from pf_keras.training.workdir import Workdir
from pf_keras.training.workers import workers_of_a_step

METRIC = "held_out_top1"


def run(request: Request) -> dict:
    """Search the grid and run the winners. Writes `table.md`, `table.csv` and `figures/grid.png`.

    Returns:
        The content of `result.json`. For a worker, its name and how many runs it did.
    """
    start_step = check_init(request.init, request.config)
    check_tracker(request.config.run.tracker)
    check_seeds(request)
    if scaled := request.config.finetune.learning_rate_per_256:
        raise UserError(
            f"finetune.learning_rate_per_256 is {scaled}, but a sweep compares values of finetune.learning_rate. Set it to 0."
        )
    if workers_of_a_step() > 1:
        raise UserError(
            "TF_CONFIG is set, with which processes share a step, but the workers of a sweep share its grid. Unset it, and set "
            "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT."
        )
    from pf_keras.tasks.sweep_team import check_team

    worker = check_team()
    chief = "chief" in worker
    workdir = Workdir(request.workdir)
    sweep = Sweep(request, workdir, start_step)
    if chief:
        start_run(workdir, sweep.identity, sweep.data)
        record_labels(workdir, sweep.labelled, sweep.held_out)
        if not workdir.result_file.exists() and not sweep.data.searched:
            check_validation(sweep.data.source, sweep.validation)
    sweep.search(chief)
    if not chief:
        return {"worker": worker, "runs": sweep.runs}

    rows = [sweep.final_row(start) for start in sweep.starts]
    write_tables(workdir, rows)
    grid = {start: sweep.points(start) for start in sweep.starts}
    draw_grid(grid, request.config.sweep.batches, request.config.sweep.learning_rates, workdir.figures / "grid.png")
    result = {
        "points": sum(map(len, grid.values())),
        "seeds": len(request.seeds),
        "labels": rows[0]["labels"],
        "init_step": start_step,
        "bad_images": len(sweep.data.corrupt),
    }
    for row in rows:
        for name in ("batch", "learning_rate", "top1_mean", "top1_sd", "diverged"):
            result[f"{row['start']}_{name}"] = row[name]
    workdir.write_result(result)
    for row in rows:
        warn_if_nothing_learned(row["top1_mean"], sweep.validation.labels, sweep.classes)
    return result


def check_seeds(request: Request) -> None:
    """Raises UserError where the sweep has no seed, an invalid one, or one twice."""
    for seed in request.seeds:
        replace(request.config.run, seed=seed)  # the config checks its fields
    if len(set(request.seeds)) < max(1, len(request.seeds)):
        given = ",".join(map(str, request.seeds))
        raise UserError(f"--seeds={given} has no seed, or one twice. Use different seeds, such as --seeds=0,1,2.")


class Sweep:
    """The runs of a sweep, in the workdirs `grid/START-bBATCH-lrRATE/seed-S` and `final/START/seed-S`.

    Args:
        request: of the sweep.
        workdir: of the sweep.
        start_step: the step of the pre-training that the runs start from, None where all start from scratch.

    Raises:
        UserError: the data cannot be used, or a batch of the grid does not fit the devices.
    """

    def __init__(self, request: Request, workdir: Workdir, start_step: int | None):
        self.config, self.seeds, self.workdir, self.start_step = request.config, request.seeds, workdir, start_step
        self.starts = {"scratch": "scratch"}
        if request.init != "scratch":
            self.starts = {"pretrained": request.init, **self.starts}
        self.devices = open_devices(self.config.run.precision, request.tpu, self.config.run.parallel_parts)
        self.data = open_run_data(workdir, self.config.data)
        self.config = self.data.reading(self.config)
        with naming_corrupt_images(self.data.source):
            require_labels(self.data.source.train)
            print(describe_classes(self.data.source), file=sys.stderr)
            source = labelled_source(self.data.source, self.config.data.holdout)
            self.validation = source.validation
            require_labels(self.validation)
            self.classes = class_names(source)
            require_classes(self.classes)
            # All points and seeds have the same labels, and differ only in training.
            self.labelled = labelled_subset(source.train, request.label_fraction, request.label_list)
        self.train, self.held_out = hold_out_labelled(self.labelled, self.config.sweep.holdout, self.config.run.seed)
        for batch in self.config.sweep.batches:  # now, and not when the grid comes to a batch that does not fit
            for split in (self.train, self.labelled):
                config = self.config_of(batch, self.config.finetune.learning_rate, seed=0)
                steps_of(config, self.devices, part_to_train(config, split)[0].size)
        labels = labels_definition(request.label_fraction, request.label_list)
        facts = {**init_facts(request.init), "init_step": start_step, **labels, "seeds": list(request.seeds)}
        self.identity = RunIdentity("sweep", self.config, {**facts, **self.devices.facts()})
        self.runs = 0

    def search(self, chief: bool) -> None:
        """Go through the grid by keras-tuner. Returns when all points are done, for a worker when there are no more points.

        The chief, or a process that searches alone, starts the search anew each time: points that are done return at once.
        keras-tuner's own record of a search does not tell which points a killed process was at.
        """
        import keras_tuner
        from keras_tuner.engine.base_tuner import BaseTuner

        from pf_keras.tasks.sweep_team import Oracle, Watch

        sweep, watch = self, Watch()

        class Tuner(BaseTuner):
            def on_search_begin(self):
                if not chief:
                    sweep.check_worker()  # its chief has written the sweep's config by now

            def run_trial(self, trial):
                values, watch.point = trial.hyperparameters.values, trial.trial_id
                try:
                    return {METRIC: sweep.run_point(values["start"], values["batch"], values["learning_rate"])}
                except Exception as error:  # the tuner would record any other error as a failed point, and continue
                    raise keras_tuner.errors.FatalError(str(error)) from error
                finally:
                    watch.point = None

        space = keras_tuner.HyperParameters()
        space.Choice("start", list(self.starts))
        space.Choice("batch", list(self.config.sweep.batches))
        space.Choice("learning_rate", list(self.config.sweep.learning_rates))
        oracle = Oracle(objective=keras_tuner.Objective(METRIC, "max"), hyperparameters=space, max_trials=None)
        oracle.verbose = 0
        tuner = Tuner(oracle, directory=str(self.workdir.path), project_name="tuner", overwrite=chief)
        try:
            with watch.watching(oracle, chief):
                tuner.search()
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ or error from None

    def run_point(self, start: str, batch: int, learning_rate: float) -> float:
        """The mean held-out top-1 of a point over its seeds, also written to `point.json`. A diverged run counts as 0."""
        folder, scores = self.point_folder(start, batch, learning_rate), []
        for seed in self.seeds[: self.config.sweep.point_seeds or None]:
            config = self.config_of(batch, learning_rate, seed)
            scores.append(self.result_of(folder / f"seed-{seed}", config, start, self.train, self.held_out)["top1"])
        mean = statistics.fmean(scores)
        point = {"start": start, "batch": batch, "learning_rate": learning_rate, METRIC: mean}
        self.workdir.write_json(folder / "point.json", point)
        return mean

    def final_row(self, start: str) -> dict:
        """Run the best point of a start on all labelled images for each seed. Returns its row of the table."""
        (batch, learning_rate), held_out = max(self.points(start).items(), key=lambda point: point[1])
        results = []
        folder = self.final_folder(start, batch, learning_rate)
        for seed in self.seeds:
            config = self.config_of(batch, learning_rate, seed)
            results.append(self.result_of(folder / f"seed-{seed}", config, start, self.labelled, self.validation))
        row = {"start": start, "labels": self.labelled.size, "batch": batch, "learning_rate": learning_rate, METRIC: held_out}
        for name in ("top1", "top5"):
            values = [result[name] for result in results]
            row[f"{name}_mean"] = statistics.fmean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        diverged = sum("error" in result for result in results)
        steps = max(result["steps"] for result in results)
        return {**row, "seeds": len(results), "diverged": diverged, "steps": steps, "images": results[0]["images"]}

    def result_of(self, folder: epath.Path, config: Config, start: str, train: Split, scored: Split) -> dict:
        """The result of a run of the sweep, which is run first if it has none. A diverged run scores 0."""
        workdir, init = Workdir(folder), self.starts[start]
        if workdir.result_file.exists():
            return workdir.read_json(workdir.result_file)
        if start == "pretrained":
            self.require_start_step(check_init(init, config))
        # This label fraction keeps --mode=finetune from resuming the run with other labels.
        facts = {**init_facts(init), "label_fraction": "of a sweep", "classes": list(self.classes), **self.devices.facts()}
        start_run(workdir, RunIdentity("finetune", config, facts), self.data)
        record_labels(workdir, train, part_to_train(config, train)[1])
        forget_models()
        try:
            with naming_corrupt_images(self.data.source):
                result = fit_and_score(config, self.devices, workdir, train, scored, self.classes, init)
        except NonFiniteLoss as error:
            result = {"top1": 0.0, "top5": 0.0, "images": scored.size, "steps": 0, "error": str(error)}
        self.require_start_step(init_step(workdir))  # the pre-training may have saved another checkpoint in between
        result["labels"] = train.size
        finish(workdir, config, result)
        unlock(workdir.path)  # a sweep has many runs
        self.runs += 1
        return result

    def check_worker(self) -> None:
        """Raises UserError if this process does not see the chief's sweep in the workdir, or has other settings or data."""
        known = check_same_run(self.workdir, self.identity)
        if known is None:
            raise UserError(f"There is no sweep in {self.workdir.path}. All workers must see the --workdir of the chief.")
        self.data.check(self.workdir, known.config.data.source, self.config.data.source)

    def require_start_step(self, step: int | None) -> None:
        """Raises UserError where `step` of the pre-training is not the step that earlier runs started from."""
        if step not in (None, self.start_step):
            raise UserError(
                f"{self.starts['pretrained']} is at step {step} by now, but other runs of the sweep start from step "
                f"{self.start_step}. Let the pre-training end, and sweep in another --workdir."
            )

    def config_of(self, batch: int, learning_rate: float, seed: int) -> Config:
        """The config of a run of the sweep."""
        settings = replace(self.config.finetune, batch=batch, learning_rate=learning_rate)
        return replace(self.config, finetune=settings, run=replace(self.config.run, seed=seed))

    def point_folder(self, start: str, batch: int, learning_rate: float) -> epath.Path:
        """Where the runs of a point are."""
        return self.workdir.path / "grid" / point_name(start, batch, learning_rate)

    def final_folder(self, start: str, batch: int, learning_rate: float) -> epath.Path:
        """Where the final runs of a start are. Where another point won before the grid grew, its runs are moved aside."""
        final = self.workdir.path / "final"
        folder, own = final / start, final / point_name(start, batch, learning_rate)
        run = next((found for path in sorted(folder.glob("seed-*")) if (found := find_run(Workdir(path)))), None)
        if run:
            settings = run.config.finetune
            if (settings.batch, settings.learning_rate) == (batch, learning_rate):
                return folder
            folder.rename(final / point_name(start, settings.batch, settings.learning_rate))
        if own.exists():  # it won before
            own.rename(folder)
        return folder

    def points(self, start: str) -> dict[tuple[int, float], float]:
        """The mean held-out top-1 of each point that is done, by `(batch, learning rate)`."""
        found = {}
        for batch in self.config.sweep.batches:
            for learning_rate in self.config.sweep.learning_rates:
                file = self.point_folder(start, batch, learning_rate) / "point.json"
                if file.exists():
                    found[batch, learning_rate] = self.workdir.read_json(file)[METRIC]
        return found


def point_name(start: str, batch: int, learning_rate: float) -> str:
    """The name of a point's folder."""
    return f"{start}-b{batch}-lr{learning_rate:g}"


def forget_models() -> None:
    """Free what Keras remembers of earlier models. Precision and devices are remembered in the same place, and stay."""
    policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
    keras.backend.clear_session()
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(distribution)


def mean_and_sd(row: dict, name: str) -> str:
    """A score of a row as `mean ± standard deviation` over the seeds. A single seed has no deviation."""
    mean, sd = row[f"{name}_mean"], row[f"{name}_sd"]
    return f"{mean:.1%}" if sd is None else f"{mean:.1%} ± {sd:.1%}"


def write_tables(workdir: Workdir, rows: Sequence[dict]) -> None:
    """Write `table.csv` with all values and `table.md` to read."""
    workdir.write_csv(workdir.path / "table.csv", [list(rows[0]), *(row.values() for row in rows)])
    lines = [
        "| start | labels | batch | learning rate | held-out top-1 | top-1 | top-5 | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        lines.append(
            f"| {row['start']} | {row['labels']} | {row['batch']} | {row['learning_rate']:g} | {row[METRIC]:.1%} "
            f"| {mean_and_sd(row, 'top1')} | {mean_and_sd(row, 'top5')} | {row['seeds']}{diverged} |"
        )
    workdir.write_text(workdir.path / "table.md", "\n".join(lines) + "\n")
