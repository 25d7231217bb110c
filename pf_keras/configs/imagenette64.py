"""Imagenette on a CPU: images of 64 px, an 8x8 grid of 8x8 patches. `imagenette` is the config for a GPU.

    python -m tfrecords.build --source=folder --input=IMAGENETTE --output=imagenette96 --resize_shorter=96 \\
        --train_shards=4 --validation_shards=2
    python main.py --mode=pretrain --config=imagenette64 --data=tfrecord:imagenette96 --workdir=runs/imagenette64

IMAGENETTE is a folder with `train/<class>/...` and `val/<class>/...`. Pre-training takes about two hours on two CPU cores: 110
minutes at 348 images/s. Its loss ratio is 0.584. Accuracy on the validation images, mean ± standard deviation:

    labels   epochs   seeds   pre-trained   from scratch (learning rate 2.5e-4)
    1%       200      6       47.3 ± 0.4%   35.6 ± 1.3%
    10%      30       3       68.4 ± 0.5%   50.1 ± 0.9%

docs/results.md has the commands. Targets are in colour and patches are not augmented, because that did best on CIFAR-10. Here,
5,000 steps with augmentation gained less.
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
