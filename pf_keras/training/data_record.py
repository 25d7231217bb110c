"""The data of a run, and the record of them in its workdir.

`data.json` has the number of images of each split and a digest of their names, their sizes and the content of a few. Where the
data of a run moved, `--config.data.source=NEW` names the new place, and the digest must be the recorded one. `bad.jsonl` lists
the corrupt images that the run leaves out.

What a run found out about its data is in `data.json` too, so that it reads them in the same way when it resumes: the range of
16-bit images, and the label of the first class of records. Other data are read with that label too, because they may lack the
class.
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pf_keras.config import Config, DataConfig
from pf_keras.data.corrupt import find_corrupt, leave_out
from pf_keras.data.range16 import find_range16
from pf_keras.data.records import FirstLabel, Records, Split
from pf_keras.data.selection import as_line
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError, patiently, reading
from pf_keras.filesystem import is_remote, same_path
from pf_keras.presets.places import find
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class RunData:
    """The data that a run reads.

    Args:
        source: the splits, without the corrupt images.
        corrupt: the images that were left out, as dicts of `split`, `name` and `reason`.
        digests: of the splits, corrupt images included: `{name: {"images": n, "digest": hex}}`.
        range16: the range that was found for `data.range16=data`, as that field has it. Empty where it was not looked for.
        searched: whether every image was read to find the corrupt ones.
        place: the source of other data than the run's own.
        labels: whether the labels of the images were read.
    """

    source: Source
    corrupt: list[dict]
    digests: dict[str, dict]
    range16: str
    searched: bool = False
    place: str = ""
    labels: bool = True

    def check(self, workdir: Workdir, before: str, now: str) -> bool:
        """Check that these are the data recorded in the workdir. Warns if data at the same place have changed.

        Args:
            workdir: holds an earlier run.
            before: the `data.source` of that run.
            now: the present `data.source`.

        Returns:
            Whether digests are recorded there. Version 0.1 recorded other ones, and how many images there were.

        Raises:
            UserError: the source is another, and so are the data.
        """
        content = _record_of(workdir)
        recorded = content.get("splits", content.get("began", {}))
        if recorded == self.digests:
            return True
        if "splits" not in content and before != now:
            raise UserError(
                f"The run in {workdir.path} was made by version 0.1, which did not record the sizes of its images. "
                f"Keep them at data.source={before}, or start a new run."
            )
        # Version 0.1 did not count corrupt images, so that its numbers say nothing where some are left out.
        same = "splits" not in content and (not recorded or workdir.corrupt_file.exists())
        changed = "; ".join(
            f"{name}: {then} images then, {split['images']} now"
            + (", with other names, sizes or content" if then == split["images"] else "")
            for name, split in self.digests.items()
            if (then := recorded.get(name, {}).get("images", 0)) != split["images"]
            or ("splits" in content and recorded.get(name) != split)
        )
        if same or not changed:
            return "splits" in content
        if before != now:
            raise UserError(
                f"{now} does not hold the data of the run in {workdir.path} ({changed}). If you moved the data of {before}, "
                "name their place with --config.data.source=NEW. To evaluate other data, use --data."
            )
        print(
            f"warning: the data in {now} changed since this run began ({changed}): validation images may have been trained on",
            file=sys.stderr,
        )
        return "splits" in content

    def record(self, workdir: Workdir, before: str | None, now: str) -> None:
        """Write `data.json` and `bad.jsonl`, or check these data where the workdir has a record already.

        Args:
            workdir: of the run.
            before: the `data.source` of the run that is there, or None for a new run.
            now: the present `data.source`.

        Raises:
            UserError: as `check`.
        """
        known = before is not None and self.check(workdir, before, now)
        content = _record_of(workdir) if known else {"splits": self.digests, **self._found()}
        if self.searched:
            workdir.write_text(workdir.corrupt_file, "".join(json.dumps(image) + "\n" for image in self.corrupt))
            content["searched"] = self.digests
        if self.searched or not known:
            workdir.write_json(workdir.data_file, content)

    def warn_of_hold_out(self, init: str) -> None:
        """Warn where the run in the workdir `init` has as many images but held out others.

        It may have been trained on images that this run is scored on.
        """
        before = _record_of(Workdir(find(init))).get("splits", {})
        totals = [sum(split["images"] for split in splits.values()) for splits in (before, self.digests)]
        if totals[0] == totals[1] and before["validation"] != self.digests["validation"]:
            print(
                f"warning: {init} seems to have the same data, but held out other images. It may have been trained on "
                "validation images of this run, whose scores would then be too high. Use its data.holdout",
                file=sys.stderr,
            )

    def _found(self) -> dict:
        first_label, found = first_label_of(self.source), {}
        if self.labels:  # images in folders are numbered from 0
            found["first_label"] = first_label.value if first_label else 0
        if self.range16:
            found["range16"] = self.range16
        return found

    def reading(self, config: Config) -> Config:
        """The config with the range that was found in place of `data.range16=data`."""
        return replace(config, data=replace(config.data, range16=self.range16)) if self.range16 else config


def open_run_data(workdir: Workdir, config: DataConfig, labels: bool = True) -> RunData:
    """Open the run's own data.

    With `data.max_bad_fraction` above 0 a new run reads every image once to list the corrupt ones. As long as the data do not
    change, the list is reused when the run resumes, so that the order of examples does not change.

    Args:
        workdir: may be empty still.
        config: the run's data.
        labels: whether the labels of records are read.

    Raises:
        UserError: the data cannot be opened, or too many images are corrupt.
    """
    source = open_source(config, labels=labels)
    if not workdir.config_file.exists():  # a run that began there may go on
        refuse_workdir_among_images(workdir, source)
    _use_first_label(source, workdir)
    digests = source.digests()
    if source.validation_note:
        print(f"validation: {source.validation_note}, {source.validation.size} images", file=sys.stderr)
    with reading(workdir.path):
        saved = workdir.corrupt_file.exists() and _record_of(workdir).get("searched", digests) == digests
        lines = patiently(workdir.corrupt_file.read_text, workdir.path).splitlines() if saved else []
    searched = not saved and config.max_bad_fraction > 0
    corrupt = find_corrupt(source) if searched else [json.loads(line) for line in lines]
    source = leave_out(source, corrupt, config.max_bad_fraction)
    range16 = _range16_of(config, source, _record_of(workdir).get("range16", ""))
    return RunData(source, corrupt, digests, range16, searched, labels=labels)


def open_earlier_data(
    workdir: Workdir, earlier: DataConfig, config: DataConfig, other: str, evaluation_only: bool = True, labels: bool = True
) -> RunData:
    """Open data to evaluate an earlier run on: its own, checked against its record, or other data.

    Args:
        workdir: of the run.
        earlier: its data when it was trained.
        config: its data now, perhaps moved.
        other: a source to use in place of them, or empty. If it names the place of the run's own data, those are used.
        evaluation_only: as for `open_other_data`.
        labels: whether the labels of records are read.
    """
    if other and not same_source(other, config.source):
        return open_other_data(replace(config, source=other), evaluation_only, workdir, labels)
    data = open_run_data(workdir, config, labels)
    data.check(workdir, earlier.source, config.source)
    return data


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
        refuse_workdir_among_images(workdir, source)
        _use_first_label(source, workdir)
    print(f"data: {config.source}, {source.validation_note or 'its validation split'}", file=sys.stderr)
    corrupt = find_corrupt(source) if config.max_bad_fraction > 0 else []
    source = leave_out(source, corrupt, config.max_bad_fraction)
    return RunData(source, corrupt, {}, _range16_of(config, source), place=config.source)


def refuse_workdir_among_images(workdir: Workdir, source: Source) -> None:
    """Raises UserError where images of a folder are below the workdir, whose own pictures would be taken for images next time.

    A workdir in a folder of its own is skipped by the listing of the folder that it is in.
    """
    kind, _, place = source.place.partition(":")
    if kind != "folder" or is_remote(os.fspath(workdir.path)):
        return
    root = os.path.expanduser(place)
    inside = os.path.relpath(os.path.realpath(workdir.path), os.path.realpath(root))
    if inside.split(os.sep)[0] == os.pardir:
        return
    below = os.fsencode(os.path.join(Path(root) / inside, ""))
    images = (value for split in source.splits().values() for value in split.values)
    if any(value.startswith(below) for value in images):
        raise UserError(
            f"--workdir={workdir.path} has images of {source.place} in it, and pictures that are written there would be taken "
            "for images the next time. Choose a --workdir of its own."
        )


def same_source(one: str, other: str) -> bool:
    """Whether two `data.source` name the same place."""
    kind, _, place = one.partition(":")
    other_kind, _, other_place = other.partition(":")
    return kind == other_kind and (place == other_place or same_path(place, other_place))


def record_labels(workdir: Workdir, labelled: Split, held_out: Split | None = None) -> None:
    """Write the names of the labelled images, as `--label_list` takes them. Warns where those in `labels.txt` have changed.

    Args:
        workdir: of the run.
        labelled: all of them, for `labels.txt`.
        held_out: the part that the run does not train on but chooses by, for `holdout.txt`.
    """
    if held_out:
        workdir.write_text(workdir.path / "holdout.txt", _as_list(held_out))
    file, text = workdir.path / "labels.txt", _as_list(labelled)
    now = set(text.encode().split(b"\n"))
    before = set(patiently(file.read_bytes, file).split(b"\n")) if file.exists() else now
    if before != now:
        gone, new = len(before - now), len(now - before)
        print(f"warning: the labelled images changed since this run began: {gone} are gone, {new} are new", file=sys.stderr)
    workdir.write_text(file, text)


def _as_list(split: Split) -> str:
    return "".join(f"{as_line(name)}\n" for name in split.names)


def _range16_of(config: DataConfig, source: Source, recorded: str = "") -> str:
    if config.range16 != "data":
        return ""
    return recorded or find_range16(source.train, config.max_pixels)


def first_label_of(source: Source) -> FirstLabel | None:
    """What the records of a source know of the label of their first class. None for other sources."""
    return source.train.first_label if isinstance(source.train, Records) else None


def _use_first_label(source: Source, workdir: Workdir) -> None:
    """Take the label of the first class that the run in a workdir found, where neither the config nor a manifest has it."""
    recorded = _record_of(workdir).get("first_label")
    first_label = first_label_of(source)
    if first_label and first_label.value is None and recorded is not None:
        first_label.value, first_label.was_found = recorded, True
        print(f"labels begin at {recorded}, as in the data of this run", file=sys.stderr)


def _record_of(workdir: Workdir) -> dict:
    with reading(workdir.path):
        return workdir.read_json(workdir.data_file) if workdir.data_file.exists() else {}
