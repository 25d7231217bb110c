"""Imagenette on a GPU: images of 224 px, the paper's 14x14 grid of 16x16 patches, and a narrow model.

    python main.py --mode=pretrain --config=imagenette --data=folder:IMAGENETTE --workdir=runs/imagenette

IMAGENETTE is a folder with `train/<class>/...` and `val/<class>/...`. On two CPU cores the 60,000 steps would take days.
They have not been run to the end, so we claim no score. `imagenette64` is a config for a CPU.
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
