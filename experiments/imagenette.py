"""Imagenette, 224 px: the paper's 14x14 grid of 16x16 patches, with a small width.

    python main.py --mode=pretrain --config=experiments/imagenette.py --data=folder:IMAGENETTE --workdir=runs/imagenette

IMAGENETTE is a folder with `train/<class>/...` and `val/<class>/...`. Meant for one GPU: on two CPU cores its
60,000 steps would take days. Not yet run to its end: no score is claimed.
"""

from pf_keras.config import Config, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig

config = Config(
    model=ModelConfig(
        stem_width=32,
        stacks=(1, 2, 2),
        stack_widths=(16, 32, 64),
        width=192,
        depth=6,
        heads=6,
        decoder_width=128,
    ),
    data=DataConfig(source="folder:imagenette"),
    pretrain=PretrainConfig(steps=60_000, batch=64, learning_rate=5e-4, warmup_steps=2_000, beta_2=0.95),
    finetune=FinetuneConfig(epochs=60, batch=32, learning_rate=4e-4),
)
