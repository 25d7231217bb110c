"""The data of a run, and the record of them in its workdir.

`data.json` has the number of images of each split and a digest of their names, their sizes and the content of a few. Where
the data of a run moved, `--config.data.source=NEW` names the new place, and the digest must be the recorded one. `bad.jsonl`
lists the corrupt images that the run leaves out.
"""

import json
import sys
from dataclasses import dataclass, replace

from pf_keras.config import DataConfig
from pf_keras.data.corrupt import find_corrupt, leave_out
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
        digests: of the splits, corrupt images included: `{name: {"images": n, "digest": hex}}`.
        searched: whether every image was read to find the corrupt ones.
    """

    source: Source
    corrupt: list[dict]
    digests: dict[str, dict]
    searched: bool = False

    def check(self, workdir: Workdir, before: str, now: str) -> bool:
        """Check that these are the data recorded in the workdir. Warns if data at the same place have changed.

        Args:
            workdir: holds an earlier run.
            before: the `data.source` of that run.
            now: the present `data.source`.

        Returns:
            Whether data are recorded there. Version 0.1 recorded the names of images alone, which are not compared.

        Raises:
            UserError: the source is another, and so are the data.
        """
        recorded = workdir.read_json(workdir.data_file).get("splits") if workdir.data_file.exists() else None
        if recorded == self.digests or (recorded is None and before == now):
            return recorded is not None
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
        return True

    def record(self, workdir: Workdir, before: str | None, now: str) -> None:
        """Write `data.json` and `bad.jsonl`, or check these data where the workdir has a record already.

        Args:
            workdir: of the run.
            before: the `data.source` of the run that is there, or None for a new run.
            now: the present `data.source`.

        Raises:
            UserError: as `check`.
        """
        if before is None or not self.check(workdir, before, now):
            workdir.write_json(workdir.data_file, {"splits": self.digests})
        if self.searched and not workdir.corrupt_file.exists():
            workdir.write_text(workdir.corrupt_file, "".join(json.dumps(image) + "\n" for image in self.corrupt))


def open_run_data(workdir: Workdir, config: DataConfig) -> RunData:
    """Open the run's own data.

    When a run resumes, the saved list of corrupt images is reused, so that the order of examples does not change. A new run
    with `data.max_bad_fraction` above 0 reads every image once to make the list.

    Args:
        workdir: may be empty still.
        config: the run's data.

    Raises:
        UserError: the data cannot be opened, or too many images are corrupt.
    """
    with reading(workdir.path):
        saved = workdir.corrupt_file.read_text().splitlines() if workdir.corrupt_file.exists() else None
    source = open_source(config)
    digests = source.digests()
    if source.validation_note:
        print(f"validation: {source.validation_note}, {source.validation.size} images", file=sys.stderr)
    searched = saved is None and config.max_bad_fraction > 0
    corrupt = find_corrupt(source) if searched else [json.loads(line) for line in saved or ()]
    return RunData(leave_out(source, corrupt, config.max_bad_fraction), corrupt, digests, searched)


def open_earlier_data(
    workdir: Workdir, earlier: DataConfig, config: DataConfig, other: str, evaluation_only: bool = True
) -> RunData:
    """Open data to evaluate an earlier run on: its own, checked against its record, or other data.

    Args:
        workdir: of the run.
        earlier: its data when it was trained.
        config: its data now, perhaps moved.
        other: a source to use in place of them, or empty.
        evaluation_only: as for `open_other_data`.
    """
    if other not in ("", config.source):  # --data may repeat the run's own source
        return open_other_data(replace(config, source=other), evaluation_only)
    data = open_run_data(workdir, config)
    data.check(workdir, earlier.source, config.source)
    return data


def open_other_data(config: DataConfig, evaluation_only: bool = False) -> RunData:
    """Open data that are not the run's own.

    Args:
        config: the data.
        evaluation_only: without a validation split, score all images instead of holding some out.
    """
    source = open_source(config, evaluation_only)
    print(f"data: {config.source}, {source.validation_note or 'its validation split'}", file=sys.stderr)
    corrupt = find_corrupt(source) if config.max_bad_fraction > 0 else []
    return RunData(leave_out(source, corrupt, config.max_bad_fraction), corrupt, {})


def record_labels(workdir: Workdir, split) -> None:
    """Write `labels.txt`, the names of the labelled images, which `--label_list` takes. Warns where they have changed."""
    file, text = workdir.path / "labels.txt", "".join(f"{as_line(name)}\n" for name in split.names)
    now = set(text.encode().split(b"\n"))
    before = set(file.read_bytes().split(b"\n")) if file.exists() else now
    if before != now:
        gone, new = len(before - now), len(now - before)
        print(f"warning: the labelled images changed since this run began: {gone} are gone, {new} are new", file=sys.stderr)
    workdir.write_text(file, text)
