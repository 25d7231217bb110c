"""`--mode=plan`: its table, its refusals, and the search for the largest batch."""

import json

import keras
import pytest
from commands import TINY, command, refused, succeed

from pf_keras.errors import UserError
from pf_keras.tasks import plan
from pf_keras.tpu.slices import GIB

NOTHING = {"ops_without_tpu_kernel": [], "dynamic_shapes": []}  # found in a step, on a machine without libtpu


def answering(monkeypatch, answer):
    """Let every step be checked with this answer, or with a function of the images per core. Returns what was asked."""
    asked = []

    def check_steps(config, slice_, batches):
        asked.extend(batches.items())
        return {
            training: {**NOTHING, **(answer(images) if callable(answer) else answer)} for training, images in batches.items()
        }

    monkeypatch.setattr(plan, "check_steps", check_steps)
    return asked


def fitting(room, gib_per_image=1):
    """A compiler for which a batch needs `gib_per_image` for each image."""

    def answer(images):
        needed = {"fits": gib_per_image * images <= room, "peak_hbm_bytes": int(GIB * gib_per_image * images)}
        return needed | {"compile_seconds": 1.0, **({"flops": 5.0 * images} if needed["fits"] else {"refusal": "HBM is full"})}

    return answer


def flags(workdir, topology="v3-8"):
    return ("--mode=plan", *TINY, f"--topology={topology}", f"--workdir={workdir}")


def test_without_libtpu_the_formulas_and_checks_remain(tmp_path, monkeypatch):
    asked = answering(monkeypatch, {})
    done = command(*flags(tmp_path))
    assert done.code == 0 and "libtpu is not installed" in done.out
    assert asked == [("pretrain", 16), ("finetune", 4)]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == done.result and result["lowering"] == keras.backend.backend()
    assert result["fits"] is None and result["peak_hbm_bytes"] is None and result["finetune_fits"] is None
    assert result["hours"] > 0 and result["images_per_second"] > 0 and result["decode_cores"] > 0
    for line in ("all-reduce, at 80% of links", "decode cores", "preempted every 6 hours", "checkpoints every 1.0 min"):
        assert line in done.out
    old = command(*flags(tmp_path, "v2-8"))
    assert old.result["topology"] == "v2-8" and old.result["all_reduce_seconds"] is None
    assert old.out.count("not known, of") == 1 and old.result["step_seconds"] == old.result["compute_seconds"]


def test_one_training_can_be_planned_alone(tmp_path, monkeypatch):
    asked = answering(monkeypatch, {})
    result = succeed(*flags(tmp_path), "--training=finetune", "--config.pretrain.batch=100")
    assert asked == [("finetune", 4)] and result["finetune_batch"] == 32 and "batch" not in result
    line = refused(*flags(tmp_path), "--training=sweep")
    assert line == "error: --training=sweep is no training. Use pretrain, finetune or both."


@pytest.mark.parametrize(
    "kind, words",
    [
        ("ops_without_tpu_kernel", "TensorFlow has no TPU kernel for AsString in decoder, which the fine-tuning step uses."),
        ("dynamic_shapes", "the fine-tuning step has a shape that depends on values: AsString in decoder."),
    ],
)
def test_what_the_checks_find_is_refused_with_operation_and_layer(tmp_path, monkeypatch, kind, words):
    answering(monkeypatch, {kind: ["AsString in decoder"]})
    done = command(*flags(tmp_path), "--training=finetune")
    assert done.code == 2 and words in done.err and "not compiled" in done.out
    assert json.loads((tmp_path / "result.json").read_text())[f"finetune_{kind}"] == ["AsString in decoder"]


def test_step_that_does_not_fit_is_refused_with_the_words_of_the_compiler(tmp_path, monkeypatch):
    asked = answering(monkeypatch, fitting(room=15))
    done = command(*flags(tmp_path))
    assert done.code == 2 and "DOES NOT FIT" in done.out
    assert "step with 16 images per core needs 16.00 GiB, but a core of v3-8 has 15.48 GiB (HBM is full)." in done.err
    assert "--largest_batch" in done.err and len(asked) == 2
    assert json.loads((tmp_path / "result.json").read_text())["fits"] is False


def test_largest_batch_is_searched_when_asked_for(tmp_path, monkeypatch):
    answering(monkeypatch, fitting(room=10))
    done = command(*flags(tmp_path), "--largest_batch", "--training=pretrain")
    assert done.code == 2 and "Use pretrain.batch=80, the largest found to fit" in done.err
    answering(monkeypatch, fitting(room=15, gib_per_image=16))
    assert "Use a smaller model" in refused(*flags(tmp_path), "--largest_batch", "--training=pretrain")


def test_a_batch_in_parts_is_asked_for_whole_and_grows_by_whole_parts(tmp_path, monkeypatch):
    asked = answering(monkeypatch, fitting(room=42))
    parts = ("--training=pretrain", "--config.pretrain.batch=128", "--config.pretrain.accumulate=4")
    result = succeed(*flags(tmp_path), *parts, "--largest_batch")
    assert asked[0] == ("pretrain", 16) and all(images % 4 == 0 for _, images in asked)
    assert result["largest_batch_per_core"] == 40 and result["compiler_flops_per_image"] == 5.0
    line = refused(*flags(tmp_path), "--config.pretrain.batch=128", "--config.pretrain.accumulate=32")
    assert "pretrain.batch is 128, 16 on each of 8 replicas, which pretrain.accumulate=32 does not divide evenly" in line


def test_parts_for_the_cores_of_a_cpu_are_refused(tmp_path):
    line = refused(*flags(tmp_path), "--config.run.parallel_parts=2")
    assert "run.parallel_parts is 2, which is for the cores of one CPU, but 8 tpus share each batch already" in line


def test_batch_that_the_cores_cannot_split_is_refused(tmp_path):
    line = refused(*flags(tmp_path), "--config.pretrain.batch=100")
    assert "pretrain.batch is 100, which 8 replicas cannot split evenly. Use 96 or 104." in line


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("run.steps_per_execution=7", "not a multiple of run.steps_per_execution=7"),
        ("run.eval_batch=100", "run.eval_batch is 100, which 8 replicas cannot split evenly"),
        ("pretrain.probe_every=7", "pretrain.probe_every is 7, which is not a multiple of run.log_every"),
        ("finetune.evaluate_every=7", "finetune.evaluate_every is 7, which is not a multiple of run.log_every"),
    ],
)
def test_what_the_run_would_refuse_is_refused(tmp_path, field, words):
    assert words in refused(*flags(tmp_path), f"--config.{field}")


@pytest.mark.parametrize(("room", "largest"), [(100, 32), (10, None)])
def test_a_search_that_fails_keeps_what_it_found(tmp_path, monkeypatch, room, largest):
    def answer(images):
        if images not in (16, 32):
            raise UserError("libtpu aborted.")
        return fitting(room)(images)

    answering(monkeypatch, answer)
    done = command(*flags(tmp_path), "--largest_batch", "--training=pretrain")
    assert "warning: the search for the largest batch of pretrain ended early: libtpu aborted." in done.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert done.code == (0 if largest else 2) and result["fits"] is bool(largest)
    assert largest is None and result["largest_batch_per_core"] is None or result["largest_batch_per_core"] >= 16


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
