"""`--mode=sweep`: the paper's grid of fine-tuning, by keras-tuner; then the winner over several seeds.

Points of the grid are compared on images held out of the labelled ones. The validation images, which the table
reports, are seen by the winners alone. Each run lies in a workdir of its own, so that a sweep goes on where it was
stopped, within a run too. With keras-tuner's KERASTUNER_TUNER_ID, _ORACLE_IP and _ORACLE_PORT set, several processes
or machines that share the workdir share the grid; the chief hands it out and makes the table.
"""

import csv
import io
import os
import statistics
from dataclasses import replace

import keras

from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.labels import class_names, hold_out, labelled_subset, labels_definition, require_classes, require_labels
from pf_keras.errors import UserError
from pf_keras.figures import draw_grid
from pf_keras.tasks import finetune
from pf_keras.training.callbacks import NonFiniteLoss
from pf_keras.training.strategy import open_devices, workers_of_a_step
from pf_keras.training.workdir import Workdir

METRIC = "held_out_top1"


def run(request):
    """Search the grid, run the winners, write `table.md`, `table.csv` and `figures/grid.png`; returns the result."""
    init_step = finetune.check_init(request.init, request.config)
    workdir = Workdir(request.workdir)
    for seed in request.seeds:
        replace(request.config.run, seed=seed)  # raises UserError for one that is none
    if len(set(request.seeds)) < max(1, len(request.seeds)):
        raise UserError(f"expected --seeds to name one at least, and each once, received {request.seeds}: use --seeds=0,1,2")
    if workers_of_a_step() > 1:
        raise UserError(
            "expected the workers of a sweep to share its grid, received TF_CONFIG, whose workers share a step: unset it and "
            "set KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT"
        )
    worker = os.environ.get("KERASTUNER_TUNER_ID", "chief")
    labels = labels_definition(request.label_fraction, request.label_list)
    chief = "chief" in worker
    sweep = Sweep(request, workdir, init_step)
    definition = {"init": request.init, "init_step": init_step, **labels, "seeds": list(request.seeds)}
    definition |= sweep.devices.definition()
    if chief:
        workdir.start("sweep", request.config, definition)
        workdir.write_data(sweep.source.splits(), sweep.bad, request.config.data)
        workdir.write_labels(sweep.labelled)
    sweep.search(chief, definition)
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
        "init_step": init_step,
        "bad_images": len(sweep.bad),
    }
    shown = ("batch", "learning_rate", "top1_mean", "top1_sd", "diverged")
    for row in rows:
        result |= {f"{row['start']}_{name}": row[name] for name in shown}
    workdir.write_result(result)
    return result


class Sweep:
    """The runs of a sweep and where they lie: `grid/START-bBATCH-lrRATE/seed-S` and `final/START/seed-S`."""

    def __init__(self, request, workdir, init_step):

        self.request, self.workdir, self.config, self.init_step = request, workdir, request.config, init_step
        self.devices = open_devices(request.config.run.precision, request.tpu)
        self.starts = {"scratch": "scratch"}
        if request.init != "scratch":
            self.starts = {"pretrained": request.init, **self.starts}
        self.source, self.bad = open_readable(self.config.data, workdir)
        with naming_bad_images(self.source):
            require_labels(self.source.validation)
            self.classes = class_names(self.source)
            require_classes(self.classes)
            # The same labels for all points and seeds: these differ in training alone.
            self.labelled = labelled_subset(self.source.train, request.label_fraction, request.label_list)
        self.train, self.held_out = hold_out(self.labelled, self.config.sweep.holdout, self.config.run.seed)
        for batch in self.config.sweep.batches:
            for split in (self.train, self.labelled):  # else the grid would end where it comes to what does not fit
                finetune.steps_of(self.config_of(batch, self.config.finetune.learning_rate, 0), self.devices, split.size)
        self.runs = 0

    def search(self, chief, definition):
        """Let keras-tuner go through the grid; returns when it is done by all workers, or this worker's part is.

        The chief, which is who searches alone too, has the grid gone through from its first point each time: points that
        are done return at once. What keras-tuner keeps of a grid does not say where it was, and a search that went on
        from it would end early or fail.
        """
        import keras_tuner
        from keras_tuner.engine.base_tuner import BaseTuner

        sweep = self

        class Tuner(BaseTuner):
            def on_search_begin(self):
                self.oracle.get_space()  # a worker waits for its chief here, which has begun the sweep by then
                sweep.workdir.check("sweep", sweep.config, definition)

            def run_trial(self, trial):
                values = trial.hyperparameters.values
                try:
                    return {METRIC: sweep.run_point(values["start"], values["batch"], values["learning_rate"])}
                except Exception as error:  # the tuner would take any for a bad point, and go on without it
                    raise keras_tuner.errors.FatalError(str(error)) from error

        space = keras_tuner.HyperParameters()
        space.Choice("start", list(self.starts))
        space.Choice("batch", list(self.config.sweep.batches))
        space.Choice("learning_rate", list(self.config.sweep.learning_rates))
        oracle = keras_tuner.oracles.GridSearchOracle(
            objective=keras_tuner.Objective(METRIC, "max"), hyperparameters=space, max_trials=None
        )
        oracle.verbose = 0
        tuner = Tuner(oracle, directory=str(self.workdir.path), project_name="tuner", overwrite=chief)
        try:
            tuner.search()
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ or error from None

    def run_point(self, start, batch, rate):
        """The mean held-out top-1 of a point of the grid over its seeds. A run whose loss diverges counts as 0."""
        scores = []
        for seed in self.request.seeds[: self.config.sweep.point_seeds or None]:
            run = Workdir(self.point_folder(start, batch, rate) / f"seed-{seed}")
            scores.append(self.result_of(run, batch, rate, seed, start, self.train, self.held_out)["top1"])
        mean = statistics.fmean(scores)
        self.workdir.write_json(
            self.point_folder(start, batch, rate) / "point.json",
            {"start": start, "batch": batch, "learning_rate": rate, METRIC: mean},
        )
        return mean

    def result_of(self, run, batch, rate, seed, start, train, scored):
        """What a run of the sweep found, which is made if it is not there. One whose loss diverges has found nothing."""
        if not run.result_file.exists():
            config, init = self.config_of(batch, rate, seed), self.starts[start]
            if start == "pretrained":
                self.require_start(finetune.check_init(init, config))
            # Of the labels nothing but this: it is no fine-tuning that goes on by itself.
            definition = {"init": init, "label_fraction": "of a sweep", "classes": list(self.classes)}
            run.start("finetune", config, {**definition, **self.devices.definition()})
            run.write_labels(train)
            forget_models()
            try:
                result = finetune.fit_and_score(config, self.devices, run, train, scored, self.classes, init, self.source)
            except NonFiniteLoss as error:
                result = {"top1": 0.0, "top5": 0.0, "images": scored.size, "steps": 0, "error": str(error)}
            self.require_start(run.init_step())  # its pre-training may have saved just then
            run.write_result({**result, "labels": train.size})
            self.runs += 1
        return run.read_json(run.result_file)

    def require_start(self, step):
        """Raises UserError where a run does not begin at the step of the pre-training at which the others do."""
        if step not in (None, self.init_step):
            raise UserError(
                f"expected all runs of the sweep to begin at step {self.init_step} of {self.request.init}, received one that "
                f"is at step {step} by now: let it end, and sweep in another --workdir"
            )

    def config_of(self, batch, rate, seed):
        settings = replace(self.config.finetune, batch=batch, learning_rate=rate)
        return replace(self.config, finetune=settings, run=replace(self.config.run, seed=seed))

    def point_folder(self, start, batch, rate):
        return self.workdir.path / "grid" / f"{start}-b{batch}-lr{rate:g}"

    def points(self, start):
        """`{(batch, learning rate): mean held-out top-1}` of the points that are done."""
        found = {}
        for batch in self.config.sweep.batches:
            for rate in self.config.sweep.learning_rates:
                file = self.point_folder(start, batch, rate) / "point.json"
                if file.exists():
                    found[batch, rate] = self.workdir.read_json(file)[METRIC]
        return found

    def final_row(self, start):
        """Run the winner of a start on all labelled images for each seed; its row of the table."""
        points = self.points(start)
        (batch, rate), held_out = max(points.items(), key=lambda point: point[1])
        results = []
        for seed in self.request.seeds:
            run = Workdir(self.workdir.path / "final" / start / f"seed-{seed}")
            results.append(self.result_of(run, batch, rate, seed, start, self.labelled, self.source.validation))
        row = {"start": start, "labels": self.labelled.size, "batch": batch, "learning_rate": rate, METRIC: held_out}
        for name in ("top1", "top5"):
            values = [result[name] for result in results]
            row |= {f"{name}_mean": statistics.fmean(values)}
            row |= {f"{name}_sd": statistics.stdev(values) if len(values) > 1 else None}  # one run has no spread
        diverged = sum("error" in result for result in results)
        steps = max(result["steps"] for result in results)
        return {**row, "seeds": len(results), "diverged": diverged, "steps": steps, "images": results[0]["images"]}


def forget_models():
    """Free what Keras keeps of earlier models, but for the precision and the devices, which it keeps in the same place."""
    policy, spread = keras.config.dtype_policy(), keras.distribution.distribution()
    keras.backend.clear_session()
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(spread)


def mean_and_sd(row, name):
    """The mean of a figure over the seeds for people, and its standard deviation where there are several."""
    mean, sd = row[f"{name}_mean"], row[f"{name}_sd"]
    return f"{mean:.1%}" if sd is None else f"{mean:.1%} ± {sd:.1%}"


def write_tables(workdir, rows):
    """`table.csv` with every figure, `table.md` for people."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    workdir.write_text(workdir.path / "table.csv", text.getvalue())
    lines = [
        "| start | labels | batch | learning rate | held-out top-1 | top-1 | top-5 | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['start']} | {row['labels']} | {row['batch']} | {row['learning_rate']:g} | {row[METRIC]:.1%} "
            f"| {mean_and_sd(row, 'top1')} | {mean_and_sd(row, 'top5')} "
            f"| {row['seeds']}{', of them {} diverged'.format(row['diverged']) if row['diverged'] else ''} |"
        )
    workdir.write_text(workdir.path / "table.md", "\n".join(lines) + "\n")
