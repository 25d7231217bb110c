"""The data of a run, and the record of them in its workdir.

`data.json` has the number of images of each split and a digest of their names and sizes. Where the data of a run moved,
`--config.data.source=NEW` names the new place, and the digest must be the recorded one. `bad.jsonl` lists the corrupt images
that the run leaves out.
"""

import json
import sys
from dataclasses import dataclass

from pf_keras.config import DataConfig
from pf_keras.data.corrupt import find_corrupt, leave_out
from pf_keras.data.selection import as_line
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError
from pf_keras.training.identity import require_mode
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class RunData:
    """The data that a run reads.

    Args:
        source: its splits, without the corrupt images.
        corrupt: the images left out, as dicts of `split`, `name` and `reason`.
        splits: what `data.json` says of the splits, corrupt images included: `{name: {"images": n, "digest": hex}}`.
        checked: whether every image was read to find the corrupt ones.
    """

    source: Source
    corrupt: list[dict]
    splits: dict[str, dict]
    checked: bool = False

    def record(self, workdir: Workdir) -> None:
        """Write what a resumed run is checked against. What an earlier start wrote stays."""
        if not _recorded_splits(workdir):
            workdir.write_json(workdir.data_file, {"splits": self.splits})
        if self.checked and not workdir.corrupt_file.exists():
            workdir.write_text(workdir.corrupt_file, "".join(json.dumps(image) + "\n" for image in self.corrupt))


def open_run_data(workdir: Workdir, mode: str, config: DataConfig) -> RunData:
    """Open the run's own data. When a run resumes, the saved list of corrupt images is reused, so that the order of examples
    does not change. A new run with `data.max_bad_fraction` above 0 reads every image once to make the list.

    Args:
        workdir: of the run, which may be new.
        mode: the run's mode.
        config: the run's data; `source` may be another place than before.

    Raises:
        UserError: the data cannot be opened, have too many corrupt images, or are other data than the run's.
    """
    run = require_mode(workdir.path, mode)
    source = open_source(config)
    if source.validation_note:
        print(f"validation: {source.validation_note}, {source.validation.size} images", file=sys.stderr)
    splits = _described(source)
    if run:
        _check(workdir, splits, run.config.data.source, config.source)
    if run and workdir.corrupt_file.exists():
        corrupt = [json.loads(line) for line in workdir.corrupt_file.read_text().splitlines()]
    else:
        corrupt = find_corrupt(source) if config.max_bad_fraction else []
    return RunData(leave_out(source, corrupt, config.max_bad_fraction), corrupt, splits, checked=config.max_bad_fraction > 0)


def open_other_data(config: DataConfig, whole: bool = False) -> RunData:
    """Open data that are not the run's own.

    Args:
        config: the data.
        whole: whether all images are the validation split where the data have none, because nothing is trained on them.
    """
    source = open_source(config, whole)
    print(f"data: {config.source}, {source.validation_note or 'its validation split'}", file=sys.stderr)
    corrupt = find_corrupt(source) if config.max_bad_fraction else []
    return RunData(leave_out(source, corrupt, config.max_bad_fraction), corrupt, _described(source))


def record_labels(workdir: Workdir, split) -> None:
    """Write `labels.txt`, the names of the labelled images, which `--label_list` takes. Warns where they have changed."""
    file, text = workdir.path / "labels.txt", "".join(f"{as_line(name)}\n" for name in split.names)
    now = set(text.encode().split(b"\n"))
    before = set(file.read_bytes().split(b"\n")) if file.exists() else now
    if before != now:
        gone, new = len(before - now), len(now - before)
        print(f"warning: the labelled images changed since this run began: {gone} are gone, {new} are new", file=sys.stderr)
    workdir.write_text(file, text)


def _described(source: Source) -> dict[str, dict]:
    return {name: {"images": split.size, "digest": split.digest()} for name, split in source.splits().items()}


def _recorded_splits(workdir: Workdir) -> dict[str, dict] | None:
    """What `data.json` says of the splits. None for a new run, and for a run of version 0.1, which recorded names alone."""
    return workdir.read_json(workdir.data_file).get("splits") if workdir.data_file.exists() else None


def _check(workdir: Workdir, splits: dict[str, dict], old_place: str, place: str) -> None:
    """Raises UserError where data at another place are not the run's. Warns where data at the same place have changed."""
    recorded = _recorded_splits(workdir)
    if recorded == splits or (recorded is None and old_place == place):
        return
    if recorded is None:
        raise UserError(
            f"The run in {workdir.path} was made by version 0.1, which did not record what its data are recognised by. "
            f"Keep them at data.source={old_place}, or start a new run."
        )
    changed = "; ".join(
        f"{name}: {recorded.get(name, {}).get('images', 0)} images then, {split['images']} now"
        + (", with other names or sizes" if recorded.get(name, {}).get("images") == split["images"] else "")
        for name, split in splits.items()
        if recorded.get(name) != split
    )
    if old_place != place:
        raise UserError(
            f"{place} does not hold the data of the run in {workdir.path} ({changed}). Name the place where the data of "
            f"{old_place} are now; evaluate and reconstruct take other data by --data."
        )
    print(
        f"warning: the data in {place} changed since this run began ({changed}): validation images may have been trained on",
        file=sys.stderr,
    )
