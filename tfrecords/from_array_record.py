"""Write the records of ArrayRecord files as TFRecord shards, which `--data=tfrecord:OUTPUT` reads.

  python -m tfrecords.from_array_record INPUT OUTPUT

INPUT is a directory of files such as `birds-train.array_record-00000-of-00004`, as tensorflow-datasets writes them. They become
`train-00000-of-00004` and so on. The records stay as they are; `--config.data.keys` names keys that are not the usual ones.
"""

import re
import sys
from collections.abc import Sequence

from pf_keras import filesystem as fs
from pf_keras.data.record_container import frame
from pf_keras.data.splits import TRAIN, VALIDATION_NAMES
from pf_keras.errors import UserError
from tfrecords import command

_FILE = re.compile(rf"(?:.*[^a-z])?({'|'.join((TRAIN, *VALIDATION_NAMES))})[^a-z].*?(\d{{5}}-of-\d{{5}}).*", re.IGNORECASE)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command.Parser(__doc__)
    parser.add_argument("input", help="the directory of the ArrayRecord files")
    parser.add_argument("output", help="the directory for the shards")
    options = parser.parse_args(arguments)
    if not fs.is_directory(options.input):
        raise UserError(f"There is no directory {options.input}. Check the path.")
    found = {name: _FILE.fullmatch(name) for name in fs.names_in(options.input) if "array" in name.lower()}
    files = {name: f"{match[1].lower()}-{match[2]}" for name, match in found.items() if match}
    if not files:
        raise UserError(f"{options.input} has no files such as birds-train.array_record-00000-of-00004. Check the path.")
    if taken := [shard for shard in files.values() if fs.exists(fs.join(options.output, shard))]:
        raise UserError(f"{options.output} has {taken[0]} already. Choose another directory.")

    from array_record.python.array_record_module import ArrayRecordReader

    fs.make_directory(options.output)
    for name, shard in files.items():
        path, count = fs.join(options.output, shard), 0
        reader = ArrayRecordReader(fs.join(options.input, name))
        with fs.open_file(f"{path}.partial", "wb") as file:
            for number in range(reader.num_records()):
                file.write(b"".join(frame(reader.read([number])[0])))
                count += 1
        fs.replace(f"{path}.partial", path)
        print(f"{path}: {count} records")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
