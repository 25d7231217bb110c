"""How the accuracy of several runs grows with their labels: which of their scores are one line, and how lines are named.

Scores are one point, a mean over seeds, only where their runs differ in nothing but the seed.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pf_keras.pages import value_text
from pf_keras.report_source import Run
from pf_keras.report_words import PROBES, STARTS

LABEL_FACTS = ("label_fraction", "label_list", "label_list_sha256")  # they differ along a line
NAMES = 3  # runs that the name of a line lists
FIELDS = 6  # settings that are named


@dataclass(frozen=True)
class Score:
    """The accuracy of a run with so many labels.

    Args:
        series: what was done: how the training began, or the kind of the probe.
        labels: the number of labelled images.
        top1: the accuracy.
        sd: its standard deviation over seeds, where the run itself has several.
        run: the name of its workdir.
        seed: None for a run that has several.
        settings: what defines the run but its labels and its seed.
        given: which labels it has, and at which step the weights were that it began with.
    """

    series: str
    labels: int
    top1: float
    sd: float | None
    run: str
    seed: int | None
    settings: dict
    given: dict


@dataclass
class LabelLine:
    """A line of the chart: the scores of runs of a series with the same settings, by the number of labels."""

    series: str
    name: str
    scores: list[Score] = field(default_factory=list)

    def takes(self, score: Score) -> bool:
        """Whether a score belongs to this line. With the same labels there may be other seeds only."""
        same = [one for one in self.scores if one.labels == score.labels]
        return self.scores[0].settings == score.settings and all(
            None not in (one.seed, score.seed) and one.seed != score.seed and one.given == score.given for one in same
        )

    @property
    def points(self) -> dict[int, tuple[float, float | None]]:
        """The mean and the standard deviation over seeds for each number of labels, ascending."""
        found = {}
        for labels in sorted({score.labels for score in self.scores}):
            same = [score for score in self.scores if score.labels == labels]
            values = [score.top1 for score in same]
            found[labels] = (statistics.fmean(values), statistics.stdev(values) if len(same) > 1 else same[0].sd)
        return found

    @property
    def runs(self) -> str:
        """The names of its runs, in short."""
        names = list(dict.fromkeys(score.run for score in self.scores))
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        return ", ".join(names[:NAMES]) + more


def scores_of(run: Run) -> Iterator[Score]:
    """What a run says of the accuracy with so many labels."""
    if not run.result and run.mode != "pretrain":
        return
    config = run.identity.config.to_dict()
    settings = {f"{section}.{name}": value for section, fields in config.items() for name, value in fields.items()}
    seed, facts = settings.pop("run.seed"), {name: v for name, v in run.identity.facts.items() if name not in LABEL_FACTS}
    settings |= {"mode": run.mode, **facts}
    given = {name: run.identity.facts.get(name) for name in LABEL_FACTS} | {"init_step": run.result.get("init_step")}

    def score(series, labels, top1, sd=None):
        return Score(series, labels, top1, sd, run.name, None if run.mode == "sweep" else seed, settings, given)

    if run.mode == "sweep":
        for start, name in STARTS.items():
            if f"{start}_top1_mean" in run.result:
                yield score(name, run.result["labels"], run.result[f"{start}_top1_mean"], run.result[f"{start}_top1_sd"])
    elif run.mode == "finetune" and run.result.get("labels"):
        name = STARTS["scratch" if run.init == "scratch" else "pretrained"]
        yield score(name, run.result["labels"], run.result["top1"])
    elif run.mode == "pretrain":
        for row in run.csv("evaluate/probes.csv"):
            if row["features"] == "pretrained":
                for probe, name in PROBES.items():
                    yield score(name, int(row["labels"]), float(row[probe]))


def label_lines(scores: Iterable[Score]) -> list[LabelLine]:
    """The lines of the scores on one dataset. A series is one line unless several of its runs have as many labels."""
    lines = []
    for score in scores:
        line = next((one for one in lines if one.series == score.series and one.takes(score)), None)
        if line is None:
            lines.append(line := LabelLine(score.series, score.series))
        line.scores.append(score)
    found = []
    for series in (*STARTS.values(), *PROBES.values()):
        same = [line for line in lines if line.series == series]
        counts = [labels for line in same for labels in line.points]
        if len(set(counts)) == len(counts):  # what is drawn as one line may have other settings at another number of labels
            same = [LabelLine(series, series, [score for line in same for score in line.scores])] if same else []
        else:
            for line in same:
                line.name = f"{series}: {line.runs}"
        found += same
    return found


def differences(lines: Sequence[LabelLine]) -> list[tuple[str, str]]:
    """`(name, settings)` of each line of a series that has several: the settings in which they differ."""
    rows = []
    for series in dict.fromkeys(line.series for line in lines):
        same = [line for line in lines if line.series == series]
        if len(same) < 2:
            continue
        each = [line.scores[0].settings | {"init_step": line.scores[0].given["init_step"]} for line in same]
        names = [
            name
            for name in dict.fromkeys(name for one in each for name in one)
            if len({repr(one.get(name)) for one in each}) > 1
        ]
        for line, one in zip(same, each, strict=True):
            told = [f"{name}={value_text(one.get(name))}" for name in names[:FIELDS]]
            rest = f" and {len(names) - FIELDS} more" if len(names) > FIELDS else ""
            rows.append((line.name, ", ".join(told) + rest or "the same settings and seed"))
    return rows
