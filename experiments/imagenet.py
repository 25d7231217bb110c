"""ImageNet at the paper's size: 126M parameters in the transformer, 300,000 steps of 128 images.

    python -m tfrecords.build --source=imagenet --input=DOWNLOAD --output=RECORDS
    python main.py --mode=pretrain --config=experiments/imagenet.py --data=tfrecord:RECORDS --workdir=runs/imagenet

The paper trained on a TPU v3-32 and reports top-1 of 30.3, 65.5 and 70.2% with 1, 10 and 20% of the labels. Not run here: no
score is claimed.
"""

from pf_keras.config import Config, DataConfig

config = Config(data=DataConfig(source="tfrecord:imagenet"))
