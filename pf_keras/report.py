"""`report.html`: what a run did, on what data, and what came out, as one page made from its workdir alone.

    python -m pf_keras.report WORKDIR

writes the page of a workdir again, or the page of a folder of runs. Each section is a function that yields the blocks of
`pf_keras.pages`, and yields nothing where the workdir has nothing for it.
"""

import itertools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from urllib.parse import quote

from etils import epath

from pf_keras.charts import Line, line_chart
from pf_keras.config import Config
from pf_keras.errors import UserError, reading
from pf_keras.figures_answers import shorten
from pf_keras.filesystem import is_remote
from pf_keras.pages import code, duration, folded, percent, render, table, text
from pf_keras.presets import HUB, shipped
from pf_keras.report_labels import differences, label_lines, scores_of
from pf_keras.report_source import Run
from pf_keras.report_words import CURVES, FEATURES, PROBES, STARTS, TITLES, fact_text, facts, words

FILE = "report.html"
ROWS = 20  # that a long list shows
WORST = 10  # classes that the page names
REASON = 120  # characters of a reason
WIDE = 72  # characters of a command that stay on one line
MAJORITY = "Always answering the most frequent class is right for {:.1%}."
BROKEN = (OSError, UserError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)  # reading a damaged file


def write_report(path: str | epath.Path) -> epath.Path | None:
    """Write `report.html` of a workdir or of a folder of runs. Returns its path, None where `inspect` wrote its own.

    Raises:
        UserError: there is no such directory, the run's config cannot be read, or the page cannot be written.
    """
    with reading(path):
        run = Run(path)
        if not run.path.exists():
            raise UserError(f"There is no directory {path}. Name the workdir of a run, or a folder of runs.")
        if run.mode == "inspect":
            return None
        if not (run.identity or run.children or run.commands or run.json("predict/result.json")):
            raise UserError(f"There is no run in {path}, and in none of its folders. Name a workdir, or a folder of runs.")
        sections = {title: list(_whole(section, run)) for title, section in SECTIONS.items()}
        again = shlex.join(["python", "-m", "pf_keras.report", run.name])
        page = render("report.html", run=run, title=title_of(run), state=state(run), sections=sections, again=again)
    run.workdir.write_text(run.path / FILE, page)
    return run.path / FILE


def title_of(run: Run) -> str:
    """What the page is about, such as `Pre-training on digits`."""
    answered = run.json("predict/result.json") if not run.identity and not run.children else {}
    if answered:  # by an export, which needs no run
        return f"Predictions for {answered['data']}"
    return f"{TITLES.get(run.mode, words(run.mode))} {run.source}".rstrip()


def _whole(section: Callable, run: Run) -> Iterator[dict]:
    """The blocks of a section. A damaged file costs the rest of the section, and not the page."""
    try:
        yield from section(run)
    except BROKEN as error:
        yield text(f"The rest is missing, because a file cannot be read: {error}.")


def state(run: Run) -> str:
    """Whether the run has ended, and how."""
    own = [command for command in run.commands if command["mode"] == run.mode]
    if not run.identity:
        return ""
    if run.result:
        known = [command["seconds"] for command in own if command["seconds"] is not None]
        least = "at least " if len(known) < len(own) else ""  # a command that was killed did not say how long it took
        return f"Finished{f', after {least}{duration(sum(known))}' if known else ''}."
    steps = run.metric("step")
    planned = f" of {run.identity.config.pretrain.steps}" if run.mode == "pretrain" else ""
    logged = f" The last logged step is {steps[-1][0]}{planned}." if steps else ""
    ended = f": {own[-1]['ended']}" if own and own[-1]["ended"] != "done" else ""
    return f"Not finished{ended.rstrip('.')}.{logged}"


def result(run: Run) -> Iterator[dict]:
    """The result in words, then its numbers and what they mean."""
    if not run.result:
        return
    if run.mode in WORDS:
        yield text(*WORDS[run.mode](run))
    numbers = {name: value for name, value in run.result.items() if not name.startswith(tuple(STARTS))}
    yield from facts(numbers)


def pretrain_words(run: Run) -> Iterator[str]:
    """Sentences about the result of a pre-training."""
    loss, entropy, ratio = (run.result[name] for name in ("loss", "marginal_entropy", "loss_ratio"))
    if ratio is None:
        yield "This run learned nothing. The targets of all validation images have a single level, as if they were blank."
        return
    yield f"The model decodes masked patches of validation images with a loss of {loss:.3f} nats per pixel."
    yield f"Guessing each level by its frequency has a loss of {entropy:.3f}."
    lower = f"The model's loss is {1 - ratio:.1%} lower."
    yield lower if ratio < 1 else "So the model is no better than guessing: it has learned nothing yet."
    yield from averaged_words(run)
    if "knn_top1" in run.result:
        knn, linear = (percent(run.result[name]) for name in ("knn_top1", "linear_top1"))
        step = run.result["probe_step"]
        yield f"Probes of the frozen features were right for {knn} (kNN) and {linear} (linear) at step {step:,}."


def averaged_words(run: Run) -> Iterator[str]:
    """A sentence where the weights that are scored are not those of the last step."""
    ema = getattr(run.identity.config, run.mode).ema
    if ema:
        yield f"The scored weights are a running average over the steps (ema={ema:g})."


def finetune_words(run: Run) -> Iterator[str]:
    """Sentences about the result of a fine-tuning."""
    top1, labels = run.result["top1"], run.result.get("labels")
    yield f"The first answer is right for {top1:.1%} of {run.result['images']:,} validation images (one seed)."
    held = run.result.get("holdout_images")
    if labels and held:
        yield f"Of {labels:,} labelled images the training used {labels - held:,}."
        yield f"The other {held:,} were held out, and chose the checkpoint of step {run.result['best_step']:,}."
    elif labels:
        yield f"The training used {labels:,} labelled images."
    yield from averaged_words(run)
    majority = most_frequent(run)
    if majority is not None:
        yield MAJORITY.format(majority)
        if top1 <= majority:
            yield "So the model learned nothing that counts."


def most_frequent(run: Run) -> float | None:
    """How often the most frequent class is the right answer, None where the workdir does not say it."""
    winners = run.files("final/scratch/seed-*/result.json")[:1]  # of a sweep
    for found in (run.result, *map(run.workdir.read_json, winners)):
        if "majority_top1" in found:
            return found["majority_top1"]
    if run.json("evaluate/result.json").get("data") != run.source:
        return None
    counts = [int(row["images"]) for row in run.csv("evaluate/classes.csv")]
    return max(counts) / sum(counts)


def sweep_words(run: Run) -> Iterator[str]:
    """Sentences about the result of a sweep."""
    found = run.result
    starts = [start for start in STARTS if f"{start}_top1_mean" in found]
    scores = {start: (found[f"{start}_top1_mean"], found[f"{start}_top1_sd"]) for start in starts}
    for start, score in scores.items():
        yield f"Training {STARTS[start]}, the first answer is right for {percent(*score)} of the validation images."
    if len(scores) == 2:
        (pretrained, sd), (scratch, other_sd) = scores["pretrained"], scores["scratch"]
        within = sd is not None and abs(pretrained - scratch) <= sd + other_sd
        yield f"Pre-training changes it by {100 * (pretrained - scratch):+.1f} points{', which is within noise' * within}."
    majority, several = most_frequent(run), found["seeds"] > 1
    if majority is not None:
        yield MAJORITY.format(majority)
    yield f"± is the standard deviation over {found['seeds']} seeds." if several else "There is one seed."


WORDS = {"pretrain": pretrain_words, "finetune": finetune_words, "sweep": sweep_words}


def comparison(run: Run) -> Iterator[dict]:
    """The run that this one started from, and what probes of its features reach with as many labels."""
    if run.init in (None, "", "scratch"):
        return
    step = run.json("init.json").get("step")
    yield text(f"This run started from {run.init}{f' at step {step:,}' if step else ''}.")
    folder = run.commands[0]["folder"] if run.commands else "."
    if run.init.startswith(HUB):
        return
    place = shipped().get(run.init) or epath.Path(run.init if is_remote(run.init) else epath.Path(folder) / run.init)
    if place.is_file():  # weights, which do not say what they are worth
        return
    before = Run(place)
    if not before.identity:
        yield text("It is not there now, so that it cannot be compared here.")
        return
    ratios = [
        f"{name} has a loss_ratio of {one.result['loss_ratio']:.3f} on {one.source}"
        for name, one in (("that run", before), ("this run", run))
        if one.result.get("loss_ratio")
    ]
    if ratios:
        yield text(f"Decoding masked patches, {', and '.join(ratios)}.")
    rows = [*own_probes("this run", run), *own_probes("that run", before)]
    labels = run.result.get("labels")
    if labels and "top1" in run.result:
        rows = [("this run", labels, percent(run.result["top1"])), *rows, *evaluated_probes(before, labels)]
    if len(rows) > 1:
        yield table(("", "labels", "top-1"), rows)


def own_probes(name: str, run: Run) -> Iterator[tuple]:
    """Rows of what the last probes reached while a pre-training ran: `(what, labelled images, accuracy)`."""
    for metric, probe in (("knn_top1", "kNN"), ("linear_top1", "linear probe")):
        if run.mode == "pretrain" and (measured := run.metric(metric)):
            step, score = measured[-1]
            most = f"at most {run.identity.config.pretrain.probe_images:,}"
            yield f"{probe} of {name} at its step {step:,}", run.result.get("probe_labels", most), percent(score)


def evaluated_probes(run: Run, labels: int) -> Iterator[tuple]:
    """Rows of what an evaluation of a pre-training found with about as many labels: `(what, labels, accuracy)`."""
    rows = run.csv("evaluate/probes.csv")
    nearest = min({int(row["labels"]) for row in rows}, key=lambda count: abs(count - labels), default=None)
    for name, probe in PROBES.items():
        for row in rows:
            if int(row["labels"]) == nearest:
                yield f"{probe} on {FEATURES[row['features']]}", nearest, percent(float(row[name]))


def curves(run: Run) -> Iterator[dict]:
    """The metrics over the steps. Of a sweep, the accuracy of the winners on their training images."""
    for title, metrics in CURVES.items():
        lines = [Line(name, run.metric(metric)) for metric, name in metrics.items()]
        entropy, steps = run.result.get("marginal_entropy"), run.metric("step")
        if "loss" in metrics and entropy and steps:
            lines.append(Line("guessing by frequency", [(steps[0][0], entropy), (steps[-1][0], entropy)]))
        yield from _drawn(line_chart(title, "step", lines, fractions="op-1" in title))
    winners = [
        Line(name, Run(folder).metric("accuracy"))
        for start, name in STARTS.items()
        for folder in run.files(f"final/{start}/seed-*")
    ]
    yield from _drawn(line_chart("Top-1 accuracy of the winners on training images", "step", winners, fractions=True))


def _drawn(chart: dict | None) -> list[dict]:
    return [chart] if chart else []


def reconstructions(run: Run) -> Iterator[dict]:
    """The pictures in `figures/`, except those that other sections draw."""
    yield from run.pictures("figures", "loss", "grid", "curves")


def evaluation(run: Run) -> Iterator[dict]:
    """What `--mode=evaluate` found: scores, confusion and the worst classes of a classifier, or probes of features."""
    found = run.json("evaluate/result.json")
    if not found:
        return
    yield text(f"{found['images']:,} images of {found.get('data', run.source)}. The checkpoint is of step {found['steps']:,}.")
    if found.get("changed"):
        yield text(f"The command changed {'; '.join(found['changed'])}.")
    elsewhere = ("images", "data", "steps", "bad_images", *FEATURES)
    yield from facts({name: value for name, value in found.items() if not name.startswith(elsewhere)})
    yield from probe_table(run)
    yield from run.pictures("evaluate")
    classes = [row for row in run.csv("evaluate/classes.csv") if row["accuracy"]]
    rows = [(row["class"], int(row["images"]), percent(float(row["accuracy"]))) for row in classes]
    worst = sorted(rows, key=lambda row: float(row[2].rstrip("%")))
    if rows:
        head = ("", "images", "right")
        yield text(f"The {WORST} classes with the lowest accuracy:" if len(rows) > WORST else "Classes by accuracy:")
        yield table(head, worst[:WORST])
        if len(rows) > WORST:
            yield folded("All classes", table(head, rows, 1000, "evaluate/classes.csv"))


def probe_table(run: Run) -> Iterator[dict]:
    """The probes of the features of a pre-training, and their curves over the labels."""
    rows = run.csv("evaluate/probes.csv")
    if not rows:
        return
    yield text(
        "Probes are simple classifiers on features that no training changes any more. Raw pixels and an untrained network "
        "show how much of a score is due to the pre-training."
    )
    yield table(("features", "labels", *PROBES.values()), [
        (FEATURES.get(row["features"], row["features"]), int(row["labels"]), *(percent(float(row[probe])) for probe in PROBES))
        for row in rows
    ])  # fmt: skip
    if len({row["labels"] for row in rows}) > 1:
        for probe, title in PROBES.items():
            lines = [
                Line(name, [(int(row["labels"]), float(row[probe])) for row in rows if row["features"] == kind])
                for kind, name in FEATURES.items()
            ]
            yield from _drawn(line_chart(f"Top-1 accuracy, {title}", "labels", lines, fractions=True, log_x=True))


def predictions(run: Run) -> Iterator[dict]:
    """What `--mode=predict` answered, mistakes first."""
    found = run.json("predict/result.json")
    if not found:  # the answers are being replaced
        return
    counts, unreadable, first = Counter(), [], []
    for row in run.rows("predict/predictions.csv"):
        if row.get("error"):
            unreadable.append((row["path"], row["error"]))
        else:
            counts[row["class"]] += 1
            first += [row] if len(first) < ROWS else []
    labelled = found.get("labelled", 0)
    yield from answered(found, () if labelled else ("labelled", "mistakes", "top1"))
    yield from run.pictures("predict")
    if counts:
        rows = [(name, count, percent(count / counts.total())) for name, count in counts.most_common()]
        yield table(("predicted class", "images", "fraction"), rows, ROWS, "predict/predictions.csv")
    yield from unreadable_table(unreadable, "predict/predictions.csv")
    if first:
        columns = ("path", "class", "probability", *(["true_class"] if labelled else []))
        shown = table(columns, [[row.get(column) for column in columns] for row in first])
        yield folded(f"The first {len(first)} rows of predict/predictions.csv", shown)


def answered(found: dict, without: Collection[str] = ()) -> Iterator[dict]:
    """The numbers of an answer for any images, and the checkpoint that gave it."""
    if "steps" in found:
        yield text(f"The checkpoint is of step {found['steps']:,}.")
    yield from facts({name: value for name, value in found.items() if name not in ("steps", *without)})


def unreadable_table(rows: Sequence[tuple[str, str]], file: str) -> Iterator[dict]:
    """The files that could not be read, and why. `file` has all of them."""
    if rows:
        yield table(("unreadable file", "reason"), [(path, shorten(reason, REASON)) for path, reason in rows], ROWS, file)


def embedding(run: Run) -> Iterator[dict]:
    """What `--mode=embed` wrote."""
    found = run.json("embed/result.json")
    if not found:  # the answers are being replaced
        return
    yield from answered(found)
    yield from run.pictures("embed")
    unreadable = [(row["path"], row["error"]) for row in run.csv("embed/unreadable.csv")]
    yield from unreadable_table(unreadable, "embed/unreadable.csv")


def grid(run: Run) -> Iterator[dict]:
    """The points of a sweep's grid and its winners."""
    points = [run.workdir.read_json(file) for file in run.files("grid/*/point.json")]
    everywhere = [point["held_out_top1"] for point in points]
    for start, name in STARTS.items():
        scores = {(p["batch"], p["learning_rate"]): p["held_out_top1"] for p in points if p["start"] == start}
        if scores:
            batches, rates = (sorted(set(values)) for values in zip(*scores, strict=True))
            yield {
                "kind": "grid",
                "caption": f"Top-1 accuracy on held-out labelled images, training {name}",
                "scores": scores,
                "batches": batches,
                "rates": rates,
                "lowest": min(everywhere),
                "highest": max(everywhere),
                "best": max(scores, key=scores.get),
            }
    if run.mode != "sweep" or not (rows := run.csv("table.csv")):
        return
    yield text("The best point of each grid was trained again with all labelled images, and scored on validation images:")
    winners = []
    for row in rows:
        top1, top5 = (
            percent(float(row[f"{name}_mean"]), float(row[f"{name}_sd"]) if row[f"{name}_sd"] else None)
            for name in ("top1", "top5")
        )
        settings = (int(row["labels"]), int(row["batch"]), float(row["learning_rate"]))
        winners.append((STARTS.get(row["start"], row["start"]), *settings, top1, top5, int(row["seeds"]), int(row["diverged"])))
    yield table(("", "labels", "batch", "learning rate", "top-1", "top-5", "seeds", "diverged"), winners)


def few_labels(run: Run) -> Iterator[dict]:
    """How the accuracy of the runs in a folder grows with the labels: a table and a curve for each dataset."""
    scores = {}
    for child in run.children:
        for score in scores_of(child):
            scores.setdefault(child.source, []).append(score)
    for source, found in scores.items():
        lines = label_lines(found)
        points = {line.name: line.points for line in lines}
        counts = sorted({labels for by in points.values() for labels in by})
        over_seeds = any(sd is not None for by in points.values() for _, sd in by.values())
        meaning = " ± is the standard deviation over seeds." if over_seeds else ""
        yield text(f"Top-1 accuracy on {source} by the number of labelled images.{meaning}")
        if set(PROBES.values()) & {line.series for line in lines}:
            yield text("The linear probe and kNN use the frozen features of the pre-training.")
        yield table(
            ("labels", *points),
            [(labels, *(percent(*by[labels]) if labels in by else None for by in points.values())) for labels in counts],
        )
        if rows := differences(lines):
            yield text("Runs that differ in more than their seed are shown separately:")
            yield table(("", "settings in which they differ"), rows)
        drawn = [
            Line(name, [(labels, top1) for labels, (top1, _) in by.items()], [sd for _, sd in by.values()])
            for name, by in points.items()
        ]
        if len(counts) > 1:
            yield from _drawn(line_chart("Top-1 accuracy by labels", "labels", drawn, fractions=True, log_x=True))


def runs(run: Run) -> Iterator[dict]:
    """The runs of a folder, with links to their reports."""
    shown = ("loss_ratio", "top1", "labels", "pretrained_top1_mean", "scratch_top1_mean")
    for child in run.children:
        link = f"{quote(child.name)}/{FILE}" if (child.path / FILE).exists() else ""
        found = {name: child.result[name] for name in shown if child.result.get(name) is not None}
        numbers = ", ".join(f"{name} {fact_text(name, value)}" for name, value in found.items())
        what = f"{TITLES.get(child.mode, words(child.mode))} {child.source}"
        yield {"kind": "run", "name": child.name, "link": link, "what": what, "state": state(child), "numbers": numbers}


def data(run: Run) -> Iterator[dict]:
    """What the run was trained on, and which corrupt images it left out."""
    if not run.identity:
        return
    found = run.json("data.json")
    splits = found.get("splits", found.get("began", {}))
    classes = run.identity.facts.get("classes", [])
    named = ", ".join(classes[:ROWS]) + (", ..." if len(classes) > ROWS else "")
    lists = {"labelled images": run.path / "labels.txt", "of these held out": run.path / "holdout.txt"}
    yield table((), [
        ("source", run.source),
        *((f"{name} images", split["images"]) for name, split in splits.items()),
        *((name, file.read_bytes().count(b"\n")) for name, file in lists.items() if file.exists()),
        *([("classes", f"{len(classes)}: {named}")] if classes else []),
        *([("16-bit range", found["range16"])] if found.get("range16", "type") != "type" else []),
    ])  # fmt: skip
    if (file := run.workdir.corrupt_file).exists():
        images = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [(image["name"], image["split"], image["reason"]) for image in images]
        yield text(f"{len(rows)} corrupt image{' was' if len(rows) == 1 else 's were'} left out.")
        if rows:
            yield table(("corrupt image", "split", "reason"), rows, ROWS, file.name)


def settings(run: Run) -> Iterator[dict]:
    """The config fields that differ from the defaults, and the whole config."""
    if not run.identity:
        return
    own, usual = run.identity.config.to_dict(), Config().to_dict()
    unused = {"pretrain": ("finetune", "sweep"), "finetune": ("pretrain", "sweep"), "sweep": ("pretrain",)}.get(run.mode, ())
    rows = [
        (f"{section}.{name}", value, usual[section][name])
        for section, fields in own.items()
        for name, value in fields.items()
        if value != usual[section][name] and section not in unused
    ]
    other = {name: value for name, value in run.identity.facts.items() if name != "classes"}
    if rows:
        yield text("Fields that differ from the defaults, which are those of the paper:")
        yield table(("field", "this run", "default"), rows)
    yield folded("The whole config", code(json.dumps({"mode": run.mode, **other, "config": own}, indent=2)))


def commands(run: Run) -> Iterator[dict]:
    """The commands that worked in this workdir, the last one first."""
    blocks = [
        {"kind": "command", "command": _wrapped(one["command"]), "began": one["began"].replace("T", " ").replace("Z", " UTC"),
         "took": "–" if one["seconds"] is None else duration(one["seconds"]), "ended": one["ended"], "backend": one["backend"],
         "versions": ", ".join(f"{name} {number}" for name, number in one["versions"].items())}
        for one in reversed(run.commands)
    ]  # fmt: skip
    yield from blocks[:ROWS]
    if len(blocks) > ROWS:
        yield folded(f"{len(blocks) - ROWS} earlier commands", *blocks[ROWS:])


def _wrapped(command: str) -> str:
    """A long command with each flag on its own line."""
    if len(command) <= WIDE:
        return command
    quoted = [shlex.quote(word) for word in shlex.split(command)]
    flags = list(itertools.dropwhile(lambda word: not word.lstrip("'").startswith("-"), quoted))
    return " \\\n    ".join([" ".join(quoted[: len(quoted) - len(flags)]), *flags])


SECTIONS = {
    "Result": result,
    "Accuracy with few labels": few_labels,
    "Runs": runs,
    "Compared with its start": comparison,
    "Grid": grid,
    "Curves": curves,
    "Pictures": reconstructions,
    "Evaluation": evaluation,
    "Predictions": predictions,
    "Features": embedding,
    "Data": data,
    "Settings": settings,
    "Commands": commands,
}


def main(arguments: list[str]) -> int:
    """Write the report of the workdir that the arguments name, and print its path. Returns the exit code."""
    from pf_keras.cli import fail  # here, because importing it defines flags, and `python -m pf_keras.cli` has done so

    try:
        if len(arguments) != 1:
            raise UserError(f"There are {len(arguments)} arguments. Use python -m pf_keras.report WORKDIR.")
        print(write_report(arguments[0]) or "the report that --mode=inspect wrote stays")
    except UserError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
