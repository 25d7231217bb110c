"""CSV files that people write: lists of images with their labels. Uses neither TensorFlow nor Keras."""

import csv
import io
from collections import Counter
from collections.abc import Iterator

from pf_keras import filesystem as fs
from pf_keras.errors import UserError

PATH = "path"
_FIRST_LINE = 1 << 16  # bytes in which the names of the columns are looked for


def is_table(path: str) -> bool:
    """Whether the first line of a text file has the column `path`."""
    with fs.open_file(path, "rb") as file:
        line = file.read(_FIRST_LINE).splitlines()[:1]
    return bool(line) and PATH in _columns(line[0].decode("utf-8-sig", "replace"))[0]


def read_table(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file whose first line has the names of its columns, one of them `path`.

    Commas, semicolons or tabs separate the columns. Quotes, a byte order mark and both kinds of line ends are understood. The
    folders in a path may be separated by backslashes.

    Yields:
        The number of a line, and its values by the column's name in lower case. Blank lines are left out.

    Raises:
        UserError: the file is missing, is not text, or has no column `path`, or a line has no path.
    """
    if not fs.exists(path) or fs.is_directory(path):
        raise UserError(f"There is no CSV file at {path}. Check the path.")
    with fs.open_file(path, "rb") as file:
        data = file.read()
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Convert it.") from None
    first, skipped = text.readline(), 0
    while first and (not first.strip() or first.strip().lower().startswith("sep=")):  # Excel's note on what separates columns
        first, skipped = text.readline(), skipped + 1
    columns, delimiter = _columns(first)
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{path} has several columns named {repeated[0]!r}. Rename all but one.")
    if PATH not in columns:
        found = ", ".join(columns) or "an empty first line"
        raise UserError(
            f"{path} has no column path, only {found}. Name the columns in its first line: path,label or path,label,split."
        )
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        for values in rows:
            line, row = rows.line_num + 1 + skipped, dict.fromkeys(columns, "")
            if len(values) > len(columns):
                count = f"{len(values)} values for {len(columns)} columns"
                raise UserError(f"Line {line} of {path} has {count}. Put a value that has a {delimiter!r} in quotes.")
            row |= zip(columns, (value.strip() for value in values), strict=False)
            if any(row.values()):
                if not row[PATH]:
                    raise UserError(f"Line {line} of {path} has no path. Complete or remove it.")
                yield line, {**row, PATH: row[PATH].replace("\\", "/")}
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}. Correct it.") from None


def _columns(line: str) -> tuple[list[str], str]:
    """The names of the columns in lower case, and what separates them."""
    for delimiter in ",;\t":
        try:
            columns = [name.strip().lower() for name in next(csv.reader([line.strip()], delimiter=delimiter), [])]
        except csv.Error:  # it is no table
            columns = []
        if PATH in columns:
            return columns, delimiter
    return [name.strip().lower() for name in line[:200].split(",")], ","
