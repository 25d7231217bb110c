"""CSV files that people write: lists of images with their labels. Uses neither TensorFlow nor Keras."""

import csv
import io
from collections.abc import Iterator

from pf_keras import filesystem as fs
from pf_keras.errors import UserError

PATH = "path"


def is_table(path: str) -> bool:
    """Whether the first line of a text file has the column `path`."""
    with fs.open_file(path, "rb") as file:
        line = file.read(1 << 16).split(b"\n")[0].decode("utf-8-sig", "replace")
    return PATH in _columns(line)[0]


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
    columns, delimiter = _columns(text.readline())
    if PATH not in columns:
        raise UserError(
            f"{path} has no column path, only {', '.join(columns)}. Name the columns in its first line: path,label or "
            "path,label,split."
        )
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        for values in rows:
            line, row = rows.line_num + 1, dict.fromkeys(columns, "")
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
        columns = [name.strip().lower() for name in next(csv.reader([line.strip()], delimiter=delimiter), [])]
        if PATH in columns:
            return columns, delimiter
    return [name.strip().lower() for name in line.split(",")], ","
