"""The TPU compiler itself, where it is installed."""

import pytest
from commands import TINY

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.tpu.compile_step import compile_for, has_compiler
from pf_keras.tpu.process import ask
from pf_keras.tpu.slices import GIB, find_slice

compiled_here = pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed: pip install 'jax[tpu]==0.10.2'")


def tiny():
    fields = dict(flag.removeprefix("--config.").split("=") for flag in TINY)
    return Config().override({**fields, "target.size": "2", "target.channels": "3", "augment.jitter_size": "3"})


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.long), "v5e-4"])
def test_step_compiles_and_has_figures(name):
    answer = compile_for(tiny(), find_slice(name), 2)
    assert answer["fits"] and 0 < answer["peak_hbm_bytes"] < GIB and answer["flops"] > 0


@compiled_here
@pytest.mark.parametrize("name", [pytest.param("v3-8", marks=pytest.mark.slow), "v5e-4"])
def test_step_that_does_not_fit_has_the_memory_it_needs(name):
    answer = compile_for(tiny(), find_slice(name), 4_000_000)
    assert not answer["fits"] and answer["peak_hbm_bytes"] > find_slice(name).kind.hbm


def test_failure_and_time_limit_of_the_other_process_are_one_line():
    with pytest.raises(UserError, match=r"^Compiling failed with exit code 1: KeyError: 'config'$"):
        ask("pf_keras.tpu.compile_step", {}, {"KERAS_BACKEND": "jax"}, 100, "Compiling")
    with pytest.raises(UserError, match=r"^Compiling did not end within 0.01 s\. Use a faster machine or a smaller model\.$"):
        ask("pf_keras.tpu.compile_step", {}, {}, 0.01, "Compiling")
