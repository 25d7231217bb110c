"""The config of a run: frozen dataclasses, their checks, their JSON form, and overrides from the command line.

A config file, such as `pf_keras/configs/digits.py`, is Python code that defines `config = Config(...)`. The defaults are the
paper's values. Where the paper is silent, docs/paper.md explains the choice.
"""

import dataclasses
import json
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pf_keras.config_values import convert, field_type, parse
from pf_keras.data.formats import MAX_PIXELS
from pf_keras.errors import UserError

SHIPPED = Path(__file__).parent / "configs"


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)


class Rule(NamedTuple):
    """What the value of a field must satisfy, and how an error message says so."""

    valid: Callable[[Any], object]
    use: str


# The types of fields. An `OrOff` is 0 where what it sets is turned off.
_ABOVE_0 = Rule(lambda v: v > 0, "a number above 0")
_FROM_0 = Rule(lambda v: v >= 0, "a number of 0 or more; 0 turns it off")
Count = Annotated[int, _ABOVE_0]
CountOrOff = Annotated[int, _FROM_0]
Positive = Annotated[float, _ABOVE_0]
PositiveOrOff = Annotated[float, _FROM_0]
Fraction = Annotated[float, Rule(lambda v: 0 <= v <= 1, "a fraction in [0, 1]")]
FractionBelow1 = Annotated[float, Rule(lambda v: 0 <= v < 1, "a fraction in [0, 1)")]
FractionAbove0 = Annotated[float, Rule(lambda v: 0 < v <= 1, "a fraction in (0, 1]")]
FractionBetween = Annotated[float, Rule(lambda v: 0 < v < 1, "a fraction in (0, 1)")]
FractionOfSteps = Annotated[float, Rule(lambda v: 0 <= v < 1, "a fraction of the steps in [0, 1)")]
BitDepth = Annotated[int, Rule(lambda v: 1 <= v <= 8, "a whole number from 1 to 8; 8 turns it off")]
TargetBits = Annotated[int, Rule(lambda v: 1 <= v <= 8, "a whole number from 1 to 8; the paper uses 2")]
Channels = Annotated[int, Rule(lambda v: v in (1, 3), "1 for grey or 3 for colour")]
Seeds = Annotated[int, Rule(lambda v: v >= 0, "a number above 0, or 0 for all of --seeds")]
Seed = Annotated[int, Rule(lambda v: 0 <= v < 2**31, "a whole number from 0 to 2147483647")]
_SCALE = Rule(lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, "two fractions in (0, 1], the lower first, such as (0.2, 1.0)")
_RATIO = Rule(lambda v: len(v) == 2 and 0 < v[0] <= v[1], "two numbers above 0, the lower first, such as (0.75, 1.33)")
_KEYS = Rule(
    lambda v: all(re.fullmatch("(image|label|filename)=.+", pair) for pair in v), "image=KEY, label=KEY or filename=KEY"
)
_RANGE16 = Rule(
    lambda v: v in ("type", "data") or (re.fullmatch(r"\d+-\d+", v) and int(v.split("-")[0]) < int(v.split("-")[1]) < 2**16),
    "type, data, or a range of 16-bit values such as 0-4095",
)
_GRID = Rule(lambda v: v and min(v) > 0 and len(set(v)) == len(v), "one or more numbers above 0, each once")
Scale = Annotated[tuple[float, ...], _SCALE]
Ratio = Annotated[tuple[float, ...], _RATIO]
Counts = Annotated[tuple[int, ...], Rule(lambda v: v and min(v) > 0, "whole numbers above 0, such as (3, 4)")]
Range16 = Annotated[str, _RANGE16]
KeyNames = Annotated[tuple[str, ...], _KEYS]
CountGrid = Annotated[tuple[int, ...], _GRID]
PositiveGrid = Annotated[tuple[float, ...], _GRID]


class _Section:
    """A section of the config. Checks each field by the rule or the choices in its type."""

    def __post_init__(self):
        section = type(self).__name__.removesuffix("Config").lower()
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value, rules = getattr(self, name), getattr(kind, "__metadata__", ())
            if get_origin(kind) is Literal:
                *others, last = get_args(kind)
                rules = (Rule((*others, last).__contains__, f"{', '.join(others)} or {last}"),)
            for rule in rules:
                _require(rule.valid(value), f"{section}.{name} is {value!r}. Use {rule.use}.")


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The backbone and the width of the decoder (paper, 2.1)."""

    image_size: Count = 224  # pixels on each side of the model's input; a multiple of grid
    grid: Count = 14  # patches on each side of an image
    stem: Literal["no_pool", "imagenet", "cifar"] = "no_pool"  # first convolution; imagenet has a max pool, cifar stride 1
    stem_width: Count = 64  # channels of the stem
    stacks: Counts = (3, 4, 6)  # bottleneck blocks in each stack of the patch encoder
    stack_widths: Counts = (64, 128, 256)  # inner channels of each stack's blocks; outer channels are 4 times that
    norm: Literal["batch", "group"] = "batch"  # of the convolutions; batch is synchronised over replicas
    width: Count = 1024  # D, the width of the transformer; a multiple of heads
    depth: Count = 10  # transformer blocks
    heads: Count = 16  # attention heads of a block
    mlp_ratio: Count = 4  # hidden width of the MLP, in multiples of width
    norm_order: Literal["post_norm", "pre_norm"] = "post_norm"  # post_norm as in BERT
    dropout: FractionBelow1 = 0.0  # in the transformer, in [0, 1); 0 is off
    drop_path: FractionBelow1 = 0.0  # how often the last block skips an image, earlier blocks less, in [0, 1); 0 is off
    decode_position: Literal["query", "additive"] = "query"  # where a target's position is added; additive: after the pooling
    decoder_width: Count = 256  # channels of the decoder

    def __post_init__(self):
        super().__post_init__()
        for name, divisor in (("image_size", "grid"), ("width", "heads")):
            value, by = getattr(self, name), getattr(self, divisor)
            problem = f"model.{name} is {value}, which is not a multiple of model.{divisor}={by}"
            _require(value % by == 0, f"{problem}. Change one of the two.")
        problem = f"model.stack_widths is {self.stack_widths}, but model.stacks is {self.stacks}"
        _require(len(self.stacks) == len(self.stack_widths), f"{problem}. Give each stack one width.")

    @property
    def patch_size(self) -> int:
        """Pixels on each side of a patch."""
        return self.image_size // self.grid

    @property
    def patches(self) -> int:
        """N, the number of patches of an image."""
        return self.grid**2


@dataclass(frozen=True)
class MaskConfig(_Section):
    """Which patches are masked in pre-training (paper, 2.1)."""

    ratio: FractionBetween = 0.6  # fraction of the patches that is masked, in (0, 1)
    block: Count = 2  # patches on each side of a masked block; 1 masks single patches
    decode_fraction: FractionAbove0 = 1.0  # fraction of the masked patches that a training step decodes, at random, in (0, 1]


@dataclass(frozen=True)
class AugmentConfig(_Section):
    """The augmentation of visible patches in pre-training (paper, caption of Figure 1)."""

    enabled: bool = True  # false turns off all of it
    per_image: bool = False  # whether all patches of an image are augmented alike
    jitter_size: CountOrOff = 15  # pixels on each side of the random sub-crop of a patch; 0 is off
    flip_probability: Fraction = 0.2  # in [0, 1]; half of the flips are horizontal, half vertical
    brightness: PositiveOrOff = 32 / 255  # largest shift, as a fraction of the pixel range; 0 is off
    hue: PositiveOrOff = 0.2  # largest rotation, in turns; 0 is off
    saturation: PositiveOrOff = 0.5  # factor in 1 ± this; 0 is off
    contrast: PositiveOrOff = 0.5  # factor in 1 ± this; 0 is off
    min_bit_depth: BitDepth = 2  # the bit depth is uniform in min_bit_depth..8; 8 is off
    grey_probability: Fraction = 0.2  # of blending with grey, in [0, 1]


@dataclass(frozen=True)
class TargetConfig(_Section):
    """What is decoded of a masked patch (paper, 2.1)."""

    size: Count = 8  # pixels on each side, at most the patch's
    bits: TargetBits = 2  # of 8 bits per channel, 1 to 8
    crop: Literal["centre_crop", "subsample"] = "centre_crop"  # of a patch; subsample takes every few pixels
    channels: Channels = 1  # 1 is grey, as in the paper; 3 is red, green and blue, with a prediction for each


@dataclass(frozen=True)
class DataConfig(_Section):
    """Where images come from and how they are cropped. The paper trains on ImageNet (3) and does not describe the crops."""

    source: str = "digits"  # digits, folder:DIR, csv:FILE, tfrecord:DIR or tfds:NAME
    crop_scale: Scale = (0.2, 1.0)  # lowest and highest fraction of the image's area in a crop of pre-training
    crop_ratio: Ratio = (0.75, 4 / 3)  # lowest and highest width over height of a training crop
    flip: bool = True  # mirror half of the training images
    eval_crop: FractionAbove0 = 0.875  # side of the centre crop, as a fraction of the image's shorter side, in (0, 1]
    shuffle_buffer: Count = 4096  # records that tfrecord: and tfds: hold in memory to shuffle them
    parallel_files: Count = 16  # files that tfrecord: and tfds: read at once
    holdout: FractionBetween = 0.05  # fraction for validation without such a split; tfrecord: and tfds: use a file of several
    first_label: int = -1  # of tfrecord:, the stored label of the first class; -1 takes the manifest's or finds it in the data
    keys: KeyNames = ()  # where records have what, such as ("image=jpg", "label=cls"); empty takes the usual keys
    max_bad_fraction: FractionBelow1 = 0.0  # largest fraction of corrupt images to leave out, in [0, 1); 0 makes them an error
    exif: bool = True  # turn photographs upright by their EXIF orientation
    background: Literal["white", "black", "drop"] = "white"  # behind transparent pixels; drop shows their hidden colours
    range16: Range16 = "type"  # black and white of 16-bit grey images: type is 0-65535; data is the range found; or 0-4095
    max_pixels: Count = MAX_PIXELS  # larger images are refused, because each takes about 10 bytes a pixel


@dataclass(frozen=True)
class PretrainConfig(_Section):
    """The optimisation of pre-training (paper, 2.1)."""

    steps: Count = 300_000  # of the whole training
    batch: Count = 128  # images per step, over all replicas
    learning_rate: Positive = 2e-4  # at its highest, after the warm-up; then a cosine to 0
    warmup_steps: CountOrOff = 10_000  # over which the learning rate rises from 0; 0 is no warm-up
    weight_decay: PositiveOrOff = 0.001  # multiplied by the learning rate, as in BERT's AdamWeightDecay; 0 is off
    beta_2: FractionBelow1 = 0.999  # decay of AdamW's second moment, in [0, 1)
    clip_norm: PositiveOrOff = 1.0  # largest norm of the whole gradient; 0 is off
    label_smoothing: FractionBelow1 = 0.01  # of the target levels, in [0, 1); the paper's soft-label noise
    learning_rate_per_256: PositiveOrOff = 0.0  # learning rate of a batch of 256, in place of learning_rate; 0 is off
    accumulate: Count = 1  # in how many parts, in turn, a batch is computed to save memory
    ema: FractionBelow1 = 0.0  # decay of the running average of the weights, which is scored and exported; 0 is off
    probe_every: CountOrOff = 0  # steps between two probes of the features, where images have labels; 0 is off
    probe_images: Count = 2048  # how many training and how many validation images a probe looks at, at most


@dataclass(frozen=True)
class FinetuneConfig(_Section):
    """The optimisation of fine-tuning, and what only the classifier has (paper, 2.2)."""

    epochs: Count = 60  # passes over the labelled images
    batch: Count = 128  # images per step, over all replicas
    learning_rate: Positive = 2e-4  # at its highest, after the warm-up; then a cosine to 0
    warmup: FractionOfSteps = 1 / 12  # fraction of the steps over which the learning rate rises from 0, in [0, 1)
    weight_decay: PositiveOrOff = 0.001  # multiplied by the learning rate; 0 is off
    beta_2: FractionBelow1 = 0.999  # decay of AdamW's second moment, in [0, 1)
    clip_norm: PositiveOrOff = 1.0  # largest norm of the whole gradient; 0 is off
    label_smoothing: FractionBelow1 = 0.1  # in [0, 1); the paper's soft labels
    head: Literal["residual", "linear"] = "residual"  # residual, as in the paper, or linear, on the mean of the context
    dropout: FractionBelow1 = 0.2  # before the last layer, in [0, 1); 0 is off
    mask_ratio: FractionBelow1 = 0.1  # fraction of the patches left out of each training image, in [0, 1); 0 is off
    strong: Fraction = 0.0  # strength of rotation, shear and colour changes of images, in [0, 1]; 0 is off, as in the paper
    mix: Fraction = 0.0  # fraction of the images with mixup or CutMix, in [0, 1]; 0 is off, as in the paper
    layer_decay: FractionAbove0 = 1.0  # learning rate of a layer over the learning rate of the layer above, in (0, 1]; 1 is off
    crop_scale: Scale = (0.2, 1.0)  # lowest and highest fraction of the image's area in a crop of fine-tuning
    learning_rate_per_256: PositiveOrOff = 0.0  # learning rate of a batch of 256, in place of learning_rate; 0 is off
    accumulate: Count = 1  # in how many parts, in turn, a batch is computed to save memory
    ema: FractionBelow1 = 0.0  # decay of the running average of the weights, which is scored and exported; 0 is off
    evaluate_every: CountOrOff = 0  # steps between two scores of the validation images, to watch; 0 is off
    holdout: FractionBelow1 = 0.0  # fraction of each class's labelled images kept to choose the best checkpoint by; 0 is off
    patience: CountOrOff = 0  # scores on the held-out images without a better one after which training stops; 0 is off


@dataclass(frozen=True)
class SweepConfig(_Section):
    """The grid of fine-tuning settings (paper, 2.2), and how its points are compared."""

    batches: CountGrid = (16, 32, 64, 128, 256)  # values of finetune.batch
    learning_rates: PositiveGrid = (3e-5, 2e-4, 4e-4, 1e-3)  # values of finetune.learning_rate
    holdout: FractionBetween = 0.2  # fraction of the labelled images held out to compare the points, in (0, 1)
    point_seeds: Seeds = 0  # how many of --seeds each point runs with, the first ones; 0 is all


@dataclass(frozen=True)
class RunConfig(_Section):
    """How a run behaves, whatever it trains. Not in the paper."""

    seed: Seed = 0  # of every random choice, 0 to 2^31 - 1
    tracker: Literal["tensorboard", "csv", "mlflow", "wandb"] = "tensorboard"  # where metrics go beside metrics.jsonl
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"  # auto: float32 on a CPU, mixed on TPU and GPU
    log_every: Count = 50  # steps per log interval, which is a line of metrics.jsonl
    checkpoint_every: str = "10min"  # steps ("500") or minutes ("10min")
    keep_checkpoints: Count = 3  # how many of the newest checkpoints stay
    steps_per_execution: Count = 1  # steps per call of the device; must divide log_every and all steps; 50 suits a TPU
    parallel_parts: Count = 1  # of a batch, computed at the same time: one for each CPU core; batch norm normalises each part
    eval_batch: Count = 128  # images per step of an evaluation, over all replicas
    score_images: Count = 4096  # how many validation images pre-training is scored on, at most

    def __post_init__(self):
        super().__post_init__()
        self.checkpoint_interval()

    def checkpoint_interval(self) -> tuple[int | None, float | None]:
        """`checkpoint_every` as `(steps, None)` or `(None, seconds)`."""
        text = self.checkpoint_every
        number = text.removesuffix("min")
        valid = number.replace(".", "", 1).isdecimal() and float(number) > 0 and ("min" in text or "." not in number)
        _require(valid, f'run.checkpoint_every is {text!r}. Use steps, such as "500", or minutes, such as "10min".')
        return (None, 60 * float(number)) if text != number else (int(number), None)

    def check_every(self, name: str, every: int) -> None:
        """Raises UserError where the setting `name` asks for steps that do not end a log interval. 0 turns it off.

        A task checks its own setting: another task may have left one that does not fit in a config that serves both.
        """
        problem = f"{name} is {every}, which is not a multiple of run.log_every={self.log_every}"
        _require(every % self.log_every == 0, f"{problem}. Change one of the two.")


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    augment: AugmentConfig = AugmentConfig()
    target: TargetConfig = TargetConfig()
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    sweep: SweepConfig = SweepConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self):
        grid, patches, side = self.model.grid, self.model.patches, self.model.patch_size
        block, size, jitter, left_out = self.mask.block, self.target.size, self.augment.jitter_size, self.finetune.mask_ratio
        problem = f"mask.ratio is {self.mask.ratio}, which masks {self.masked} of {patches} patches"
        _require(0 < self.masked < patches, f"{problem}. Leave one masked and one visible.")
        problem = f"mask.block is {block} and model.grid is {grid}, so every image has the same mask"
        _require(block < grid, f"{problem}. Make mask.block smaller.")
        _require(size <= side, f"target.size is {size}, but a patch has {side}x{side} px. Make it smaller.")
        problem = f"target.size is {size}, which does not divide the {side} px of a patch"
        divides = self.target.crop != "subsample" or side % size == 0
        _require(divides, f"{problem}. Change it, or use target.crop=centre_crop.")
        problem = f"augment.jitter_size is {jitter}, but a patch has {side}x{side} px"
        _require(not self.augment.enabled or jitter <= side, f"{problem}. Make it smaller, or 0 for no jitter.")
        problem = f"finetune.patience is {self.finetune.patience}, but no images are held out to judge by"
        _require(not self.finetune.patience or self.finetune.holdout, f"{problem}. Set finetune.holdout, such as 0.2.")
        problem = f"finetune.mask_ratio is {left_out}, which leaves out all {patches} patches"
        _require(round(left_out * patches) < patches, f"{problem}. Make it smaller.")

    @property
    def masked(self) -> int:
        """M, the number of masked patches of an image."""
        return round(self.mask.ratio * self.model.patches)

    @property
    def decoded(self) -> int:
        """How many masked patches of an image a training step decodes."""
        return max(1, round(self.mask.decode_fraction * self.masked))

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
        for section in ("pretrain", "finetune"):
            scaled = values[section]["learning_rate_per_256"]
            problem = f"{section}.learning_rate is set, but {section}.learning_rate_per_256={scaled} takes its place"
            unused = f"{section}.learning_rate" in assignments and scaled
            _require(not unused, f"{problem}. Leave it out, or set {section}.learning_rate_per_256=0.")
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
