"""Lists the image files below a folder. `folder:` and `tfrecords.build` list with this code, locally and on URLs.

A file with an image's suffix is listed, and checked when it is read. A file with another suffix or none is listed if it begins
like an image. The listing skips other files, and what systems and programs leave in folders, and counts them by kind.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pf_keras import filesystem as fs
from pf_keras.data.reader import READS, identify
from pf_keras.errors import UserError

_IMAGES = frozenset("jpg jpeg jpe jfif png apng gif bmp dib webp tif tiff ppm pgm pbm pnm heic heif hif avif".split())
_HEAD = 512  # bytes of a file that tell whether it is an image
_NEVER_IMAGES = frozenset(
    # texts and tables, programs, archives and arrays, documents, sound and video, catalogues, half-finished downloads; last:
    # raw files of cameras and layered files, which nothing here can read
    "txt csv tsv json jsonl xml yaml yml toml md rst log htm html css js ini cfg sh bat py pyc ipynb m c h cpp exe dll lnk url "
    "zip tar gz tgz bz2 xz 7z rar npy npz mat pkl pt pth h5 hdf5 parquet arrow tfrecord tfrecords sqlite db "
    "pdf doc docx xls xlsx ppt pptx odt mp3 wav m4a mp4 mov avi mkv m4v webm 3gp mts "
    "xmp aae thm lrcat lrprev modd moff nfo sha1 sha256 md5 part crdownload tmp bak "
    "dng cr2 cr3 nef arw raf orf rw2 psd xcf ai svg eps".split()
)
_NEVER_IMAGE_NAMES = frozenset("readme license licence copying authors changelog makefile".split())
_SYSTEM_FOLDERS = frozenset(
    "@eadir #recycle @recycle $recycle.bin lost+found #snapshot __macosx".split() + ["system volume information"]
)
# What tells a workdir: the commands that worked there, or the config and the pictures of a run.
_COMMANDS, _RUN = "commands.jsonl", {"config.json", "figures"}
_OF_WORKDIRS = {_COMMANDS, *_RUN}
HIDDEN, WORKDIR, LISTED_ALREADY, IRREGULAR = "hidden", "workdirs of runs", "folders listed already", "not regular files"


@dataclass
class Listing:
    """What is below a folder besides its images.

    Args:
        skipped: how many entries were skipped, by kind, such as `{".txt": 3, "hidden": 1}`. A skipped folder counts once.
        folders: the names of the folders directly in the folder, sorted, without those that are skipped.
        workdirs: the paths of the workdirs of runs that were skipped.
        listed_already: the paths of links to folders that were listed already.
    """

    skipped: Counter = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    workdirs: list[str] = field(default_factory=list)
    listed_already: list[str] = field(default_factory=list)


def describe_skipped(skipped: Counter) -> str:
    """What was skipped as a part of a sentence, such as "3 .txt, 1 hidden"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items(), key=lambda item: (-item[1], item[0])))


def walk(root: str, listing: Listing) -> Iterator[tuple[str, int | None]]:
    """Go through the files below `root` that may be images. Keeps none of them in memory.

    A folder's own files come first, then its folders, both sorted by name. Links to folders come last, because what they
    lead to may be below `root` under its own name; every folder is read once.

    Args:
        root: a folder, or a URL.
        listing: receives what else is there.

    Yields:
        `(path, bytes)`. The size is None for what is not a regular file: reading a pipe would wait forever.
    """
    seen, links = set(), []

    def visit(folder):
        if not fs.is_remote(folder):
            status = _stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                listing.skipped[LISTED_ALREADY] += 1
                listing.listed_already.append(folder)
                return
            seen.add((status.st_dev, status.st_ino))
        skipped = Counter()
        files, folders, is_workdir = scan(folder, skipped)
        if folder == root:
            listing.folders = [name for name, _ in folders]
        elif is_workdir:  # its figures are no photographs
            listing.skipped[WORKDIR] += 1
            listing.workdirs.append(folder)
            return
        listing.skipped.update(skipped)
        prefix = fs.join(folder, "")
        for name, size in files:
            yield prefix + name, size
        del files  # a folder may have a million
        for name, is_link in folders:
            if is_link:
                links.append(prefix + name)
            else:
                yield from visit(prefix + name)

    yield from visit(root)
    while links:
        yield from visit(links.pop(0))


def scan(folder: str, skipped: Counter) -> tuple[list[tuple[str, int | None]], list[tuple[str, bool]], bool]:
    """One folder alone.

    Args:
        folder: a path or a URL.
        skipped: receives what is skipped.

    Returns:
        `(name, bytes)` of the files, `(name, whether it is a link)` of the folders, both sorted, and whether the folder is the
        workdir of a run.

    Raises:
        UserError: the folder cannot be entered.
    """
    files, folders, names = [], [], set()
    try:
        for name, is_folder, is_link, size in _entries(folder):
            if name in _OF_WORKDIRS:
                names.add(name)
            kind = _kind_to_skip(name, is_folder)
            if kind:
                skipped[kind] += 1
            elif is_folder:
                folders.append((name, is_link))
            elif kind := _kind_by_content(folder, name, size):
                skipped[kind] += 1
            else:
                files.append((name, size))
    except OSError as error:
        raise _no_entry(folder, error) from error
    is_workdir = _COMMANDS in names or _RUN <= names
    return sorted(files, key=lambda file: file[0]), sorted(folders), is_workdir


def _entries(folder: str) -> Iterator[tuple[str, bool, bool, int | None]]:
    """Yield `(name, is_folder, is_link, bytes)`. The size is None for what is not a regular file."""
    if fs.is_remote(folder):
        yield from ((name, is_folder, False, size) for name, is_folder, size in fs.entries(folder))
        return
    with os.scandir(folder) as found:
        for entry in found:
            try:
                is_folder = entry.is_dir()
                size = entry.stat().st_size if not is_folder and entry.is_file() else None
            except OSError:  # a circle of links, or a file that has just been removed
                is_folder, size = False, None
            yield entry.name, is_folder, is_folder and entry.is_symlink(), size


def _kind_to_skip(name: str, is_folder: bool) -> str:
    """The kind of an entry that is skipped, or an empty string."""
    lower = name.lower()
    if is_folder:
        if lower in _SYSTEM_FOLDERS:
            return name
        if lower.endswith(".lrdata"):  # the thumbnails of Lightroom
            return ".lrdata"
        return HIDDEN if name.startswith(".") else ""
    if name.startswith("."):
        return HIDDEN
    stem, dot, suffix = lower.rpartition(".")
    if not dot:
        return name if lower in _NEVER_IMAGE_NAMES else ""
    return f".{suffix}" if suffix in _NEVER_IMAGES else ""


def _kind_by_content(folder: str, name: str, size: int | None) -> str:
    """The kind of a file that has no image's suffix and no image's content, or an empty string."""
    _, dot, suffix = name.lower().rpartition(".")
    if (dot and suffix in _IMAGES) or size is None:
        return ""
    path = fs.join(folder, name)
    try:
        with fs.open_file(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, UserError):  # found and named when it is read
        return ""
    return "" if identify(head) in READS else f".{suffix}" if dot else "without a suffix"


def _stat(folder: str) -> os.stat_result:
    try:
        return os.stat(folder)
    except OSError as error:
        raise _no_entry(folder, error) from error


def _no_entry(folder: str, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(f"The folder {as_text(folder)} cannot be read: {reason}. Change its permissions, or move it away.")


def as_text(name: str) -> str:
    """A file name, which may be any bytes, as text that can be printed."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
