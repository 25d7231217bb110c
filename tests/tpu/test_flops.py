import numpy as np
import pytest

from pf_keras.config import Config, load_config
from pf_keras.layers.kernels import Conv2D
from pf_keras.models import build_pretrainer
from pf_keras.tpu.flops import forward_flops, pretrain_flops


def test_flops_of_the_paper():
    parts = forward_flops(Config())
    # 10 blocks of 12 D^2 weights and two products of 78 x 78, on 78 tokens.
    assert parts["transformer"] == 10 * (78 * 2 * 12 * 1024**2 + 2 * 2 * 78**2 * 1024)
    assert pretrain_flops(Config()) == pytest.approx(103.3e9, rel=0.01)
    # Measured: libtpu 0.0.42.1 counts 406,420,094,976 for 4 images per core of a v3-32.
    assert 406_420_094_976 / 4 == pytest.approx(pretrain_flops(Config()), rel=0.02)


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenette64"])
def test_flops_of_the_patch_encoder_are_those_of_its_convolutions(name, monkeypatch):
    config, counted, convolve = load_config(name), [], Conv2D.convolution_op

    def counting(layer, inputs, kernel):
        outputs = convolve(layer, inputs, kernel)
        seen = np.prod(inputs.shape[1:3]) if layer._sees_all(*inputs.shape[1:3]) else np.prod(kernel.shape[:2])
        counted.append(2 * int(seen) * int(np.prod(kernel.shape[2:])) * int(np.prod(outputs.shape[1:3])))
        return outputs

    monkeypatch.setattr(Conv2D, "convolution_op", counting)
    encoder, side = build_pretrainer(config).backbone.patch_encoder, config.model.patch_size
    encoder(np.zeros((1, 1, side, side, 3), "float32"))
    projection = 2 * np.prod(encoder.projection.kernel.shape)
    assert forward_flops(config)["patch encoder"] == config.visible * (sum(counted) + projection)
