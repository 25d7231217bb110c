"""The work directory is the run: config, metrics, checkpoints, figures, result."""

import fcntl
import json
import os
import socket
import sys

from etils import epath

from pf_keras.config import Config, differing_fields
from pf_keras.data.sources import same_data
from pf_keras.errors import UserError, reading, writing
from tfrecords.filesystem import is_remote
from tfrecords.selection import as_line

# Fields that may change when a run goes on: they alter what is written and when, or what bad data is forgiven, not
# what is learned.
CHANGEABLE = (
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.eval_batch",
    "data.max_bad_fraction",
)


class Workdir:
    """The files of a run at `path`, a local directory or one that etils' epath reaches, such as `gs://`.

    Writing raises UserError where the disk is full or may not be written to.
    """

    def __init__(self, path):
        try:
            self.path = epath.Path(path).expanduser()
        except KeyError as error:  # a scheme that epath does not know
            raise UserError(f"expected a directory, or one of gs:// or s3://, received {path}: choose another") from error
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.result_file = self.path / "result.json"
        self.bad_file = self.path / "bad.jsonl"
        self.data_file = self.path / "data.json"
        self.init_file = self.path / "init.json"
        self.lock_file = self.path / ".lock"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"

    @classmethod
    def of_run(cls, path, *modes):
        """The workdir of an earlier run of one of the modes. Raises UserError where it is none."""
        workdir = cls(path)
        with reading(path):
            mode = workdir.mode() if workdir.config_file.exists() else None
        if mode is None:
            raise UserError(f"expected {path} to be the workdir of an earlier {modes[0]}, received one without config.json")
        if mode not in modes:
            raise UserError(f"expected a workdir of --mode={' or '.join(modes)}, received {path} of --mode={mode}")
        return workdir

    def start(self, mode, config, extra=None, splits=None):
        """Write the config of a new run, or check that this is the same run and go on with it.

        extra: what else defines the run (of a fine-tuning its labels and start), as a flat dict. splits: its data, by
        which those that were moved are known again.
        Raises UserError where another process runs here, or the workdir is that of another run.
        """
        with writing(self.path):
            self.figures.mkdir(parents=True, exist_ok=True)
            self._lock()
        if not self.config_file.exists():
            self.write_json(self.config_file, {"mode": mode, **(extra or {}), "config": config.to_dict()})
        else:
            known = self.check(mode, config, extra, splits)
            self.write_json(self.config_file, {**known, "config": config.to_dict()})

    def check(self, mode, config, extra=None, splits=None):
        """What defines the run that is here, if it is this one. Raises UserError where it is another."""
        if self.mode() != mode:
            raise UserError(
                f"expected --workdir to be new or of --mode={mode}, received {self.path} of --mode={self.mode()}: "
                "choose another"
            )
        known = self.definition()
        known = {**(extra or {}), **known}  # a run begun before something came to be kept goes on
        changed = [f"{k}: {known[k]} -> {v}" for k, v in (extra or {}).items() if not _same(k, known[k], v)]
        # Where the precision is kept that `run.precision` came to, that alone has to be the same.
        free = (*CHANGEABLE, "run.precision") if "precision" in known else CHANGEABLE
        if same_data(self.config().data.source, config.data.source) or (splits and self.began_with(splits)):
            free = (*free, "data.source")  # by another spelling, or moved
        changed += [f for f in differing_fields(self.config(), config) if f.split(":")[0] not in free]
        if changed:
            own = f", with --config.run.precision={known['precision']}" if "precision" in known else ""
            raise UserError(
                f"expected the config of the run in {self.path}, received another ({'; '.join(changed)}): "
                f"choose another --workdir, or the same config{own}"
            )
        return known

    def _lock(self):
        """Keep other processes out for as long as this object lives; the system unlocks when the process dies.

        Stores such as `gs://` and some network disks know no locks: there it is the user who takes care.
        """
        if is_remote(os.fspath(self.path)):
            return
        file = open(self.lock_file, "a+")  # noqa: SIM115 - open is what keeps the lock
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                f"expected --workdir to be free, received {self.path}, in which {owner} runs: wait for it, or choose another"
            ) from None
        except OSError as error:
            print(f"{self.path} cannot be locked ({error.strerror}): start no second run in it", file=sys.stderr)
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._locked = file

    def definition(self):
        """What `config.json` holds: `mode`, `config` as dicts, what `start` was given. Raises UserError for another file."""
        content = self.read_json(self.config_file)
        if not isinstance(content, dict) or not {"mode", "config"} <= set(content):
            raise UserError(f"expected {self.config_file} of a run, received a file without its mode and config: see --workdir")
        return content

    def mode(self):
        return self.definition()["mode"]

    def config(self):
        return Config.from_dict(self.definition()["config"])

    def require_same(self, config, *names, free=()):
        """Raises UserError where `config` differs from the run's in one of these sections or fields, but for those `free`.

        Weights of a network fit many others, of as many heads or another stem, which make something else of them.
        """
        changed = [
            change
            for change in differing_fields(self.config(), config)
            if (field := change.split(":")[0]) not in free and (field in names or field.split(".")[0] in names)
        ]
        if changed:
            raise UserError(
                f"expected the model of the run in {self.path}, received another ({'; '.join(changed)}): use the run's config"
            )

    def folder(self, name):
        """The path of a folder in the workdir, which is made if it is not there."""
        with writing(self.path):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name

    def log(self, line):
        """Add a line to `metrics.jsonl`."""
        with writing(self.path), self.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self):
        """The lines of `metrics.jsonl` as dicts, but for one that was cut short."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]

    def forget_metrics_after(self, step):
        """Drop the lines of steps that will be done again, and one that was cut short."""
        if self.metrics_file.exists():
            kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
            self.write_text(self.metrics_file, "".join(kept))

    def write_data(self, splits, bad, config):
        """Keep what a run's splits are, by name, to tell later whether they are still the same; and which images it leaves
        out, so that it has the same examples when it goes on and need not look again.

        config: its `DataConfig`. Of a run that leaves none out, and so looked for none, no list is kept.
        """
        now = {name: _described(split) for name, split in splits.items()}
        data = self._data() or {"began": now}
        if config.max_bad_fraction:
            self.write_text(self.bad_file, "".join(json.dumps(image) + "\n" for image in bad))
            data["listed"] = now  # what the list leaves
        self.write_json(self.data_file, data)

    def listed_bad(self):
        """The list of bad images that `write_data` kept, empty where there is none."""
        return [json.loads(line) for line in self.bad_file.read_text().splitlines()] if self.bad_file.exists() else []

    def began_with(self, splits):
        """Whether `splits` are those with which the run began, wherever they lie."""
        began = self._data().get("began")
        if not began or {name: split.size for name, split in splits.items()} != {n: s["images"] for n, s in began.items()}:
            return False  # before the names of all are looked at
        return began == {name: _described(split) for name, split in splits.items()}

    def images_at_the_beginning(self):
        """How many images the run's splits had together, and those that it leaves out."""
        return sum(split["images"] for split in self._data().get("began", {}).values()) + len(self.listed_bad())

    def is_listed(self, splits):
        """Whether there is such a list and `splits` are what it left when it was made."""
        if not self.bad_file.exists():
            return False
        left = self._data().get("listed")
        return left is None or left == {name: _described(split) for name, split in splits.items()}

    def tell_of_changed_data(self, splits, whole):
        """Say so where neither the splits nor what they were before any image was left out are those of the beginning."""
        for name, before in self._data().get("began", {}).items():
            if name in splits and before not in (_described(now[name]) for now in (splits, whole)):
                print(
                    f"the data for {name} are not those with which this run began, {before['images']} images then and "
                    f"{splits[name].size} now: what is kept for validation may have been trained on",
                    file=sys.stderr,
                )

    def _data(self):
        return self.read_json(self.data_file) if self.data_file.exists() else {}

    def write_labels(self, split):
        """Keep the names of the images whose labels a run uses: a file that `--label_list` takes.

        Says so where the run began with others, as where images were left out or removed since.
        """
        file, text = self.path / "labels.txt", "".join(f"{as_line(name)}\n" for name in split.names)
        now = set(text.encode().split(b"\n"))
        before = set(file.read_bytes().split(b"\n")) if file.exists() else now
        if before != now:
            changed = f"{len(before - now)} are gone and {len(now - before)} are new"
            print(f"of the labelled images with which this run began {changed}", file=sys.stderr)
        self.write_text(file, text)

    def write_init(self, step):
        """Keep which checkpoint of its pre-training a fine-tuning began from."""
        self.write_json(self.init_file, {"step": step})

    def init_step(self):
        """The step of that checkpoint; None where the fine-tuning began from scratch."""
        return self.read_json(self.init_file)["step"] if self.init_file.exists() else None

    def write_result(self, result):
        self.write_json(self.result_file, result)

    def read_json(self, file):
        """The content of a JSON file. Raises UserError where it is damaged."""
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"expected {file} as JSON, received text that fails at: {error}") from error

    def write_json(self, file, content):
        self.write_text(file, json.dumps(content, indent=2) + "\n")

    def write_text(self, file, text):
        """Whole or not at all: written aside, then renamed."""
        aside = file.with_name(file.name + ".writing")
        with writing(self.path):
            aside.write_text(text)
            aside.replace(file)


def _described(split):
    return {"images": split.size, "fingerprint": split.fingerprint()}


def _same(name, one, other):
    """Whether what `Workdir.start` was given is the same, however paths are spelled; a list is told by what it holds."""
    if name == "init":
        one, other = map(_place, (one, other))
    return one == other or name == "label_list"


def _place(init):
    if init == "scratch" or is_remote(init):
        return init.rstrip("/")
    return os.path.realpath(os.path.expanduser(init))
