"""Converts ImageNet, or any folder of images, into TFRecord shards.

  python -m tfrecords.build --source=imagenet --input=DOWNLOADS --output=DIR
  python -m tfrecords.build --source=folder --input=PHOTOS --output=DIR --resize_shorter=256 --quality=90

The same command on the same output goes on where it was stopped; with everything there it only checks. Exit codes:
0 done, 2 an error, which is one line on standard error. Pixels are stored as they are in the file: EXIF orientation is
ignored, as it is by the field's decoders. With --runner= the shards are made by an Apache Beam pipeline, whose own
options follow.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence

from tfrecords import command, images, manifest, pool, shards, sources
from tfrecords import filesystem as fs
from tfrecords.errors import UserError
from tfrecords.index import Index

_REPORTED = 1000  # bad files after which a build without --skip_bad stops looking for more
_NAMED = 10  # bad files in the final line


def main(arguments: Sequence[str]) -> int:
    options, beam_options = _parse(arguments)
    try:
        with _work_directory(options.output) as path, contextlib.closing(Index(path)) as index:
            _build(options, beam_options, index)
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "is full" in str(error):
            raise UserError(f"expected room in {options.output}, received: {error}; make some and start again") from None
        raise
    return 0


def _parse(arguments: Sequence[str]):
    parser = command.Parser(__doc__)
    parser.add_argument("--source", required=True, choices=("imagenet", "folder"), help="what --input is")
    parser.add_argument("--input", required=True, help="the directory with the archives or the images")
    parser.add_argument("--output", required=True, help="the directory for the shards")
    parser.add_argument("--validation_labels", help="imagenet: a list of wnids, or the devkit archive")
    parser.add_argument("--train_shards", type=command.positive, default=1024)
    parser.add_argument("--validation_shards", type=command.positive, default=128, help="also of a test split")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    parser.add_argument(
        "--resize_shorter", type=command.positive, help="reduce larger images to this shorter side (pixels)"
    )
    parser.add_argument("--quality", type=int, help="JPEG quality of resized images, 1 to 100 (default: 90)")
    parser.add_argument("--skip_bad", action="store_true", help="list damaged files in bad.txt instead of stopping")
    parser.add_argument("--runner", help="make the shards by Apache Beam: DirectRunner, FlinkRunner, ...")
    parser.add_processes()
    options, rest = parser.parse_known_args(arguments)
    if options.runner and options.processes != pool.cores():
        raise UserError("expected --processes or --runner, received both; Beam has options of its own for its workers")
    if rest and not options.runner:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.quality is not None and not (options.resize_shorter and 1 <= options.quality <= 100):
        raise UserError(
            f"expected --quality from 1 to 100 together with --resize_shorter, received --quality={options.quality}; "
            f"without resizing the original bytes are stored"
        )
    if max(options.train_shards, options.validation_shards) > 99_999:
        raise UserError("expected at most 99999 shards, as their names have five digits")
    if options.validation_labels and options.source != "imagenet":
        raise UserError("expected --validation_labels only with --source=imagenet")
    source, target = (
        path.rstrip("/") if fs.is_remote(path) else os.path.realpath(path) for path in (options.input, options.output)
    )
    inside = options.source == "folder" and f"{target}/".startswith(f"{source.rstrip('/')}/")
    if source == target or inside:
        raise UserError(f"expected --output outside of --input, received {options.output}: it would be read as images")
    return options, rest


def _build(options, beam_options: list[str], index: Index) -> None:
    print(f"listing the images of {options.input} ...", file=sys.stderr)
    if options.source == "imagenet":
        listing = sources.list_imagenet(options.input, index, options.seed, options.validation_labels)
    else:
        listing = sources.list_folder(options.input, index, options.seed)
    if listing.note:
        print(f"note: {listing.note}", file=sys.stderr)
    settings = {
        "source": options.source,
        "source_fingerprint": manifest.source_fingerprint(index, listing.classes),
        "seed": options.seed,
        "train_shards": options.train_shards,
        "validation_shards": options.validation_shards,
        "resize_shorter": options.resize_shorter,
        "quality": (options.quality or 90) if options.resize_shorter else None,
        "encoder": images.encoder(),
    }
    if not options.skip_bad:
        _refuse([f"{split}/{name}: {problem}" for split, name, problem in index.problems()])
    done = manifest.begin(options.output, settings)
    counts = {split: sum(classes.values()) for split, classes in index.counts().items()}
    tasks = _tasks(options, settings, listing.classes, index, counts, done)
    if options.runner:
        from tfrecords import beam

        notes = beam.run(options.output, tasks, ["--runner=" + options.runner, *beam_options])
    else:
        notes = pool.run(shards.make_shard, tasks, options.processes)
    notes = _collect(notes, sum(counts.values()), options.skip_bad)
    source = {"kind": options.source, "files": listing.files}
    result = manifest.finish(options.output, settings, source, listing.classes, index, notes)
    odd = ", ".join(f"{key} {number}" for key, number in result["odd"].items() if number) or "none"
    parts = ", ".join(f"{split} {values['images']}" for split, values in result["splits"].items())
    size = f"{result['images']} images ({parts}), {len(notes)} shards, {result['bytes']} bytes"
    print(f"{options.output}: {size}; odd: {odd}")


def _tasks(options, settings, classes, index, counts, done) -> Iterator[dict]:
    table = {synset: [number, text] for number, (synset, text) in enumerate(classes, 1)}
    for split in counts:
        number_of_shards = options.train_shards if split == sources.TRAIN else options.validation_shards
        for number in range(number_of_shards):
            file = shards.shard_name(split, number, number_of_shards)
            items = list(index.part(split, number, number_of_shards))
            yield {
                "output": options.output,
                "file": file,
                "resize_shorter": settings["resize_shorter"],
                "quality": settings["quality"],
                "skip_bad": options.skip_bad,
                "items": items,
                "classes": {item[4]: table[item[4]] for item in items if item[4] is not None},
                "done": done.get(file) or manifest.earlier_note(options.output, file),
            }


def _collect(notes: Iterator[dict], images_in_all: int, skip_bad: bool) -> list[dict]:
    """The notes of all shards in the order of their names. Raises UserError for bad files that may not be skipped."""
    collected, bad = [], []
    with pool.progress(images_in_all, "img", "build") as bar:
        for note in notes:
            collected.append(note)
            bar.update(note["records"] + len(note["bad"]))
            for name, reason, _ in note["bad"]:
                bad.append(f"{note['file'].split('-')[0]}/{name}: {reason}")
                if not skip_bad and len(bad) <= _REPORTED:
                    bar.write(f"bad file: {bad[-1]}", file=sys.stderr)
            if not skip_bad and len(bad) > _REPORTED:
                break
    if not skip_bad:
        _refuse(bad)
    return sorted(collected, key=lambda note: note["file"])


def _refuse(bad: list[str]) -> None:
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise UserError(
            f"expected images only, received {len(bad)} damaged or other files: {'; '.join(sorted(bad)[:_NAMED])}{more}"
            f"; replace or remove them and start again, or list them in {manifest.BAD} with --skip_bad"
        )


@contextlib.contextmanager
def _work_directory(output: str) -> Iterator[str]:
    """Holds the output's work directory for this build alone and gives the path of the index, a local file.

    A local directory is locked; the system takes the lock back when the process dies, however it does. What a killed
    build left behind is used or overwritten by the next one.
    """
    work = fs.join(output, shards.WORK)
    fs.make_directory(work)
    if fs.is_remote(output):
        with tempfile.TemporaryDirectory() as directory:
            yield os.path.join(directory, manifest.INDEX)
        return
    lock, index = os.path.join(work, manifest.LOCK), os.path.join(work, manifest.INDEX)
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"expected nobody else in {output}, another build is writing there; wait for it") from None
        if not os.path.exists(lock) or not os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
            raise UserError(f"expected nobody else in {output}, another build has just ended there; start again")
        for name in os.listdir(work):
            if name.endswith(".partial"):
                os.remove(os.path.join(work, name))
        try:
            yield index
        finally:
            for remove, what in ((os.remove, index), (os.remove, lock), (os.rmdir, work)):
                with contextlib.suppress(OSError):  # one that is not empty is of an unfinished build
                    remove(what)


if __name__ == "__main__":
    sys.exit(command.run(main))
