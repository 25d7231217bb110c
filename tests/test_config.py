import dataclasses
import json

import pytest
from tiny import tiny_config

from pf_keras.config import Config, FinetuneConfig, MaskConfig, ModelConfig, RunConfig, differing_fields, load_config
from pf_keras.errors import UserError


def test_defaults_are_the_papers_values():
    config = Config()
    assert (config.model.patches, config.model.patch_size, config.masked, config.visible) == (196, 16, 118, 78)
    assert (config.model.depth, config.model.width, config.model.heads, config.model.mlp_ratio) == (10, 1024, 16, 4)
    assert (config.target.size, config.target.bits) == (8, 2)
    pretrain = config.pretrain
    assert (pretrain.steps, pretrain.batch, pretrain.learning_rate) == (300_000, 128, 2e-4)
    assert (pretrain.weight_decay, pretrain.label_smoothing) == (0.001, 0.01)
    assert round(config.finetune.mask_ratio * 196) == 20


def test_dict_and_json_round_trip():
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
    assert Config().model.width == 1024  # an override makes a new config


def test_differing_fields_are_listed_with_both_values():
    changed = Config().override({"model.depth": "3", "data.source": "digits2"})
    assert differing_fields(Config(), changed) == ["model.depth: 10 -> 3", "data.source: digits -> digits2"]
    assert differing_fields(changed, changed) == []


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("modle.width", "64", "The config has no section modle. Did you mean model?"),
        ("model.widht", "64", "The config has no field model.widht. Did you mean width?"),
        ("mask.colour", "64", "The config has no field mask.colour. Use one of ratio, block, decode_fraction."),
        ("model", "64", "--config.model=64 names no field. Write --config.model.FIELD=VALUE."),
        ("model.width", "wide", "model.width is 'wide'. Use a whole number."),
        ("model.width", "1.5", "model.width is 1.5. Use a whole number."),
        ("model.width", "true", "model.width is True. Use a whole number."),
        ("model.width", "0", "model.width is 0. Use a number above 0."),
        ("model.width", "100", "model.width is 100, which is not a multiple of model.heads=16. Change one of the two."),
        ("model.grid", "15", "model.image_size is 224, which is not a multiple of model.grid=15. Change one of the two."),
        ("model.stem", "large", "model.stem is 'large'. Use no_pool, imagenet or cifar."),
        ("model.norm", "layer", "model.norm is 'layer'. Use batch or group."),
        ("model.norm_order", "none", "model.norm_order is 'none'. Use post_norm or pre_norm."),
        ("model.decode_position", "key", "model.decode_position is 'key'. Use query or additive."),
        ("model.stacks", "(3, 4)", "model.stack_widths is (64, 128, 256), but model.stacks is (3, 4). Give each"),
        ("model.stacks", "(3, 4, 0)", "model.stacks is (3, 4, 0). Use whole numbers above 0, such as (3, 4)."),
        ("model.stack_widths", "()", "model.stack_widths is (). Use whole numbers above 0, such as (3, 4)."),
        ("model.stacks", "3", "model.stacks is 3. Use a list, such as (1, 2)."),
        ("model.stacks", "(3, 'four')", "model.stacks is 'four'. Use a whole number."),
        ("mask.ratio", "1", "mask.ratio is 1.0. Use a fraction in (0, 1)."),
        ("mask.ratio", "0.001", "mask.ratio is 0.001, which masks 0 of 196 patches. Leave one masked and one visible."),
        ("mask.block", "14", "mask.block is 14 and model.grid is 14, so every image has the same mask."),
        ("target.size", "17", "target.size is 17, but a patch has 16x16 px. Make it smaller."),
        ("target.bits", "9", "target.bits is 9. Use a whole number from 1 to 8; the paper uses 2."),
        ("target.channels", "2", "target.channels is 2. Use 1 for grey or 3 for colour."),
        ("target.crop", "corner", "target.crop is 'corner'. Use centre_crop or subsample."),
        ("augment.enabled", "maybe", "augment.enabled is 'maybe'. Use true or false."),
        ("augment.jitter_size", "17", "augment.jitter_size is 17, but a patch has 16x16 px. Make it smaller, or 0"),
        ("augment.min_bit_depth", "0", "augment.min_bit_depth is 0. Use a whole number from 1 to 8; 8 turns it off."),
        ("augment.flip_probability", "2", "augment.flip_probability is 2.0. Use a fraction in [0, 1]."),
        ("augment.hue", "-0.1", "augment.hue is -0.1. Use a number of 0 or more; 0 turns it off."),
        ("data.crop_ratio", "(2.0, 1.0)", "data.crop_ratio is (2.0, 1.0). Use two numbers above 0, the lower first"),
        ("data.eval_crop", "0", "data.eval_crop is 0.0. Use a fraction in (0, 1]."),
        ("data.holdout", "1", "data.holdout is 1.0. Use a fraction in (0, 1)."),
        ("pretrain.learning_rate", "nan", "pretrain.learning_rate is 'nan'. Use a number."),
        ("pretrain.learning_rate", "1e999", "pretrain.learning_rate is inf. Use a finite number."),
        ("pretrain.label_smoothing", "1", "pretrain.label_smoothing is 1.0. Use a fraction in [0, 1)."),
        ("pretrain.clip_norm", "-1", "pretrain.clip_norm is -1.0. Use a number of 0 or more; 0 turns it off."),
        ("pretrain.beta_2", "1.0", "pretrain.beta_2 is 1.0. Use a fraction in [0, 1)."),
        ("pretrain.weight_decay", "-0.1", "pretrain.weight_decay is -0.1. Use a number of 0 or more; 0 turns it off."),
        ("pretrain.warmup_steps", "-1", "pretrain.warmup_steps is -1. Use a number of 0 or more; 0 turns it off."),
        ("finetune.head", "mlp", "finetune.head is 'mlp'. Use residual or linear."),
        ("finetune.warmup", "1.0", "finetune.warmup is 1.0. Use a fraction of the steps in [0, 1)."),
        ("finetune.mask_ratio", "0.999", "finetune.mask_ratio is 0.999, which leaves out all 196 patches. Make it smaller."),
        ("finetune.dropout", "20", "finetune.dropout is 20.0. Use a fraction in [0, 1)."),
        ("finetune.layer_decay", "0", "finetune.layer_decay is 0.0. Use a fraction in (0, 1]."),
        ("finetune.crop_scale", "()", "finetune.crop_scale is (). Use two fractions in (0, 1], the lower first"),
        ("finetune.crop_scale", "(1.0, 0.2)", "finetune.crop_scale is (1.0, 0.2). Use two fractions in (0, 1], the lower"),
        ("finetune.clip_norm", "-1", "finetune.clip_norm is -1.0. Use a number of 0 or more; 0 turns it off."),
        ("sweep.batches", "(16, 16)", "sweep.batches is (16, 16). Use one or more numbers above 0, each once."),
        ("sweep.learning_rates", "()", "sweep.learning_rates is (). Use one or more numbers above 0, each once."),
        ("sweep.point_seeds", "-1", "sweep.point_seeds is -1. Use a number above 0, or 0 for all of --seeds."),
        ("run.precision", "float16", "run.precision is 'float16'. Use auto, float32 or mixed_bfloat16."),
        ("run.checkpoint_every", "often", """run.checkpoint_every is 'often'. Use steps, such as "500", or minutes"""),
        ("run.checkpoint_every", "0min", """run.checkpoint_every is '0min'. Use steps, such as "500", or minutes"""),
        ("run.seed", "-1", "run.seed is -1. Use a whole number from 0 to 2147483647."),
    ],
)
def test_invalid_value_is_named_in_one_line(name, text, said):
    with pytest.raises(UserError) as caught:
        Config().override({name: text})
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_subsampled_target_must_divide_the_patch():
    with pytest.raises(UserError, match="target.size is 6, which does not divide the 16 px of a patch"):
        Config().override({"target.crop": "subsample", "target.size": "6"})


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "The config is not JSON: Expecting property name"),
        ("[]", r"The config is \[\]. Use an object of sections"),
        ("3", "The config is 3. Use an object of sections"),
        ('{"model": 3}', "The config section model is 3. Use an object of fields."),
        ('{"model": {"width": "64"}}', "model.width is '64'. Use a whole number."),
    ],
)
def test_invalid_json(text, said):
    with pytest.raises(UserError, match=said):
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
        (lambda: ModelConfig(dropout=1.0), "model.dropout is 1.0"),
        (lambda: MaskConfig(block=0), "mask.block is 0"),
        (lambda: FinetuneConfig(mask_ratio=1.0), "finetune.mask_ratio is 1.0"),
    ],
)
def test_each_section_checks_itself(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.width = 3


@pytest.mark.parametrize(
    "code, said",
    [
        (None, "There is no config .*config.py. Use cifar10, digits, imagenet, imagenette, imagenette64, or the path"),
        ("x = 1", r"config.py does not define `config = Config\(...\)`"),
        ("config = {}", r"config.py does not define `config = Config\(...\)`"),
        ("1 / 0", "config.py fails with ZeroDivisionError: division by zero"),
        ("from pf_keras.config import MaskConfig\nMaskConfig(ratio=2.0)", "mask.ratio is 2.0"),
    ],
)
def test_invalid_config_file(tmp_path, code, said):
    path = tmp_path / "config.py"
    if code is not None:
        path.write_text(code)
    with pytest.raises(UserError, match=said):
        load_config(path)


def test_config_from_a_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from pf_keras.config import Config\nconfig = Config().override({'run.seed': '3'})\n")
    assert load_config(path) == Config().override({"run.seed": "3"})
    assert json.loads(load_config(path).to_json())["run"]["seed"] == 3


def test_shipped_config_by_name():
    assert load_config("cifar10").data.source == "folder:cifar10"
    assert load_config("imagenet") == Config().override({"data.source": "tfrecord:imagenet"})


def test_a_learning_rate_that_is_not_used_is_refused():
    for section in ("pretrain", "finetune"):
        scaled = Config().override({f"{section}.learning_rate_per_256": "0.003"})
        with pytest.raises(UserError, match=f"{section}.learning_rate is set, but {section}.learning_rate_per_256=0.003 takes"):
            scaled.override({f"{section}.learning_rate": "1e-5"})
        again = scaled.override({f"{section}.learning_rate": "1e-5", f"{section}.learning_rate_per_256": "0"})
        assert getattr(again, section).learning_rate == 1e-5
