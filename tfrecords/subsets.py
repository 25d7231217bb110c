"""Write label lists for few-label training: the file names of a fraction of the training images, one a line.

  python -m tfrecords.subsets DIR --fraction=0.01,0.1,0.2 [--seed=0] [--include=published_10pct.txt] [--shards]

Lists are stratified by class and nested: the 10% list contains the 1% list. With --include= the images of a published
list come first in each class, so that a larger list contains it. The lists go to DIR/subsets, or to --output. Give a
list, or a published list as it is, to main.py by --label_list=.

--shards writes each subset as a dataset, too: train_10pct_seed0/ beside train_10pct_seed0.txt has the records of the listed
images. --data=tfrecord:DIR/subsets/train_10pct_seed0 trains on the same images as the list does, and reads nothing else. It is
scored on the validation shards in DIR, which must stay where they are, as seen from the subset. If the command is stopped,
the same command resumes it.
"""

import sys
from collections.abc import Sequence

from pf_keras import filesystem as fs
from pf_keras.data.record_schema import NO_LABEL
from pf_keras.data.selection import as_line, match_list, read_list, stratified_subset
from pf_keras.data.shard_files import split_files
from pf_keras.data.splits import TRAIN
from pf_keras.errors import UserError
from tfrecords import command
from tfrecords.listing import read_listing
from tfrecords.subset_shards import open_whole, write_subset


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command.Parser(__doc__)
    parser.add_argument("directory", help="the directory with the shards")
    parser.add_argument("--fraction", type=fractions, required=True, help="of each class, one or more separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--include", help="a list of file names that come first")
    parser.add_argument("--output", help="the directory for the lists (default: DIR/subsets)")
    parser.add_argument("--shards", action="store_true", help="write the records of each subset, too")
    parser.add_processes()
    options = parser.parse_args(arguments)
    paths = split_files(options.directory)[TRAIN]
    if not paths:
        raise UserError(f"{options.directory} has no train shards. Give the directory of a whole dataset.")
    whole = open_whole(options.directory) if options.shards else None
    wanted = read_list(options.include) if options.include else []
    names, labels, places = read_listing(paths, options.processes)
    if not names or NO_LABEL in labels:
        raise UserError(f"{options.directory} has images without a label. Subsets need a class for each image.")
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"{options.directory} has records with no name or with equal names. Give each image its own name.")
    included = {names[index] for index in match_list(wanted, names)}
    # Draw all subsets before the first is written, so that an error leaves nothing half done.
    subsets = [stratified_subset(names, labels, fraction, options.seed, included) for fraction in options.fraction]
    output = options.output or fs.join(options.directory, "subsets")
    fs.make_directory(output)
    for fraction, indices in zip(options.fraction, subsets, strict=True):
        chosen = sorted(names[index] for index in indices)
        percent = f"{fraction * 100:.6f}".rstrip("0").rstrip(".")
        kind = "_with_list" if included else ""
        folder = fs.join(output, f"train_{percent}pct_seed{options.seed}{kind}")
        if whole:
            draw = {"fraction": fraction, "seed": options.seed}
            chosen_labels = [labels[index] for index in indices]
            chosen_places = [places[index] for index in indices]
            made = write_subset(folder, options.directory, whole, chosen_places, chosen_labels, draw, options.processes)
        path = folder + ".txt"
        fs.write_whole(path, "".join(as_line(name) + "\n" for name in chosen).encode(), path + ".partial")
        line = f"{path}: {len(chosen)} of {len(names)} images"
        if included:
            line += f", {len(included.intersection(chosen))} of the {len(included)} in {options.include}"
        print(line)
        if whole:
            print(f"{folder}: their records, {made['bytes']} bytes in {len(made['shards'])} shards")
    return 0


def fractions(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(command.run(main))
