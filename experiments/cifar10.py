"""CIFAR-10, 32 px: 4x4 patches in an 8x8 grid.

    python main.py --mode=pretrain --config=experiments/cifar10.py --data=folder:CIFAR --workdir=runs/cifar10/pretrain

CIFAR is a folder with `train/<class>/...` and `test/<class>/...`. On two CPU cores: 114 minutes at the 450 images/s
of a run with next to nothing beside it, 136 in fact, beside other work; loss ratio 0.528; 1% of the labels, three seeds:
51.7% ± 0.3% of the test images, from scratch, at 2.5e-4, 36.5% ± 0.8%; 10%, 20 epochs, no patch left out, a rate of 1e-3,
layer_decay 0.75: 69.3% ± 0.6%, from scratch, at 5e-4, 52.1% ± 0.7% (experiments/README.md). Targets are in colour:
decoding grey, as the paper does, makes the features colour-blind.
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
        image_size=32,
        grid=8,
        stem_width=32,
        stacks=(1, 1),
        stack_widths=(32, 64),
        width=128,
        depth=4,
        heads=4,
        decoder_width=64,
    ),
    mask=MaskConfig(ratio=0.75, block=1),
    augment=AugmentConfig(enabled=False),
    target=TargetConfig(size=2, channels=3),
    data=DataConfig(source="folder:cifar10", crop_scale=(0.4, 1.0), eval_crop=1.0),
    pretrain=PretrainConfig(steps=48_000, batch=64, learning_rate=1e-3, warmup_steps=1_000, weight_decay=0.05, beta_2=0.95),
    finetune=FinetuneConfig(
        epochs=60, batch=32, learning_rate=5e-4, layer_decay=0.65, mask_ratio=0.5, crop_scale=(0.75, 1.0)
    ),
    # From scratch it is best at half the rate that is best with layer_decay.
    sweep=SweepConfig(batches=(32,), learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3), point_seeds=1),
)
