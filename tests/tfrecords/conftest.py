"""Small synthetic datasets in the usual layouts, and the commands as a user types them."""

import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

WNIDS = ["n01440764", "n01443537", "n02097209", "n03445777"]


def image_bytes(seed, size=(40, 30), mode="RGB", format="JPEG", **options):
    """An image file of noise."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.Random(seed).randbytes(size[0] * size[1] * channels)
    out = io.BytesIO()
    Image.frombytes(mode, size, pixels).save(out, format, **options)
    return out.getvalue()


def tar_bytes(files):
    """A tar of `{name: bytes}`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class ImageNet:
    """A tiny ILSVRC2012: 5 training images a class, and 8 validation images with gaps in their numbers."""

    def __init__(self):
        self.train = {w: {f"{w}_{i}.JPEG": image_bytes(f"{w}{i}") for i in range(5)} for w in WNIDS}
        self.truth = [WNIDS[(i * 7 + i // 3) % 4] for i in range(30)]
        numbers = [1, 2, 5, 9, 13, 20, 28, 30]
        self.validation = {f"ILSVRC2012_val_{n:08d}.JPEG": image_bytes(f"val{n}") for n in numbers}
        self.expected = {("train", name): (data, w) for w, files in self.train.items() for name, data in files.items()}
        for n, (name, data) in zip(numbers, self.validation.items(), strict=True):
            self.expected["validation", name] = (data, self.truth[n - 1])

    def write_archives(self, directory, labels=True):
        directory.mkdir(parents=True, exist_ok=True)
        inner = {f"{wnid}.tar": tar_bytes(files) for wnid, files in self.train.items()}
        (directory / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
        (directory / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(self.validation))
        if labels:
            (directory / "labels").mkdir()
            path = directory / "labels" / "imagenet_2012_validation_synset_labels.txt"
            path.write_text("\n".join(self.truth) + "\n")
        return directory

    def write_folders(self, directory):
        for wnid, files in self.train.items():
            for name, data in files.items():
                write(directory / "train" / wnid / name, data)
        for name, data in self.validation.items():
            write(directory / "val" / name, data)
        write(directory / "labels/imagenet_2012_validation_synset_labels.txt", "\n".join(self.truth).encode())
        return directory


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def command(module, *arguments, python=sys.executable):
    """Run `python -m tfrecords.<module>` in the repository root."""
    line = [python, "-m", f"tfrecords.{module}", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def build(*arguments):
    """Run a build that must succeed."""
    done = command("build", *arguments, "--processes=2")
    assert done.returncode == 0, done.stderr
    return done


def fails(done, *words):
    """Check for exit code 2, no traceback, and a last line `error: ...` that has these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr
    for word in words:
        assert word in last, last


def hashes(directory):
    """The sha256 of every file below a directory, hidden ones too, by relative path."""
    files = (Path(folder) / name for folder, _, names in os.walk(directory) for name in names)
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def records_of(directory, split):
    """All records of a split in order, as `{key: value}`, read by TensorFlow."""
    import tensorflow as tf

    paths = sorted(str(path) for path in Path(directory).glob(f"{split}-*"))
    found = []
    for serialized in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        features = tf.train.Example.FromString(serialized).features.feature
        found.append({key: getattr(f, f.WhichOneof("kind")).value[0] for key, f in features.items()})
    return found


@pytest.fixture(scope="session")
def helpers():
    """The functions above, because test modules cannot import conftest.py."""
    from types import SimpleNamespace

    return SimpleNamespace(
        image=image_bytes,
        tar=tar_bytes,
        write=write,
        command=command,
        build=build,
        fails=fails,
        hashes=hashes,
        records=records_of,
        root=ROOT,
        wnids=WNIDS,
    )


@pytest.fixture(scope="session")
def imagenet():
    return ImageNet()


@pytest.fixture(scope="session")
def archives(imagenet, tmp_path_factory):
    """The directory of an ImageNet download. Tests must not change it."""
    return imagenet.write_archives(tmp_path_factory.mktemp("download"))


@pytest.fixture(scope="session")
def built(archives, tmp_path_factory):
    """The download as 3 training and 2 validation shards. Tests must not change them."""
    output = tmp_path_factory.mktemp("built") / "out"
    build("--source=imagenet", f"--input={archives}", f"--output={output}", "--train_shards=3", "--validation_shards=2")
    return output
