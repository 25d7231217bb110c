"""The installable package: what it exports, what it depends on, what importing it costs."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pf_keras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines):
    parsed = (Requirement(line.split("#")[0].strip()) for line in lines if re.match(r"\w", line))
    return {(canonicalize_name(r.name), str(r.marker or "")): r for r in parsed}


def test_requirements_txt_agrees_with_the_package():
    pinned = requirements((ROOT / "requirements.txt").read_text().splitlines())
    ranges = requirements(PROJECT["dependencies"])
    assert pinned.keys() == ranges.keys()
    for key, requirement in pinned.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==" and ranges[key].specifier.contains(pin.version), requirement


def test_requirements_tpu_txt_has_what_requirements_txt_has():
    """A TPU VM has another TensorFlow and what that needs, and the rest in the same versions."""
    usual, tpu = (
        {name: str(r.specifier) for (name, _), r in requirements((ROOT / file).read_text().splitlines()).items()}
        for file in ("requirements.txt", "requirements-tpu.txt")
    )
    del usual["tensorflow-cpu"], usual["tensorflow"], usual["tensorboard"]
    assert {name: tpu.get(name) for name in usual} == usual
    assert tpu.keys() - usual.keys() == {
        "tensorflow-tpu", "libtpu", "tensorboard", "numpy", "protobuf", "tensorflow-metadata",
    }  # fmt: skip
    assert tpu["tensorflow-tpu"].rpartition(".")[0] == tpu["tensorboard"].rpartition(".")[0] == "==2.19"


def test_requirements_gpu_txt_has_what_requirements_txt_has():
    """The same versions, with the builds of TensorFlow and JAX for GPUs, and no second TensorFlow."""
    usual, gpu = (requirements((ROOT / file).read_text().splitlines()) for file in ("requirements.txt", "requirements-gpu.txt"))
    cpu = ("tensorflow-cpu", "tensorflow")
    tensorflow = {str(requirement.specifier) for (name, _), requirement in usual.items() if name in cpu}
    assert {name: str(r.specifier) for (name, _), r in gpu.items() if name != "tensorflow"} == {
        name: str(r.specifier) for (name, _), r in usual.items() if name not in cpu
    }
    assert {str(gpu["tensorflow", ""].specifier)} == tensorflow and not gpu["tensorflow", ""].marker
    assert (gpu["tensorflow", ""].extras, gpu["jax", ""].extras) == ({"and-cuda"}, {"cuda12"})


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("requirements-gpu.txt", "gpu"),
        ("requirements-dev.txt", "dev"),
        ("requirements-dev.txt", "docs"),
        ("requirements-beam.txt", "beam"),
    ],
)
def test_the_other_requirements_files_agree_with_the_extras(file, extra):
    lines = (ROOT / file).read_text().splitlines()
    included = [(ROOT / line.split()[1]).read_text().splitlines() for line in lines if line.startswith("-r ")]
    pinned = requirements(sum(included, lines))
    for key, wanted in requirements(PROJECT["optional-dependencies"][extra]).items():
        (pin,) = pinned[key].specifier
        assert wanted.specifier.contains(pin.version), (file, pin)


def test_the_extras_are_there():
    assert {"gpu", "tpu", "beam", "mlflow", "wandb", "heif", "hub", "docs", "dev"} == set(PROJECT["optional-dependencies"])


def test_the_version_is_defined_once():
    assert PROJECT["dynamic"] == ["version"]
    texts = [path.read_text() for path in (ROOT / "CITATION.cff", ROOT / "pyproject.toml", *(ROOT / "pf_keras").rglob("*.py"))]
    assert sum(text.count(pf_keras.__version__) for text in texts) == 1


def test_everything_public_is_importable():
    for name in pf_keras.__all__:
        assert getattr(pf_keras, name) is not None
    assert set(pf_keras.__all__) <= set(dir(pf_keras))
    with pytest.raises(AttributeError, match="no attribute 'lyers'"):
        pf_keras.lyers  # noqa: B018


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_importing_the_package_is_light():
    done = python("import sys, pf_keras, pf_keras.cli; print({'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stdout + done.stderr


REGISTERED = """
for name in ("Backbone", "AdamW", "Pretrainer", "Bottleneck"):
    assert keras.saving.get_registered_object(f"pf_keras>{name}"), name
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import keras, pf_keras",
        "import pf_keras, keras",
        "import pf_keras.patches.masking; import keras",
        "import pf_keras.layers.resnet; import keras",
        "import pf_keras.models.decoder; import keras",
        "import pf_keras.training.optimizer; import keras",
        "import pf_keras.training.learning_rate; import keras",
        "from pf_keras import load; import keras",
    ],
)
def test_importing_the_package_registers_the_layers_in_any_order(imports):
    done = python(imports + REGISTERED, KERAS_BACKEND="jax")  # the backend that imports faster
    assert done.returncode == 0, done.stderr


EACH_MODULE = """
import multiprocessing, sys
import h5py, jax, pyarrow, scipy  # once, because they take long; none of them imports Keras
assert not {"keras", "pf_keras"} & set(sys.modules)

def import_it(name):
    import importlib, traceback
    try:
        importlib.import_module(name)
    except BaseException:
        return name + ": " + traceback.format_exc()[-500:]

with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
    failed = list(filter(None, pool.imap(import_it, sys.argv[1:], chunksize=1)))
sys.exit("\\n".join(failed) or 0)
"""


@pytest.mark.slow
def test_each_module_can_be_imported_first():
    """Importing Keras registers the layers, which must not need a module that is half imported."""
    files = sorted((ROOT / "pf_keras").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert "pf_keras.training.learning_rate" in names and len(names) > 90
    done = subprocess.run([sys.executable, "-c", EACH_MODULE, *names], cwd=ROOT, capture_output=True, text=True, timeout=1200,
                          env={**os.environ, "KERAS_BACKEND": "jax"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_the_wheel_works_away_from_the_checkout(tmp_path):
    """The wheel alone, beside the dependencies of this environment."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("pf_keras/", "tfrecords/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("pf_keras-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    here = next(path for path in sys.path if path.endswith("site-packages"))
    target = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    subprocess.run([*pip, "--python", str(tmp_path / "env" / "bin" / "python"), "install", "--no-deps", str(wheel)], check=True)
    (target / "dependencies.pth").write_text(here + "\n")
    command = tmp_path / "env" / "bin" / "pf-keras"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TF_CPP"))}

    def run(*arguments):
        return subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)

    done = run(command, "--mode=pretrain", "--config=digits", "--config.pretrain.steps=20", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()
    assert run(command, "--help").returncode == 0
    where = run(tmp_path / "env" / "bin" / "python", "-c", "import pf_keras, pf_keras.cli; print(pf_keras.__file__)")
    assert str(tmp_path / "env") in where.stdout, where.stderr
    shards = run(tmp_path / "env" / "bin" / "python", "-m", "tfrecords.build", "--help")
    assert shards.returncode == 0, shards.stderr
