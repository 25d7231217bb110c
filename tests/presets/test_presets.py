"""Presets: saved, found by name, folder and hub, checked before they are read, and used by every mode that takes --init."""

import hashlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
from commands import refused, succeed

import pf_keras
from pf_keras.errors import UserError
from pf_keras.presets import places
from pf_keras.presets.folder import FILES


@pytest.fixture(scope="module")
def preset(pretrained, tmp_path_factory):
    """The preset of a small pre-training."""
    return pf_keras.save_preset(pretrained.workdir, tmp_path_factory.mktemp("presets") / "tiny", {"finetune.epochs": 2})


@pytest.fixture(scope="module")
def classifying(finetuned, tmp_path_factory):
    """The preset of a fine-tuning."""
    return pf_keras.save_preset(finetuned.workdir, tmp_path_factory.mktemp("presets") / "answers")


@pytest.fixture
def shipped(preset, monkeypatch, tmp_path):
    """The preset as if it shipped with the package, under the name `tiny`."""
    folder = tmp_path / "shipped" / "tiny"
    shutil.copytree(preset, folder)
    monkeypatch.setattr(places, "_SHIPPED", folder.parent)
    return "tiny"


@pytest.fixture
def copy(preset, tmp_path):
    """A copy of the preset, to be damaged."""
    return shutil.copytree(preset, tmp_path / "copy")


def change(folder, **values):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | values))


def same_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_a_preset_has_the_weights_of_its_run(preset, pretrained, classifying, finetuned):
    assert sorted(os.listdir(preset)) == sorted(FILES)
    assert same_weights(pf_keras.load(preset), pf_keras.load(pretrained.workdir))
    assert same_weights(pf_keras.load(classifying), pf_keras.load(finetuned.workdir))
    assert json.loads(open(f"{classifying}/config.json").read())["classes"] == [str(digit) for digit in range(10)]


def test_the_config_of_a_preset_names_no_place_of_the_machine_that_made_it(preset, pretrained):
    config = json.loads(open(f"{preset}/config.json").read())["config"]
    assert config["data"]["source"] == "" and config["run"]["log_every"] == 50 and config["finetune"]["epochs"] == 2
    for name in ("config.json", "README.md"):
        assert os.fspath(pretrained.workdir) not in open(f"{preset}/{name}").read()


def test_the_average_of_the_weights_is_saved(tmp_path, pretrained):
    flags = ("--config.pretrain.ema=0.9", "--config.pretrain.steps=4", "--config.run.log_every=2")
    succeed("--mode=pretrain", f"--workdir={tmp_path}/run", f"--init={pretrained.workdir}", *flags)
    folder = pf_keras.save_preset(tmp_path / "run", tmp_path / "preset")
    assert same_weights(pf_keras.load(folder), pf_keras.load(tmp_path / "run"))


def test_saving_overwrites_nothing_and_cannot_change_the_model(preset, pretrained, tmp_path):
    with pytest.raises(UserError, match="is not empty"):
        pf_keras.save_preset(pretrained.workdir, preset)
    with pytest.raises(UserError, match="model.depth"):
        pf_keras.save_preset(pretrained.workdir, tmp_path / "new", {"model.depth": 2})
    assert not (tmp_path / "new").exists()


def test_a_preset_can_be_saved_again(preset, tmp_path):
    again = pf_keras.save_preset(preset, tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == open(f"{preset}/README.md").read()
    assert same_weights(pf_keras.load(again), pf_keras.load(preset))


def test_a_shipped_preset_goes_by_its_name_wherever_the_command_runs(shipped, tmp_path, monkeypatch, preset):
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert same_weights(pf_keras.load("tiny"), pf_keras.load(preset))
    with pytest.raises(UserError, match="no run in ./tiny"):
        pf_keras.load("./tiny")


def test_an_unknown_name_is_refused_with_the_known_ones(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no preset and no workdir tinny. The presets are: tiny"):
        pf_keras.load("tinny")
    assert "tiny" in refused("--mode=finetune", "--init=tinny", "--workdir=run")


def damage(name, content):
    def do(folder):
        (folder / name).write_bytes(content((folder / name).read_bytes()))

    return do


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage("model.weights.h5", lambda data: data[:-100]), "bytes, not"),
        (damage("model.weights.h5", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]), "another checksum"),
        (damage("model.weights.h5", lambda data: b""), "has 0 bytes"),
        (damage("config.json", lambda data: data[:100]), "is damaged"),
        (damage("config.json", lambda data: b"[]"), "is not the config"),
        (lambda folder: (folder / "model.weights.h5").unlink(), "has no model.weights.h5"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: change(folder, preset=2), "format 2.*Update pf_keras"),
        (lambda folder: change(folder, preset="one"), "preset is 'one'"),
        (lambda folder: change(folder, weights=None), "weights is None"),
        (lambda folder: change(folder, weights={}), "bytes, not None"),
        (lambda folder: change(folder, step="many"), "step is 'many'"),
        (lambda folder: change(folder, config=[]), "Use an object of sections"),
    ],
)
def test_a_damaged_preset_is_refused_in_one_line(copy, harm, said, tmp_path):
    harm(copy)
    with pytest.raises(UserError, match=said) as caught:
        pf_keras.load(copy)
    assert "\n" not in str(caught.value)
    refused("--mode=finetune", f"--init={copy}", f"--workdir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused_though_their_digest_is_right(copy, classifying):
    data = open(f"{classifying}/model.weights.h5", "rb").read()
    (copy / "model.weights.h5").write_bytes(data)
    change(copy, weights={"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(UserError, match="does not fit the model"):
        pf_keras.load(copy)


def test_every_mode_starts_from_a_preset(shipped, classifying, tmp_path, finetuned):
    tuned = succeed("--mode=finetune", "--init=tiny", "--data=digits", "--label_fraction=0.1", f"--workdir={tmp_path}/tuned")
    assert tuned["init"] == "tiny" and tuned["init_step"] == 20
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["config"]["finetune"]["epochs"] == 2  # the preset's
    more = ("--config.pretrain.steps=4", "--config.run.log_every=2")
    assert succeed("--mode=pretrain", "--init=tiny", "--data=digits", f"--workdir={tmp_path}/more", *more)["init"] == "tiny"
    data, grid = "--data=digits", ("--config.sweep.batches=(8,)", "--config.sweep.learning_rates=(1e-3,)", "--seeds=0")
    succeed("--mode=sweep", "--init=tiny", data, "--label_fraction=0.05", *grid, f"--workdir={tmp_path}/sweep")
    assert json.loads((tmp_path / "sweep" / "config.json").read_text())["init_sha256"]
    assert succeed("--mode=embed", "--init=tiny", data, f"--workdir={tmp_path}/embed")["width"] == 16
    probed = succeed("--mode=evaluate", "--init=tiny", data, f"--workdir={tmp_path}/probes")
    assert "pretrained_linear_1" in probed
    drawn = succeed("--mode=reconstruct", "--init=tiny", data, f"--workdir={tmp_path}/drawn")
    assert os.path.exists(drawn["figure"])
    answered = succeed("--mode=predict", f"--init={classifying}", data, f"--workdir={tmp_path}/answers")
    scored = succeed("--mode=evaluate", f"--init={classifying}", data, f"--workdir={tmp_path}/scores")
    assert [answered["top1"], scored["top1"]] == pytest.approx(2 * [finetuned.result["top1"]])


def test_a_preset_has_no_data_of_its_own(shipped, tmp_path):
    for mode in ("finetune", "pretrain", "evaluate", "reconstruct", "embed"):
        assert "--data is missing" in refused(f"--mode={mode}", "--init=tiny", f"--workdir={tmp_path}/{mode}")


def test_a_run_resumes_only_from_the_same_weights(copy, tmp_path):
    flags = ("--mode=finetune", f"--init={copy}", "--data=digits", "--label_fraction=0.1", f"--workdir={tmp_path}/run")
    succeed(*flags)
    succeed(*flags)
    model = pf_keras.load(copy)
    model.set_weights([1.5 * value for value in model.get_weights()])
    model.save_weights(copy / "model.weights.h5")
    data = (copy / "model.weights.h5").read_bytes()
    change(copy, weights={"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    assert "init_sha256" in refused(*flags)


@pytest.fixture
def hub(preset, tmp_path, monkeypatch):
    """A cache of huggingface_hub, as a download leaves it, that has one repository. There is no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name in FILES:
        data = open(f"{preset}/{name}", "rb").read()
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return commit


def test_a_preset_of_a_hub_is_read_from_the_cache(hub, preset, tmp_path):
    for place in ("hf://someone/tiny", "hf://someone/tiny@main", f"hf://someone/tiny@{hub}"):
        assert same_weights(pf_keras.load(place), pf_keras.load(preset))
    flags = ("--mode=finetune", "--init=hf://someone/tiny", "--data=digits", "--label_fraction=0.1")
    assert succeed(*flags, f"--workdir={tmp_path}/run")["init_step"] == 20


@pytest.mark.parametrize("place", ["hf://someone/other", "hf://someone/tiny@other", "hf://someone", "hf://a/b/c", "hf://a b/c"])
def test_what_a_hub_does_not_have_is_refused_in_one_line(hub, place, tmp_path):
    assert place in refused("--mode=finetune", f"--init={place}", "--data=digits", f"--workdir={tmp_path}/run")


def test_a_missing_huggingface_hub_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "pf-keras\[hub\]"'):
        pf_keras.load("hf://someone/tiny")


def test_commands_run_from_python(shipped, tmp_path, capsys):
    settings = {"finetune.epochs": 1, "finetune.batch": 8}
    result = pf_keras.run(
        "finetune", workdir=f"{tmp_path}/run", init="tiny", data="digits", label_fraction=0.1, settings=settings
    )
    assert result == json.loads((tmp_path / "run" / "result.json").read_text()) and not capsys.readouterr().out
    probed = pf_keras.run("evaluate", workdir=f"{tmp_path}/probes", init="tiny", data="digits", label_fraction=[0.1, 0.5])
    assert {"pretrained_linear_0.1", "pretrained_linear_0.5"} <= set(probed)
    for wrong in ({"mode": "train"}, {"mode": "finetune", "colour": "red"}, {"mode": "finetune", "settings": {"a.b": 1}}):
        with pytest.raises(UserError):
            pf_keras.run(**wrong)
