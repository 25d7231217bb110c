"""CIFAR-10 on a CPU: images of 32 px, an 8x8 grid of 4x4 patches.

    python main.py --mode=pretrain --config=cifar10 --data=folder:CIFAR --workdir=runs/cifar10/pretrain

CIFAR is a folder with `train/<class>/...` and `test/<class>/...`. Pre-training takes about two hours on two CPU cores: 114
minutes at 450 images/s. Its loss ratio is 0.528. Accuracy on the test images, mean ± standard deviation over 3 seeds:

    labels   epochs   pre-trained   from scratch
    1%       60       51.7 ± 0.3%   36.5 ± 0.8%   (learning rate 2.5e-4)
    10%      20       69.3 ± 0.6%   52.1 ± 0.7%

With 10%, no patch is left out while fine-tuning, and the pre-trained model uses a learning rate of 1e-3 and a layer_decay of
0.75. docs/results.md has the commands. Targets are in colour, because features that are trained to decode grey, as in the
paper, are colour-blind.
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
    # From scratch, half of the learning rate that is best for a pre-trained model is best.
    sweep=SweepConfig(batches=(32,), learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3), point_seeds=1),
)
