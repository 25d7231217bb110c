"""Pages of HTML that need no other file, no script and no network, and the blocks that a report consists of."""

import base64
import io
import re
from collections.abc import Sequence

from etils import epath

from pf_keras import __version__

WIDEST, TALLEST = 1100, 2200  # pixels of a picture in a page
SMALL = 60_000  # bytes of a PNG that is kept as it is
_NUMBER = re.compile(r"[-+−]?[\d.,]+(e-?\d+)?%?( ± [\d.]+%)?|–")


def render(template: str, **values: object) -> str:
    """Fill in a template of `pf_keras/templates`. All values are shown as text, whatever HTML they contain."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pf_keras"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(version=__version__, **values)
    return page.encode(errors="backslashreplace").decode()  # file names may have bytes that are no text


def text(*sentences: str) -> dict:
    """A paragraph."""
    return {"kind": "text", "text": " ".join(sentences)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]], most: int | None = None, more: str = "") -> dict:
    """A table. Columns of numbers are aligned on the right.

    Args:
        head: the names of the columns, empty for a table without a head.
        rows: the cells, shown by `value_text`.
        most: how many rows are shown.
        more: where all rows are, for the line that says how many are left out.
    """
    shown = [[value_text(cell) for cell in row] for row in rows[:most]]
    numbers = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*shown, strict=True)]
    left_out = f"{len(rows) - len(shown)} more are in {more}." if len(rows) > len(shown) else ""
    return {"kind": "table", "head": head, "rows": shown, "numbers": numbers, "left_out": left_out}


def folded(summary: str, *blocks: dict) -> dict:
    """Blocks that are shown when the reader opens them."""
    return {"kind": "folded", "summary": summary, "blocks": blocks}


def code(text: str) -> dict:
    """Text as it is, line by line."""
    return {"kind": "code", "text": text}


def value_text(value: object) -> str:
    """A value of a config or a result as text."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    return str(value)


def percent(fraction: float, spread: float | None = None) -> str:
    """A fraction in percent, with its standard deviation where there is one."""
    return f"{fraction:.1%}" if spread is None else f"{fraction:.1%} ± {spread:.1%}"


def duration(seconds: float) -> str:
    """A duration in words."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def data_url(content: bytes, kind: str) -> str:
    """The content of a picture as an address. `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def picture_url(file: epath.Path) -> tuple[str, int]:
    """A picture as an address, scaled down and compressed so that it suits a page, and its width in pixels.

    Raises:
        OSError: it cannot be read.
    """
    from PIL import Image

    content = file.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        if picture.format == "PNG" and len(content) <= SMALL and picture.width <= WIDEST:
            picture.load()  # a damaged file fails here, and not in the browser
            return data_url(content, "png"), picture.width
        picture = picture.convert("RGBA")
        picture.thumbnail((WIDEST, TALLEST))
        page = Image.new("RGB", picture.size, "white")
        page.paste(picture, mask=picture)
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=82)
    return data_url(buffer.getvalue(), "jpeg"), page.width
