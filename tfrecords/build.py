"""Convert ImageNet, or any folder of images, into TFRecord shards.

  python -m tfrecords.build --source=imagenet --input=DOWNLOADS --output=DIR
  python -m tfrecords.build --source=folder --input=PHOTOS --output=DIR --resize_shorter=256 --quality=90

If a build is stopped, the same command resumes it. After a finished build it checks the shards and makes missing or
damaged ones again. EXIF orientation is ignored: pixels are stored as they are in the file. With --runner= an Apache
Beam pipeline makes the shards; Beam's own options follow. Exit codes: 0 done, 2 an error in one line on standard
error, 130 interrupted.
"""

import argparse
import errno
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence

from pf_keras import filesystem as fs
from pf_keras import processes
from pf_keras.data.formats import MAX_PIXELS
from pf_keras.data.shard_files import SETTINGS, WORK, read_manifest
from pf_keras.data.splits import TRAIN
from pf_keras.errors import UserError
from tfrecords import command, encode, inputs, manifest, shards
from tfrecords.index import Index
from tfrecords.work import work_directory

_NAMED = 10  # corrupt files named in the error
_IMAGENET_SHARDS = 1024, 128  # train and validation, as the public converters have them


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options, beam_options = _parse(arguments)
    try:
        with work_directory(options.output):
            _build(options, beam_options, Index(options.seed))
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "is full" in str(error):
            place = options.output if isinstance(error, OSError) else "The disk of temporary files (TMPDIR)"
            raise UserError(f"{place} is full ({error}). Free some space, then run the same command again.") from None
        raise
    return 0


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and those that are left for Beam."""
    parser = command.Parser(__doc__)
    parser.add_argument("--source", required=True, choices=("imagenet", "folder"), help="the kind of --input")
    parser.add_argument("--input", required=True, help="the directory with the archives or images")
    parser.add_argument("--output", required=True, help="the directory for the shards")
    parser.add_argument("--validation_labels", help="for imagenet: a list of wnids, or the devkit archive")
    default = "default: about 1,000 images or 100 MB a shard; of imagenet %d"
    train, validation = (default % count for count in _IMAGENET_SHARDS)
    parser.add_argument("--train_shards", type=command.positive, help=f"number of training shards ({train})")
    parser.add_argument("--validation_shards", type=command.positive, help=f"also of a test split ({validation})")
    parser.add_argument("--seed", type=int, default=0, help="for the order of the images (default: 0)")
    parser.add_argument("--resize_shorter", type=command.positive, help="reduce larger images to this shorter side (pixels)")
    parser.add_argument(
        "--max_pixels", type=command.positive, default=MAX_PIXELS, help=f"refuse larger images (default: {MAX_PIXELS})"
    )
    parser.add_argument("--quality", type=int, help="JPEG quality of resized images, 1 to 100 (default: 90)")
    parser.add_argument("--skip_bad", action="store_true", help=f"list corrupt files in {manifest.BAD} instead of failing")
    parser.add_argument("--runner", help="make the shards with Apache Beam: DirectRunner, FlinkRunner, ...")
    parser.add_processes()
    options, rest = parser.parse_known_args(arguments)
    if options.runner and options.processes != processes.cores():
        raise UserError("--processes has no effect with --runner. Use Beam's own options for its workers.")
    if rest and not options.runner:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.quality is not None and not options.resize_shorter:
        raise UserError("--quality has no effect without --resize_shorter: images keep their bytes. Leave it out.")
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UserError(f"--quality is {options.quality}. Give a number from 1 to 100.")
    if (most := max(options.train_shards or 0, options.validation_shards or 0)) > 99_999:
        raise UserError(f"{most} shards are too many, because their names have five digits. Use at most 99999.")
    if options.validation_labels and options.source != "imagenet":
        raise UserError("--validation_labels has no effect with --source=folder. Leave it out.")
    paths = options.input, options.output
    source, target = (path.rstrip("/") if fs.is_remote(path) else os.path.realpath(path) for path in paths)
    inside = options.source == "folder" and f"{target}/".startswith(f"{source.rstrip('/')}/")
    if source == target or inside:
        raise UserError(f"--output={options.output} is inside --input and would be read as images. Give another --output.")
    return options, rest


def _build(options: argparse.Namespace, beam_options: list[str], index: Index) -> None:
    print(f"listing the images of {options.input} ...", file=sys.stderr)
    if options.source == "imagenet":
        classes, files, note = inputs.list_imagenet(options.input, index, options.validation_labels)
    else:
        classes, files, note = inputs.list_folder(options.input, index)
    if note:
        print(f"note: {note}", file=sys.stderr)
    _choose_shards(options, index)
    settings = {
        "source": options.source,
        "source_fingerprint": index.fingerprint(classes),
        "seed": options.seed,
        "train_shards": options.train_shards,
        "validation_shards": options.validation_shards,
        "resize_shorter": options.resize_shorter,
        "quality": (options.quality or 90) if options.resize_shorter else None,
        "encoder": encode.encoder(),
    }
    if not options.skip_bad:
        _refuse([f"{split}/{name}: {problem}" for split, name, problem in index.problems()])
    done = manifest.begin(options.output, settings)
    images = sum(number for labels in index.counts().values() for number in labels.values())
    tasks = _tasks(options, settings, classes, index, done)
    if options.runner:
        from tfrecords import beam

        notes = beam.run(options.output, tasks, ["--runner=" + options.runner, *beam_options])
    else:
        notes = processes.run(shards.make_shard, tasks, options.processes)
    notes = _collect(notes, images, options.skip_bad)
    source = {"kind": options.source, "files": files}
    result = manifest.finish(options.output, settings, source, classes, index, notes)
    odd = ", ".join(f"{key} {number}" for key, number in result["odd"].items() if number)
    parts = ", ".join(f"{split} {values['images']}" for split, values in result["splits"].items())
    size = f"{result['images']} images ({parts}), {len(notes)} shards, {result['bytes']} bytes"
    print(f"{options.output}: {size}" + (f"; of them {odd}" if odd else ""))


def _choose_shards(options: argparse.Namespace, index: Index) -> None:
    """Set the numbers of shards that the options leave open, as in an earlier build, or else by the number of images."""
    manifest, unfinished = read_manifest(options.output), fs.join(options.output, WORK, SETTINGS)
    earlier = manifest["settings"] if manifest else fs.read_json(unfinished) if fs.exists(unfinished) else {}
    sizes = index.sizes()
    splits = {"train_shards": {TRAIN}, "validation_shards": set(sizes) - {TRAIN}}
    for (name, of), imagenet in zip(splits.items(), _IMAGENET_SHARDS, strict=True):
        if options.source == "imagenet":
            count = imagenet
        else:
            resized = bool(options.resize_shorter)
            count = max((shards.shard_count(*sizes[split], resized) for split in of & set(sizes)), default=1)
        setattr(options, name, getattr(options, name) or earlier.get(name, count))


def _tasks(
    options: argparse.Namespace, settings: dict, classes: list[tuple[str, str]], index: Index, done: dict[str, dict]
) -> Iterator[dict]:
    """The tasks of `shards.make_shard`."""
    table = {synset: [number, text] for number, (synset, text) in enumerate(classes, 1)}
    for split in index.counts():
        count = options.train_shards if split == TRAIN else options.validation_shards
        for number, items in enumerate(index.shards(split, count)):
            file = shards.shard_name(split, number, count)
            yield {
                "output": options.output,
                "file": file,
                "resize_shorter": settings["resize_shorter"],
                "quality": settings["quality"],
                "max_pixels": options.max_pixels,
                "skip_bad": options.skip_bad,
                "items": items,
                "classes": {item[4]: table[item[4]] for item in items if item[4] is not None},
                "done": done.get(file) or manifest.earlier_note(options.output, file),
            }


def _collect(notes: Iterable[dict], images: int, skip_bad: bool) -> list[dict]:
    """Wait for the notes of all shards and sort them by name. Raises UserError for corrupt files that may not be skipped."""
    collected, corrupt = [], []
    with processes.progress(images, "img", "build") as bar:
        for note in notes:
            collected.append(note)
            bar.update(note["records"] + len(note["bad"]))
            for name, reason, _ in note["bad"]:
                corrupt.append(f"{note['file'].split('-')[0]}/{name}: {reason}")
                if not skip_bad:
                    bar.write(f"corrupt: {corrupt[-1]}", file=sys.stderr)
    if not skip_bad:
        _refuse(corrupt)
    return sorted(collected, key=lambda note: note["file"])


def _refuse(corrupt: list[str]) -> None:
    if corrupt:
        more = f"; and {len(corrupt) - _NAMED} more" if len(corrupt) > _NAMED else ""
        raise UserError(
            f"{len(corrupt)} files are corrupt or not images: {'; '.join(sorted(corrupt)[:_NAMED])}{more}. Repair or remove "
            f"them and run the same command again, or leave them out with --skip_bad, which lists them in {manifest.BAD}."
        )


if __name__ == "__main__":
    sys.exit(command.run(main))
