"""`--mode=inspect`: what a data source holds, before anything is trained on it."""

import io
import itertools
import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from etils import epath
from keras import ops

from pf_keras.commands_log import note_start
from pf_keras.config import Config
from pf_keras.data.corrupt import naming_corrupt_images
from pf_keras.data.duplicates import SplitCopies
from pf_keras.data.pipeline import training_batches
from pf_keras.data.range16 import find_range16
from pf_keras.data.reader import ReadOptions
from pf_keras.data.sources import Source, open_source
from pf_keras.data.survey import Survey, class_counts, survey, thumbnails
from pf_keras.errors import UserError, printable, reading
from pf_keras.figures import draw_crops, draw_patches
from pf_keras.noise import pretrain_noise
from pf_keras.pages import data_url, render
from pf_keras.patches.masking import block_mask
from pf_keras.processes import progress
from pf_keras.request import Request
from pf_keras.training.data_record import refuse_workdir_among_images
from pf_keras.training.identity import RunIdentity, find_run
from pf_keras.training.lock import lock
from pf_keras.training.workdir import Workdir

LIMIT = 20_000  # images of a split that are read; of a larger split, a sample
CROPS, PATCHED = 24, 4  # images in the pictures
CLASSES = 60  # classes that the report lists
FEW = 5  # images of a class below which the report warns
UNEQUAL = 10  # times as many images in the largest class as in the smallest, from which the report warns
SHOWN = 5  # classes that a warning names
FIGURES = ("crops.png", "patches.png")
SIDES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # where the bins of the histogram meet


def run(request: Request) -> dict:
    """Describe the data of `request.config`. Prints a table on standard error, and returns the content of `result.json`.

    Writes `result.json`, `report.html`, `copies.jsonl` and `figures/` in `request.workdir`.

    Raises:
        UserError: the data cannot be opened, or the workdir holds another kind of run.
    """
    config, workdir = request.config, Workdir(request.workdir)
    if (earlier := find_run(workdir)) and earlier.mode != "inspect":
        raise UserError(f"{workdir.path} is the workdir of a --mode={earlier.mode}. Choose another --workdir.")
    source = open_source(config.data)
    refuse_workdir_among_images(workdir, source)
    figures = workdir.folder("figures")  # fails now, not after minutes, where the workdir cannot be written
    lock(workdir.path)
    workdir.write_json(workdir.config_file, RunIdentity("inspect", config).to_dict())
    note_start(workdir)
    if config.data.range16 == "data":
        config = replace(config, data=replace(config.data, range16=find_range16(source.train, config.data.max_pixels)))
    options = ReadOptions.from_config(config.data)
    splits = source.splits()
    with progress(sum(min(split.size, LIMIT) for split in splits.values()), "img", "inspect") as bar:
        surveys = {name: survey(split, options, LIMIT, bar.update) for name, split in splits.items()}

    found = SplitCopies(surveys)
    result = summary(source, config, surveys, found)
    report = workdir.path / "report.html"
    workdir.remove(workdir.result_file, report, workdir.path / "copies.jsonl", *(figures / name for name in FIGURES))
    with naming_corrupt_images(source):
        drawn = draw_sheets(next(iter(surveys.values())), config, figures)
    result["figures"], result["report"] = [str(path) for path in drawn], str(report)
    workdir.write_text(workdir.path / "copies.jsonl", "".join(json.dumps(group) + "\n" for group in found.listed()))
    workdir.write_result(result)
    workdir.write_text(report, report_page(result, config, found, options, drawn))
    print(table(result), file=sys.stderr)
    return result


def summary(source: Source, config: Config, surveys: dict[str, Survey], copies: SplitCopies) -> dict:
    """The content of `result.json`, without its figures."""
    readable = copies.rows
    counts = {name: sum((s.counts[name] for s in surveys.values()), Counter()) for name in next(iter(surveys.values())).counts}
    shorter = np.minimum(readable["width"], readable["height"])
    result = {
        "data": config.data.source,
        "images": sum(s.size for s in surveys.values()),
        "read": sum(len(s.rows) for s in surveys.values()),
        "validation_note": source.validation_note,
        "splits": {
            name: {
                "images": s.size,
                "read": len(s.rows),
                "unlabelled": int((s.labels < 0).sum()),
                "unreadable": sum(kind.count for kind in s.unreadable.values()),
                "exact_copies": copies.repeats(copies.exact, number),
                "near_copies": copies.repeats(copies.near, number) - copies.repeats(copies.exact, number),
                "classes": class_counts(s.labels, source.classes),
            }
            for number, (name, s) in enumerate(surveys.items())
        },
        "exact_copies_across": copies.across(copies.exact),
        "near_copies_across": copies.across(copies.near) - copies.across(copies.exact),
        "exact_copies_with_other_labels": copies.other_labels(copies.exact),
        "unreadable": [
            {
                "split": name,
                "kind": kind,
                "count": found.count,
                "examples": [{"name": image, "reason": reason} for image, reason in found.examples],
            }
            for name, s in surveys.items()
            for kind, found in s.unreadable.items()
        ],
        "damage": [s.damage for s in surveys.values() if s.damage],
        "skipped": _by_count(source.skipped),
        "formats": _by_count(counts["format"]),
        "modes": _by_count(counts["mode"]),
        "bits": _by_count(counts["bits"]),
        "turned": sum(count for orientation, count in counts["orientation"].items() if orientation != 1),
        "orientations": _by_count(counts["orientation"]),
        "alpha": counts["alpha"][True],
        "animated": counts["animated"][True],
        "one_colour": int(readable["flat"].sum()),
        "width": _range(readable["width"]),
        "height": _range(readable["height"]),
        "shorter_side": _range(shorter) | {"histogram": histogram(shorter)},
        "smaller_than_the_model": int((shorter < config.model.image_size).sum()),
    }
    return result | {"findings": findings(result, surveys, source, config)}


def findings(result: dict, surveys: dict[str, Survey], source: Source, config: Config) -> list[str]:
    """What to look at before training, the worst first, one sentence or two each."""
    said, size = list(result["damage"]), config.model.image_size

    def say(count: int, text: str) -> None:
        one, several = {"be": "is", "have": "has", "look": "looks"}, {"be": "are", "have": "have", "look": "look"}
        if count:
            said.append(f"{count:,} image{'' if count == 1 else 's'} {text.format(**(one if count == 1 else several))}")

    def say_classes(names: Sequence[str], text: str) -> None:
        if names:
            listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            said.append(f"{len(names)} {'class has' if len(names) == 1 else 'classes have'} {text}: {listed}.")

    kinds = Counter()
    for unreadable in result["unreadable"]:
        kinds[unreadable["kind"]] += unreadable["count"]
    detail = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
    say(kinds.total(), f"cannot be read: {detail}. Repair or remove them, or leave them out with data.max_bad_fraction.")
    say_classes(source.empty_classes, "a folder without images")
    first, classes = next(iter(surveys.values())), source.classes
    if len(first.rows) == first.size:
        readable = class_counts(first.readable["label"], classes)
        say_classes([name for name in classes if not readable[name]], "no readable training image")
    say(result["exact_copies_across"], "of the validation split {be} also in the training split. Scores will be too good.")
    say(result["near_copies_across"], "of the validation split {look} like training images. Look at them in the report.")
    say(result["exact_copies_with_other_labels"], "{be} in several classes at once, with the same bytes.")
    counts = next(iter(result["splits"].values()))["classes"]
    small = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    say_classes(small, f"fewer than {FEW} training images")
    if not small and counts and max(counts.values()) >= UNEQUAL * min(counts.values()):
        few, many = min(counts, key=counts.get), max(counts, key=counts.get)
        said.append(f"The classes are unequal: {few} has {counts[few]} training images, {many} has {counts[many]}.")
    within = sum(split["exact_copies"] for split in result["splits"].values())
    say(within, "{be} in a split more than once, byte for byte.")
    say(result["one_colour"], "{have} one colour only, from which nothing can be learned.")
    say(result["smaller_than_the_model"], f"{{have}} a side shorter than {size} pixels (model.image_size) and {{be}} enlarged.")
    done = "turned upright" if config.data.exif else "not turned upright"
    if config.data.range16 == "type":
        say(result["bits"].get("16", 0), "{have} 16 bits. If crops are nearly black, set --config.data.range16=data.")
    say(result["turned"], f"{{be}} stored on the side, mirrored or upside down, and {{be}} {done} (data.exif).")
    return said


def histogram(shorter: np.ndarray) -> dict[str, int]:
    """The number of images by their shorter side, as `{"64-127": n}`. Empty bins at both ends are left out."""
    between = [f"{low}-{high - 1}" for low, high in itertools.pairwise(SIDES)]
    names = [f"under {SIDES[0]}", *between, f"from {SIDES[-1]}"]
    counts = np.bincount(np.digitize(shorter, SIDES), minlength=len(names)).tolist()
    filled = np.flatnonzero(counts)
    kept = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0)
    return dict(zip(names[kept], counts[kept], strict=True))


def draw_sheets(found: Survey, config: Config, figures: epath.Path) -> list[epath.Path]:
    """Draw images as a pre-training sees them, and a few as patches with a mask. Returns the paths of the pictures."""
    unreadable = {found.name_of(row) for row in np.flatnonzero(~found.rows["readable"])}
    if found.damage or len(unreadable) == len(found.rows):
        return []
    shown = (found.split.without(unreadable) if unreadable else found.split).sample(CROPS)
    batch = next(training_batches(shown, config, shown.size, pretrain_noise(config)).as_numpy_iterator())
    crops, patches = (figures / name for name in FIGURES)
    draw_crops(batch["image"], crops)
    grid, few = config.model.grid, slice(PATCHED)
    _, hidden = block_mask(ops.convert_to_tensor(batch["mask_noise"][few]), grid, config.mask.block, config.masked)
    masked = np.zeros((len(hidden), grid * grid), bool)
    np.put_along_axis(masked, ops.convert_to_numpy(hidden), True, axis=1)
    draw_patches(batch["image"][few], masked, grid, patches)
    return [crops, patches]


def thumbnails_of(found: SplitCopies, places: Collection[int], options: ReadOptions) -> dict[int, np.ndarray]:
    """The pixels of some images, by their place."""
    pixels = {}
    for name, s in found.surveys.items():
        index = {place: int(found.rows["index"][place]) for place in places if found.places[place][0] == name}
        small = thumbnails(s.split, list(index.values()), options)
        pixels |= {place: small[i] for place, i in index.items()}
    return pixels


def table(result: dict) -> str:
    """The result to read in a terminal."""
    rows = [("split", "images", "classes", "unreadable", "exact copies", "near copies")]
    for name, split in result["splits"].items():
        classes = sum(count > 0 for count in split["classes"].values()) or "no labels"
        rows.append((name, split["images"], classes, split["unreadable"], split["exact_copies"], split["near_copies"]))
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([name.ljust(widths[0]), *(str(value).rjust(width) for value, width in zip(values, widths[1:], strict=True))])
        for name, *values in rows
    ]
    facts = describe_data(result)
    width = max(map(len, facts), default=0)
    lines += ["", *(f"{name:<{width}}  {value}" for name, value in facts.items())]
    highest = max(result["shorter_side"]["histogram"].values(), default=1)
    lines += ["", "shorter side, in pixels"]
    lines += [
        f"  {name:>9}  {'█' * round(30 * count / highest):<30}  {count}"
        for name, count in result["shorter_side"]["histogram"].items()
    ]
    lines += ["", *(f"- {sentence}" for sentence in result["findings"])] if result["findings"] else []
    return "\n".join(map(printable, [result["data"], "", *lines, "", f"report: {result['report']}"]))


def describe_data(result: dict) -> dict[str, str]:
    """Facts about all images together, as text by name."""

    def joined(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())

    classes = next(iter(result["splits"].values()))["classes"]
    width, height, shorter = result["width"], result["height"], result["shorter_side"]
    facts = {
        "validation": result["validation_note"],
        "sample": f"{result['read']:,} of {result['images']:,} images were read; copies and unreadable files are of these"
        if result["read"] < result["images"]
        else "",
        "classes": short_list(classes),
        "formats": joined({name.upper(): count for name, count in result["formats"].items()}),
        "modes": joined(result["modes"]),
        "bits": joined({f"{bits}-bit": count for bits, count in result["bits"].items()}),
        "width": f"{width['min']} to {width['max']}, median {width['median']}" if result["formats"] else "",
        "height": f"{height['min']} to {height['max']}, median {height['median']}" if result["formats"] else "",
        "shorter side": f"{shorter['min']} to {shorter['max']}, median {shorter['median']}" if result["formats"] else "",
        "EXIF orientation": f"{result['turned']:,} not upright" if result["turned"] else "",
        "transparency": f"{result['alpha']:,} with an alpha channel" if result["alpha"] else "",
        "animated": f"{result['animated']:,}, of which the first frame is used" if result["animated"] else "",
        "skipped": joined(result["skipped"]),
    }
    return {name: text for name, text in facts.items() if text}


def short_list(classes: dict[str, int], most: int = 8) -> str:
    """Classes with their numbers of images: `airfield (40), barn (20)`."""
    named = [f"{name} ({count:,})" for name, count in list(classes.items())[:most]]
    return ", ".join(named) + (f" and {len(classes) - most} more" if len(classes) > most else "")


def report_page(result: dict, config: Config, copies: SplitCopies, options: ReadOptions, drawn: Sequence[epath.Path]) -> str:
    """The result as a page of HTML that needs no other file and no network."""

    def picture(array):
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=85)
        return data_url(buffer.getvalue(), "jpeg")

    pairs = copies.pairs()
    pixels = thumbnails_of(copies, {place for _, *pair in pairs for place in pair}, options)
    shown = [
        {"kind": kind, "images": [copies.name(place) | {"picture": picture(pixels[place])} for place in places]}
        for kind, *places in pairs
    ]
    inlined = {}
    for path in drawn:
        with reading(path):
            inlined[path.stem] = data_url(path.read_bytes(), "png")
    names = list(dict.fromkeys(name for split in result["splits"].values() for name in split["classes"]))
    return render(
        "inspect.html",
        result=result,
        facts=describe_data(result),
        classes=names[:CLASSES],
        left_out=len(names) - CLASSES,
        highest=max((count for split in result["splits"].values() for count in split["classes"].values()), default=1) or 1,
        widest=max(result["shorter_side"]["histogram"].values(), default=1),
        pairs=shown,
        pictures=inlined,
        config=config,
    )


def _by_count(counts: Counter) -> dict[str, int]:
    return {str(name): count for name, count in counts.most_common()}


def _range(values: np.ndarray) -> dict[str, int]:
    """The smallest, the median and the largest value. Zeros where there are no values."""
    if not len(values):
        return {"min": 0, "median": 0, "max": 0}
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
