"""`--mode=plan`: its table, its refusals, and the search for the largest batch."""

import json

import pytest
from commands import TINY, command, refused, succeed

from pf_keras.tasks import plan
from pf_keras.tpu.slices import GIB


@pytest.fixture
def formulas_only(monkeypatch):
    """Neither a compiler nor a trace, which would take minutes."""
    monkeypatch.setattr(plan, "has_compiler", lambda: False)
    monkeypatch.setattr(plan, "check_pretraining", lambda config: [])


def flags(workdir, topology="v3-8"):
    return ("--mode=plan", *TINY, f"--topology={topology}", f"--workdir={workdir}")


def test_without_libtpu_the_formulas_remain(tmp_path, formulas_only):
    done = command(*flags(tmp_path))
    assert done.code == 0 and "libtpu is not installed" in done.out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == done.result
    assert result["fits"] is None and result["peak_hbm_bytes"] is None
    assert result["hours"] > 0 and result["images_per_second"] > 0 and result["decode_cores"] > 0
    assert succeed(*flags(tmp_path, "v2-8"))["topology"] == "v2-8"


def test_operations_of_the_step_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "has_compiler", lambda: False)
    done = command(*flags(tmp_path))
    assert done.code == 0, done.err
    assert done.result["ops_without_tpu_kernel"] == [] and "operations TPUs cannot run  none" in done.out, done.out


def test_operation_without_a_tpu_kernel_is_refused_with_its_name(tmp_path, formulas_only, monkeypatch):
    monkeypatch.setattr(plan, "check_pretraining", lambda config: ["AsString", "ResizeBicubic"])
    done = command(*flags(tmp_path))
    assert done.code == 2 and "TensorFlow has no TPU kernel for AsString, ResizeBicubic" in done.err
    assert "AsString, ResizeBicubic" in done.out
    assert json.loads((tmp_path / "result.json").read_text())["ops_without_tpu_kernel"] == ["AsString", "ResizeBicubic"]


def test_step_that_does_not_fit_is_refused_with_the_memory(tmp_path, formulas_only, monkeypatch):
    monkeypatch.setattr(plan, "has_compiler", lambda: True)
    monkeypatch.setattr(plan, "compile_for", lambda *_: {"fits": False, "peak_hbm_bytes": 20 * GIB})
    done = command(*flags(tmp_path))
    assert done.code == 2 and "DOES NOT FIT" in done.out
    assert "A step with 16 images per core needs 20.00 GiB, but a core of v3-8 has 15.48 GiB" in done.err
    assert json.loads((tmp_path / "result.json").read_text())["fits"] is False


def test_batch_in_parts_needs_the_memory_of_a_part_and_the_sum_of_the_gradients(tmp_path, formulas_only, monkeypatch):
    asked = []

    def compile_for(config, slice_, images):
        asked.append(images)
        return {"fits": images <= 10, "peak_hbm_bytes": GIB * images, **({"flops": 5.0 * images} if images <= 10 else {})}

    monkeypatch.setattr(plan, "has_compiler", lambda: True)
    monkeypatch.setattr(plan, "compile_for", compile_for)
    parts = ("--config.pretrain.batch=128", "--config.pretrain.accumulate=4")  # 16 images on each core, in parts of 4
    result = succeed(*flags(tmp_path), *parts)
    assert asked[0] == 4 and result["peak_hbm_bytes"] == 4 * GIB + 4 * result["parameters"]
    assert result["largest_batch_per_core"] == 40 and result["compiler_flops_per_image"] == 5.0
    line = refused(*flags(tmp_path), "--config.pretrain.batch=128", "--config.pretrain.accumulate=32")
    assert "pretrain.batch is 128, 16 on each of 8 replicas, which pretrain.accumulate=32 does not divide evenly" in line


def test_batch_that_the_cores_cannot_split_is_refused(tmp_path):
    line = refused(*flags(tmp_path), "--config.pretrain.batch=100")
    assert "pretrain.batch is 100, which 8 replicas cannot split evenly. Use 96 or 104." in line


def test_workdir_of_another_mode_is_refused(pretrained):
    assert "--mode=pretrain" in refused(*flags(pretrained.workdir))


def test_search_finds_the_largest_batch_that_fits():
    asked = []

    def answer(batch):
        asked.append(batch)
        return {"fits": 2 * GIB + batch * GIB / 8 <= 16 * GIB, "peak_hbm_bytes": 2 * GIB + batch * GIB // 8}

    for batch in (4, 112, 113, 500):
        asked.clear()
        assert plan.largest_batch(answer, batch, answer(batch), 2 * GIB, 16 * GIB) == 112
        assert len(asked) <= 1 + plan.COMPILATIONS


def test_search_continues_where_the_compiler_saves_memory_by_recomputing():
    def answer(batch):  # as libtpu does: a plateau, then failure
        return {"fits": batch <= 300, "peak_hbm_bytes": min(2 * GIB + batch * GIB // 8, 14 * GIB) if batch <= 300 else 17 * GIB}

    assert 270 <= plan.largest_batch(answer, 4, answer(4), GIB, 16 * GIB) <= 300


def test_search_ends_without_a_batch_where_none_fits():
    too_big = {"fits": False, "peak_hbm_bytes": 40 * GIB}
    assert plan.largest_batch(lambda batch: too_big, 4, too_big, 20 * GIB, 16 * GIB) is None
