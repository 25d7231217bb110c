"""Imagenette on a CPU: 64 px, 8x8 patches in an 8x8 grid. `experiments/imagenette.py` is the one for a GPU.

    python -m tfrecords.build --source=folder --input=IMAGENETTE --output=imagenette96 --resize_shorter=96 \\
        --train_shards=4 --validation_shards=2
    python main.py --mode=pretrain --config=experiments/imagenette64.py --data=tfrecord:imagenette96 \\
        --workdir=runs/imagenette64

IMAGENETTE is a folder with `train/<class>/...` and `val/<class>/...`. On two CPU cores 110 minutes at 348 images/s, the median,
153 in fact, beside other work; loss ratio 0.584; 47.3% ± 0.4% of the validation images with 1% of the labels, 35.6% ± 1.3%
from scratch (six seeds); with 10% and 30 epochs 68.4% ± 0.5% and 50.1% ± 0.9% (three); from scratch at a rate of 2.5e-4
(experiments/README.md). Colour and no patch augmentation are what did best on CIFAR-10; 5,000 steps with augmentation gained
less.
"""

from pf_keras.config import (
    AugmentConfig,
    Config,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    SweepConfig,
    TargetConfig,
)

config = Config(
    model=ModelConfig(
        image_size=64,
        grid=8,
        stem="imagenet",
        stem_width=32,
        stacks=(1, 1),
        stack_widths=(32, 64),
        width=128,
        depth=4,
        heads=4,
        decoder_width=32,
    ),
    mask=MaskConfig(ratio=0.75, block=1),
    augment=AugmentConfig(enabled=False),
    target=TargetConfig(size=4, channels=3),
    data=DataConfig(source="tfrecord:imagenette96"),
    pretrain=PretrainConfig(steps=36_000, batch=64, learning_rate=1.5e-3, warmup_steps=1_000, weight_decay=0.05, beta_2=0.95),
    finetune=FinetuneConfig(epochs=200, batch=16, learning_rate=1e-3, layer_decay=0.75, mask_ratio=0.5),
    sweep=SweepConfig(batches=(16,), learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3), point_seeds=1),
)
