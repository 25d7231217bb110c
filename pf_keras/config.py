"""The config of a run: frozen dataclasses, their checks, their JSON form, and overrides from the command line.

A config file, such as `pf_keras/configs/digits.py`, is Python code that defines `config = Config(...)`. The defaults are the
paper's values. Where the paper is silent, docs/paper.md explains the choice.
"""

import dataclasses
import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pf_keras.config_values import convert, field_type, parse
from pf_keras.errors import UserError

SHIPPED = Path(__file__).parent / "configs"


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check(section: object, *names: str, valid: Callable[[Any], object], use: str) -> None:
    """Check the named fields of a section, such as a `ModelConfig`. `use` names the valid values in the error message."""
    prefix = type(section).__name__.removesuffix("Config").lower()
    for name in names:
        value = getattr(section, name)
        _require(valid(value), f"{prefix}.{name} is {value!r}. Use {use}.")


def _positive(section: object, *names: str) -> None:
    _check(section, *names, valid=lambda v: v > 0, use="a number above 0")


def _not_negative(section: object, *names: str) -> None:
    _check(section, *names, valid=lambda v: v >= 0, use="a number of 0 or more; 0 turns it off")


def _fraction(section: object, interval: str, *names: str) -> None:
    """Check that fields are in `interval`, which is `[0, 1]`, `[0, 1)`, `(0, 1]` or `(0, 1)`."""

    def valid(value):
        return 0 < value < 1 or (value == 0 and "[" in interval) or (value == 1 and "]" in interval)

    _check(section, *names, valid=valid, use=f"a fraction in {interval}")


def _choice(section: object, name: str, *choices: str) -> None:
    _check(section, name, valid=lambda v: v in choices, use=f"{', '.join(choices[:-1])} or {choices[-1]}")


def _crop_scale(section: object) -> None:
    scale = "two fractions in (0, 1], the lower first, such as (0.2, 1.0)"
    _check(section, "crop_scale", valid=lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, use=scale)


def _optimizer(section: object) -> None:
    """Check the fields that both kinds of training have."""
    _positive(section, "batch", "learning_rate")
    _not_negative(section, "weight_decay", "clip_norm")
    _fraction(section, "[0, 1)", "beta_2", "label_smoothing")


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and the width of the decoder (paper, 2.1)."""

    image_size: int = 224  # pixels on each side of the model's input; a multiple of grid
    grid: int = 14  # patches on each side of an image
    stem: str = "no_pool"  # first convolution of the patch encoder: no_pool, imagenet (with max pool) or cifar (stride 1)
    stem_width: int = 64  # channels of the stem
    stacks: tuple[int, ...] = (3, 4, 6)  # bottleneck blocks in each stack of the patch encoder
    stack_widths: tuple[int, ...] = (64, 128, 256)  # inner channels of each stack's blocks; outer channels are 4 times that
    norm: str = "batch"  # of the convolutions: batch (synchronised over replicas) or group
    width: int = 1024  # D, the width of the transformer; a multiple of heads
    depth: int = 10  # transformer blocks
    heads: int = 16  # attention heads of a block
    mlp_ratio: int = 4  # hidden width of the MLP, in multiples of width
    norm_order: str = "post_norm"  # post_norm, as in BERT, or pre_norm
    dropout: float = 0.0  # in the transformer, in [0, 1); 0 is off
    decode_position: str = "query"  # add a target's position to the pooling query, or (additive) to the pooled vector
    decoder_width: int = 256  # channels of the decoder

    def __post_init__(self):
        _positive(self, "image_size", "grid", "stem_width", "width", "depth", "heads", "mlp_ratio", "decoder_width")
        _choice(self, "stem", "no_pool", "imagenet", "cifar")
        _choice(self, "norm", "batch", "group")
        _choice(self, "norm_order", "post_norm", "pre_norm")
        _choice(self, "decode_position", "query", "additive")
        _fraction(self, "[0, 1)", "dropout")
        _check(self, "stacks", "stack_widths", valid=lambda v: v and min(v) > 0, use="whole numbers above 0, such as (3, 4)")
        for name, divisor in (("image_size", "grid"), ("width", "heads")):
            value, by = getattr(self, name), getattr(self, divisor)
            problem = f"model.{name} is {value}, which is not a multiple of model.{divisor}={by}"
            _require(value % by == 0, f"{problem}. Change one of the two.")
        _require(
            len(self.stacks) == len(self.stack_widths),
            f"model.stack_widths is {self.stack_widths}, but model.stacks is {self.stacks}. Give each stack one width.",
        )

    @property
    def patch_size(self) -> int:
        """Pixels on each side of a patch."""
        return self.image_size // self.grid

    @property
    def patches(self) -> int:
        """N, the number of patches of an image."""
        return self.grid**2


@dataclass(frozen=True)
class MaskConfig:
    """Which patches are masked in pre-training (paper, 2.1)."""

    ratio: float = 0.6  # fraction of the patches that is masked, in (0, 1)
    block: int = 2  # patches on each side of a masked block; 1 masks single patches

    def __post_init__(self):
        _positive(self, "block")
        _fraction(self, "(0, 1)", "ratio")


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentation of visible patches in pre-training (paper, caption of Figure 1)."""

    enabled: bool = True  # false turns off all of it
    per_image: bool = False  # whether all patches of an image are augmented alike
    jitter_size: int = 15  # pixels on each side of the random sub-crop of a patch; 0 is off
    flip_probability: float = 0.2  # in [0, 1]; half of the flips are horizontal, half vertical
    brightness: float = 32 / 255  # largest shift, as a fraction of the pixel range; 0 is off
    hue: float = 0.2  # largest rotation, in turns; 0 is off
    saturation: float = 0.5  # factor in 1 ± this; 0 is off
    contrast: float = 0.5  # factor in 1 ± this; 0 is off
    min_bit_depth: int = 2  # the bit depth is uniform in min_bit_depth..8; 8 is off
    grey_probability: float = 0.2  # of blending with grey, in [0, 1]

    def __post_init__(self):
        _fraction(self, "[0, 1]", "flip_probability", "grey_probability")
        _not_negative(self, "jitter_size", "brightness", "hue", "saturation", "contrast")
        _check(self, "min_bit_depth", valid=lambda v: 1 <= v <= 8, use="a whole number from 1 to 8; 8 turns it off")


@dataclass(frozen=True)
class TargetConfig:
    """What is decoded of a masked patch (paper, 2.1)."""

    size: int = 8  # pixels on each side, at most the patch's
    bits: int = 2  # of 8 bits per channel, 1 to 8
    crop: str = "centre_crop"  # how a patch becomes a target: centre_crop, or subsample (every few pixels)
    channels: int = 1  # 1 is grey, as in the paper; 3 is red, green and blue, with a prediction for each

    def __post_init__(self):
        _positive(self, "size")
        _check(self, "bits", valid=lambda v: 1 <= v <= 8, use="a whole number from 1 to 8; the paper uses 2")
        _choice(self, "crop", "centre_crop", "subsample")
        _check(self, "channels", valid=lambda v: v in (1, 3), use="1 for grey or 3 for colour")


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are cropped. The paper trains on ImageNet (3) and does not describe the crops."""

    source: str = "digits"  # digits, folder:DIR, tfrecord:DIR or tfds:NAME
    crop_scale: tuple[float, ...] = (0.2, 1.0)  # lowest and highest fraction of the image's area in a crop of pre-training
    crop_ratio: tuple[float, ...] = (0.75, 4 / 3)  # lowest and highest width over height of a training crop
    flip: bool = True  # mirror half of the training images
    eval_crop: float = 0.875  # side of the centre crop, as a fraction of the image's shorter side, in (0, 1]
    shuffle_buffer: int = 4096  # records that tfrecord: and tfds: hold in memory to shuffle them
    parallel_files: int = 16  # files that tfrecord: and tfds: read at once
    holdout: float = 0.05  # fraction of folder: for validation if it has no such split; tfrecord: and tfds: use a whole file
    first_label: int = -1  # of tfrecord:, the stored label of the first class; -1 takes the manifest's or finds it in the data
    max_bad_fraction: float = 0.0  # largest fraction of corrupt images to leave out, in [0, 1); 0 makes them an error

    def __post_init__(self):
        _crop_scale(self)
        ratio = "two numbers above 0, the lower first, such as (0.75, 1.33)"
        _check(self, "crop_ratio", valid=lambda v: len(v) == 2 and 0 < v[0] <= v[1], use=ratio)
        _fraction(self, "(0, 1]", "eval_crop")
        _fraction(self, "(0, 1)", "holdout")
        _fraction(self, "[0, 1)", "max_bad_fraction")
        _positive(self, "shuffle_buffer", "parallel_files")


@dataclass(frozen=True)
class PretrainConfig:
    """The optimisation of pre-training (paper, 2.1)."""

    steps: int = 300_000  # of the whole training
    batch: int = 128  # images per step, over all replicas
    learning_rate: float = 2e-4  # at its highest, after the warm-up; then a cosine to 0
    warmup_steps: int = 10_000  # over which the learning rate rises from 0; 0 is no warm-up
    weight_decay: float = 0.001  # multiplied by the learning rate, as in BERT's AdamWeightDecay; 0 is off
    beta_2: float = 0.999  # decay of AdamW's second moment, in [0, 1)
    clip_norm: float = 1.0  # largest norm of the whole gradient; 0 is off
    label_smoothing: float = 0.01  # of the target levels, in [0, 1); the paper's soft-label noise

    def __post_init__(self):
        _positive(self, "steps")
        _not_negative(self, "warmup_steps")
        _optimizer(self)


@dataclass(frozen=True)
class FinetuneConfig:
    """The optimisation of fine-tuning, and what only the classifier has (paper, 2.2)."""

    epochs: int = 60  # passes over the labelled images
    batch: int = 128  # images per step, over all replicas
    learning_rate: float = 2e-4  # at its highest, after the warm-up; then a cosine to 0
    warmup: float = 1 / 12  # fraction of the steps over which the learning rate rises from 0, in [0, 1)
    weight_decay: float = 0.001  # multiplied by the learning rate; 0 is off
    beta_2: float = 0.999  # decay of AdamW's second moment, in [0, 1)
    clip_norm: float = 1.0  # largest norm of the whole gradient; 0 is off
    label_smoothing: float = 0.1  # in [0, 1); the paper's soft labels
    head: str = "residual"  # residual, as in the paper, or linear, on the mean of the context
    dropout: float = 0.2  # before the last layer, in [0, 1); 0 is off
    mask_ratio: float = 0.1  # fraction of the patches left out of each training image, in [0, 1); 0 is off
    mix: float = 0.0  # fraction of the images with mixup or CutMix, in [0, 1]; 0 is off, as in the paper
    layer_decay: float = 1.0  # learning rate of a layer over the learning rate of the layer above, in (0, 1]; 1 is off
    crop_scale: tuple[float, ...] = (0.2, 1.0)  # lowest and highest fraction of the image's area in a crop of fine-tuning

    def __post_init__(self):
        _positive(self, "epochs")
        _choice(self, "head", "residual", "linear")
        _check(self, "warmup", valid=lambda v: 0 <= v < 1, use="a fraction of the steps in [0, 1)")
        _fraction(self, "[0, 1)", "dropout", "mask_ratio")
        _fraction(self, "[0, 1]", "mix")
        _fraction(self, "(0, 1]", "layer_decay")
        _crop_scale(self)
        _optimizer(self)


@dataclass(frozen=True)
class SweepConfig:
    """The grid of fine-tuning settings (paper, 2.2), and how its points are compared."""

    batches: tuple[int, ...] = (16, 32, 64, 128, 256)  # values of finetune.batch
    learning_rates: tuple[float, ...] = (3e-5, 2e-4, 4e-4, 1e-3)  # values of finetune.learning_rate
    holdout: float = 0.2  # fraction of the labelled images held out to compare the points, in (0, 1)
    point_seeds: int = 0  # how many of --seeds each point runs with, the first ones; 0 is all

    def __post_init__(self):
        _check(
            self,
            "batches",
            "learning_rates",
            valid=lambda v: v and min(v) > 0 and len(set(v)) == len(v),
            use="one or more numbers above 0, each once",
        )
        _check(self, "point_seeds", valid=lambda v: v >= 0, use="a number above 0, or 0 for all of --seeds")
        _fraction(self, "(0, 1)", "holdout")


@dataclass(frozen=True)
class RunConfig:
    """How a run behaves, whatever it trains. Not in the paper."""

    seed: int = 0  # of every random choice, 0 to 2^31 - 1
    precision: str = "auto"  # float32, mixed_bfloat16 (compute in bfloat16), or auto: float32 on a CPU, mixed on TPU and GPU
    log_every: int = 50  # steps per log interval, which is a line of metrics.jsonl
    checkpoint_every: str = "10min"  # steps ("500") or minutes ("10min")
    keep_checkpoints: int = 3  # how many of the newest checkpoints stay
    steps_per_execution: int = 1  # steps per call of the device; must divide log_every and the number of steps; 50 suits a TPU
    eval_batch: int = 128  # images per step of an evaluation, over all replicas
    score_images: int = 4096  # how many validation images pre-training is scored on, at most

    def __post_init__(self):
        _choice(self, "precision", "auto", "float32", "mixed_bfloat16")
        _positive(self, "log_every", "keep_checkpoints", "steps_per_execution", "eval_batch", "score_images")
        _check(self, "seed", valid=lambda v: 0 <= v < 2**31, use="a whole number from 0 to 2147483647")
        self.checkpoint_interval()

    def checkpoint_interval(self) -> tuple[int | None, float | None]:
        """`checkpoint_every` as `(steps, None)` or `(None, seconds)`."""
        text = self.checkpoint_every
        number = text.removesuffix("min")
        valid = number.replace(".", "", 1).isdecimal() and float(number) > 0 and ("min" in text or "." not in number)
        _require(valid, f'run.checkpoint_every is {text!r}. Use steps, such as "500", or minutes, such as "10min".')
        return (None, 60 * float(number)) if text != number else (int(number), None)


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self):
        grid, patches, side = self.model.grid, self.model.patches, self.model.patch_size
        mask, target, jitter, left_out = self.mask, self.target, self.augment.jitter_size, self.finetune.mask_ratio
        _require(
            0 < self.masked < patches,
            f"mask.ratio is {mask.ratio}, which masks {self.masked} of {patches} patches. Leave one masked and one visible.",
        )
        _require(
            mask.block < grid,
            f"mask.block is {mask.block} and model.grid is {grid}, so every image has the same mask. Make mask.block smaller.",
        )
        _require(target.size <= side, f"target.size is {target.size}, but a patch has {side}x{side} px. Make it smaller.")
        _require(
            target.crop != "subsample" or side % target.size == 0,
            f"target.size is {target.size}, which does not divide the {side} px of a patch. "
            "Change it, or use target.crop=centre_crop.",
        )
        _require(
            not self.augment.enabled or jitter <= side,
            f"augment.jitter_size is {jitter}, but a patch has {side}x{side} px. Make it smaller, or 0 for no jitter.",
        )
        _require(
            round(left_out * patches) < patches,
            f"finetune.mask_ratio is {left_out}, which leaves out all {patches} patches. Make it smaller.",
        )

    @property
    def masked(self) -> int:
        """M, the number of masked patches of an image."""
        return round(self.mask.ratio * self.model.patches)

    @property
    def visible(self) -> int:
        """V, the number of visible patches of an image."""
        return self.model.patches - self.masked

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The config as `{section: {field: value}}`."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The config as JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, dict[str, Any]]) -> "Config":
        """The config of `{section: {field: value}}`. What is missing has its default.

        Raises:
            UserError: a section or field is unknown, or a value has a wrong type or is out of range.
        """
        _require(isinstance(values, dict), f'The config is {values!r}. Use an object of sections, such as {{"model": {{}}}}.')
        sections = {}
        for name, fields in values.items():
            kind = field_type(cls, name, f"section {name}")
            _require(isinstance(fields, dict), f"The config section {name} is {fields!r}. Use an object of fields.")
            sections[name] = kind(**{f: convert(kind, name, f, value) for f, value in fields.items()})
        return cls(**sections)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The config of a JSON text, as `to_json` writes it. Raises UserError as `from_dict` does, and for broken JSON."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"The config is not JSON: {error}. Correct it, or use the config of another run.") from error

    def override(self, assignments: dict[str, str]) -> "Config":
        """This config with some fields changed, as the command line's `--config.SECTION.FIELD=VALUE` does.

        Args:
            assignments: `{"section.field": "text"}`. The text is read as the type of the field.

        Raises:
            UserError: as `from_dict`.
        """
        values = self.to_dict()
        for name, text in assignments.items():
            section, _, key = name.partition(".")
            kind = field_type(Config, section, f"section {section}")
            _require(key, f"--config.{name}={text} names no field. Write --config.{section}.FIELD=VALUE.")
            values[section][key] = parse(kind, section, key, text)
        return Config.from_dict(values)


def load_config(name: str | Path) -> Config:
    """The config of a Python file, which defines `config = Config(...)`. The file is run: it is code, not data.

    Args:
        name: a shipped config, such as `cifar10`, or the path of a file, such as `my_config.py`.

    Raises:
        UserError: there is no such file, it fails, or it defines no config.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("[!_]*.py"))}
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        raise UserError(f"There is no config {name}. Use {', '.join(shipped)}, or the path of a Python file.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The config {path} fails with {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"The config {path} does not define `config = Config(...)`.")
    return config


def differing_fields(left: Config, right: Config) -> list[str]:
    """The fields of two configs that differ, as `["section.field: old -> new", ...]`."""
    old, new = left.to_dict(), right.to_dict()
    return [
        f"{section}.{name}: {old[section][name]} -> {value}"
        for section, fields in new.items()
        for name, value in fields.items()
        if old[section][name] != value
    ]
