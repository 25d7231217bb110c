"""`--mode=plan`: formulas, the search for the largest batch, refusals; and the compiler itself where it is installed."""

import json

import numpy as np
import pytest
from commands import TINY, command

from pf_keras.config import Config, load_config
from pf_keras.layers.kernels import Conv2D
from pf_keras.models import build_pretrainer
from pf_keras.tasks import plan
from pf_keras.tpu.compile_step import compile_for, has_compiler
from pf_keras.tpu.flops import forward_flops, pretrain_flops
from pf_keras.tpu.slices import find_slice

GIB = 2**30


@pytest.mark.parametrize(
    "name, topology, cores, hosts",
    [
        ("v2-8", "v2:2x2", 8, 1), ("v3-32", "v3:4x4", 32, 4), ("v4-8", "v4:2x2x1", 8, 1), ("v5e-4", "v5e:2x2", 4, 1),
        ("v5litepod-16", "v5e:4x4", 16, 4), ("v5p-8", "v5p:2x2x1", 4, 1), ("v6e-1", "v6e:1x1", 1, 1),
    ],
)  # fmt: skip
def test_slices(name, topology, cores, hosts):
    found = find_slice(name)
    assert (found.topology, found.cores, found.hosts) == (topology, cores, hosts)


@pytest.mark.parametrize("name", ["v3-31", "v3", "h100-8", "v5p-4", "v3-2"])
def test_a_slice_that_does_not_exist_is_one_line(name, tmp_path):
    done = command("--mode=plan", f"--topology={name}", f"--workdir={tmp_path}/plan")
    assert done.code == 2 and done.err.startswith("error: expected --topology to be ") and done.err.count("\n") == 1


def test_flops_of_the_paper():
    parts = forward_flops(Config())
    # 10 blocks of 12 D^2 weights and two products of 78 x 78, on 78 tokens.
    assert parts["transformer"] == 10 * (78 * 2 * 12 * 1024**2 + 2 * 2 * 78**2 * 1024)
    assert pretrain_flops(Config()) == pytest.approx(103.3e9, rel=0.01)
    # Measured: libtpu 0.0.42.1 counts 406,420,094,976 for 4 images a core of a v3-32.
    assert 406_420_094_976 / 4 == pytest.approx(pretrain_flops(Config()), rel=0.02)


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenette64"])
def test_flops_of_the_patch_encoder_are_those_of_its_convolutions(name, monkeypatch):
    config, counted, convolve = load_config(f"experiments/{name}.py"), [], Conv2D.convolution_op

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


def test_search_finds_the_largest_batch_that_fits():
    asked = []

    def answer(batch):
        asked.append(batch)
        return {"fits": 2 * GIB + batch * GIB / 8 <= 16 * GIB, "peak_hbm_bytes": 2 * GIB + batch * GIB // 8}

    for batch in (4, 112, 113, 500):
        asked.clear()
        assert plan.largest_batch(answer, batch, answer(batch), 2 * GIB, 16 * GIB) == 112
        assert len(asked) <= 1 + plan.COMPILATIONS


def test_search_goes_on_where_the_compiler_saves_memory_by_recomputing():
    def answer(batch):  # as libtpu does: a plateau, and then no more
        return {"fits": batch <= 300, "peak_hbm_bytes": min(2 * GIB + batch * GIB // 8, 14 * GIB) if batch <= 300 else 17 * GIB}

    assert 270 <= plan.largest_batch(answer, 4, answer(4), GIB, 16 * GIB) <= 300


def test_search_gives_up_where_nothing_fits():
    too_big = {"fits": False, "peak_hbm_bytes": 40 * GIB}
    assert plan.largest_batch(lambda batch: too_big, 4, too_big, 20 * GIB, 16 * GIB) is None


def test_without_libtpu_the_formulas_remain(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "has_compiler", lambda: False)
    done = command("--mode=plan", *TINY, "--topology=v3-8", f"--workdir={tmp_path}")
    assert done.code == 0 and "libtpu is not installed" in done.out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == done.result
    assert result["fits"] is None and result["peak_hbm_bytes"] is None
    assert result["hours"] > 0 and result["images_per_second"] > 0 and result["decode_cores"] > 0
    again = command("--mode=plan", *TINY, "--topology=v2-8", f"--workdir={tmp_path}")
    assert again.result["topology"] == "v2-8"


def test_a_step_that_does_not_fit_is_refused_with_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "has_compiler", lambda: True)
    monkeypatch.setattr(plan, "compile_for", lambda *_: {"fits": False, "peak_hbm_bytes": 20 * GIB})
    done = command("--mode=plan", *TINY, "--topology=v3-8", f"--workdir={tmp_path}")
    assert done.code == 2 and "DOES NOT FIT" in done.out
    assert "at most 15.48 GiB a core of v3-8, received one of 20.00 GiB with 16 images a core" in done.err
    assert json.loads((tmp_path / "result.json").read_text())["fits"] is False


def test_batch_that_the_cores_do_not_divide(tmp_path):
    done = command("--mode=plan", *TINY, "--config.pretrain.batch=100", "--topology=v3-8", f"--workdir={tmp_path}")
    assert done.code == 2 and "8 cores of v3-8 divide, received 100: use 104" in done.err


compiled_here = pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed: pip install 'jax[tpu]==0.10.2'")


def tiny():
    fields = dict(flag.removeprefix("--config.").split("=") for flag in TINY)
    return Config().override({**fields, "target.size": "2", "target.channels": "3", "augment.jitter_size": "3"})


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.long), "v5e-4"])
def test_the_compiler_takes_the_step(name):
    answer = compile_for(tiny(), find_slice(name), 2)
    assert answer["fits"] and 0 < answer["peak_hbm_bytes"] < GIB and answer["flops"] > 0


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.slow), "v5e-4"])
def test_the_compiler_says_what_does_not_fit(name):
    refused = compile_for(tiny(), find_slice(name), 4_000_000)
    assert not refused["fits"] and refused["peak_hbm_bytes"] > find_slice(name).kind.hbm
