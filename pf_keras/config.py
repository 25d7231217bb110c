"""What a run is made of: plain frozen dataclasses, their checks, their JSON, and overrides from the command line.

A config file (`experiments/NAME.py`) is Python code that defines `config = Config(...)`.
The defaults of every field are the paper's, or the decision that `docs/paper.md` gives where the paper is silent.
"""

import dataclasses
import json
import runpy
from dataclasses import dataclass, field
from pathlib import Path

from pf_keras.config_values import convert, field_type, parse
from pf_keras.errors import UserError


def _expect(condition, what, received, do):
    if not condition:
        raise UserError(f"expected {what}, received {received}: {do}")


def _choice(name, value, choices):
    _expect(value in choices, f"{name} to be one of {', '.join(choices)}", repr(value), "choose one of these")


def _positive(section, *names):
    for name in names:
        value = getattr(section, name)
        _expect(value > 0, f"{name} above 0", value, f"set {name} to a positive number")


def _crop_scale(name, value):
    low, high = value if len(value) == 2 else (0, 0)
    _expect(0 < low <= high <= 1, f"{name} as (low, high) in (0, 1]", value, "e.g. (0.2, 1.0)")


def _optimizer(name, section):
    """Check what both kinds of training have."""
    _expect(0 <= section.label_smoothing < 1, f"{name}.label_smoothing in [0, 1)", section.label_smoothing, "e.g. 0.1")
    _expect(section.weight_decay >= 0, f"{name}.weight_decay of 0 or more", section.weight_decay, "0 is off")
    _expect(0 <= section.beta_2 < 1, f"{name}.beta_2 in [0, 1)", section.beta_2, "e.g. 0.999")
    _expect(section.clip_norm >= 0, f"{name}.clip_norm of 0 or more", section.clip_norm, "0 is off")


@dataclass(frozen=True)
class ModelConfig:
    """The backbone: patch encoder, positions, transformer, attention pooling (paper, 2.1)."""

    image_size: int = 224
    grid: int = 14  # patches a side
    stem: str = "no_pool"
    stem_width: int = 64
    stacks: tuple[int, ...] = (3, 4, 6)  # bottleneck blocks a stack
    stack_widths: tuple[int, ...] = (64, 128, 256)
    norm: str = "batch"
    width: int = 1024
    depth: int = 10
    heads: int = 16
    mlp_ratio: int = 4
    norm_order: str = "post_norm"
    dropout: float = 0.0
    decode_position: str = "query"
    decoder_width: int = 256

    def __post_init__(self):
        _positive(self, "image_size", "grid", "stem_width", "width", "depth", "heads", "mlp_ratio", "decoder_width")
        _choice("model.stem", self.stem, ("no_pool", "imagenet", "cifar"))
        _choice("model.norm", self.norm, ("batch", "group"))
        _choice("model.norm_order", self.norm_order, ("post_norm", "pre_norm"))
        _choice("model.decode_position", self.decode_position, ("query", "additive"))
        _expect(self.image_size % self.grid == 0, f"model.image_size to be a multiple of model.grid={self.grid}",
                self.image_size, "change one of the two")
        _expect(self.width % self.heads == 0, f"model.width to be a multiple of model.heads={self.heads}",
                self.width, "change one of the two")
        _expect(len(self.stacks) == len(self.stack_widths) > 0, "as many model.stack_widths as model.stacks",
                f"{self.stack_widths} for {self.stacks}", "give a width for every stack")
        _expect(min(*self.stacks, *self.stack_widths) > 0, "model.stacks and model.stack_widths above 0",
                f"{self.stacks} and {self.stack_widths}", "use positive numbers")
        _expect(0 <= self.dropout < 1, "model.dropout in [0, 1)", self.dropout, "use a rate such as 0.1")

    @property
    def patch_size(self):
        return self.image_size // self.grid

    @property
    def patches(self):
        return self.grid**2


@dataclass(frozen=True)
class MaskConfig:
    """Which patches are decoded (paper, 2.1)."""

    ratio: float = 0.6
    block: int = 2  # patches a side of a block; 1 masks patches independently

    def __post_init__(self):
        _positive(self, "block")
        _expect(0 < self.ratio < 1, "mask.ratio between 0 and 1", self.ratio, "use a share such as 0.6")


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentation of visible patches while pre-training (paper, caption of Figure 1). 0 turns a part off."""

    enabled: bool = True
    per_image: bool = False  # one draw for all patches of an image
    jitter_size: int = 15  # pixels a side of the random sub-crop of a patch; 0 is off
    flip_probability: float = 0.2
    brightness: float = 32 / 255  # largest shift, as a share of the range
    hue: float = 0.2  # largest rotation, in turns
    saturation: float = 0.5  # factor in 1 +- this
    contrast: float = 0.5  # factor in 1 +- this
    min_bit_depth: int = 2  # depth uniform on min_bit_depth..8; 8 is off
    grey_probability: float = 0.2

    def __post_init__(self):
        for name in ("flip_probability", "grey_probability"):
            _expect(0 <= getattr(self, name) <= 1, f"augment.{name} in [0, 1]", getattr(self, name), "use a share")
        _expect(1 <= self.min_bit_depth <= 8, "augment.min_bit_depth in 1..8", self.min_bit_depth, "8 turns it off")
        for name in ("jitter_size", "brightness", "hue", "saturation", "contrast"):
            _expect(getattr(self, name) >= 0, f"augment.{name} of 0 or more", getattr(self, name), "0 turns it off")


@dataclass(frozen=True)
class TargetConfig:
    """What is decoded of a masked patch (paper, 2.1)."""

    size: int = 8  # pixels a side
    bits: int = 2
    crop: str = "centre_crop"
    channels: int = 1  # 1 is grey, as in the paper; 3 is red, green and blue, each decoded by itself

    def __post_init__(self):
        _positive(self, "size")
        _expect(1 <= self.bits <= 8, "target.bits in 1..8", self.bits, "use 2 as the paper does")
        _choice("target.crop", self.crop, ("centre_crop", "subsample"))
        _expect(self.channels in (1, 3), "target.channels of 1 or 3", self.channels, "1 is grey, 3 is colour")


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are cropped."""

    source: str = "digits"
    crop_scale: tuple[float, ...] = (0.2, 1.0)  # share of the image's area that a training crop covers
    crop_ratio: tuple[float, ...] = (0.75, 4 / 3)  # width over height of a training crop
    flip: bool = True  # mirror training images at random
    eval_crop: float = 0.875  # side of the centre crop, as a share of the shorter side
    shuffle_buffer: int = 4096  # records of a stream (tfrecord:, tfds:) held for shuffling
    parallel_files: int = 16  # files of a stream read side by side
    holdout: float = 0.05  # share of a folder without a validation split kept for evaluation; of records the last shard
    first_label: int = -1  # the stored label of the first class of tfrecord:; -1 finds out (a manifest, else the data)
    max_bad_fraction: float = 0.0  # share of unreadable images that is left out rather than an error

    def __post_init__(self):
        _crop_scale("data.crop_scale", self.crop_scale)
        low, high = self.crop_ratio if len(self.crop_ratio) == 2 else (0, 0)
        _expect(0 < low <= high, "data.crop_ratio as (low, high) above 0", self.crop_ratio, "e.g. (0.75, 1.33)")
        _expect(0 < self.eval_crop <= 1, "data.eval_crop in (0, 1]", self.eval_crop, "1 is the whole shorter side")
        _expect(0 < self.holdout < 1, "data.holdout in (0, 1)", self.holdout, "use a share such as 0.05")
        _expect(0 <= self.max_bad_fraction < 1, "data.max_bad_fraction in [0, 1)", self.max_bad_fraction, "e.g. 0.01")
        _positive(self, "shuffle_buffer", "parallel_files")


@dataclass(frozen=True)
class PretrainConfig:
    """Optimisation of pre-training (paper, 2.1)."""

    steps: int = 300_000
    batch: int = 128  # images a step over all replicas
    learning_rate: float = 2e-4
    warmup_steps: int = 10_000
    weight_decay: float = 0.001  # times the learning rate, as in BERT's AdamWeightDecay
    beta_2: float = 0.999
    clip_norm: float = 1.0  # of the whole gradient; 0 is off
    label_smoothing: float = 0.01

    def __post_init__(self):
        _positive(self, "steps", "batch", "learning_rate")
        _optimizer("pretrain", self)
        _expect(self.warmup_steps >= 0, "warmup_steps of 0 or more", self.warmup_steps, "0 is no warm-up")


@dataclass(frozen=True)
class FinetuneConfig:
    """Optimisation of fine-tuning and what only the classifier has (paper, 2.2)."""

    epochs: int = 60
    batch: int = 128
    learning_rate: float = 2e-4
    warmup: float = 1 / 12  # share of the steps over which the rate rises
    weight_decay: float = 0.001
    beta_2: float = 0.999
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    head: str = "residual"  # or linear, on the mean of the context; not in the paper
    dropout: float = 0.2  # before the last layer
    mask_ratio: float = 0.1  # share of patches left out while training
    mix: float = 0.0  # share of images mixed with their neighbour in the batch, by mixup or CutMix; not in the paper
    layer_decay: float = 1.0  # rate of a pre-trained layer, as a share of that of the layer above; 1 is one rate for all
    crop_scale: tuple[float, ...] = (0.2, 1.0)

    def __post_init__(self):
        _positive(self, "epochs", "batch", "learning_rate")
        _choice("finetune.head", self.head, ("residual", "linear"))
        _expect(0 <= self.warmup < 1, "finetune.warmup in [0, 1)", self.warmup, "a share of the steps; 0 is no warm-up")
        _expect(0 <= self.mask_ratio < 1, "finetune.mask_ratio in [0, 1)", self.mask_ratio, "0 is off")
        _expect(0 <= self.mix <= 1, "finetune.mix in [0, 1]", self.mix, "0 is off")
        _expect(0 < self.layer_decay <= 1, "finetune.layer_decay in (0, 1]", self.layer_decay, "e.g. 0.75; 1 is off")
        _expect(0 <= self.dropout < 1, "finetune.dropout in [0, 1)", self.dropout, "0 is off")
        _crop_scale("finetune.crop_scale", self.crop_scale)
        _optimizer("finetune", self)


@dataclass(frozen=True)
class SweepConfig:
    """The grid of fine-tuning (paper, 2.2), and how its points are compared."""

    batches: tuple[int, ...] = (16, 32, 64, 128, 256)
    learning_rates: tuple[float, ...] = (3e-5, 2e-4, 4e-4, 1e-3)
    holdout: float = 0.2  # share of the labelled images on which points are compared
    point_seeds: int = 0  # seeds that a point of the grid runs with, the first of --seeds; 0 is all of them

    def __post_init__(self):
        _expect(self.batches and min(self.batches) > 0, "sweep.batches above 0", self.batches, "e.g. (16, 32)")
        _expect(self.learning_rates and min(self.learning_rates) > 0, "sweep.learning_rates above 0",
                self.learning_rates, "e.g. (2e-4, 1e-3)")
        for name, values in (("batches", self.batches), ("learning_rates", self.learning_rates)):
            _expect(len(set(values)) == len(values), f"each of sweep.{name} once", values, "leave out what is there twice")
        _expect(self.point_seeds >= 0, "sweep.point_seeds of 0 or more", self.point_seeds, "0 is all of --seeds")
        _expect(0 < self.holdout < 1, "sweep.holdout in (0, 1)", self.holdout, "use a share such as 0.2")


@dataclass(frozen=True)
class RunConfig:
    """How a run behaves, whatever it trains."""

    seed: int = 0
    precision: str = "auto"  # bf16 compute on TPU and GPU, float32 on CPU
    log_every: int = 50  # steps a line of metrics.jsonl
    checkpoint_every: str = "10min"  # steps ("500") or minutes ("10min")
    keep_checkpoints: int = 3
    steps_per_execution: int = 1  # steps a call of the device; under JAX steps between looks at the loss and the clock
    eval_batch: int = 128
    score_images: int = 4096  # validation images that pre-training is scored on

    def __post_init__(self):
        _choice("run.precision", self.precision, ("auto", "float32", "mixed_bfloat16"))
        _positive(self, "log_every", "keep_checkpoints", "steps_per_execution", "eval_batch", "score_images")
        _expect(0 <= self.seed < 2**31, "run.seed in 0..2^31-1", self.seed, "use a small whole number")
        self.checkpoint_interval()

    def checkpoint_interval(self):
        """`checkpoint_every` as `(steps, None)` or `(None, seconds)`."""
        text = self.checkpoint_every
        number = text.removesuffix("min")
        valid = number.replace(".", "", 1).isdecimal() and float(number) > 0 and ("min" in text or "." not in number)
        _expect(valid, 'run.checkpoint_every as steps ("500") or minutes ("10min")', repr(text), "use one of the forms")
        return (None, 60 * float(number)) if text != number else (int(number), None)


@dataclass(frozen=True)
class Config:
    """Everything that defines a run; `to_dict` and `from_dict` are inverse, and so are `to_json` and `from_json`."""

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
        size = self.model.patch_size
        _expect(0 < self.masked < self.model.patches, "a mask that leaves and hides at least one patch",
                f"mask.ratio={self.mask.ratio} of {self.model.patches} patches", "change mask.ratio")
        _expect(self.target.size <= size, f"target.size of at most the patch's {size} px", self.target.size,
                "make target.size smaller")
        _expect(self.target.crop != "subsample" or size % self.target.size == 0,
                f"a target.size that divides the patch's {size} px for target.crop=subsample", self.target.size,
                "change target.size or use centre_crop")
        _expect(not self.augment.enabled or self.augment.jitter_size <= size,
                f"augment.jitter_size of at most the patch's {size} px", self.augment.jitter_size,
                "make it smaller, or 0 for none")
        _expect(self.mask.block < self.model.grid, f"mask.block below model.grid={self.model.grid}, as one block is one mask "
                "for all images", self.mask.block, "make it smaller")
        _expect(round(self.finetune.mask_ratio * self.model.patches) < self.model.patches,
                "a finetune.mask_ratio that leaves a patch", self.finetune.mask_ratio, "make it smaller")

    @property
    def masked(self):
        """M, the number of masked patches of an image."""
        return round(self.mask.ratio * self.model.patches)

    @property
    def visible(self):
        """V, the number of visible patches of an image."""
        return self.model.patches - self.masked

    def to_dict(self):
        return dataclasses.asdict(self)

    def to_json(self):
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values):
        """The config of nested dicts. Raises UserError for an unknown section or field and for a wrong type."""
        if not isinstance(values, dict):
            raise UserError(f"expected a config as an object of sections, received {values!r}: see pf_keras/config.py")
        sections = {}
        for name, fields in values.items():
            kind = field_type(cls, name, "section", name)
            if not isinstance(fields, dict):
                raise UserError(f"expected section {name} as an object, received {fields!r}: see pf_keras/config.py")
            sections[name] = kind(**{f: convert(kind, name, f, value) for f, value in fields.items()})
        return cls(**sections)

    @classmethod
    def from_json(cls, text):
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"expected a config as JSON, received text that fails at: {error}") from error

    def override(self, assignments):
        """This config with `{"section.field": "text"}` applied, the text read as the field's type."""
        values = self.to_dict()
        for name, text in assignments.items():
            section, _, key = name.partition(".")
            kind = field_type(Config, section, "section", name)
            if not key:
                raise UserError(f"expected --config.{section}.FIELD=VALUE, received --config.{name}={text}: name a field of it")
            values[section][key] = parse(kind, section, key, text)
        return Config.from_dict(values)


def load_config(path):
    """The `config` that the Python file at `path` defines. The file is run: it is code, not data."""
    path = Path(path)
    if not path.is_file():
        near = ", ".join(sorted(str(p) for p in Path("experiments").glob("[!_]*.py"))) or "experiments/NAME.py"
        raise UserError(f"expected --config to be a Python file, received {path}, which does not exist: try {near}")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"expected {path} to run, received {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"expected {path} to define config = Config(...), received {type(config).__name__}")
    return config


def differing_fields(left, right):
    """The fields of two configs that differ, as `["section.field: old -> new", ...]`."""
    left, right = left.to_dict(), right.to_dict()
    return [
        f"{section}.{name}: {left[section][name]} -> {value}"
        for section, fields in right.items()
        for name, value in fields.items()
        if left[section][name] != value
    ]
