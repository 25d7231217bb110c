"""Label lists for few-label training: file names, one a line, of a part of the training images.

  python -m tfrecords.subsets DIR --fraction=0.01,0.1,0.2 [--seed=0] [--include=published_10pct.txt]

Lists are stratified by class and nested: that of 1% lies within that of 10%. With --include= the images of a published
list come first in each class, so that a larger list contains it. They are written to DIR/subsets, or to --output. A
published list needs no command: give it to the training as it is.
"""

import sys
from collections.abc import Sequence

from tfrecords import command, files
from tfrecords import filesystem as fs
from tfrecords.errors import UserError
from tfrecords.listing import read_listing
from tfrecords.schema import NO_LABEL
from tfrecords.selection import as_line, match_list, read_list, stratified_subset


def main(arguments: Sequence[str]) -> int:
    parser = command.Parser(__doc__)
    parser.add_argument("directory", help="the directory with the shards")
    parser.add_argument("--fraction", required=True, help="of each class, one or several separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--include", help="a list of file names that come first")
    parser.add_argument("--output", help="the directory for the lists (default: DIR/subsets)")
    parser.add_processes()
    options = parser.parse_args(arguments)
    fractions = [_fraction(text) for text in options.fraction.split(",")]
    paths = files.split_files(options.directory)["train"]
    if not paths:
        raise UserError(f"expected train shards in {options.directory}, found only others")
    wanted = read_list(options.include) if options.include else []
    listed, labels = read_listing(paths, options.processes)
    if not listed or NO_LABEL in labels:
        raise UserError(f"expected labelled images in {options.directory}, received some without a label")
    if "" in listed or len(set(listed)) < len(listed):
        raise UserError(f"expected a file name of its own in each record of {options.directory}, received some without")
    included = {listed[index] for index in match_list(wanted, listed)}
    # All are drawn before the first is written, so that an error leaves nothing half done.
    subsets = [stratified_subset(listed, labels, part, options.seed, included) for part in fractions]
    output = options.output or fs.join(options.directory, "subsets")
    fs.make_directory(output)
    for fraction, indices in zip(fractions, subsets, strict=True):
        names = sorted(listed[index] for index in indices)
        kind = "_with_list" if included else ""
        path = fs.join(output, f"train_{_percent(fraction)}pct_seed{options.seed}{kind}.txt")
        fs.write_whole(path, "".join(as_line(name) + "\n" for name in names).encode(), path + ".partial")
        line = f"{path}: {len(names)} of {len(listed)} images"
        if included:
            line += f", {len(included.intersection(names))} of the {len(included)} in {options.include}"
        print(line)
    return 0


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UserError(f"expected --fraction with numbers above 0 and up to 1, such as 0.01,0.1, received {text!r}")
    return fraction


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.6f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    sys.exit(command.run(main))
