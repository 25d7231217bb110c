"""The data of a run, and the record of them in its workdir.

`data.json` has the number of images of each split and a digest of their names and sizes. Where the data of a run moved,
`--config.data.source=NEW` names the new place, and the digest must be the recorded one. `bad.jsonl` lists the corrupt images
that the run leaves out.

What a run found to be the label of the first class of its records is in `data.json` too. Other data are read with it, because
they may lack that class.
"""

import json
import sys
from dataclasses import dataclass

from pf_keras.config import DataConfig
from pf_keras.data.corrupt import find_corrupt, leave_out
from pf_keras.data.records import FirstLabel, Records
from pf_keras.data.selection import as_line
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError, reading
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class RunData:
    """The data that a run reads.

    Args:
        source: the splits, without the corrupt images.
        corrupt: the images that were left out, as dicts of `split`, `name` and `reason`.
        digests: what `data.json` says of the splits, corrupt images included: `{name: {"images": n, "digest": hex}}`.
        searched: whether every image was read to find the corrupt ones.
    """

    source: Source
    corrupt: list[dict]
    digests: dict[str, dict]
    searched: bool = False

    def check(self, workdir: Workdir, before: str, now: str) -> None:
        """Check that these are the data recorded in the workdir. Warns if data at the same place have changed.

        Args:
            workdir: holds an earlier run.
            before: the `data.source` of that run.
            now: the present `data.source`.

        Raises:
            UserError: the source is another, and so are the data.
        """
        recorded = _recorded_digests(workdir)
        if recorded == self.digests or (recorded is None and before == now):
            return
        if recorded is None:
            raise UserError(
                f"The run in {workdir.path} was made by version 0.1, which did not record the names and sizes of its images. "
                f"Keep them at data.source={before}, or start a new run."
            )
        changed = "; ".join(
            f"{name}: {recorded.get(name, {}).get('images', 0)} images then, {split['images']} now"
            + (", with other names or sizes" if recorded.get(name, {}).get("images") == split["images"] else "")
            for name, split in self.digests.items()
            if recorded.get(name) != split
        )
        if before != now:
            raise UserError(
                f"{now} does not hold the data of the run in {workdir.path} ({changed}). If you moved the data of {before}, "
                "name their place with --config.data.source=NEW. To evaluate other data, use --data."
            )
        print(
            f"warning: the data in {now} changed since this run began ({changed}): validation images may have been trained on",
            file=sys.stderr,
        )

    def record(self, workdir: Workdir) -> None:
        """Write `data.json` and `bad.jsonl`, unless the workdir has them already."""
        if _recorded_digests(workdir) is None:
            found = first_label_of(self.source)
            found = {"first_label": found.value} if found and found.was_found else {}
            workdir.write_json(workdir.data_file, {"splits": self.digests, **found})
        if self.searched and not workdir.corrupt_file.exists():
            workdir.write_text(workdir.corrupt_file, "".join(json.dumps(image) + "\n" for image in self.corrupt))


def open_run_data(workdir: Workdir, config: DataConfig, labels: bool = True) -> RunData:
    """Open the run's own data.

    When a run resumes, the saved list of corrupt images is reused, so that the order of examples does not change. A new run
    with `data.max_bad_fraction` above 0 reads every image once to make the list.

    Args:
        workdir: may be empty still.
        config: the run's data.
        labels: whether the labels of records are read.

    Raises:
        UserError: the data cannot be opened, or too many images are corrupt.
    """
    with reading(workdir.path):
        saved = workdir.corrupt_file.read_text().splitlines() if workdir.corrupt_file.exists() else None
    source = open_source(config, labels=labels)
    _use_first_label(source, workdir)
    if source.validation_note:
        print(f"validation: {source.validation_note}, {source.validation.size} images", file=sys.stderr)
    return _leave_out(source, config, saved)


def open_other_data(
    config: DataConfig, evaluation_only: bool = False, workdir: Workdir | None = None, labels: bool = True
) -> RunData:
    """Open data that are not the run's own.

    Args:
        config: the data.
        evaluation_only: without a validation split, score all images instead of holding some out.
        workdir: of the run. The label of its first class is the label of their first class, unless they say otherwise.
        labels: whether the labels of records are read.
    """
    source = open_source(config, evaluation_only, labels)
    if workdir:
        _use_first_label(source, workdir)
    print(f"data: {config.source}, {source.validation_note or 'its validation split'}", file=sys.stderr)
    return _leave_out(source, config, None)


def _leave_out(source: Source, config: DataConfig, saved: list[str] | None) -> RunData:
    """`saved`: the lines of the list that an earlier start made, if any."""
    searched = saved is None and config.max_bad_fraction > 0
    digests = source.digests()
    corrupt = find_corrupt(source) if searched else [json.loads(line) for line in saved or ()]
    return RunData(leave_out(source, corrupt, config.max_bad_fraction), corrupt, digests, searched)


def record_labels(workdir: Workdir, split) -> None:
    """Write `labels.txt`, the names of the labelled images, which `--label_list` takes. Warns where they have changed."""
    file, text = workdir.path / "labels.txt", "".join(f"{as_line(name)}\n" for name in split.names)
    now = set(text.encode().split(b"\n"))
    before = set(file.read_bytes().split(b"\n")) if file.exists() else now
    if before != now:
        gone, new = len(before - now), len(now - before)
        print(f"warning: the labelled images changed since this run began: {gone} are gone, {new} are new", file=sys.stderr)
    workdir.write_text(file, text)


def first_label_of(source: Source) -> FirstLabel | None:
    """What the records of a source know of the label of their first class. None for other sources."""
    return source.train.first_label if isinstance(source.train, Records) else None


def _use_first_label(source: Source, workdir: Workdir) -> None:
    """Take the label of the first class that the run in a workdir found, where neither the config nor a manifest has it."""
    recorded = workdir.read_json(workdir.data_file).get("first_label") if workdir.data_file.exists() else None
    first_label = first_label_of(source)
    if first_label and first_label.value is None and recorded is not None:
        first_label.value, first_label.was_found = recorded, True
        print(f"labels begin at {recorded}, as this run found", file=sys.stderr)


def _recorded_digests(workdir: Workdir) -> dict[str, dict] | None:
    """The digests in `data.json`. None for a new run, and for a run of version 0.1, which recorded names alone."""
    return workdir.read_json(workdir.data_file).get("splits") if workdir.data_file.exists() else None
