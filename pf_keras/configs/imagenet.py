"""ImageNet at the paper's size: a transformer of 126M parameters, 300,000 steps of 128 images.

    python -m tfrecords.build --source=imagenet --input=DOWNLOAD --output=RECORDS
    python main.py --mode=pretrain --config=imagenet --data=tfrecord:RECORDS --workdir=runs/imagenet

This has not been run, so we claim no score. The paper trained on a TPU v3-32 and reports a top-1 accuracy of 30.3, 65.5 and
70.2% with 1, 10 and 20% of the labels.
"""

from pf_keras.config import Config, DataConfig

config = Config(data=DataConfig(source="tfrecord:imagenet"))
