import dataclasses
import json

import pytest
from tiny import tiny_config

from pf_keras.config import Config, FinetuneConfig, MaskConfig, ModelConfig, RunConfig, differing_fields, load_config
from pf_keras.errors import UserError


def test_defaults_are_the_paper():
    config = Config()
    assert (config.model.patches, config.model.patch_size, config.masked, config.visible) == (196, 16, 118, 78)
    assert (config.model.depth, config.model.width, config.model.heads, config.model.mlp_ratio) == (10, 1024, 16, 4)
    assert (config.target.size, config.target.bits) == (8, 2)
    pretrain = config.pretrain
    assert (pretrain.steps, pretrain.batch, pretrain.learning_rate) == (300_000, 128, 2e-4)
    assert (pretrain.weight_decay, pretrain.label_smoothing) == (0.001, 0.01)
    assert round(config.finetune.mask_ratio * 196) == 20


def test_json_round_trip():
    config = tiny_config({"model.stacks": "(2, 1)", "data.source": "folder:/a b", "augment.per_image": "true"})
    assert Config.from_json(config.to_json()) == config
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict({}) == Config()


def test_override_reads_text_as_the_type_of_the_field():
    values = {
        "model.width": "64",
        "pretrain.learning_rate": "1",
        "model.stacks": "[1, 2]",
        "model.stack_widths": "4, 8",
        "augment.enabled": "False",
        "run.checkpoint_every": "500",
    }
    config = Config().override(values)
    assert (config.model.width, config.model.stacks, config.model.stack_widths) == (64, (1, 2), (4, 8))
    assert config.pretrain.learning_rate == 1.0 and type(config.pretrain.learning_rate) is float
    assert config.augment.enabled is False
    assert config.run.checkpoint_every == "500" and config.run.checkpoint_interval() == (500, None)
    assert Config().model.width == 1024  # a config never changes


def test_differing_fields():
    changed = Config().override({"model.depth": "3", "data.source": "digits2"})
    assert differing_fields(Config(), changed) == ["model.depth: 10 -> 3", "data.source: digits -> digits2"]
    assert differing_fields(changed, changed) == []


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("modle.width", "64", "did you mean model"),
        ("model.widht", "64", "did you mean width"),
        ("model", "64", "received --config.model=64: name a field"),
        ("model.width", "wide", "model.width as int, received 'wide'"),
        ("model.width", "1.5", "model.width as int, received 1.5"),
        ("model.width", "true", "model.width as int, received True"),
        ("model.width", "0", "width above 0, received 0"),
        ("model.width", "100", "a multiple of model.heads=16, received 100"),
        ("model.grid", "15", "a multiple of model.grid=15, received 224"),
        ("model.stem", "large", "no_pool, imagenet, cifar, received 'large'"),
        ("model.norm", "layer", "batch, group"),
        ("model.norm_order", "none", "post_norm, pre_norm"),
        ("model.decode_position", "key", "query, additive"),
        ("model.stacks", "(3, 4)", "as many model.stack_widths"),
        ("model.stacks", "(3, 4, 0)", "above 0"),
        ("model.stacks", "3", "as a list of int"),
        ("mask.ratio", "1", "between 0 and 1"),
        ("mask.ratio", "0.001", "at least one patch"),
        ("mask.block", "14", "below model.grid=14, as one block is one mask for all images, received 14"),
        ("target.size", "17", "at most the patch's 16 px"),
        ("target.bits", "9", "in 1..8"),
        ("target.channels", "2", "of 1 or 3"),
        ("finetune.head", "mlp", "residual, linear"),
        ("finetune.warmup", "1.0", "a share of the steps"),
        ("target.crop", "corner", "centre_crop, subsample"),
        ("augment.jitter_size", "17", "at most the patch's 16 px"),
        ("augment.min_bit_depth", "0", "in 1..8"),
        ("augment.flip_probability", "2", r"in \[0, 1\]"),
        ("augment.hue", "-0.1", "0 or more"),
        ("pretrain.learning_rate", "nan", "learning_rate as float"),
        ("pretrain.label_smoothing", "1", r"in \[0, 1\)"),
        ("finetune.mask_ratio", "0.999", "leaves a patch"),
        ("finetune.dropout", "20", r"finetune.dropout in \[0, 1\)"),
        ("finetune.crop_scale", "()", "finetune.crop_scale as"),
        ("finetune.crop_scale", "(1.0, 0.2)", "finetune.crop_scale as"),
        ("finetune.clip_norm", "-1", "0 is off"),
        ("pretrain.clip_norm", "-1", "pretrain.clip_norm of 0 or more"),
        ("pretrain.beta_2", "1.0", "pretrain.beta_2"),
        ("pretrain.weight_decay", "-0.1", "pretrain.weight_decay"),
        ("run.precision", "float16", "auto, float32, mixed_bfloat16"),
        ("run.checkpoint_every", "often", "steps"),
        ("run.checkpoint_every", "0min", "steps"),
        ("run.seed", "-1", "run.seed"),
    ],
)
def test_bad_value_is_one_line(name, text, said):
    with pytest.raises(UserError, match=said) as caught:
        Config().override({name: text})
    assert "\n" not in str(caught.value) and "received" in str(caught.value)


def test_subsample_has_to_divide_the_patch():
    with pytest.raises(UserError, match="divides the patch's 16 px"):
        Config().override({"target.crop": "subsample", "target.size": "6"})


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"model": 3}', '{"model": {"width": "64"}}'])
def test_bad_json(text):
    with pytest.raises(UserError):
        Config.from_json(text)


@pytest.mark.parametrize(
    "text, interval",
    [("500", (500, None)), ("10min", (None, 600.0)), ("0.5min", (None, 30.0))],
)
def test_checkpoint_interval(text, interval):
    assert RunConfig(checkpoint_every=text).checkpoint_interval() == interval


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: ModelConfig(dropout=1.0), "dropout"),
        (lambda: MaskConfig(block=0), "block"),
        (lambda: FinetuneConfig(mask_ratio=1.0), "mask_ratio"),
    ],
)
def test_sections_check_themselves(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.width = 3


@pytest.mark.parametrize(
    "code, said",
    [
        (None, "does not exist"),
        ("x = 1", r"to define config = Config\(...\), received NoneType"),
        ("config = {}", "received dict"),
        ("1 / 0", "received ZeroDivisionError"),
        ("from pf_keras.config import MaskConfig\nMaskConfig(ratio=2.0)", "mask.ratio"),
    ],
)
def test_bad_config_file(tmp_path, code, said):
    path = tmp_path / "config.py"
    if code is not None:
        path.write_text(code)
    with pytest.raises(UserError, match=said):
        load_config(path)


def test_config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from pf_keras.config import Config\nconfig = Config().override({'run.seed': '3'})\n")
    assert load_config(path) == Config().override({"run.seed": "3"})
    assert json.loads(load_config(path).to_json())["run"]["seed"] == 3
