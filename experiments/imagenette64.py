"""Imagenette on a CPU: 64 px, 8x8 patches in an 8x8 grid. `experiments/imagenette.py` is the one for a GPU.

    python main.py --mode=pretrain --config=experiments/imagenette64.py --data=folder:IMAGENETTE \\
        --workdir=runs/imagenette64

IMAGENETTE is a folder with `train/<class>/...` and `val/<class>/...`. On one CPU core, the other busy too: 75 minutes, 78
images/s, loss ratio 0.695; 1% of the labels, three seeds: 31.1% ± 0.5% of the validation images, 26.6% ± 5.0% from scratch,
by a grid of 1e-3 to 4e-3 (experiments/README.md).
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
    augment=AugmentConfig(jitter_size=7),
    target=TargetConfig(size=6),
    data=DataConfig(source="folder:imagenette"),
    pretrain=PretrainConfig(steps=5_000, batch=64, learning_rate=1e-3, warmup_steps=500, weight_decay=0.05, beta_2=0.95),
    finetune=FinetuneConfig(epochs=60, batch=16, learning_rate=2e-3, layer_decay=0.75),
    sweep=SweepConfig(batches=(16,), learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3), point_seeds=1),
)
